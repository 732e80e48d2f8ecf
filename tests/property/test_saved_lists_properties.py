"""A day that a name has is found, whatever stands around it; nothing else is taken for one."""

from __future__ import annotations

import re
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.saved_lists import find_day, read_written_day

TODAY = date(2026, 8, 3)
DAYS = st.dates(date(1950, 1, 1), TODAY)
FORMS = st.sampled_from(
    ["%Y-%m-%d", "%Y%m%d", "%Y_%m_%d", "%d-%m-%Y", "%d.%m.%Y", "%d%m%Y", "%d%b%Y", "%d-%b-%Y"]
)
WORDS = st.text("abcxyzNSE_-. \n\u00e9\u0665", max_size=12)
TIMES = st.times().map(lambda time: f"_{time:%H%M%S}")


@given(DAYS, FORMS, WORDS, st.just("") | TIMES, st.sampled_from([".csv", ".csv.gz"]))
def test_day_in_a_name_is_found(day: date, form: str, word: str, time: str, suffix: str) -> None:
    written = day.strftime(form)
    assert find_day(f"{word}{written}{time}{suffix}", TODAY) == day
    assert read_written_day(written, TODAY) == day


@given(DAYS, st.from_regex(r"[0-9a-f]{12}", fullmatch=True, alphabet="0123456789abcdef"), TIMES)
def test_name_that_the_archive_gives_has_one_day(day: date, digest: str, time: str) -> None:
    assert find_day(f"kite_instruments_{day}{time}_{digest}.csv.gz", TODAY) == day


@given(DAYS, DAYS, FORMS, FORMS)
def test_two_days_in_a_name_are_refused(first: date, second: date, one: str, other: str) -> None:
    name = f"{first.strftime(one)} to {second.strftime(other)}.csv"
    if first == second:
        assert find_day(name, TODAY) == first
    else:
        with pytest.raises(ValueError, match="its name can be read as"):
            find_day(name, TODAY)


@given(st.text(max_size=40))
def test_any_name_has_a_day_or_a_reason(name: str) -> None:
    try:
        assert find_day(name, TODAY) <= TODAY
    except ValueError as exc:
        assert re.fullmatch(  # noqa: PT017
            r"no day in its name|its name can be read as .*|.* is no day|.* is in the future: .*",
            str(exc),
        )
