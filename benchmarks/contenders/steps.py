"""What all contenders share: their settings, a stopwatch, and a plain download."""

from __future__ import annotations

import gzip
import json
import os
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Steps:
    """The seconds that each step took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure the body as the step `name`."""
        begin = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begin

    def write(self) -> None:
        """Leave the figures for the process that measures, if there is one."""
        if path := os.environ.get("BENCH_STEPS_FILE"):
            Path(path).write_text(json.dumps(self.seconds), encoding="ascii")


def database_arguments() -> dict[str, Any]:
    """What psycopg2.connect takes."""
    get = os.environ.__getitem__
    return {
        "host": get("DB_HOST"),
        "port": get("DB_PORT"),
        "dbname": get("DB_NAME"),
        "user": get("DB_USER"),
        "password": get("DB_PASSWORD"),
    }


def database_url(driver: str) -> str:
    """The address as a URL; the sandbox's password needs no quoting."""
    return "{0}://{user}:{password}@{host}:{port}/{dbname}".format(driver, **database_arguments())


def download() -> bytes:
    """The instrument list as CSV: with nothing but the standard library."""
    key, token = os.environ["KITE_API_KEY"], os.environ["KITE_ACCESS_TOKEN"]
    request = urllib.request.Request(  # noqa: S310 - the local server
        os.environ["KITE_API_ROOT"] + "/instruments",
        headers={
            "X-Kite-Version": "3",
            "Authorization": f"token {key}:{token}",
            "Accept-Encoding": "gzip",
        },
    )
    with urllib.request.urlopen(request) as response:  # noqa: S310
        return gzip.decompress(response.read())
