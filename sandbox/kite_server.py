"""A local HTTP server that answers as Kite Connect does, and misbehaves on request.

    with KiteServer(dump) as server:
        kite = KiteConnect(api_key=server.api_key, root=server.root)
        kite.set_access_token(server.access_token)
        server.fail_next("/instruments", HttpError(429, retry_after=1))

Routes: GET /user/profile, POST /session/token, GET /instruments, GET /instruments/{exchange}, and
those of `add_route`. The faults are in `sandbox.kite_faults`.
"""

import gzip
import hashlib
import json
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sandbox.kite_faults import (
    CSV_HEADER,
    CSV_TYPE,
    JSON_TYPE,
    Answer,
    Fault,
    Reset,
    Wire,
    make_json_error,
    reset_connection,
)

# Gets the path and the query, such as {"i": ["NSE:INFY", "NSE:TCS"]}.
RouteHandler = Callable[[str, Mapping[str, Sequence[str]]], Answer]

ANY_PATH = "*"

_POLL_SECONDS = 0.02
_AUTHORIZATION = re.compile(r"token ([^:\s]+):([^:\s]+)")
_EXCHANGES = ["NSE", "BSE", "NFO", "BFO", "CDS", "BCD", "MCX", "NCO", "MF"]
_USER: Mapping[str, Any] = {
    "user_id": "SB0001",
    "user_type": "individual",
    "email": "sandbox@example.com",
    "user_name": "Sandbox User",
    "user_shortname": "Sandbox",
    "broker": "ZERODHA",
    "exchanges": _EXCHANGES,
    "products": ["CNC", "NRML", "MIS", "BO", "CO"],
    "order_types": ["MARKET", "LIMIT", "SL", "SL-M"],
    "avatar_url": None,
    "meta": {"demat_consent": "physical"},
}


@dataclass(frozen=True)
class RecordedRequest:
    """A request that has come in; `status` is None while, and if, no answer was begun.

    `time` is in seconds of `time.monotonic()`; the names of `headers` are in lower case.
    """

    time: float
    method: str
    path: str
    headers: Mapping[str, str]
    status: int | None = None
    query: str = ""


