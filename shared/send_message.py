"""Sends a message through apprise: a program of its own, which shared/notify.py starts.

apprise sends in threads that Python waits for at its end. A process that takes too long is killed,
and nothing is left of it, whatever a receiver does. It imports nothing of this project.

Reads from standard input a JSON object of `urls` (a list), `title`, `text` and `kind` (failure,
warning or success). Writes for each receiver, as soon as it is known, a JSON array in a line: its
number in the list, whether it was told, and what apprise says to that.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from contextvars import ContextVar
from functools import partial
from importlib import import_module
from typing import Any, TextIO

_heard: ContextVar[list[str] | None] = ContextVar("heard", default=None)


def _listen(record: logging.LogRecord) -> bool:
    """Keep what apprise warns of, for the receiver that it is about; nobody else hears it."""
    heard = _heard.get()
    if heard is not None and record.levelno >= logging.WARNING:
        heard.append(record.getMessage())
    return False


def open_receiver(url: str) -> tuple[Any, list[str]]:
    """What tells the receiver, None if apprise cannot use its address; and what apprise says.

    Raises ImportError if apprise is not installed.
    """
    apprise = import_module("apprise")
    logging.getLogger("apprise").addFilter(_listen)
    heard: list[str] = []
    token = _heard.set(heard)
    try:
        asset = apprise.AppriseAsset(app_id="Stock Ingestion", app_desc="Stock Ingestion")
        receiver = apprise.Apprise(asset=asset)
        is_usable = receiver.add(url) and len(receiver) > 0
    except Exception as exc:
        is_usable, heard = False, [f"{type(exc).__name__}: {exc}"]
    finally:
        _heard.reset(token)
    return receiver if is_usable else None, heard


def _tell(number: int, url: str, message: dict[str, str], answers: TextIO) -> None:
    receiver, heard = open_receiver(url)
    is_told = False
    if receiver is not None:
        _heard.set(heard)
        try:
            is_told = bool(
                receiver.notify(
                    body=message["text"],
                    title=message["title"],
                    notify_type=message["kind"],
                    body_format="text",
                )
            )
        except Exception as exc:
            heard.append(f"{type(exc).__name__}: {exc}")
    answers.write(json.dumps([number, is_told, " ".join(heard)]) + "\n")
    answers.flush()


def main(source: TextIO, answers: TextIO) -> None:
    """Tell all receivers at once: one that hangs keeps no other from being told."""
    import_module("apprise")  # here it fails once
    message = json.load(source)
    tell = partial(_tell, message=message, answers=answers)
    threads = [threading.Thread(target=tell, args=each) for each in enumerate(message.pop("urls"))]
    for thread in threads:
        thread.start()
    for thread in threads:  # apprise starts no thread once the main one has ended
        thread.join()


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)
