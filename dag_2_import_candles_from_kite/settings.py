"""The settings of DAG 2, beside those that every feed has."""

from datetime import date

from dag_2_import_candles_from_kite.intervals import INTERVALS
from dag_2_import_candles_from_kite.universe import read_universe
from shared.config.fields import Field, integer, list_of, number, one_of, or_null

FIRST_DAY = date(1900, 1, 1)  # no exchange has older candles


def read_day(value: object) -> date:
    """A day, written as 2015-01-01."""
    try:
        day = date.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError('expected a day such as "2015-01-01"') from None
    if not FIRST_DAY <= day <= date(2999, 12, 31):
        raise ValueError('expected a day from "1900-01-01" to "2999-12-31"')
    return day


_NAMES = tuple(INTERVALS)

FIELDS = (
    Field("parameters.instruments", read_universe, []),
    Field(
        "parameters.intervals",
        list_of(one_of(_NAMES), f"intervals, each one of {', '.join(_NAMES)}"),
        ["day"],
    ),
    Field("parameters.start", read_day, date(2015, 1, 1)),
    # The last day that is wanted; null: today.
    Field("parameters.end", or_null(read_day), None, is_extra=True),
    Field("parameters.overlap_candles", integer(1, 100), 5, is_extra=True),
    # Kite's limit is 3; a local server may have another one.
    Field("parameters.requests_per_second", number(0.01, 1000), 3.0, is_extra=True),
)
