"""Several requests under way: what is read of their answers does not pile up."""

from __future__ import annotations

from dag_2_import_candles_from_kite.asking import Asker


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
