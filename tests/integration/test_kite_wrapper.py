"""The Kite session in process, against a local server that keeps a record."""

from __future__ import annotations

import gzip
import inspect
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from kiteconnect import KiteConnect
from urllib3.connection import HTTPConnection

from sandbox.kite_faults import (
    CSV_HEADER,
    EMPTY_BODY,
    HEADER_ONLY,
    NO_CONTENT_TYPE,
    CustomAnswer,
    CutShort,
    Hang,
    HtmlError,
    HttpError,
    Raw,
    Reset,
    Trickle,
)
from sandbox.kite_server import KiteServer
from shared.exceptions import (
    APIError,
    AuthenticationError,
    StockIngestionError,
    TransientAPIError,
)
from shared.feed import Batch
from shared.utils.kite_client_wrapper import KiteClientWrapper
from shared.utils.retry import MAX_RETRY_AFTER_SECONDS, RetryPolicy
from tests.instruments import instrument, to_csv

INSTRUMENTS = [
    instrument(256, "INFY", "NSE", instrument_type="EQ", expiry=None, strike=None),
    instrument(512, "USDINR26AUG90.875CE", "CDS", strike=Decimal("90.875")),
]


@pytest.fixture
def delays() -> list[float]:
    """The waits that were asked for; none takes place."""
    return []


@pytest.fixture
def wrapper(kite: KiteServer, delays: list[float]) -> KiteClientWrapper:
    return make_wrapper(kite, delays)


@pytest.fixture
def proven(wrapper: KiteClientWrapper) -> KiteClientWrapper:
    wrapper.authenticate()
    return wrapper


def make_wrapper(kite: KiteServer, delays: list[float], **options: Any) -> KiteClientWrapper:
    given = {
        "access_token": kite.access_token,
        "root": kite.root,
        "timeout_seconds": 10.0,
        "retry": RetryPolicy(4, 0.5, sleep=delays.append),
        **options,
    }
    return KiteClientWrapper(kite.api_key, kite.api_secret, given.pop("access_token"), **given)


def paths(kite: KiteServer) -> list[str]:
    return [request.path for request in kite.requests]


# The order of calls


def test_fetch_before_authenticate_sends_nothing(
    kite: KiteServer, wrapper: KiteClientWrapper
) -> None:
    with pytest.raises(AuthenticationError, match="authenticate"):
        wrapper.fetch_instruments()
    assert kite.requests == []


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(HttpError(400), id="400"),
        pytest.param(HttpError(403), id="403"),
        pytest.param(HttpError(500), id="500"),
        pytest.param(HtmlError(502), id="502"),
        pytest.param(Reset("body"), id="reset"),
        pytest.param(CustomAnswer(b"[]", "application/json"), id="no object"),
        pytest.param(CustomAnswer(b"{", "application/json"), id="broken JSON"),
        pytest.param(CustomAnswer(b'{"data": null}', "application/json"), id="no profile"),
        pytest.param(CustomAnswer(b"<html>", "text/html"), id="HTML"),
        pytest.param(CustomAnswer(b"ok", "text/csv"), id="CSV"),
    ],
)
def test_fetch_after_a_failed_authenticate_sends_nothing(
    kite: KiteServer, wrapper: KiteClientWrapper, fault: Any
) -> None:
    kite.fail_next("/user/profile", fault, None)
    with pytest.raises(StockIngestionError):
        wrapper.authenticate()
    with pytest.raises(AuthenticationError):
        wrapper.fetch_instruments()
    assert set(paths(kite)) == {"/user/profile"}


def test_failed_authenticate_withdraws_an_earlier_one(
    kite: KiteServer, proven: KiteClientWrapper
) -> None:
    kite.expire_token()
    with pytest.raises(AuthenticationError):
        proven.authenticate()
    with pytest.raises(AuthenticationError):
        proven.fetch_instruments()
    assert "/instruments" not in paths(kite)


def test_fetch_after_authenticate(kite: KiteServer, wrapper: KiteClientWrapper) -> None:
    kite.dump = to_csv(INSTRUMENTS)
    assert wrapper.authenticate() is True
    rows = wrapper.fetch_instruments()
    assert paths(kite) == ["/user/profile", "/instruments"]
    assert rows == [{**row, "line_number": line} for line, row in enumerate(INSTRUMENTS, start=2)]
    assert [type(row["strike"]) for row in rows] == [type(None), Decimal]
    assert rows[1]["expiry"] == date(2026, 8, 27)
    assert wrapper.payload is not None
    assert wrapper.payload.batch == Batch(rows, [])


