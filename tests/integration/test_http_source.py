"""Any source over HTTP, and any route of Kite's: retried, paced, by several threads at once."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sandbox.kite_faults import CustomAnswer, CutShort, HtmlError, HttpError, Reset
from sandbox.kite_server import KiteServer
from shared.exceptions import (
    APIError,
    AuthenticationError,
    PermissionDeniedError,
    RefusedRequestError,
    TooManyRequestsError,
    TransientAPIError,
)
from shared.utils.http_source import HttpSource, Pacer
from shared.utils.kite_client_wrapper import KiteClientWrapper
from shared.utils.retry import MAX_RETRY_AFTER_SECONDS, RetryPolicy
from shared.utils.strict_session import SERIES_BOUNDS

CANDLES = "/instruments/historical/256265/day"


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.slept.append(seconds)
            self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


# Pace


def test_requests_begin_an_interval_apart(clock: Clock) -> None:
    pacer = Pacer(4, clock=clock, sleep=clock.sleep)
    begun = []
    for _ in range(4):
        pacer.wait()
        begun.append(clock.now)
    assert begun == pytest.approx([100.0, 100.2525, 100.505, 100.7575])  # 1% apart more


def test_time_that_has_passed_is_not_waited_for_nor_made_up_for(clock: Clock) -> None:
    pacer = Pacer(4, clock=clock, sleep=clock.sleep)
    pacer.wait()
    clock.now += 10
    for _ in range(3):
        pacer.wait()
    assert clock.slept == pytest.approx([0.2525, 0.2525])


def test_slowing_down_makes_everybody_wait_and_is_never_shortened(clock: Clock) -> None:
    pacer = Pacer(4, clock=clock, sleep=clock.sleep)
    pacer.slow_down(5)
    pacer.slow_down(1)
    pacer.wait()
    pacer.wait()
    assert clock.slept == pytest.approx([5, 0.2525])


def test_slowing_down_reaches_those_who_wait_for_their_turn() -> None:
    clock = Clock()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if len(clock.slept) == 1:
            pacer.slow_down(7)

    pacer = Pacer(4, clock=clock, sleep=sleep)
    pacer.wait()
    pacer.wait()
    assert clock.slept == pytest.approx([0.2525, 7])


def test_threads_share_a_pace(clock: Clock) -> None:
    pacer = Pacer(4, clock=clock, sleep=clock.sleep)
    with ThreadPoolExecutor(8) as threads:
        for _ in range(40):
            threads.submit(pacer.wait)
    assert clock.now >= 100 + 39 * 0.2525 - 1e-6


# A source of any kind


class Recorder(ThreadingHTTPServer):
    """A server that notes the request lines; `answer` gives status, headers and body."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lines: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[str], tuple[int, dict[str, str], bytes]] = lambda path: (
            200,
            {"Content-Type": "text/csv"},
            b"a,b\n1,2\n",
        )
        self.root = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Recorder

    def do_GET(self) -> None:
        self.server.lines.append(self.path)
        self.server.headers.append(dict(self.headers.items()))
        status, headers, body = self.server.answer(self.path)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is called
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Recorder]:
    with Recorder() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def delays() -> list[float]:
    return []


@pytest.fixture
def source(server: Recorder, delays: list[float]) -> HttpSource:
    return make_source(server, delays)


def make_source(server: Recorder, delays: list[float], **options: Any) -> HttpSource:
    return HttpSource(server.root, retry=RetryPolicy(3, 0.5, sleep=delays.append), **options)


def test_get_sends_route_parameters_and_headers(server: Recorder, source: HttpSource) -> None:
    body = source.get("/list/day.csv", {"page": 2, "of": "a b"}, headers={"X-Key": "5"})
    assert body == b"a,b\n1,2\n"
    assert server.lines == ["/list/day.csv?page=2&of=a+b"]
    assert server.headers[0]["X-Key"] == "5"
    assert source.get(f"{server.root}/other") == body
    assert HttpSource(f"{server.root}/list.csv").get("", {"page": 3}) == body
    assert server.lines[1:] == ["/other", "/list.csv?page=3"]


def test_answer_of_any_media_type_but_html_is_taken(server: Recorder, source: HttpSource) -> None:
    for media_type in ("application/octet-stream", "text/plain", ""):
        server.answer = lambda path, kind=media_type: (200, {"Content-Type": kind}, b"x")  # type: ignore[misc]
        assert source.get("/x") == b"x"
    server.answer = lambda path: (200, {"Content-Type": "text/html"}, b"<html>")
    with pytest.raises(TransientAPIError, match=r"^127\.0\.0\.1 answered with an HTML page"):
        source.get("/x")


def test_message_names_the_host_and_nothing_of_kite(server: Recorder, source: HttpSource) -> None:
    server.answer = lambda path: (404, {"Content-Type": "application/json"}, b"{}")
    with pytest.raises(APIError) as caught:
        source.get("/x")
    assert str(caught.value) == "127.0.0.1 answered HTTP 404 (Not Found)."
    server.answer = lambda path: (200, {"Content-Length": "5000000"}, b"")
    with pytest.raises(APIError) as caught:
        source.get("/x")
    assert str(caught.value) == (
        "127.0.0.1's answer is larger than 1 MB, more than any that is expected: check its "
        "address, and what is between this machine and 127.0.0.1."
    )


