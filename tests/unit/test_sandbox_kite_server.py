"""The local Kite server, asked by the real client and by bare HTTP."""

import gzip
import hashlib
import http.client
import json
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
from kiteconnect import KiteConnect
from kiteconnect import exceptions as kite_exceptions

from sandbox.kite_faults import (
    CSV_HEADER,
    EMPTY_BODY,
    HEADER_ONLY,
    NO_CONTENT_TYPE,
    TOKEN_EXPIRED,
    WRONG_CONTENT_TYPE,
    CustomAnswer,
    CutShort,
    Fault,
    Hang,
    HtmlError,
    HttpError,
    Raw,
    Reset,
    Trickle,
)
from sandbox.kite_server import ANY_PATH, KiteServer

ROWS = [
    b"%d,%d,SHARE%d,A NAME,0.0,,0.0,0.05,1,EQ,NSE,NSE\n" % (i << 8 | 1, i, i)
    for i in range(1, 1500)
]
DUMP = CSV_HEADER + b"".join(ROWS) + b"128012804,500050,OTHER,,0.0,,0.0,0.05,1,EQ,BSE,BSE\n"
SHORT_SECONDS = 0.2


@pytest.fixture
def server() -> Iterator[KiteServer]:
    threads = threading.active_count()
    with KiteServer(DUMP) as running:
        yield running
    assert threading.active_count() == threads


def make_client(server: KiteServer, **options: Any) -> KiteConnect:
    client = KiteConnect(api_key=server.api_key, root=server.root, **options)
    client.set_access_token(server.access_token)
    return client


def fetch(server: KiteServer, path: str = "/instruments", **headers: str) -> requests.Response:
    authorization = f"token {server.api_key}:{server.access_token}"
    sent = {"X-Kite-Version": "3", "Authorization": authorization, **headers}
    return requests.get(server.root + path, headers=sent, timeout=60)


# --- normal answers ---


def test_profile_with_good_token(server: KiteServer) -> None:
    assert make_client(server).profile()["broker"] == "ZERODHA"


def test_instruments_for_real_client(server: KiteServer) -> None:
    assert len(make_client(server).instruments()) == 1500


def test_instruments_of_one_exchange(server: KiteServer) -> None:
    instruments = make_client(server).instruments("BSE")
    assert [each["tradingsymbol"] for each in instruments] == ["OTHER"]


def test_instruments_are_compressed_only_where_accepted(server: KiteServer) -> None:
    with closing(http.client.HTTPConnection(server.root.removeprefix("http://"))) as connection:
        headers = {"X-Kite-Version": "3", "Authorization": "token sandbox_key:sandbox_token"}
        connection.request("GET", "/instruments", headers=headers)
        plain = connection.getresponse()
        assert plain.read() == DUMP
        connection.request("GET", "/instruments", headers={**headers, "Accept-Encoding": "gzip"})
        packed = connection.getresponse()
        body = packed.read()
    assert plain.headers["Content-Encoding"] is None
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.headers["Content-Length"] == str(len(body))
    assert packed.headers["Content-Type"] == "text/csv"
    assert gzip.decompress(body) == DUMP


def test_dump_is_what_was_set_last(server: KiteServer) -> None:
    days = iter([CSV_HEADER + ROWS[0], CSV_HEADER + ROWS[1]])
    server.dump = lambda: next(days)
    assert [fetch(server).content, fetch(server).content] == [
        CSV_HEADER + ROWS[0],
        CSV_HEADER + ROWS[1],
    ]
    server.dump = CSV_HEADER
    assert fetch(server).content == CSV_HEADER


# --- credentials ---


@pytest.mark.parametrize("path", ["/user/profile", "/instruments", "/instruments/NSE"])
@pytest.mark.parametrize(
    ("headers", "status", "error_type"),
    [
        pytest.param({}, 400, "InputException", id="none"),
        pytest.param({"Authorization": "Bearer x"}, 400, "InputException", id="malformed"),
        pytest.param(
            {"Authorization": "token sandbox_key:wrong"}, 403, "TokenException", id="wrong-token"
        ),
        pytest.param(
            {"Authorization": "token wrong:sandbox_token"}, 403, "TokenException", id="wrong-key"
        ),
        pytest.param(
            {"Authorization": "token sandbox_key:sandbox_token", "X-Kite-Version": "2"},
            400,
            "InputException",
            id="wrong-version",
        ),
    ],
)
def test_request_with_bad_credentials(
    server: KiteServer, path: str, headers: dict[str, str], status: int, error_type: str
) -> None:
    sent = {"X-Kite-Version": "3", **headers}
    answer = requests.get(server.root + path, headers=sent, timeout=60)
    assert (answer.status_code, answer.json()["error_type"]) == (status, error_type)
    assert answer.json()["status"] == "error"


