"""Properties 2, 3, 4 and 6: Kite's answer to rows of the table, without loss."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dag_1_import_instruments_from_kite.import_instruments import (
    parse_instruments,
    transform_instrument,
    transform_instruments,
    validate_instrument,
    validate_instruments,
)
from shared.exceptions import ValidationError
from shared.feed import RejectedRow
from shared.models.instrument import INSTRUMENT_TABLE
from shared.utils.kite_csv import parse_dump
from tests.property.strategies import (
    STORED_COLUMNS,
    Rendering,
    list_of_instruments,
    renderings,
    valid_instrument,
)

REQUIRED = ("instrument_token", "exchange", "tradingsymbol")
TYPES: dict[str, type] = {
    "bigint": int,
    "integer": int,
    "varchar": str,
    "numeric": Decimal,
}


def without_line_number(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "line_number"}


# Feature: stock-ingestion, Property 2: For any valid Kite API response containing instruments, the
# parsed result must include all required fields (tradingsymbol, exchange, instrument_token,
# exchange_token, instrument_type, name, segment, expiry, strike, tick_size, lot_size) for each
# instrument.
@given(instruments=list_of_instruments(min_size=0), rendering=renderings())
def test_every_field_is_parsed_exactly_however_the_list_is_written(
    instruments: list[dict[str, Any]], rendering: Rendering
) -> None:
    body = rendering.write(instruments)

    parsed = parse_instruments(body)

    for row in parsed:
        assert set(row) >= set(STORED_COLUMNS)
    assert [without_line_number(row) for row in parsed] == instruments
    for row, instrument in zip(parsed, instruments):
        assert [type(row[name]) for name in STORED_COLUMNS] == [
            type(instrument[name]) for name in STORED_COLUMNS
        ]
    assert parse_instruments(body.decode("utf-8-sig")) == parsed


# Feature: stock-ingestion, Property 2: For any valid Kite API response containing instruments, the
# parsed result must include all required fields (tradingsymbol, exchange, instrument_token,
# exchange_token, instrument_type, name, segment, expiry, strike, tick_size, lot_size) for each
# instrument.
@given(
    instruments=list_of_instruments(),
    rendering=renderings(),
    bad=st.lists(
        st.tuples(
            st.integers(0, 10), st.sampled_from([b'"', b"x,y", b"1,2,\xff", b",,,", b'5,"a"b'])
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_bad_lines_among_the_rows_are_rejected_with_their_lines_and_harm_no_other(
    instruments: list[dict[str, Any]], rendering: Rendering, bad: list[tuple[int, bytes]]
) -> None:
    end = rendering.line_end.encode()
    lines = [line for line in rendering.write(instruments).split(end) if line]
    for position, line in bad:
        lines.insert(min(position, len(instruments)) + 1, line)

    dump = parse_dump(end.join(lines) + end)

    assert [without_line_number(row) for row in dump.rows] == instruments
    bad_lines = {line for _, line in bad}
    assert [row.line_number for row in dump.rejected] == [
        number for number, line in enumerate(lines, 1) if line in bad_lines
    ]
    taken = sorted(
        [row["line_number"] for row in dump.rows] + [row.line_number or 0 for row in dump.rejected]
    )
    assert taken == list(range(2, len(lines) + 1))


# Feature: stock-ingestion, Property 3: For any instrument in the parsed data, validation must
# verify that all required fields (instrument_token, exchange, tradingsymbol) are present and
# non-null.
@given(
    instrument=valid_instrument(),
    missing=st.sets(st.sampled_from(REQUIRED)),
    how=st.sampled_from(["absent", None, "", "  "]),
)
def test_instrument_is_valid_only_with_all_required_fields(
    instrument: dict[str, Any], missing: set[str], how: str | None
) -> None:
    for name in missing:
        if how == "absent":
            del instrument[name]
        else:
            instrument[name] = how

    if missing:
        with pytest.raises(ValidationError, match=r": required, but missing$") as caught:
            validate_instrument(instrument)
        assert str(caught.value).split(":")[0] in missing
    else:
        assert validate_instrument(instrument) is True


# Feature: stock-ingestion, Property 3: For any instrument in the parsed data, validation must
# verify that all required fields (instrument_token, exchange, tradingsymbol) are present and
# non-null.
@given(
    instruments=list_of_instruments(min_size=2),
    broken=st.dictionaries(st.integers(0, 9), st.sampled_from(REQUIRED), min_size=1),
)
def test_validation_keeps_those_with_all_required_fields_and_accounts_for_the_others(
    instruments: list[dict[str, Any]], broken: dict[int, str]
) -> None:
    for position, name in broken.items():
        if position < len(instruments):
            instruments[position] = {**instruments[position], name: None}
    whole = [row for row in instruments if all(row[name] is not None for name in REQUIRED)]
    rejected: list[RejectedRow] = []

    if whole:
        assert validate_instruments(instruments, rejected) == whole
    else:
        with pytest.raises(ValidationError, match="None of the"):
            validate_instruments(instruments, rejected)

    reasons = [row.reason for row in rejected]
    assert len(reasons) == len(instruments) - len(whole)
    assert all(reason.endswith(": required, but missing") for reason in reasons)


# Feature: stock-ingestion, Property 4: For any valid instrument that passes validation, the
# transformation function must produce output that matches the kite_instrument_master table schema
# with all fields correctly mapped.
@given(instruments=list_of_instruments())
def test_transformed_instruments_match_the_table(instruments: list[dict[str, Any]]) -> None:
    valid = validate_instruments(instruments)

    transformed = transform_instruments(valid)

    assert valid == instruments
    assert [{name: row[name] for name in STORED_COLUMNS} for row in transformed] == instruments
    for row in transformed:
        assert set(row) == {*INSTRUMENT_TABLE.column_names, "last_updated", "created_at"}
        assert type(row["last_updated"]) is type(row["created_at"]) is datetime
        for column in INSTRUMENT_TABLE.columns:
            value = row[column.name]
            if value is None:
                assert column.name not in REQUIRED
                continue
            if column.sql_type in TYPES:
                assert type(value) is TYPES[column.sql_type]
            if column.length is not None:
                assert len(value) <= column.length
            if column.precision is not None and column.scale is not None:
                assert 0 <= value < 10 ** (column.precision - column.scale)
                assert value * 10**column.scale % 1 == 0


# Feature: stock-ingestion, Property 4: For any valid instrument that passes validation, the
# transformation function must produce output that matches the kite_instrument_master table schema
# with all fields correctly mapped.
@given(instrument=valid_instrument())
def test_transformation_preserves_data(instrument: dict[str, Any]) -> None:
    transformed = transform_instrument(instrument)
    for name in STORED_COLUMNS:
        assert transformed[name] == instrument[name]


# Feature: stock-ingestion, Property 6: For any instrument from the Kite API, the mapping to
# database columns must preserve all non-null fields without data loss.
@given(instruments=list_of_instruments(), rendering=renderings())
def test_csv_to_columns_loses_no_field(
    instruments: list[dict[str, Any]], rendering: Rendering
) -> None:
    rejected: list[RejectedRow] = []
    rows = transform_instruments(
        validate_instruments(parse_instruments(rendering.write(instruments)), rejected)
    )

    assert rejected == []
    assert len(rows) == len(instruments)
    for row, instrument in zip(rows, instruments):
        for name in STORED_COLUMNS:
            assert row[name] == instrument[name]
            assert type(row[name]) is type(instrument[name])


# Feature: stock-ingestion, Property 6: For any instrument from the Kite API, the mapping to
# database columns must preserve all non-null fields without data loss.
@given(instrument=valid_instrument(), as_client=st.booleans())
def test_fields_as_text_or_as_the_client_gives_them_map_to_the_same_columns(
    instrument: dict[str, Any], as_client: bool
) -> None:
    """The kiteconnect client converts all but texts; strikes and ticks become floats."""

    def give(name: str, value: Any) -> Any:
        if value is None:
            return "" if name == "expiry" else None
        if not as_client:
            return str(value)
        if type(value) is Decimal:
            # A float has 15 to 17 digits: not for the longest of the numbers.
            return float(value) if len(value.as_tuple().digits) <= 15 else value
        return value

    given_fields = {name: give(name, value) for name, value in instrument.items()}

    assert validate_instrument(given_fields) is True
    mapped = transform_instrument(given_fields)
    for name in STORED_COLUMNS:
        assert mapped[name] == instrument[name]