def test_rejected_rows_are_those_of_the_last_fetch(
    kite: KiteServer, proven: KiteClientWrapper
) -> None:
    def rejected_lines() -> list[int | None]:
        assert proven.payload is not None
        assert proven.payload.batch is not None
        return [row.line_number for row in proven.payload.batch.rejected]

    kite.dump = to_csv(INSTRUMENTS) + b"x,1,BAD,,0,,,0.05,1,EQ,NSE,NSE\n"
    assert len(proven.fetch_instruments()) == 2
    assert rejected_lines() == [4]
    kite.dump = to_csv(INSTRUMENTS)
    proven.fetch_instruments()
    assert rejected_lines() == []


def test_filter_instruments(wrapper: KiteClientWrapper) -> None:
    assert wrapper.filter_instruments(INSTRUMENTS, ["CDS", "BSE"]) == INSTRUMENTS[1:]
    assert wrapper.filter_instruments(INSTRUMENTS) == INSTRUMENTS
    assert wrapper.filter_instruments(INSTRUMENTS, []) == INSTRUMENTS


# What is sent, and what comes back


def test_seam_is_what_kiteconnect_has() -> None:
    """If kiteconnect renames what is overridden, the override would be silently without effect."""
    assert list(inspect.signature(KiteConnect._parse_instruments).parameters) == ["self", "data"]
    assert "_parse_instruments" in inspect.getsource(KiteConnect.instruments)
    assert KiteConnect._routes["market.instruments.all"] == "/instruments"
    assert list(inspect.signature(KiteConnect._get).parameters)[:4:3] == ["self", "params"]
    assert "self._routes[route]" in inspect.getsource(KiteConnect._request)
    assert "self.reqsession.request(method" in inspect.getsource(KiteConnect._request)


def test_requests_have_what_kite_wants(kite: KiteServer, proven: KiteClientWrapper) -> None:
    proven.fetch_instruments()
    assert [(r.method, r.path) for r in kite.requests] == [
        ("GET", "/user/profile"),
        ("GET", "/instruments"),
    ]
    for request in kite.requests:
        assert request.headers["x-kite-version"] == "3"
        assert request.headers["authorization"] == "token sandbox_key:sandbox_token"
        assert request.headers["accept-encoding"] == "gzip"
        assert request.headers["user-agent"].startswith("Kiteconnect-python/")


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_payload_has_the_exact_bytes_and_what_was_read_in_them(
    kite: KiteServer, proven: KiteClientWrapper, packed: bool
) -> None:
    body = CSV_HEADER + b"\xff\xfe\x00,\r\n, 1.10 ,\xc3\xa9\n" * 20_000
    encoding = (("Content-Encoding", "gzip"),) if packed else ()
    sent = gzip.compress(body) if packed else body
    kite.fail_next("/instruments", CustomAnswer(sent, headers=encoding))
    rows = proven.fetch_instruments()
    assert proven.payload is not None
    assert proven.payload.body == body
    assert proven.payload.packed == (sent if packed else None)
    assert gzip.decompress(proven.payload.pack()) == body
    assert proven.payload.batch is not None
    assert proven.payload.batch.rows is rows
    assert len(proven.payload.batch.rejected) == 40_000


WHOLE = to_csv(INSTRUMENTS)
LENGTH = f"Content-Length: {len(WHOLE)}"
GZIP = "Content-Encoding: gzip"


def raw(*headers: str, body: bytes = WHOLE, version: str = "HTTP/1.1") -> Raw:
    """A whole list, of which nothing but these headers tells where it ends."""
    lines = [f"{version} 200 OK", "Content-Type: text/csv", *headers, "", ""]
    return Raw("\r\n".join(lines).encode() + body)


