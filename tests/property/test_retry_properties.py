"""Property 12: what may pass by itself is tried again after growing delays, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox.kite_faults import CutShort, HtmlError, HttpError, Reset
from sandbox.kite_server import KiteServer
from shared.exceptions import APIError, TransientAPIError, TransientError
from shared.utils.kite_client_wrapper import KiteClientWrapper
from shared.utils.retry import MAX_DELAY_SECONDS, RetryPolicy, retry_with_backoff
from tests.instruments import instrument, to_csv

PATH = "/instruments"

transient_faults = st.one_of(
    st.sampled_from([408, 425, 429, 500, 502, 503, 504]).map(HttpError),
    st.sampled_from([200, 502, 503, 504]).map(HtmlError),
    st.sampled_from(["answer", "headers", "body"]).map(Reset),
    st.sampled_from(["length", "chunked", "gzip", "row"]).map(CutShort),
)
base_delays = st.floats(0.001, 60.0)


@pytest.fixture(scope="module")
def shared_kite() -> Iterator[KiteServer]:
    """A server for all examples; each of them clears its faults."""
    dump = to_csv([instrument(number, f"SYMBOL{number}") for number in range(1, 6)])
    with KiteServer(dump) as server:
        yield server


def connect(
    kite: KiteServer, max_attempts: int, base: float, delays: list[float]
) -> KiteClientWrapper:
    """An authenticated client whose waits only note their seconds."""
    kite.clear_faults()
    client = KiteClientWrapper(
        kite.api_key,
        kite.api_secret,
        kite.access_token,
        root=kite.root,
        retry=RetryPolicy(max_attempts, base, sleep=delays.append),
    )
    client.authenticate()
    return client


def count_fetches(kite: KiteServer) -> int:
    return sum(request.path == PATH for request in kite.requests)


# Feature: stock-ingestion, Property 12: For any transient API failure, the system must retry the
# operation with exponentially increasing delays (e.g., 1s, 2s, 4s) up to the configured maximum
# retry attempts.
@given(
    faults=st.lists(transient_faults, max_size=5),
    max_attempts=st.integers(1, 5),
    base=base_delays,
)
def test_transient_answers_are_tried_again_after_doubling_delays(
    shared_kite: KiteServer, faults: list[object], max_attempts: int, base: float
) -> None:
    delays: list[float] = []
    client = connect(shared_kite, max_attempts, base, delays)
    before = count_fetches(shared_kite)
    for fault in faults:
        shared_kite.fail_next(PATH, fault)

    if len(faults) < max_attempts:
        assert len(client.fetch_instruments()) == 5
        attempts = len(faults) + 1
    else:
        with pytest.raises(TransientAPIError):
            client.fetch_instruments()
        attempts = max_attempts

    assert count_fetches(shared_kite) - before == attempts
    assert delays == [base * 2**number for number in range(attempts - 1)]


@given(wait=st.integers(0, 300), base=base_delays)
def test_wait_that_the_server_asks_for_is_at_least_kept(
    shared_kite: KiteServer, wait: int, base: float
) -> None:
    delays: list[float] = []
    client = connect(shared_kite, 2, base, delays)
    shared_kite.fail_next(PATH, HttpError(429, retry_after=wait))

    assert len(client.fetch_instruments()) == 5

    assert delays == [max(float(wait), base)]


@given(status=st.sampled_from([400, 401, 404, 405, 410]), base=base_delays)
def test_answer_that_will_not_change_is_asked_for_once(
    shared_kite: KiteServer, status: int, base: float
) -> None:
    delays: list[float] = []
    client = connect(shared_kite, 5, base, delays)
    before = count_fetches(shared_kite)
    shared_kite.fail_next(PATH, HttpError(status))

    with pytest.raises(APIError) as caught:
        client.fetch_instruments()

    assert not isinstance(caught.value, TransientError)
    assert count_fetches(shared_kite) - before == 1
    assert delays == []


# Feature: stock-ingestion, Property 12: For any transient API failure, the system must retry the
# operation with exponentially increasing delays (e.g., 1s, 2s, 4s) up to the configured maximum
# retry attempts.
@given(
    outcomes=st.lists(st.sampled_from([TransientError, ValueError, None]), max_size=12),
    max_attempts=st.integers(1, 10),
    base=st.one_of(base_delays, st.integers(0, 60)),
)
@example(outcomes=[TransientError] * 10, max_attempts=10, base=60)
def test_attempts_end_with_success_a_fault_that_stays_or_their_number(
    outcomes: list[type[Exception] | None], max_attempts: int, base: float
) -> None:
    delays: list[float] = []
    left = [*outcomes, *[None] * max_attempts]
    expected = next(
        number
        for number, outcome in enumerate(left, 1)
        if outcome is not TransientError or number == max_attempts
    )
    calls = 0

    def attempt() -> str:
        nonlocal calls
        calls += 1
        outcome = left[calls - 1]
        if outcome is not None:
            raise outcome(str(calls))
        return "done"

    last = left[expected - 1]
    if last is None:
        assert retry_with_backoff(attempt, max_attempts, base, sleep=delays.append) == "done"
    else:
        with pytest.raises(last, match=f"^{expected}$"):
            retry_with_backoff(attempt, max_attempts, base, sleep=delays.append)
    assert calls == expected
    assert delays == [min(base * 2**number, MAX_DELAY_SECONDS) for number in range(expected - 1)]
