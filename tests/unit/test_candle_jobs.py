"""What is asked for one instrument, and what is made of answers: also of wrong ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from dag_2_import_candles_from_kite.answers import Candle
from dag_2_import_candles_from_kite.intervals import INTERVALS
from dag_2_import_candles_from_kite.jobs import Job
from dag_2_import_candles_from_kite.plan import Covered, Span, midnight
from dag_2_import_candles_from_kite.store import Series
from dag_2_import_candles_from_kite.universe import Target
from shared.calendar import IST
from shared.exceptions import TransientAPIError
from tests.candles import MemoryShelf, make_candle, scale

NOW = datetime(2026, 11, 18, 18, 0, tzinfo=IST)
TODAY = midnight(NOW.date())
END = TODAY + timedelta(days=1)
SERIES = Series(Target(1, 408065, "NSE", "INFY", has_oi=False), INTERVALS["day"])
OVERLAP = 5

Truth = Sequence[Candle]
Answer = Callable[[Truth], Truth]  # what Kite makes of a right answer


def day(before: int) -> datetime:
    """The day so many days before today."""
    return TODAY - timedelta(days=before)


def candles(first: int, last: int = 0) -> list[Candle]:
    """A candle of each day, from so many days before today on, to so many before it."""
    return [make_candle(day(n), 100 + n % 97) for n in range(first, last - 1, -1)]


def right(answer: Truth) -> Truth:
    return answer


def empty(answer: Truth) -> Truth:
    return []


def by(factor: str) -> Answer:
    return lambda answer: [scale(candle, Decimal(factor)) for candle in answer]


def changed(before: int, volume: int = 7) -> Answer:
    """The candle of a day has another volume."""
    return lambda answer: [c._replace(volume=volume) if c.ts == day(before) else c for c in answer]


def without(*befores: int) -> Answer:
    return lambda answer: [c for c in answer if c.ts not in {day(n) for n in befores}]


class Desk:
    """A job, what Kite has, and what is on the shelf."""

    def __init__(self, truth: Truth, stored: Truth = (), overlap: int = OVERLAP) -> None:
        """Of what is `stored` all was answered, up to the last one."""
        self.truth = truth
        covered = []
        if stored:
            fetched = stored[-1].ts + timedelta(days=1, hours=18)
            end = stored[-1].ts + timedelta(days=1)
            covered = [Covered(stored[0].ts, end, fetched, is_final=True)]
        self.shelf = MemoryShelf(NOW, stored, covered)
        self.overlap = overlap
        self.asked: list[Span] = []

    def open(self, *missing: Span, covered_from: datetime | None = None) -> Job:
        begins = [row.begin for row in self.shelf.covered]
        overlaps = {}
        for span in missing:
            before = sorted(ts for ts in self.shelf.candles if ts < span.begin)[-self.overlap :]
            overlaps[span.begin] = before[0] if before else None
        return Job(
            SERIES,
            missing,
            NOW,
            overlap=self.overlap,
            overlaps=overlaps,
            covered_from=covered_from or min(begins, default=None),
        )

    def serve(self, job: Job, *answers: Answer, most: int = 40) -> None:
        """Answer until it is done: wrongly as long as there are such `answers`, then rightly."""
        waiting = list(answers)
        while not job.is_done:
            assert len(self.asked) < most, "it asks for ever"
            request = job.request
            span = Span(request.begin, request.end)
            assert span.end - span.begin <= timedelta(days=request.interval.longest_days)
            self.asked.append(span)
            answer = [c for c in self.truth if span.begin <= c.ts < span.end]
            job.take((waiting.pop(0) if waiting else right)(answer), self.shelf)
        assert not waiting

    def run(self, *answers: Answer, begin: datetime | None = None) -> None:
        """Bring what is missing behind the stored ones."""
        known = max((row.end for row in self.shelf.covered), default=self.truth[0].ts)
        self.serve(self.open(Span(begin or known, END)), *answers)

    @property
    def asked_days(self) -> list[tuple[int, int]]:
        """What was asked for, as days before today: the first, and the one behind the last."""
        return [((TODAY - begin).days, (TODAY - end).days) for begin, end in self.asked]

    def assert_right(self) -> None:
        assert self.shelf.list() == list(self.truth)
        assert self.shelf.covered[-1].end == END


# --- right answers -------------------------------------------------------------------------------


def test_first_request_has_no_overlap() -> None:
    desk = Desk(candles(10))
    desk.run()
    assert desk.asked_days == [(10, -1)]
    desk.assert_right()
    assert [row.is_final for row in desk.shelf.covered] == [True, False]


def test_next_requests_begin_with_the_last_candles() -> None:
    desk = Desk(candles(10), candles(10, 3))
    desk.run()
    assert desk.asked_days == [(7, -1)]
    desk.assert_right()
    assert not desk.shelf.corrections


def test_long_history_is_asked_for_oldest_first() -> None:
    desk = Desk(candles(4500))
    desk.run()
    assert desk.asked_days == [(4500, 2500), (2505, 505), (510, -1)]
    desk.assert_right()


def test_holes_are_filled_one_after_the_other() -> None:
    truth = candles(40)
    stored = [c for c in truth if c.ts not in {day(n) for n in (*range(20, 25), *range(8))}]
    desk = Desk(truth)
    desk.shelf = MemoryShelf(
        NOW,
        stored,
        [
            Covered(day(40), day(24), day(7), is_final=True),
            Covered(day(19), day(7), day(6), is_final=True),
        ],
    )
    desk.serve(desk.open(Span(day(24), day(19)), Span(day(7), END)))
    assert desk.asked_days == [(29, 19), (12, -1)]
    desk.assert_right()
    assert len(desk.shelf.covered) == 2


def test_start_that_was_moved_back() -> None:
    truth = candles(60)
    desk = Desk(truth, truth[30:])
    desk.serve(desk.open(Span(day(60), day(30))))
    assert desk.asked_days == [(60, 30)]
    assert desk.shelf.list() == truth


def test_todays_candle_of_this_morning_is_replaced_without_a_word() -> None:
    desk = Desk(candles(10), candles(10, 1))
    morning = make_candle(TODAY, 55)
    desk.shelf.candles[TODAY] = morning
    desk.run()
    desk.assert_right()
    assert not desk.shelf.corrections


# --- nothing -------------------------------------------------------------------------------------


def test_empty_answer_is_asked_for_once_more() -> None:
    for stored in ([], candles(10, 3)):
        desk = Desk(candles(10), stored)
        desk.run(empty)
        assert desk.asked[0] == desk.asked[1]
        assert len(desk.asked) == 2
        desk.assert_right()


def test_empty_answer_is_believed_twice() -> None:
    desk = Desk(candles(10), candles(10, 3))
    desk.run(empty, empty)
    assert len(desk.asked) == 2
    assert desk.shelf.list() == candles(10, 3)
    assert desk.shelf.covered[-1].end == END


def test_answer_without_its_first_candles_is_asked_for_once_more() -> None:
    """What it was to begin with is stored: so it lacks some, and maybe new ones, too."""
    desk = Desk(candles(10), candles(10, 3))
    desk.run(without(*range(1, 11)))
    assert desk.asked_days == [(7, -1)] * 2
    desk.assert_right()
    moved = Desk(candles(1), candles(10, 3))  # to another token, which has no older ones
    moved.run()
    assert moved.asked_days == [(7, -1)] * 2
    assert moved.shelf.list() == [*candles(10, 3), *candles(1)]


def test_old_years_without_candles_are_asked_for_once() -> None:
    desk = Desk(candles(10))
    desk.run(begin=day(4500))
    assert desk.asked_days == [(4500, 2500), (2500, 500), (500, -1)]
    desk.assert_right()


def test_old_years_are_asked_for_again_if_what_follows_begins_with_candles() -> None:
    desk = Desk(candles(4500))
    desk.run(empty, empty, begin=day(4500))
    again = [(2500, 500), (4500, 2500)]
    assert desk.asked_days == [(4500, 2500), (2500, 500), (500, -1), *again]
    desk.assert_right()


def test_listing_at_the_beginning_of_a_span_costs_two_requests() -> None:
    desk = Desk(candles(500))
    desk.run(begin=day(2500))
    assert desk.asked_days == [(2500, 500), (500, -1), (2500, 500), (2500, 500)]
    desk.assert_right()


# --- an adjustment -------------------------------------------------------------------------------


def test_factor_asks_for_the_whole_history() -> None:
    stored = candles(2300, 3)
    desk = Desk([*by("0.5")(stored), *candles(2)], stored)
    desk.run()
    assert desk.asked_days == [(7, -1), (2300, 300), (305, -1)]
    desk.assert_right()
    assert desk.shelf.replaced == 1
    [adjustment] = desk.shelf.adjustments
    assert adjustment.factor == Decimal("0.5")
    assert adjustment.compared == Span(day(7), day(2))
    assert desk.shelf.covered[0].begin == day(2300)


def test_factor_that_was_a_lie_is_not_stored() -> None:
    desk = Desk(candles(10), candles(10, 3))
    desk.run(by("0.5"))
    desk.assert_right()
    assert (desk.shelf.replaced, desk.shelf.corrections) == (0, [])


def test_history_that_changes_while_it_is_asked_for() -> None:
    """The second part has another scale than the first: all of it is asked for anew."""
    desk = Desk(by("0.5")(candles(2300)), candles(2300, 3))
    desk.run(right, by("4"))
    assert desk.asked_days == [(7, -1), *2 * [(2300, 300), (305, -1)]]
    desk.assert_right()
    assert [each.factor for each in desk.shelf.adjustments] == [Decimal("0.5")]


def test_history_whose_second_part_changes() -> None:
    desk = Desk(by("0.5")(candles(2300)), candles(2300, 3))
    desk.run(right, right, by("4"))
    assert desk.asked_days == [(7, -1), *2 * [(2300, 300), (305, -1)]]
    desk.assert_right()


def test_history_with_years_without_candles() -> None:
    old, new = candles(4500, 4300), candles(900)
    desk = Desk(by("0.5")([*old, *new]), [*old, *new[:-3]])
    desk.run()
    assert desk.asked_days[1:] == [(4500, 2500), (2500, 500), (505, -1)]
    desk.assert_right()


def test_adjustment_between_two_requests_of_one_run() -> None:
    desk = Desk(candles(2300))
    desk.run(by("2"))
    assert desk.asked_days == [(2300, 300), (305, -1), (2300, 300), (305, -1)]
    desk.assert_right()
    assert [each.factor for each in desk.shelf.adjustments] == [Decimal("0.5")]


def test_factor_that_prices_of_a_penny_share_do_not_tell() -> None:
    """A paisa of a rupee may be rounding; higher prices, further back, have the factor."""
    stored = [*candles(2300, 8), *(make_candle(day(n), 1) for n in range(7, 2, -1))]
    desk = Desk([*by("0.99")(stored), *candles(2)], stored)
    desk.run()
    assert desk.asked_days == [(7, -1), (1999, -1), (2300, 300), (305, -1)]
    desk.assert_right()
    [adjustment] = desk.shelf.adjustments
    assert adjustment.factor == Decimal("0.99")


def test_what_the_history_does_not_reach_is_scaled() -> None:
    """A share that moved to another token: Kite has only the candles since then."""
    desk = Desk(by("0.5")(candles(8)), candles(20, 3))
    desk.run()
    assert desk.shelf.list() == [*by("0.5")(candles(20, 9)), *desk.truth]


def test_part_of_a_history_that_is_empty_is_asked_for_once_more() -> None:
    desk = Desk(by("0.5")(candles(2300)), candles(2300, 3))
    desk.run(right, empty, right, empty, right)
    desk.assert_right()
    assert desk.shelf.replaced == 1


# --- a correction --------------------------------------------------------------------------------


def test_correction_is_asked_for_once_more() -> None:
    truth = list(changed(5)(candles(10)))
    desk = Desk(truth, candles(10, 3))
    desk.run()
    assert desk.asked_days == [(7, -1), (10, -1)]
    desk.assert_right()
    [correction] = desk.shelf.corrections
    assert [old.ts for old, _ in correction.off] == [day(5)]


def test_todays_candle_may_change_between_two_answers() -> None:
    desk = Desk(list(changed(5)(candles(10))), candles(10, 3))
    desk.run(changed(0, 1))
    assert desk.asked_days == [(7, -1), (10, -1)]
    desk.assert_right()


def test_correction_that_was_a_lie() -> None:
    desk = Desk(candles(10), candles(10, 3))
    desk.run(changed(5))
    assert len(desk.asked) == 2
    desk.assert_right()
    assert not desk.shelf.corrections


def test_candle_that_is_gone() -> None:
    desk = Desk(list(without(5)(candles(10))), candles(10, 3))
    desk.run()
    assert len(desk.asked) == 2
    desk.assert_right()


def test_correction_of_the_oldest_candle_of_all() -> None:
    desk = Desk(list(changed(6)(candles(6))), candles(6, 3))
    desk.run()
    assert desk.asked_days == [(6, -1)] * 2
    desk.assert_right()


def test_correction_that_may_begin_earlier_is_followed_to_the_begin() -> None:
    """Off from the oldest candle that one request reaches: the whole history is asked for."""
    truth = [c._replace(volume=c.volume + 1) for c in candles(2300)]
    desk = Desk(truth, candles(2300, 3))
    desk.run()
    assert desk.asked_days == [(7, -1), (1999, -1), (2300, 300), (305, -1)]
    desk.assert_right()
    assert (desk.shelf.replaced, desk.shelf.adjustments) == (1, [])


def test_three_answers_that_contradict_each_other() -> None:
    desk = Desk(candles(10), candles(10, 3))
    desk.run(changed(5, 7), changed(5, 8), changed(5, 9))
    assert len(desk.asked) == 4
    desk.assert_right()


def test_nothing_twice_contradicts_an_answer_that_is_in_doubt() -> None:
    desk = Desk(candles(10), candles(10, 3))
    desk.run(changed(5), empty, empty)
    desk.assert_right()
    never = Desk(candles(10), candles(10, 3))
    with pytest.raises(TransientAPIError):
        never.run(changed(5), *[empty] * 20)
    assert never.shelf.list() == candles(10, 3)
    assert never.shelf.covered[-1].end == day(2)


def test_answers_that_never_agree_end_the_job() -> None:
    desk = Desk(candles(10), candles(10, 3))
    with pytest.raises(TransientAPIError, match="contradict each other, 4 times"):
        desk.run(*(changed(5, volume) for volume in range(10)))
    assert len(desk.asked) == 4
    assert desk.shelf.list() == candles(10, 3)
    assert desk.shelf.covered[-1].end == day(2)


def test_another_token_on_each_request_ends_the_job() -> None:
    desk = Desk(candles(2300), candles(2300, 3))
    prices = iter(range(10, 1000, 7))

    def other(answer: Truth) -> Truth:
        price = next(prices)
        return [make_candle(c.ts, price + n % 3 / 10) for n, c in enumerate(answer)]

    with pytest.raises(TransientAPIError):
        desk.run(*[other] * 40)
    assert desk.shelf.list() == candles(2300, 3)


def test_other_scale_on_each_request_ends_the_job() -> None:
    desk = Desk(candles(2300), candles(2300, 3))
    factors = (f"0.{number}" for number in range(11, 99))
    with pytest.raises(TransientAPIError):
        desk.run(*(by(next(factors)) for _ in range(40)))
    assert desk.shelf.list() == candles(2300, 3)


@pytest.mark.parametrize("overlap", [1, 2, 100])
def test_other_overlaps(overlap: int) -> None:
    for lie in (right, empty, by("0.5"), changed(4), without(3)):
        desk = Desk(candles(2300), candles(2300, 3), overlap)
        desk.run(lie)
        desk.assert_right()