def test_request_without_version_is_refused(server: KiteServer) -> None:
    answer = requests.get(server.root + "/user/profile", timeout=60)
    assert (answer.status_code, answer.json()["error_type"]) == (400, "InputException")


def test_expired_token_is_refused(server: KiteServer) -> None:
    client = make_client(server)
    server.expire_token()
    with pytest.raises(kite_exceptions.TokenException) as caught:
        client.profile()
    assert caught.value.code == 403


def test_login_gives_a_new_token_and_ends_the_old(server: KiteServer) -> None:
    old = make_client(server)
    client = KiteConnect(api_key=server.api_key, root=server.root)
    session = client.generate_session(server.issue_request_token(), server.api_secret)
    assert session["access_token"] == server.access_token
    assert isinstance(session["login_time"], datetime)
    assert client.profile()["user_id"] == session["user_id"]
    with pytest.raises(kite_exceptions.TokenException):
        old.profile()


def test_request_token_is_good_once(server: KiteServer) -> None:
    client, token = make_client(server), server.issue_request_token()
    client.generate_session(token, server.api_secret)
    with pytest.raises(kite_exceptions.TokenException, match="invalid or has expired"):
        client.generate_session(token, server.api_secret)


def test_login_with_wrong_secret_keeps_the_request_token(server: KiteServer) -> None:
    client, token = make_client(server), server.issue_request_token()
    with pytest.raises(kite_exceptions.TokenException, match="invalid or has expired"):
        client.generate_session(token, "wrong")
    client.generate_session(token, server.api_secret)


def test_login_with_unknown_key_is_refused(server: KiteServer) -> None:
    client = KiteConnect(api_key="unknown", root=server.root)
    with pytest.raises(kite_exceptions.TokenException, match="api_key"):
        client.generate_session(server.issue_request_token(), server.api_secret)


def test_login_with_missing_field_is_refused(server: KiteServer) -> None:
    headers = {"X-Kite-Version": "3"}
    form = {"api_key": server.api_key, "checksum": hashlib.sha256(b"").hexdigest()}
    answer = requests.post(server.root + "/session/token", data=form, headers=headers, timeout=60)
    assert (answer.status_code, answer.json()["error_type"]) == (400, "InputException")
    assert "request_token" in answer.json()["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/orders", 404), ("POST", "/instruments", 405), ("GET", "/session/token", 405)],
)
def test_other_routes_and_methods(server: KiteServer, method: str, path: str, status: int) -> None:
    headers = {"X-Kite-Version": "3"}
    answer = requests.request(method, server.root + path, headers=headers, timeout=60)
    assert (answer.status_code, answer.json()["status"]) == (status, "error")


# --- records ---


def test_requests_are_recorded(server: KiteServer) -> None:
    client = make_client(server)
    client.profile()
    server.fail_next("/instruments", HttpError(503))
    with pytest.raises(kite_exceptions.GeneralException):
        client.instruments()
    first, second = server.requests
    assert (first.method, first.path, first.status) == ("GET", "/user/profile", 200)
    assert (second.method, second.path, second.status) == ("GET", "/instruments", 503)
    assert first.headers["authorization"] == "token sandbox_key:sandbox_token"
    assert first.time <= second.time


# --- faults ---


def test_fault_is_for_its_path_and_times_only(server: KiteServer) -> None:
    server.fail_next("/instruments", HttpError(503), times=2)
    server.fail_next("/instruments", HttpError(500))
    paths = ["/user/profile"] + ["/instruments"] * 4
    statuses = [fetch(server, path).status_code for path in paths]
    assert statuses == [200, 503, 503, 500, 200]


def test_fault_for_ever_ends_when_cleared(server: KiteServer) -> None:
    server.fail_next(ANY_PATH, TOKEN_EXPIRED, times=None)
    assert [fetch(server).status_code for _ in range(3)] == [403] * 3
    server.clear_faults()
    assert fetch(server).status_code == 200


@pytest.mark.parametrize(
    ("status", "error_type"),
    [
        (400, "InputException"),
        (403, "TokenException"),
        (429, "NetworkException"),
        (500, "GeneralException"),
        (503, "GeneralException"),
        (504, "GeneralException"),
    ],
)
def test_http_error_reaches_real_client(server: KiteServer, status: int, error_type: str) -> None:
    server.fail_next("/instruments", HttpError(status))
    with pytest.raises(getattr(kite_exceptions, error_type)) as caught:
        make_client(server).instruments()
    assert caught.value.code == status


