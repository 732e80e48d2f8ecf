"""A server on this machine that keeps what it is sent: a chat, or a dead man's switch."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver(ThreadingHTTPServer):
    """`posts` are the paths and bodies that came. A path with "bad" in it gets status 500.

    One with "plain" in it gets 201 and no length. One with "hang" in it gets no answer before the
    end; `at_hang` is called then.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.posts: list[tuple[str, str]] = []
        self.end = threading.Event()
        self.at_hang: Callable[[], Any] = bool

    @property
    def place(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server_port}"

    def take(self, start: str) -> list[tuple[str, str]]:
        """What came to paths with this start, which are cut off, since the last call."""
        taken = [(path, body) for path, body in self.posts if path.startswith(start)]
        self.posts = [post for post in self.posts if post not in taken]
        return [(path.removeprefix(start), body) for path, body in taken]

    def messages(self) -> list[tuple[str, str, str]]:
        """The kind, title and text of the messages that came since the last call."""
        documents = [json.loads(body) for _, body in self.take("/chat")]
        return [(each["type"], each["title"], each["message"]) for each in documents]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.server.posts.append((self.path, self.rfile.read(length).decode()))
        if "hang" in self.path:
            self.server.at_hang()
            self.server.end.wait(60)
            return
        if "plain" in self.path:  # a success without a length
            self.send_response(201)
            self.end_headers()
            return
        self.send_response(500 if "bad" in self.path else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"OK")

    def log_message(self, *args: Any) -> None:
        """Nothing."""


@contextmanager
def serve() -> Iterator[Receiver]:
    """A receiver that listens."""
    with Receiver() as receiver:
        thread = threading.Thread(target=receiver.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield receiver
        finally:
            receiver.end.set()
            receiver.shutdown()
            thread.join()
