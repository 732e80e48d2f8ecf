"""Several questions under way at once, in threads that end."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import pytest

from dag_2_import_candles_from_kite.asking import Asker

WAIT_SECONDS = 10
CALLER: ContextVar[str] = ContextVar("CALLER", default="nobody")


def asking_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ask"]


def wait_for_the_end(before: list[threading.Thread]) -> None:
    for thread in set(asking_threads()).difference(before):
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive()


def test_answers_come_with_their_questions() -> None:
    before = asking_threads()
    asker: Asker[int, int] = Asker(lambda number: number**2, 3)
    for number in range(20):
        asker.put(number)
    assert asker.under_way == 20
    answers = dict(asker.take() for _ in range(20))
    assert answers == {number: number**2 for number in range(20)}
    assert asker.under_way == 0
    asker.close()
    wait_for_the_end(before)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_error_is_an_answer(error: BaseException) -> None:
    def ask(number: int) -> int:
        if number == 1:
            raise error
        return number

    before = asking_threads()
    asker: Asker[int, int] = Asker(ask, 1)
    for number in (1, 2):
        asker.put(number)
    assert [asker.take(), asker.take()] == [(1, error), (2, 2)]  # the thread goes on
    asker.close()
    wait_for_the_end(before)


def test_several_are_under_way_at_once() -> None:
    together = threading.Barrier(4, timeout=WAIT_SECONDS)
    asker: Asker[int, int] = Asker(lambda number: together.wait() * 0 + number, 4)
    for number in range(4):
        asker.put(number)
    assert sorted(str(asker.take()) for _ in range(4)) == [f"({n}, {n})" for n in range(4)]
    asker.close()


def test_what_waits_is_not_asked_after_the_end() -> None:
    before = asking_threads()
    begun, may_end, asked = threading.Event(), threading.Event(), list[int]()

    def ask(number: int) -> int:
        asked.append(number)
        begun.set()
        may_end.wait(WAIT_SECONDS)
        return number

    asker: Asker[int, int] = Asker(ask, 1)
    for number in range(3):
        asker.put(number)
    begun.wait(WAIT_SECONDS)
    asker.close()
    may_end.set()
    wait_for_the_end(before)
    assert asked == [0]


def test_threads_have_the_context_of_the_caller() -> None:
    token = CALLER.set("the run")
    asker: Asker[int, str] = Asker(lambda number: CALLER.get(), 2)
    CALLER.reset(token)
    asker.put(1)
    assert asker.take() == (1, "the run")
    asker.close()


def test_turn_is_one_threads_and_waits_until_no_answer_is_left() -> None:
    begun: list[int] = []
    under_way = 0

    def ask(number: int) -> bool:
        nonlocal under_way
        with asker.turn():
            begun.append(number)
            under_way += 1
            is_alone = under_way == 1
            under_way -= 1
            return is_alone

    asker: Asker[int, bool] = Asker(ask, threads=8)
    for number in range(40):
        asker.put(number)
    taken = []
    while asker.under_way:
        taken.append(asker.take())
        # What was taken last, what it made room for, and what began before that was put away.
        assert len(begun) <= len(taken) + 3
    assert sorted(taken) == [(number, True) for number in range(40)]
    asker.close()


def test_turn_ends_with_an_error() -> None:
    def ask(number: int) -> int:
        with asker.turn():
            return 1 // number

    asker: Asker[int, int] = Asker(ask, threads=2)
    asker.put(0)
    number, error = asker.take()
    assert (number, type(error)) == (0, ZeroDivisionError)
    asker.put(1)
    assert asker.take() == (1, 1)
    asker.close()


def test_who_waits_for_a_turn_ends_with_the_run() -> None:
    def ask(number: int) -> int:
        with asker.turn():
            return number

    before = asking_threads()
    asker: Asker[int, int] = Asker(ask, threads=3)
    for number in range(3):
        asker.put(number)
    asker.close()
    wait_for_the_end(before)
