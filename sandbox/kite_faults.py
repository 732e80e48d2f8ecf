"""What can go wrong between Kite Connect and its caller, as values for `KiteServer.fail_next`.

Every fault is a frozen dataclass with a `play` method, which gets the wire to the client and a
function that makes the answer that the client would have got.
"""

import json
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus
from typing import Literal, Protocol

CSV_HEADER = (
    b"instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,"
    b"tick_size,lot_size,instrument_type,segment,exchange\n"
)
CSV_TYPE = "text/csv"
JSON_TYPE = "application/json"
HTML_TYPE = "text/html; charset=utf-8"

_ERROR_TYPES = {400: "InputException", 403: "TokenException", 429: "NetworkException"}
_ERROR_MESSAGES = {
    400: "Invalid request.",
    403: "Token is invalid or has expired.",
    429: "Too many requests",
}


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer; the body's length is added to the headers when it is sent."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()

    def render_head(self, *framing: tuple[str, str]) -> bytes:
        """Return the status line and headers, with the body's length or another framing."""
        framing = framing or (("Content-Length", str(len(self.body))),)
        lines = [f"HTTP/1.1 {self.status} {_get_phrase(self.status)}"]
        moment = format_datetime(datetime.now(UTC), usegmt=True)
        headers = (("Date", moment), ("Server", "sandbox"), *self.headers, *framing)
        lines += [f"{name}: {value}" for name, value in headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def make_json_error(status: int, message: str, error_type: str) -> Answer:
    """Return an error as Kite Connect words it."""
    body = {"status": "error", "message": message, "data": None, "error_type": error_type}
    return Answer(status, json.dumps(body).encode(), (("Content-Type", JSON_TYPE),))


class Wire:
    """The connection to a client whose request has been read."""

    def __init__(
        self,
        connection: socket.socket,
        request_headers: Mapping[str, str],
        closing: threading.Event,
        note_status: Callable[[int], None],
    ) -> None:
        """Wrap a connection; `closing` is set when the server shuts down."""
        self._connection = connection
        self._closing = closing
        self._note_status = note_status
        self.request_headers = request_headers
        self.ended = False

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._connection.sendall(data)

    def send_answer(self, answer: Answer) -> None:
        """Send a whole answer, with its right length."""
        self.send_head(answer)
        self.send(answer.body)

    def send_head(self, answer: Answer, *framing: tuple[str, str]) -> None:
        """Send the status line and the headers."""
        self.note_status(answer)
        self.send(answer.render_head(*framing))

    def note_status(self, answer: Answer) -> None:
        """Put the status on the request's record, before the client can know it."""
        self._note_status(answer.status)

    def pause(self, seconds: float | None = None) -> bool:
        """Wait, for ever if None; return whether the server is still up."""
        return not self._closing.wait(seconds)

    def end(self) -> None:
        """Close the connection once the fault is over, rather than read another request."""
        self.ended = True

    def reset(self) -> None:
        """Close the connection with RST, and lose what was not sent."""
        self.ended = True
        reset_connection(self._connection)


def reset_connection(connection: socket.socket) -> None:
    """Close a connection with RST in place of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # Not connection.close(): that waits for the files made of it.
    socket.close(connection.detach())


class Fault(Protocol):
    """One way to misbehave."""

    def play(self, wire: Wire, make_answer: Callable[[], Answer]) -> None:
        """Misbehave on this connection."""


@dataclass(frozen=True)
class HttpError:
    """A JSON error of Kite's with this status.

    `retry_after` is the Retry-After header: seconds, a moment (sent as HTTP-date; naive means
    UTC), or any text as it is.
    """

    status: int
    message: str = ""
    error_type: str = ""
    retry_after: int | datetime | str | None = None

    def play(self, wire: Wire, make_answer: Callable[[], Answer]) -> None:
        """Send the error."""
        message = self.message or _ERROR_MESSAGES.get(self.status, _get_phrase(self.status))
        error_type = self.error_type or _ERROR_TYPES.get(self.status, "GeneralException")
        answer = make_json_error(self.status, message, error_type)
        if self.retry_after is not None:
            header = ("Retry-After", _format_retry_after(self.retry_after))
            answer = Answer(answer.status, answer.body, (*answer.headers, header))
        wire.send_answer(answer)


@dataclass(frozen=True)
class HtmlError:
    """A gateway's HTML page, which shows the request's headers, the Authorization among them."""

    status: int = 502

    def play(self, wire: Wire, make_answer: Callable[[], Answer]) -> None:
        """Send the page."""
        title = f"{self.status} {_get_phrase(self.status)}"
        shown = "\n".join(f"{name}: {value}" for name, value in wire.request_headers.items())
        page = (
            f"<html>\n<head><title>{title}</title></head>\n<body>\n<h1>{title}</h1>\n"
            f"<pre>\n{shown}\n</pre>\n</body>\n</html>\n"
        )
        wire.send_answer(Answer(self.status, page.encode(), (("Content-Type", HTML_TYPE),)))


@dataclass(frozen=True)
class CustomAnswer:
    """Any answer: a wrong or missing (None) content type, another body (None: the right one)."""

    body: bytes | None = None
    content_type: str | None = CSV_TYPE
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()

    def play(self, wire: Wire, make_answer: Callable[[], Answer]) -> None:
        """Send it."""
        normal = make_answer()
        headers = self.headers
        if self.content_type is not None:
            headers = (("Content-Type", self.content_type), *headers)
        if self.body is None:  # as it was made, compressed or not
            kept = (header for header in normal.headers if header[0] == "Content-Encoding")
            headers = (*headers, *kept)
        body = normal.body if self.body is None else self.body
        wire.send_answer(Answer(self.status, body, headers))


@dataclass(frozen=True)
class Hang:
    """Silence for `seconds` (None: as long as the server is up) before, or within, an answer."""

    where: Literal["answer", "headers", "body"] = "answer"
    seconds: float | None = None

    def play(self, wire: Wire, make_answer: Callable[[], Answer]) -> None:
        """Send half of it, wait, and send the rest if the wait has an end."""
        parts = _split(wire, make_answer(), self.where)
        wire.send(parts[0])
        if wire.pause(self.seconds):
            wire.send(parts[1])
        else:
            wire.end()


@dataclass(frozen=True)
class Trickle:
    """One byte every `interval_seconds`, from the headers or the body on, without end.

    The body's announced length is within what a list may have, and never reached.
    """

    where: Literal["headers", "body"] = "body"
    interval_seconds: float = 0.05

    def play(self, wire: Wire, make_answer: Callable[[], Answer]) -> None:
        """Trickle until the client or the server goes away."""
        answer = make_answer()
        wire.end()
        if self.where == "body":
            plain = _replace_body(answer, _gunzip(answer)[: len(CSV_HEADER)])
            wire.send_head(plain, ("Content-Length", str(30 * 10**6)))
            self._trickle(wire, plain.body)
        else:
            wire.note_status(answer)
            wire.send(answer.render_head()[:-2] + b"X-Trickle: ")
            self._trickle(wire, b"")

    def _trickle(self, wire: Wire, data: bytes) -> None:
        position = 0
        while wire.pause(self.interval_seconds):
            wire.send(data[position : position + 1] or b"x")
            position += 1


@dataclass(frozen=True)
class Reset:
    """A connection reset (RST): before the request is read, after it, or within the answer.

    "accept" takes effect on the next new connection and works with the path "*" only, as the
    request is not known yet.
    """

    where: Literal["accept", "answer", "headers", "body"] = "answer"

    def play(self, wire: Wire, make_answer: Callable[[], Answer]) -> None:
        """Send half of it and reset."""
        if self.where in ("headers", "body"):
            wire.send(_split(wire, make_answer(), self.where)[0])
        wire.reset()


@dataclass(frozen=True)
class CutShort:
    """A body of which only the first part comes; the connection then closes in good order.

    - "length": Content-Length of the whole body, half of it sent;
    - "chunked": half of it in chunks, without the last chunk;
    - "gzip": a gzip stream that stops where a row ends, without its end mark, the
      Content-Length right: looks whole to a client that does not check;
    - "row": plain, cut within a row, the Content-Length right: only the last row shows it.

    A body of one line, such as JSON, is cut in its middle.
    """

    how: Literal["length", "chunked", "gzip", "row"] = "length"

    def play(self, wire: Wire, make_answer: Callable[[], Answer]) -> None:
        """Send the first half."""
        answer = make_answer()
        plain = _gunzip(answer)
        row_end = plain.rfind(b"\n", 0, len(plain) // 2) + 1 or len(plain) // 2
        wire.end()
        if self.how == "length":
            wire.send_head(plain_answer := _replace_body(answer, plain))
            wire.send(plain_answer.body[:row_end])
        elif self.how == "chunked":
            wire.send_head(_replace_body(answer, plain), ("Transfer-Encoding", "chunked"))
            wire.send(b"%x\r\n%s\r\n" % (row_end, plain[:row_end]))
        elif self.how == "gzip":
            packer = zlib.compressobj(wbits=31)
            cut = packer.compress(plain[:row_end]) + packer.flush(zlib.Z_SYNC_FLUSH)
            wire.send_answer(_replace_body(answer, cut, ("Content-Encoding", "gzip")))
        else:
            wire.send_answer(_replace_body(answer, plain[: min(row_end + 20, len(plain) - 1)]))


@dataclass(frozen=True)
class Raw:
    """Bytes in place of an answer, and then the end of the connection.

    Where there are `endless` bytes, they follow again and again, as fast as they are taken.
    """

    data: bytes
    endless: bytes = b""

    def play(self, wire: Wire, make_answer: Callable[[], Answer]) -> None:
        """Send them."""
        wire.end()
        wire.note_status(make_answer())
        wire.send(self.data)
        while self.endless and wire.pause(0):
            wire.send(self.endless)


EMPTY_BODY = CustomAnswer(body=b"")
HEADER_ONLY = CustomAnswer(body=CSV_HEADER)
WRONG_CONTENT_TYPE = CustomAnswer(content_type=HTML_TYPE)
NO_CONTENT_TYPE = CustomAnswer(content_type=None)
TOKEN_EXPIRED = HttpError(403)


def _split(wire: Wire, answer: Answer, where: str) -> tuple[bytes, bytes]:
    """Cut the answer's bytes before it, within its headers, or within its body."""
    head = answer.render_head()
    position = {"answer": 0, "headers": len(head) // 2, "body": len(head) + len(answer.body) // 2}
    if where != "answer":
        wire.note_status(answer)
    whole = head + answer.body
    return whole[: position[where]], whole[position[where] :]


def _gunzip(answer: Answer) -> bytes:
    if ("Content-Encoding", "gzip") in answer.headers:
        return zlib.decompress(answer.body, wbits=31)
    return answer.body


def _replace_body(answer: Answer, body: bytes, *headers: tuple[str, str]) -> Answer:
    kept = (header for header in answer.headers if header[0] != "Content-Encoding")
    return Answer(answer.status, body, (*kept, *headers))


def _get_phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _format_retry_after(value: int | datetime | str) -> str:
    if not isinstance(value, datetime):
        return str(value)
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return format_datetime(value.astimezone(UTC), usegmt=True)