def test_server_that_is_not_there(delays: list[float]) -> None:
    source = HttpSource("http://127.0.0.1:1", retry=RetryPolicy(2, 0.5, sleep=delays.append))
    with pytest.raises(TransientAPIError) as caught:
        source.get("/x")
    assert str(caught.value) == (
        "No connection to 127.0.0.1 at http://127.0.0.1:1: Connection refused"
    )
    assert delays == [0.5]


def test_what_may_pass_is_tried_again(
    server: Recorder, source: HttpSource, delays: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([(503, {}, b""), (200, {"Content-Length": "9"}, b"whole one")])
    server.answer = lambda path: next(answers)
    assert source.get("/x", {"token": "s3cret"}) == b"whole one"
    assert delays == [0.5]
    assert caplog.messages == [
        "GET /x: attempt 1 of 3 failed, next in 0.5 s: "
        "127.0.0.1 answered HTTP 503 (Service Unavailable)."
    ]


def test_several_threads_ask_at_once(server: Recorder, source: HttpSource) -> None:
    """Four requests are under way together: each waits for the others to come."""
    together = threading.Barrier(4, timeout=30)

    def answer(path: str) -> tuple[int, dict[str, str], bytes]:
        together.wait()
        return 200, {}, path.encode()

    server.answer = answer
    with ThreadPoolExecutor(4) as threads:
        for _ in range(3):
            routes = [f"/{number}" for number in range(4)]
            assert list(threads.map(source.get, routes)) == [route.encode() for route in routes]


@pytest.mark.parametrize(
    ("retry_after", "held"),
    [
        pytest.param("7", 7.0, id="as long as the source asks"),
        pytest.param("", 1.0, id="a second if it asks for no time"),
        pytest.param(str(int(MAX_RETRY_AFTER_SECONDS) + 1), 0.2525, id="not if that is too long"),
    ],
)
def test_429_holds_the_pace_for_all(
    server: Recorder, delays: list[float], clock: Clock, retry_after: str, held: float
) -> None:
    pacer = Pacer(4, clock=clock, sleep=clock.sleep)
    server.answer = lambda path: (429, {"Retry-After": retry_after}, b"")
    with pytest.raises(TooManyRequestsError):
        HttpSource(server.root, pacer=pacer, retry=RetryPolicy(1)).get("/x")
    server.answer = lambda path: (200, {}, b"ok")
    assert make_source(server, delays, pacer=pacer).get("/x") == b"ok"
    assert clock.slept == pytest.approx([held])


def test_requests_per_second_bound_every_attempt(server: Recorder, clock: Clock) -> None:
    pacer = Pacer(4, clock=clock, sleep=clock.sleep)
    source = HttpSource(server.root, pacer=pacer, retry=RetryPolicy(3, sleep=lambda seconds: None))
    server.answer = lambda path: (503, {}, b"")
    with pytest.raises(TransientAPIError):
        source.get("/x")
    assert clock.slept == pytest.approx([0.2525, 0.2525])


def test_rate_is_kept_over_a_real_clock(server: Recorder) -> None:
    """The first begins at once; that the others wait is shown with a rate that is high."""
    source = HttpSource(server.root, requests_per_second=1000)
    assert [source.get("/x") for _ in range(3)] == [b"a,b\n1,2\n"] * 3


# Any route of Kite's


@pytest.fixture
def kite_client(kite: KiteServer, delays: list[float]) -> KiteClientWrapper:
    client = KiteClientWrapper(
        kite.api_key,
        kite.api_secret,
        kite.access_token,
        root=kite.root,
        deadline_seconds=10.0,
        retry=RetryPolicy(3, 0.5, sleep=delays.append),
    )
    client.authenticate()
    return client


def candles(count: int = 1) -> bytes:
    rows = [["2017-12-15T09:15:00+0530", 1704.5, 1705, 1699.25, 1702.8, 2499]] * count
    return json.dumps({"status": "success", "data": {"candles": rows}}).encode()


def json_answer(body: bytes) -> CustomAnswer:
    return CustomAnswer(body, "application/json")


def test_ask_before_authenticate_sends_nothing(kite: KiteServer) -> None:
    client = KiteClientWrapper(kite.api_key, kite.api_secret, kite.access_token, root=kite.root)
    with pytest.raises(AuthenticationError, match="authenticate"):
        client.ask(CANDLES)
    assert kite.requests == []


def test_ask_gives_the_bytes(kite: KiteServer, kite_client: KiteClientWrapper) -> None:
    kite.fail_next(CANDLES, json_answer(candles()))
    assert kite_client.ask(CANDLES, {"from": "2017-12-15", "oi": 0}) == candles()
    request = kite.requests[-1]
    assert (request.method, request.path) == ("GET", CANDLES)
    assert request.headers["authorization"] == "token sandbox_key:sandbox_token"
    assert kite_client.ask("/instruments/NSE").startswith(b"instrument_token,")


@pytest.mark.parametrize("path", ["", "/", "/kite"])
def test_ask_sends_its_parameters(server: Recorder, path: str) -> None:
    client = KiteClientWrapper("key", "secret", "token", root=server.root + path)
    server.answer = lambda path: (
        200,
        {"Content-Type": "application/json"},
        b'{"data": {"user_id": "AB1234"}}',
    )
    client.authenticate()
    client.ask(CANDLES, {"from": "2026-01-01 09:15:00", "oi": 1})
    assert client.user_id == "AB1234"
    base = path.rstrip("/")
    assert server.lines == [
        f"{base}/user/profile",
        f"{base}{CANDLES}?from=2026-01-01+09%3A15%3A00&oi=1",
    ]


@pytest.mark.parametrize(
    "route", ["{}/x", "//{}/x", "/{}/x", "\\\\{}/x", "@{}/x", "\t//{}/x", "/\t/{}/x"]
)
def test_token_is_sent_nowhere_else_whatever_the_route(
    kite: KiteServer, kite_client: KiteClientWrapper, server: Recorder, route: str
) -> None:
    host = server.root.removeprefix("http://")
    for address in (server.root, host):
        with pytest.raises(APIError, match="404"):
            kite_client.ask(route.format(address))
    assert server.lines == []


def test_bounds_are_those_that_are_given(kite: KiteServer, kite_client: KiteClientWrapper) -> None:
    body = candles(20_000)
    assert len(body) > 1_000_000
    kite.fail_next(CANDLES, json_answer(body), None)
    with pytest.raises(APIError, match=r"^Kite's answer is larger than 1 MB"):
        kite_client.ask(CANDLES)
    assert kite_client.ask(CANDLES, bounds=SERIES_BOUNDS) == body


@pytest.mark.parametrize("is_packed", [False, True], ids=["plain", "packed"])
def test_series_of_more_than_16_mb_is_refused(
    kite: KiteServer, kite_client: KiteClientWrapper, delays: list[float], is_packed: bool
) -> None:
    body = b"[" + b" " * 17_000_000 + b"]"
    packed = (gzip.compress(body, 1), "application/json", 200, (("Content-Encoding", "gzip"),))
    kite.fail_next(CANDLES, CustomAnswer(*packed) if is_packed else json_answer(body), None)
    with pytest.raises(APIError, match=r"^Kite's answer is larger than 16 MB"):
        kite_client.ask(CANDLES, bounds=SERIES_BOUNDS)
    assert delays == []


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        pytest.param(HttpError(400), RefusedRequestError, "Kite refused the request", id="400"),
        pytest.param(HttpError(403), AuthenticationError, "6 AM IST", id="403"),
        pytest.param(
            HttpError(403, error_type="PermissionException"),
            PermissionDeniedError,
            "does not let this app .* A new login does not help",
            id="permission",
        ),
        pytest.param(
            json_answer(b'{"status": "error", "message": "no", "error_type": "InputException"}'),
            RefusedRequestError,
            "HTTP 200, InputException: no",
            id="an error with status 200",
        ),
        pytest.param(
            json_answer(b'{"status": "error", "message": "no"}'),
            APIError,
            "HTTP 200, GeneralException: no",
            id="an error without a type",
        ),
        pytest.param(
            CustomAnswer(b"{", "application/json", 404),
            APIError,
            r"HTTP 404 \(Not Found\)",
            id="404 with half of JSON",
        ),
    ],
)
def test_what_kite_refuses_is_asked_once(
    kite: KiteServer,
    kite_client: KiteClientWrapper,
    delays: list[float],
    fault: Any,
    error: type[Exception],
    message: str,
) -> None:
    kite.fail_next(CANDLES, fault, None)
    with pytest.raises(error, match=message) as caught:
        kite_client.ask(CANDLES)
    assert type(caught.value) is error
    assert delays == []


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(HttpError(429), id="429"),
        pytest.param(HtmlError(502), id="502"),
        pytest.param(HttpError(400, error_type="NetworkException"), id="network"),
        pytest.param(Reset("body"), id="reset"),
        pytest.param(CutShort("length"), id="cut short"),
        pytest.param(json_answer(b'{"data": '), id="half of JSON"),
    ],
)
def test_what_may_pass_of_a_route_is_asked_again(
    kite: KiteServer, kite_client: KiteClientWrapper, delays: list[float], fault: Any
) -> None:
    kite.fail_next(CANDLES, fault)
    kite.fail_next(CANDLES, json_answer(candles()), None)
    assert kite_client.ask(CANDLES) == candles()
    assert delays == [0.5]


def test_fault_of_one_thread_is_nothing_to_the_others(
    kite: KiteServer, kite_client: KiteClientWrapper
) -> None:
    routes = [f"/instruments/historical/{token}/day" for token in range(8)]
    for number, route in enumerate(routes):
        if number % 2:
            kite.fail_next(route, Reset("body"), 2)
        kite.fail_next(route, json_answer(candles(number)), None)
    with ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            answers = list(threads.map(kite_client.ask, routes))
            assert answers == [candles(number) for number in range(8)]