class KiteServer:
    """Kite Connect on this machine, in threads of this process, from `start()` to `stop()`."""

    def __init__(
        self,
        dump: bytes | Callable[[], bytes],
        *,
        api_key: str = "sandbox_key",
        api_secret: str = "sandbox_secret",  # noqa: S107 - protects nothing
        access_token: str = "sandbox_token",  # noqa: S107
        host: str = "127.0.0.1",
    ) -> None:
        """Prepare a server; it listens from `start()` on.

        Args:
            dump: The whole instrument list, or what returns it at every request.
            api_key: The only key that is known.
            api_secret: The secret that checksums must be made with.
            access_token: The token that is valid at first; a login replaces it.
            host: The address of this machine to listen on.
        """
        self.dump = dump
        self.api_key = api_key
        self.api_secret = api_secret
        self._host = host
        self._access_token: str | None = access_token
        self._request_tokens: set[str] = set()
        self._requests: list[RecordedRequest] = []
        self._routes: dict[str, RouteHandler] = {}
        self._faults: list[_PlannedFault] = []
        self._zipped: tuple[bytes, bytes] | None = None
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "KiteServer":
        """Start to listen."""
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    @property
    def root(self) -> str:
        """The server's address, for `KiteConnect(root=...)`."""
        if self._server is None:
            raise RuntimeError("the server has not been started")
        return f"http://{self._host}:{self._server.server_port}"

    @property
    def access_token(self) -> str:
        """The token that is valid now, "" if none is."""
        return self._access_token or ""

    @property
    def requests(self) -> list[RecordedRequest]:
        """The requests so far, oldest first."""
        with self._lock:
            return list(self._requests)

    def start(self) -> None:
        """Listen on a free port."""
        self._server = _Server(self, self._host)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            args=(_POLL_SECONDS,),
            name="kite-server",
            daemon=True,  # a signal that ends `start` leaves nobody to stop it
        )
        self._thread.start()

    def stop(self) -> None:
        """End every connection, hanging ones too, and every thread; `root` is free after it."""
        server, self._server = self._server, None
        if server is None or self._thread is None:
            return
        try:
            server.shutdown()
            self._thread.join()
        finally:  # also where a signal comes: the program waits for these threads at its end
            server.end_connections()
            server.server_close()  # which joins them

    def add_route(self, path: str, handler: RouteHandler) -> None:
        """Answer GET requests for a path or, if it ends with "/", for all that begin with it.

        The token check, the faults and the record of requests are as for the others. An error in
        the handler is answered with status 500.
        """
        self._routes[path] = handler

    def issue_request_token(self) -> str:
        """Return what a login in the browser would put into the redirect; good once."""
        token = secrets.token_hex(16)
        with self._lock:
            self._request_tokens.add(token)
        return token

    def expire_token(self) -> None:
        """Let the access token die, as every morning at 06:00."""
        self._access_token = None

    def fail_next(self, path: str, fault: Fault, times: int | None = 1) -> None:
        """Let the next `times` requests for a path fail (None: all from now on).

        Args:
            path: The request's path, such as "/instruments", "*" for any or, if it ends with "/",
                all that begin with it.
            fault: What happens to them, from `sandbox.kite_faults`.
            times: To how many. Faults for one path come in the order of these calls.
        """
        if isinstance(fault, Reset) and fault.where == "accept" and path != ANY_PATH:
            raise ValueError(f'Reset("accept") knows no path yet: expected "*", got "{path}"')
        with self._lock:
            self._faults.append(_PlannedFault(path, fault, times))

    def clear_faults(self) -> None:
        """Answer everything normally from now on."""
        with self._lock:
            self._faults.clear()

    def take_fault(self, path: str | None) -> Fault | None:
        """Return the fault for a request, or for a new connection (None), if one is due."""
        with self._lock:
            for planned in self._faults:
                if planned.fits(path):
                    if planned.times is not None:
                        planned.times -= 1
                        if planned.times <= 0:
                            self._faults.remove(planned)
                    return planned.fault
        return None

    def record(self, request: RecordedRequest) -> Callable[[int], None]:
        """Note a request; return the function that notes its status."""
        with self._lock:
            index = len(self._requests)
            self._requests.append(request)

        def note_status(status: int) -> None:
            with self._lock:
                self._requests[index] = replace(self._requests[index], status=status)

        return note_status

    def make_answer(self, request: RecordedRequest, body: bytes) -> Answer:
        """Return the answer to a request that nothing goes wrong with."""
        parts = request.path.strip("/").split("/")
        if request.headers.get("x-kite-version") != "3":
            return _make_input_error("Missing or unsupported `X-Kite-Version` header.")
        if (handler := self._find_route(request.path)) is not None:
            if request.method == "GET":
                return self._refuse(request) or _handle(handler, request)
        elif parts == ["session", "token"]:
            if request.method == "POST":
                return self._exchange_token(body)
        elif parts == ["user", "profile"]:
            if request.method == "GET":
                return self._refuse(request) or _make_success(_USER)
        elif parts[0] == "instruments" and len(parts) <= 2:
            if request.method == "GET":
                return self._refuse(request) or self._list_instruments(request, *parts[1:])
        else:
            return make_json_error(404, "Route not found", "GeneralException")
        return make_json_error(405, "Method not allowed", "GeneralException")

    def _find_route(self, path: str) -> RouteHandler | None:
        matching = [each for each in self._routes if each == path or _is_below(path, each)]
        return self._routes[max(matching, key=len)] if matching else None

    def _refuse(self, request: RecordedRequest) -> Answer | None:
        """Return an error unless the request proves a session."""
        match = _AUTHORIZATION.fullmatch(request.headers.get("authorization", ""))
        if match is None:
            return _make_input_error("Missing or malformed `Authorization` header.")
        if match.groups() != (self.api_key, self._access_token):
            return _make_token_error("Incorrect `api_key` or `access_token`.")
        return None

    def _exchange_token(self, body: bytes) -> Answer:
        """Answer a login: an access token for a request token."""
        form = {name: values[0] for name, values in parse_qs(body.decode("latin-1")).items()}
        if missing := {"api_key", "request_token", "checksum"} - form.keys():
            return _make_input_error(f"Missing or empty field `{min(missing)}`")
        if form["api_key"] != self.api_key:
            return _make_token_error("Invalid `api_key`.")
        secret = self.api_key + form["request_token"] + self.api_secret
        if form["checksum"] != hashlib.sha256(secret.encode()).hexdigest():
            return _make_token_error("Token is invalid or has expired.")
        with self._lock:
            if form["request_token"] not in self._request_tokens:
                return _make_token_error("Token is invalid or has expired.")
            self._request_tokens.remove(form["request_token"])
            self._access_token = secrets.token_hex(16)
        return _make_success(
            {
                **_USER,
                "api_key": self.api_key,
                "access_token": self._access_token,
                "public_token": secrets.token_hex(16),
                "enctoken": secrets.token_hex(16),
                "refresh_token": "",
                "silo": "",
                "login_time": datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
            }
        )

    def _list_instruments(self, request: RecordedRequest, exchange: str | None = None) -> Answer:
        body = self.dump() if callable(self.dump) else self.dump
        if exchange is not None:
            body = _select_exchange(body, exchange)
        headers: tuple[tuple[str, str], ...] = (("Content-Type", CSV_TYPE),)
        if "gzip" in request.headers.get("accept-encoding", ""):
            body = self._compress(body)
            headers += (("Content-Encoding", "gzip"),)
        return Answer(200, body, headers)

    def _compress(self, body: bytes) -> bytes:
        """Return the body compressed; the last one is kept, as it takes a while."""
        last = self._zipped
        if last is None or last[0] != body:
            self._zipped = last = (body, gzip.compress(body, compresslevel=4, mtime=0))
        return last[1]