def chunks(*sizes: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """The list in chunks whose sizes are written so."""
    return b"".join(size + b"\r\n" + WHOLE + b"\r\n" for size in sizes) + end


IN_CHUNKS = chunks(b"%x" % len(WHOLE))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(raw(LENGTH), id="length"),
        pytest.param(raw(LENGTH, version="HTTP/1.0"), id="HTTP/1.0 with a length"),
        pytest.param(
            raw("Transfer-Encoding: Chunked", body=chunks(b"%06X" % len(WHOLE))), id="chunks"
        ),
        pytest.param(raw(GZIP, body=gzip.compress(WHOLE)), id="gzip ended by the closing"),
        pytest.param(raw("Content-Encoding: X-GZIP", body=gzip.compress(WHOLE)), id="X-GZIP"),
        pytest.param(raw(LENGTH, "Content-Encoding: identity"), id="identity"),
        pytest.param(CustomAnswer(content_type="TEXT/CSV; Charset=UTF-8"), id="TEXT/CSV"),
    ],
)
def test_answer_whose_end_is_proven(
    kite: KiteServer, proven: KiteClientWrapper, delays: list[float], answer: Any
) -> None:
    kite.dump = WHOLE
    kite.fail_next("/instruments", answer)
    assert len(proven.fetch_instruments()) == 2
    assert delays == []


# Retries


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        pytest.param(HttpError(429), "HTTP 429", id="429"),
        pytest.param(HttpError(500), "HTTP 500", id="500"),
        pytest.param(HtmlError(502), "HTTP 502", id="502 with HTML"),
        pytest.param(HttpError(503), "HTTP 503", id="503"),
        pytest.param(HttpError(504), "HTTP 504", id="504"),
        pytest.param(Reset("answer"), "reset", id="reset before the answer"),
        pytest.param(Reset("headers"), "reset", id="reset in the headers"),
        pytest.param(Reset("body"), "reset", id="reset in the body"),
        pytest.param(CutShort("length"), "cut short", id="cut short"),
        pytest.param(CutShort("chunked"), "cut short", id="cut short in chunks"),
        pytest.param(CutShort("gzip"), "cut short", id="gzip without its end"),
        pytest.param(CutShort("row"), "cut short", id="cut short within a row"),
        pytest.param(
            CustomAnswer(b"garbage", headers=(("Content-Encoding", "gzip"),)),
            "damaged",
            id="no gzip",
        ),
        pytest.param(CustomAnswer(b"<html></html>", "text/html"), "HTML", id="HTML"),
        pytest.param(CustomAnswer(b"<html></html>", "text/csv"), "HTML", id="HTML said to be CSV"),
        pytest.param(CustomAnswer(b"hello", "text/plain"), "text/plain", id="plain text"),
        pytest.param(NO_CONTENT_TYPE, "Content-Type", id="no content type"),
        pytest.param(CustomAnswer(b"{", "application/json"), "JSON", id="broken JSON"),
        pytest.param(EMPTY_BODY, "empty", id="empty body"),
        pytest.param(CustomAnswer(status=206), "HTTP 206", id="206"),
        pytest.param(CustomAnswer(status=203), "HTTP 203", id="203"),
        pytest.param(CustomAnswer(b"", status=204), "HTTP 204", id="204"),
        pytest.param(raw(), "may be cut short", id="ended by the closing"),
        pytest.param(raw(version="HTTP/1.0"), "may be cut short", id="HTTP/1.0"),
        pytest.param(raw("Content-Length: -1"), "may be cut short", id="length of -1"),
        pytest.param(raw("Content-Length: much"), "may be cut short", id="length of no number"),
        pytest.param(
            raw(LENGTH, "Content-Length: 20"), "may be cut short", id="two different lengths"
        ),
        pytest.param(raw(LENGTH, LENGTH), "may be cut short", id="the same length twice"),
        pytest.param(
            raw("Content-Length: " + "9" * 5000), "may be cut short", id="length for no integer"
        ),
        pytest.param(
            raw(GZIP, "Content-Length: -1", body=gzip.compress(WHOLE)),
            "may be cut short",
            id="gzip with a length of -1",
        ),
        pytest.param(
            raw("Transfer-Encoding: gzip, chunked", body=IN_CHUNKS),
            "may be cut short",
            id="another transfer encoding",
        ),
        pytest.param(
            raw("Transfer-Encoding: chunked", body=chunks(b"%x" % len(WHOLE), end=b"0")),
            "cut short",
            id="chunks cut within a size that begins with 0",
        ),
        pytest.param(
            raw("Transfer-Encoding: chunked", body=chunks(b"-5")), "cut short", id="chunk of -5"
        ),
        pytest.param(
            raw(
                "Transfer-Encoding: chunked", "Content-Length: 20", body=chunks(b"%x" % len(WHOLE))
            ),
            "cut short",
            id="chunks of another length than said",
        ),
        pytest.param(
            raw(GZIP, body=gzip.compress(WHOLE) * 2), "goes on after its end", id="gzip twice"
        ),
        pytest.param(
            raw(GZIP, body=gzip.compress(WHOLE) + b"\0"),
            "goes on after its end",
            id="gzip and more",
        ),
        pytest.param(raw(GZIP, body=b""), "cut short", id="gzip of nothing"),
    ],
)
class TestTransientFault:
    def test_once(
        self,
        kite: KiteServer,
        proven: KiteClientWrapper,
        delays: list[float],
        fault: Any,
        message: str,
    ) -> None:
        kite.dump = to_csv(INSTRUMENTS)
        kite.fail_next("/instruments", fault)
        assert len(proven.fetch_instruments()) == 2
        assert delays == [0.5]
        assert paths(kite)[1:] == ["/instruments"] * 2

    def test_for_ever(
        self,
        kite: KiteServer,
        proven: KiteClientWrapper,
        delays: list[float],
        fault: Any,
        message: str,
    ) -> None:
        kite.dump = to_csv(INSTRUMENTS)
        kite.fail_next("/instruments", fault, None)
        with pytest.raises(TransientAPIError, match=message):
            proven.fetch_instruments()
        assert delays == [0.5, 1.0, 2.0]
        assert paths(kite)[1:] == ["/instruments"] * 4