@pytest.mark.parametrize(
    ("value", "header"),
    [
        pytest.param(None, None, id="none"),
        pytest.param(7, "7", id="seconds"),
        pytest.param(
            datetime(2026, 8, 3, 3, 0, tzinfo=UTC),
            "Mon, 03 Aug 2026 03:00:00 GMT",
            id="moment",
        ),
        pytest.param(datetime(2026, 8, 3, 3, 0), "Mon, 03 Aug 2026 03:00:00 GMT", id="naive"),
        pytest.param("soon", "soon", id="nonsense"),
    ],
)
def test_retry_after(
    server: KiteServer, value: int | datetime | str | None, header: str | None
) -> None:
    server.fail_next("/instruments", HttpError(429, retry_after=value))
    assert fetch(server).headers.get("Retry-After") == header


def test_html_error_echoes_the_token(server: KiteServer) -> None:
    server.fail_next("/instruments", HtmlError())
    with pytest.raises(kite_exceptions.DataException, match="sandbox_key:sandbox_token"):
        make_client(server).instruments()
    assert server.requests[-1].status == 502


@pytest.mark.parametrize("where", ["answer", "headers", "body"])
def test_hang_times_out(server: KiteServer, where: Any) -> None:
    server.fail_next("/instruments", Hang(where))
    with pytest.raises(requests.RequestException, match="timed out"):
        make_client(server, timeout=SHORT_SECONDS).instruments()


def test_hang_with_an_end_answers_in_the_end(server: KiteServer) -> None:
    server.fail_next("/instruments", Hang("body", seconds=0.01))
    assert fetch(server).content == DUMP


@pytest.mark.parametrize("where", ["headers", "body"])
def test_trickle_goes_on_byte_by_byte(server: KiteServer, where: Any) -> None:
    server.fail_next("/instruments", Trickle(where, interval_seconds=0.001))
    with closing(connect(server)) as connection:
        received = b""
        while len(received) < 700:  # more than the head or a whole row
            chunk = connection.recv(64)
            assert chunk
            received += chunk
    assert (b"\r\n\r\n" in received) == (where == "body")


def connect(server: KiteServer) -> socket.socket:
    """Ask for the instruments by hand, and return the connection to read from."""
    host, port = server.root.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(
        b"GET /instruments HTTP/1.1\r\nHost: x\r\nX-Kite-Version: 3\r\n"
        b"Authorization: token sandbox_key:sandbox_token\r\n\r\n"
    )
    return connection


@pytest.mark.parametrize(
    ("fault", "path"),
    [
        pytest.param(Reset("accept"), ANY_PATH, id="accept"),
        pytest.param(Reset("answer"), "/instruments", id="answer"),
        pytest.param(Reset("headers"), "/instruments", id="headers"),
        pytest.param(Reset("body"), "/instruments", id="body"),
    ],
)
def test_reset(server: KiteServer, fault: Fault, path: str) -> None:
    server.fail_next(path, fault)
    with pytest.raises(requests.RequestException, match=r"reset|aborted"):
        make_client(server).instruments()
    assert len(make_client(server).instruments()) == 1500


def test_reset_on_accept_needs_any_path(server: KiteServer) -> None:
    with pytest.raises(ValueError, match="expected"):
        server.fail_next("/instruments", Reset("accept"))


@pytest.mark.parametrize("how", ["length", "chunked"])
def test_body_cut_short_within_its_framing(server: KiteServer, how: Any) -> None:
    server.fail_next("/instruments", CutShort(how))
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        make_client(server).instruments()


def test_gzip_cut_short_looks_whole_to_the_client(server: KiteServer) -> None:
    server.fail_next("/instruments", CutShort("gzip"))
    assert 0 < len(make_client(server).instruments()) < 1500
    server.fail_next("/instruments", CutShort("gzip"))
    with closing(connect(server)) as connection:
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        body = answer.read()
    with pytest.raises(EOFError):
        gzip.decompress(body)


def test_row_cut_short_has_right_length(server: KiteServer) -> None:
    server.fail_next("/instruments", CutShort("row"))
    answer = fetch(server)
    assert DUMP.startswith(answer.content)
    assert not answer.content.endswith(b"\n")


@pytest.mark.parametrize(
    ("fault", "content_type", "body"),
    [
        pytest.param(WRONG_CONTENT_TYPE, "text/html; charset=utf-8", DUMP, id="wrong-type"),
        pytest.param(NO_CONTENT_TYPE, None, DUMP, id="no-type"),
        pytest.param(EMPTY_BODY, "text/csv", b"", id="empty"),
        pytest.param(HEADER_ONLY, "text/csv", CSV_HEADER, id="header-only"),
        pytest.param(CustomAnswer(b"{}", "application/json"), "application/json", b"{}", id="own"),
    ],
)
def test_custom_answer(
    server: KiteServer, fault: Fault, content_type: str | None, body: bytes
) -> None:
    server.fail_next("/instruments", fault)
    answer = fetch(server)
    assert answer.status_code == 200
    assert answer.headers.get("Content-Type") == content_type
    assert answer.content == body