@dataclass
class _PlannedFault:
    """A fault that waits for its requests."""

    path: str
    fault: Fault
    times: int | None

    def fits(self, path: str | None) -> bool:
        """Whether it is for a request of this path, or for a new connection (None)."""
        is_for_accept = isinstance(self.fault, Reset) and self.fault.where == "accept"
        if path is None or is_for_accept:
            return path is None and is_for_accept
        return self.path in (path, ANY_PATH) or _is_below(path, self.path)


class _Server(ThreadingHTTPServer):
    """The listening socket, which knows its connections so that it can end them."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = 64

    def __init__(self, kite: KiteServer, host: str) -> None:
        self.kite = kite
        self.closing = threading.Event()
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()
        super().__init__((host, 0), _Handler)

    def server_bind(self) -> None:
        """Bind, without the look-up of the host's name, which can take seconds."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.socket.getsockname()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Refuse a new connection if a fault says so."""
        if self.kite.take_fault(None) is not None:
            reset_connection(request)
            return False
        with self._connections_lock:
            if self.closing.is_set():  # nobody would wake its thread
                return False
            self._connections.add(request)
        return True

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._connections_lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        """Wake every thread that waits for a client or in a fault."""
        with self._connections_lock:
            self.closing.set()
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:  # it is gone already
                    continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away; a fault of this server's is shown."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Reads the requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _answer(self) -> None:
        kite = self.server.kite
        headers = {name.lower(): value for name, value in self.headers.items()}
        target = urlsplit(self.path)
        body = self.rfile.read(int(headers.get("content-length", "0")))
        request = RecordedRequest(
            time.monotonic(), self.command, target.path, headers, query=target.query
        )
        note_status = kite.record(request)
        wire = Wire(self.connection, dict(self.headers.items()), self.server.closing, note_status)
        fault = kite.take_fault(target.path)
        if fault is None:
            wire.send_answer(kite.make_answer(request, body))
        else:
            fault.play(wire, lambda: kite.make_answer(request, body))
        if wire.ended or headers.get("connection", "").lower() == "close":
            self.close_connection = True

    # http.server looks for these names.
    do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is called
        """Say nothing."""


def _is_below(path: str, folder: str) -> bool:
    return folder.endswith("/") and path.startswith(folder)


def _handle(handler: RouteHandler, request: RecordedRequest) -> Answer:
    try:
        return handler(request.path, parse_qs(request.query, keep_blank_values=True))
    except Exception as exc:  # of a DAG's sandbox part
        return make_json_error(500, f"{type(exc).__name__}: {exc}", "GeneralException")


def _make_success(data: Mapping[str, Any]) -> Answer:
    body = json.dumps({"status": "success", "data": data}).encode()
    return Answer(200, body, (("Content-Type", JSON_TYPE),))


def _make_input_error(message: str) -> Answer:
    return make_json_error(400, message, "InputException")


def _make_token_error(message: str) -> Answer:
    return make_json_error(403, message, "TokenException")


def _select_exchange(dump: bytes, exchange: str) -> bytes:
    """Return the header and the rows whose last column is the exchange."""
    end = b"," + exchange.encode()
    header, *rows = dump.splitlines(keepends=True) or [CSV_HEADER]
    return header + b"".join(row for row in rows if row.rstrip().endswith(end))