def test_each_attempt_after_a_fault_has_a_connection_of_its_own(
    kite: KiteServer, proven: KiteClientWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before may be about to be closed, and an attempt would be lost to that."""
    opened: list[object] = []
    connect = HTTPConnection.connect
    monkeypatch.setattr(
        HTTPConnection, "connect", lambda self: (opened.append(self), connect(self))[1]
    )
    kite.dump = to_csv(INSTRUMENTS)
    kite.fail_next("/instruments", EMPTY_BODY, 3)
    assert len(proven.fetch_instruments()) == 2
    assert len(opened) == 3


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        pytest.param(HttpError(400), APIError, "HTTP 400, InputException", id="400"),
        pytest.param(HttpError(403), AuthenticationError, "6 AM IST", id="403"),
        pytest.param(
            HttpError(403, error_type="PermissionException"),
            APIError,
            "HTTP 403, PermissionException.* A new login does not help",
            id="permission",
        ),
        pytest.param(
            CustomAnswer(b'{"status": "success", "data": []}', "application/json", 400),
            APIError,
            "HTTP 400",
            id="400 that says success",
        ),
        pytest.param(CustomAnswer(status=301), APIError, "redirect without", id="301"),
        pytest.param(CustomAnswer(b"", status=304), APIError, "redirect without", id="304"),
        pytest.param(
            CustomAnswer(status=302, headers=(("Location", "http://[::1"),)),
            APIError,
            r"redirect to 'http://\[::1'",
            id="302 to no address",
        ),
        pytest.param(
            CustomAnswer(WHOLE, headers=(("Content-Encoding", "br"),)),
            APIError,
            "got Content-Encoding 'br'",
            id="another packing",
        ),
        pytest.param(
            raw("Content-Encoding: gzip, gzip", body=gzip.compress(gzip.compress(WHOLE))),
            APIError,
            "got Content-Encoding 'gzip, gzip'",
            id="packed twice",
        ),
        pytest.param(
            raw("Content-Length: 32000001"),
            APIError,
            "larger than 32 MB",
            id="length over it",
        ),
        pytest.param(
            raw(
                "Transfer-Encoding: chunked",
                body=b"%x\r\n%s\r\n0\r\n\r\n" % (32_000_001, b" " * 32_000_001),
            ),
            APIError,
            "larger than 32 MB",
            id="chunks over the bound",
        ),
        pytest.param(
            CustomAnswer(b" " * 1_000_001, "application/json"),
            APIError,
            "larger than 1 MB",
            id="JSON over the bound",
        ),
        pytest.param(
            CustomAnswer(
                gzip.compress(b" " * 1_000_001),
                "application/json",
                headers=(("Content-Encoding", "gzip"),),
            ),
            APIError,
            "larger than 1 MB",
            id="packed JSON over the bound",
        ),
        pytest.param(HttpError(404), APIError, "HTTP 404", id="404"),
        pytest.param(HtmlError(404), APIError, "HTTP 404", id="404 with HTML"),
        pytest.param(CustomAnswer(b"a,b\n1,2\n"), APIError, "not Kite's", id="another CSV"),
        pytest.param(
            CustomAnswer(b'{"data": [1]}', "application/json"), APIError, "JSON", id="JSON"
        ),
    ],
)
def test_permanent_fault_is_not_retried(
    kite: KiteServer,
    proven: KiteClientWrapper,
    delays: list[float],
    fault: Any,
    error: type[Exception],
    message: str,
) -> None:
    kite.fail_next("/instruments", fault, None)
    with pytest.raises(error, match=message) as caught:
        proven.fetch_instruments()
    assert not isinstance(caught.value, TransientAPIError)
    assert delays == []
    assert paths(kite) == ["/user/profile", "/instruments"]


def test_header_only_is_no_error_of_the_wrapper(
    kite: KiteServer, proven: KiteClientWrapper
) -> None:
    kite.fail_next("/instruments", HEADER_ONLY)
    assert proven.fetch_instruments() == []


def test_authenticate_is_retried_too(
    kite: KiteServer, wrapper: KiteClientWrapper, delays: list[float]
) -> None:
    kite.fail_next("/user/profile", HttpError(503), 2)
    assert wrapper.authenticate() is True
    assert delays == [0.5, 1.0]


@pytest.mark.parametrize("fault", [HttpError(403), HttpError(400)], ids=["403", "400"])
def test_dead_token_is_one_request_and_one_message(
    kite: KiteServer, wrapper: KiteClientWrapper, delays: list[float], fault: HttpError
) -> None:
    kite.fail_next("/user/profile", fault, None)
    with pytest.raises(AuthenticationError) as caught:
        wrapper.authenticate()
    assert (len(kite.requests), delays) == (1, [])
    for advice in ("6 AM IST", "Log in again", "KITE_ACCESS_TOKEN"):
        assert advice in str(caught.value)


def test_server_that_is_not_there(kite: KiteServer, delays: list[float]) -> None:
    root = kite.root
    wrapper = make_wrapper(kite, delays)
    kite.stop()
    with pytest.raises(TransientAPIError) as caught:
        wrapper.authenticate()
    assert str(caught.value) == f"No connection to Kite at {root}: Connection refused"
    assert delays == [0.5, 1.0, 2.0]


def test_reset_while_connecting(
    kite: KiteServer, wrapper: KiteClientWrapper, delays: list[float]
) -> None:
    kite.fail_next("*", Reset("accept"))
    assert wrapper.authenticate() is True
    assert delays == [0.5]


# Retry-After


@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [
        pytest.param(7, [7.0, 1.0], id="seconds"),
        pytest.param(0, [0.5, 1.0], id="shorter than the backoff"),
        pytest.param("soon", [0.5, 1.0], id="no number and no date"),
        pytest.param("-5", [0.5, 1.0], id="negative"),
        pytest.param(f"Fri, 01 Jan {10**30} 00:00:00 GMT", [0.5, 1.0], id="after all years"),
        pytest.param(datetime(2020, 1, 1), [0.5, 1.0], id="date that has passed"),
        pytest.param(int(MAX_RETRY_AFTER_SECONDS), [MAX_RETRY_AFTER_SECONDS, 1.0], id="longest"),
    ],
)
def test_retry_after(
    kite: KiteServer,
    proven: KiteClientWrapper,
    delays: list[float],
    retry_after: Any,
    expected: list[float],
) -> None:
    kite.fail_next("/instruments", HttpError(429, retry_after=retry_after))
    kite.fail_next("/instruments", HttpError(429))
    proven.fetch_instruments()
    assert delays == expected


def test_retry_after_as_a_date(
    kite: KiteServer, proven: KiteClientWrapper, delays: list[float]
) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=100)
    kite.fail_next("/instruments", HttpError(503, retry_after=moment))
    proven.fetch_instruments()
    assert len(delays) == 1
    assert 80 < delays[0] <= 100


@pytest.mark.parametrize(
    "retry_after",
    [
        pytest.param(int(MAX_RETRY_AFTER_SECONDS) + 1, id="seconds"),
        pytest.param(datetime(2999, 1, 1), id="date"),
        pytest.param("9" * 400, id="more digits than a float has"),
    ],
)
def test_retry_after_that_is_too_long_gives_up_at_once(
    kite: KiteServer, proven: KiteClientWrapper, delays: list[float], retry_after: Any
) -> None:
    kite.fail_next("/instruments", HttpError(429, retry_after=retry_after), None)
    with pytest.raises(TransientAPIError, match=r"HTTP 429.* asks to wait"):
        proven.fetch_instruments()
    assert (delays, paths(kite)) == ([], ["/user/profile", "/instruments"])


# Time


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Hang("answer"), id="before the answer"),
        pytest.param(Hang("headers"), id="within the headers"),
        pytest.param(Hang("body"), id="within the body"),
    ],
)
def test_time_out(kite: KiteServer, delays: list[float], fault: Hang) -> None:
    """Each attempt ends; that the next one may be well is shown with time-outs that are longer."""
    wrapper = make_wrapper(kite, delays, timeout_seconds=0.2)
    wrapper.authenticate()
    delays.clear()  # on a busy machine that may have taken longer, too
    kite.fail_next("/instruments", fault, None)
    with pytest.raises(TransientAPIError, match="did not answer in time"):
        wrapper.fetch_instruments()
    assert delays == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("where", ["headers", "body"])
def test_answer_that_trickles_ends_at_the_deadline(
    kite: KiteServer, delays: list[float], where: Any
) -> None:
    wrapper = make_wrapper(
        kite, delays, deadline_seconds=1.5, retry=RetryPolicy(2, 0.5, sleep=delays.append)
    )
    wrapper.authenticate()
    delays.clear()
    kite.fail_next("/instruments", Trickle(where, 0.02), None)
    with pytest.raises(TransientAPIError, match=r"within 1\.5 seconds"):
        wrapper.fetch_instruments()
    assert delays == [0.5]
    kite.clear_faults()
    assert wrapper.fetch_instruments() == []  # what was left behind is not in the way


def test_progress_counts_the_bytes_of_the_dump(kite: KiteServer, delays: list[float]) -> None:
    seen: list[tuple[int, int | None]] = []
    kite.dump = to_csv(INSTRUMENTS)
    wrapper = make_wrapper(kite, delays, progress=lambda done, total: seen.append((done, total)))
    wrapper.authenticate()
    assert seen == []
    wrapper.fetch_instruments()
    size = len(gzip.compress(kite.dump, compresslevel=4, mtime=0))
    assert seen[-1] == (size, size)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


# Secrets and foreign texts


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(HtmlError(500), id="500"),
        pytest.param(HtmlError(404), id="404"),
        pytest.param(HtmlError(200), id="200"),
        pytest.param(CustomAnswer(b"{PAGE-TEXT", "application/json"), id="broken JSON"),
        pytest.param(CustomAnswer(b"PAGE-TEXT", "text/plain"), id="plain text"),
    ],
)
def test_no_part_of_a_foreign_page_is_in_the_error_or_its_causes(
    kite: KiteServer, proven: KiteClientWrapper, fault: Any
) -> None:
    import traceback

    kite.fail_next("/instruments", fault, None)
    with pytest.raises(APIError) as caught:
        proven.fetch_instruments()
    text = "".join(traceback.format_exception(caught.value))
    assert "sandbox_token" not in text
    assert "PAGE-TEXT" not in text
    assert "<pre>" not in text


@pytest.mark.parametrize("status", [400, 403])
def test_message_of_kite_is_cut(kite: KiteServer, proven: KiteClientWrapper, status: int) -> None:
    kite.fail_next("/instruments", HttpError(status, "long " * 100_000))
    with pytest.raises(APIError if status == 400 else AuthenticationError) as caught:
        proven.fetch_instruments()
    assert "Exception: long long" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_causes_of_an_error_come_to_an_end(kite: KiteServer, proven: KiteClientWrapper) -> None:
    kite.fail_next("/instruments", HttpError(500), None)
    with pytest.raises(TransientAPIError) as caught:
        proven.fetch_instruments()
    seen: list[int] = []
    error: BaseException | None = caught.value
    while error is not None:
        assert id(error) not in seen
        seen.append(id(error))
        error = error.__cause__


def test_representation_of_the_wrapper_shows_no_secret(wrapper: KiteClientWrapper) -> None:
    assert "sandbox_token" not in repr(wrapper)
    assert "sandbox_secret" not in repr(wrapper)
