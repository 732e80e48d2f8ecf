"""Parts of what is wanted: each key is in one of them, and their requests take turns."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.feed import Slice
from shared.utils.http_source import Pacer

NOON = 1_800_000_000.0  # by the wall clock
MOST_SLEEPS = 20_000  # of a host in a test: who never gets a turn fails, and does not hang


counts = st.integers(1, 12)
rates = st.sampled_from([0.5, 2.0, 3.0, 7.5, 100.0])
# What passes before each request is ready to begin, in intervals of the whole: also so that it
# comes a little late for a turn. Some are told first to wait, as by a 429.
delays = st.lists(
    st.tuples(st.integers(0, 30), st.floats(0, 1) | st.floats(0, 0.1), st.none() | st.floats(0, 9)),
    min_size=1,
    max_size=12,
)


class Host:
    """A machine: its monotonic clock begins anywhere, its wall clock agrees with all others."""

    def __init__(self, booted: float, late: float = 0.0, stretch: float = 1.0) -> None:
        self._booted = booted
        self._late = late  # how long after the end of a sleep it wakes
        self._stretch = stretch  # so many times as long as it should it sleeps
        self.wall = NOON
        self.sleeps = 0

    def clock(self) -> float:
        return self.wall - self._booted

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        assert self.sleeps < MOST_SLEEPS
        self.wall += seconds * self._stretch + self._late

    def pacer(self, rate: float, part: Slice) -> Pacer:
        wall_clock = lambda: self.wall  # noqa: E731
        return Pacer(rate, part=part, clock=self.clock, wall_clock=wall_clock, sleep=self.sleep)


@given(keys=st.sets(st.integers(-(2**63), 2**63 - 1)), count=st.integers(1, 9999))
def test_each_key_is_in_exactly_one_part(keys: set[int], count: int) -> None:
    numbers = {key: key % count + 1 for key in keys}
    parts = {number: Slice(number, count) for number in {1, count, *numbers.values()}}
    for key, number in numbers.items():
        assert [part.number for part in parts.values() if part.holds(key)] == [number]


@given(data=st.data(), count=counts, rate=rates)
def test_requests_of_all_parts_are_an_interval_apart(
    data: st.DataObject, count: int, rate: float
) -> None:
    """Whoever comes when, and however long it is between: two requests never meet."""
    interval, begun = 1.01 / rate, list[float]()
    for number in range(1, count + 1):
        host = Host(data.draw(st.floats(0, 1e6)))
        pacer = host.pacer(rate, Slice(number, count))
        for turns, late, pause in data.draw(delays):
            host.wall += (turns + late) * interval
            if pause is not None:
                pacer.slow_down(pause)
            asked_at = host.wall
            pacer.wait()
            begun.append(host.wall)
            assert host.wall >= asked_at + (pause or 0) - 1e-6
    begun.sort()
    assert all(after - before > interval - 1e-5 for before, after in pairwise(begun))


@given(
    booted=st.floats(0, 1e6),
    count=counts,
    rate=rates,
    late=st.floats(0, 0.24),
    answer=st.floats(0, 0.9),
)
def test_a_part_that_is_always_ready_takes_every_turn(
    booted: float, count: int, rate: float, late: float, answer: float
) -> None:
    """Also where it wakes late: its rate is its share."""
    interval = 1.01 / rate
    host = Host(booted, late=late * interval)
    pacer = host.pacer(rate, Slice(1, count))
    pacer.wait()
    first = host.wall
    for _ in range(20):
        host.wall += answer * interval * (count - 0.25)  # it is back before its next turn
        pacer.wait()
    # The last one may be late.
    assert host.wall - first == pytest.approx(20 * count * interval, abs=0.25 * interval)


@given(count=counts, rate=rates, late=st.floats(0.25, 40))
def test_a_part_that_always_wakes_late_has_its_turns_too(
    count: int, rate: float, late: float
) -> None:
    """Fewer than its share, but it does not wait for ever."""
    interval = 1.01 / rate
    host = Host(0.0, late=late * interval)
    pacer = host.pacer(rate, Slice(1, count))
    begun = []
    for _ in range(5):
        pacer.wait()
        begun.append(host.wall)
    assert all(after - before > (count - 0.26) * interval for before, after in pairwise(begun))


def test_long_sleeps_that_end_late_cost_no_turn() -> None:
    """A part of a hundred sleeps 33 s between two turns, of which it may miss none by 84 ms."""
    host = Host(0, stretch=1.1)
    pacer = host.pacer(3, Slice(7, 100))
    pacer.wait()
    first = host.wall
    for _ in range(5):
        pacer.wait()
    assert host.wall - first == pytest.approx(5 * 100 * 1.01 / 3, abs=0.1)
