"""Listens on this machine for the browser that Kite leads back after a login."""

import queue
import socketserver
import threading
from concurrent.futures import Future
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from shared.config.logging_config import redact

_HOSTS = ("127.0.0.1", "localhost")
_SEND_SECONDS = 2.0  # that a browser gets to take its answer
_BUSY = "Another login is being looked at: load this page again."


class Redirect:
    """A browser that came back; `query` says how the login went, and holds the request token."""

    def __init__(self, query: str) -> None:
        self.query = query
        self.outcome: Future[tuple[HTTPStatus, str]] = Future()
        self.is_sent = threading.Event()

    def answer(self, text: str, *, succeeded: bool = False) -> None:
        """Show the browser how it ended, and wait until that is sent."""
        self.outcome.set_result((HTTPStatus.OK if succeeded else HTTPStatus.BAD_REQUEST, text))
        self.is_sent.wait(_SEND_SECONDS)


class RedirectListener(socketserver.ThreadingTCPServer):
    """Listens at an app's redirect address, on 127.0.0.1 alone, from its creation to `close()`.

    It takes what looks like Kite's redirect: whether it is one, only Kite can tell. A page that
    calls this machine by a name of its own (DNS rebinding) is refused.
    """

    allow_reuse_address = True
    daemon_threads = True  # a browser may hold a connection open, and say nothing

    def __init__(self, address: str) -> None:
        """Listen from now on. Raises OSError if the port is taken, or not this user's to take."""
        parts = urlsplit(address)
        port = parts.port or 80
        self.path = parts.path or "/"
        self.hosts = {f"{host}:{port}" for host in _HOSTS} | set(_HOSTS if port == 80 else ())
        self.redirects: queue.Queue[Redirect] = queue.Queue(1)
        super().__init__((_HOSTS[0], port), _Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def take(self) -> Redirect | None:
        """A browser that has come back, if there is one; it waits for its answer."""
        try:
            return self.redirects.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        """Listen no longer."""
        self.shutdown()
        self.server_close()
        if late := self.take():
            late.answer("This login came too late: another one has ended it.")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over a browser that went away: the base class prints a traceback."""


def can_listen_at(address: str) -> bool:
    """Whether a redirect address leads to this machine, without TLS."""
    parts = urlsplit(address)
    return parts.scheme == "http" and parts.hostname in _HOSTS


class _Handler(BaseHTTPRequestHandler):
    """Answers in plain text; a line of a request is at most 64 kB long, and there are 100."""

    server: RedirectListener
    timeout = 5.0  # seconds, for each read

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if self.headers.get("Host", "").lower() not in self.server.hosts:
            self.send_error(HTTPStatus.FORBIDDEN)
        elif path != self.server.path or not parse_qs(query).keys() & {"request_token", "status"}:
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            redirect = Redirect(query)
            try:
                self.server.redirects.put_nowait(redirect)
            except queue.Full:
                self._send(HTTPStatus.SERVICE_UNAVAILABLE, _BUSY)
                return
            self._send(*redirect.outcome.result())
            redirect.is_sent.set()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with the status alone; the base class repeats the request, with its token."""
        self._send(HTTPStatus(code), HTTPStatus(code).phrase)

    def _send(self, status: HTTPStatus, text: str) -> None:
        content = f"{redact(text)}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(content)

    def version_string(self) -> str:
        """Not Python's version."""
        return "login"

    def log_message(self, *_: Any) -> None:
        """Log nothing: the line of the request holds the token."""