# --- the end ---


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Hang(), id="hang"),
        pytest.param(Hang("body"), id="hang-in-body"),
        pytest.param(Trickle(interval_seconds=3600), id="trickle"),
        pytest.param(Raw(b"HTTP/1.1 200 OK\r\n\r\n", endless=b"x" * 65536), id="endless"),
        pytest.param(None, id="idle"),
    ],
)
def test_stop_ends_open_connections(fault: Fault | None) -> None:
    threads = threading.active_count()
    server = KiteServer(DUMP)
    server.start()
    if fault is not None:
        server.fail_next("/instruments", fault)
    with closing(connect(server)) as connection:
        if fault != Hang():
            assert connection.recv(1) == b"H"
        server.stop()
        server.stop()
        with pytest.raises(RuntimeError):
            _ = server.root
        with suppress(ConnectionResetError):  # where the request had not been read yet
            while connection.recv(65536):
                pass
    assert threading.active_count() == threads


@pytest.mark.parametrize("is_shut_down", [True, False])
def test_signal_while_the_server_stops_leaves_no_thread(
    monkeypatch: pytest.MonkeyPatch, is_shut_down: bool
) -> None:
    """A program waits at its end for threads that are left, without a word."""
    threads = set(threading.enumerate())
    server = KiteServer(DUMP)
    server.start()
    shutdown = socketserver.BaseServer.shutdown
    interrupted = []

    def interrupt(self: socketserver.BaseServer) -> None:
        interrupted.append(self)
        if is_shut_down:
            shutdown(self)
        raise KeyboardInterrupt

    with closing(connect(server)) as connection:
        assert connection.recv(1) == b"H"  # a thread waits for the next request
        monkeypatch.setattr(socketserver.BaseServer, "shutdown", interrupt)
        with pytest.raises(KeyboardInterrupt):
            server.stop()
        left = set(threading.enumerate()) - threads
        assert all(thread.daemon for thread in left)
        shutdown(interrupted[0])
        for thread in left:
            thread.join(60)
            assert not thread.is_alive()


def test_connection_that_comes_while_the_server_stops_is_refused() -> None:
    server = KiteServer(DUMP)
    server.start()
    threads = threading.active_count()
    assert server._server is not None
    server._server.end_connections()
    with closing(connect(server)) as connection, suppress(ConnectionResetError):
        assert connection.recv(1) == b""
    assert threading.active_count() == threads
    server.stop()


def test_signal_while_the_server_starts_leaves_no_thread_to_wait_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start
    begun = []

    def interrupt(thread: threading.Thread) -> None:
        start(thread)
        begun.append(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupt)
    server = KiteServer(DUMP)
    with pytest.raises(KeyboardInterrupt):
        server.start()
    assert [thread.daemon for thread in begun] == [True]
    server.stop()
    begun[0].join(60)
    assert not begun[0].is_alive()


def test_stopped_server_refuses_connections() -> None:
    with KiteServer(DUMP) as server:
        root = server.root
    with pytest.raises(requests.ConnectionError):
        requests.get(root, timeout=60)


def test_raw_bytes_are_the_whole_answer(server: KiteServer) -> None:
    server.fail_next("/instruments", Raw(b"HTTP/1.0 200 Fine\r\nX-Odd: yes\r\n\r\nbody"))
    answer = fetch(server)
    assert (answer.raw.version, answer.reason, answer.content) == (10, "Fine", b"body")
    assert dict(answer.headers) == {"X-Odd": "yes"}


def test_endless_bytes_follow_the_others_until_the_client_leaves(server: KiteServer) -> None:
    server.fail_next("/instruments", Raw(b"HTTP/1.1 200 OK\r\n\r\nab", endless=b"cd"))
    with requests.get(server.root + "/instruments", stream=True, timeout=60) as answer:
        assert answer.raw.read(1001) == b"ab" + b"cd" * 499 + b"c"
    assert fetch(server).content == DUMP


def test_server_at_another_address_of_this_machine() -> None:
    with KiteServer(DUMP, host="127.0.0.2") as elsewhere:
        assert elsewhere.root.startswith("http://127.0.0.2:")
        assert fetch(elsewhere).content == DUMP


def test_server_says_nothing(server: KiteServer, capfd: pytest.CaptureFixture[str]) -> None:
    server.fail_next("/instruments", Trickle(interval_seconds=0.001))
    fetch(server, "/user/profile")
    with closing(connect(server)) as connection:
        connection.recv(1)
    assert json.loads(fetch(server, "/user/profile").content)["status"] == "success"
    server.stop()
    assert capfd.readouterr() == ("", "")
