"""DAG 1: fetch the instrument list, validate and transform it, store it in one transaction."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import date, datetime, time
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from dag_1_import_instruments_from_kite.changes import CHANGES, OFFICIAL, classify_changes
from dag_1_import_instruments_from_kite.history import (
    HISTORY,
    look_for_others,
    without_history,
    write_history,
)
from dag_1_import_instruments_from_kite.lookup_commands import COMMANDS
from shared.config.fields import Field, exchanges, integer, or_null
from shared.exceptions import ValidationError
from shared.feed import Batch, Feed, Payload, RejectedRow, Run
from shared.foreign_text import shorten
from shared.models.column import find_invalid
from shared.models.instrument import INSTRUMENT_TABLE, Instrument, check_instrument
from shared.preparation import read_schema
from shared.run import retry_policy, run_feed
from shared.utils.db_manager import DatabaseManager
from shared.utils.kite_client_wrapper import KiteClientWrapper
from shared.utils.kite_csv import KITE_ORDER, WrittenKey, parse_dump
from shared.utils.operation import advance, operation
from shared.utils.table_setup import ensure_table

logger = logging.getLogger(__name__)

DAG_FOLDER = Path(__file__).resolve().parent
_TRANSFORMED_AT_ONCE = 1000
VIEWS = (DAG_FOLDER / "views.sql").read_text(encoding="utf-8")


def import_instruments_from_kite(
    *,
    dry_run: bool = False,
    from_file: str | None = None,
    force: bool = False,
    dated: date | None = None,
) -> str:
    """Main execution function for DAG 1. Returns the summary, in lines.

    The options are those of RunOptions. Raises DAGExecutionError if any step fails; the step's own
    error is its `__cause__`.
    """
    return run_feed(FEED, dry_run=dry_run, from_file=from_file, force=force, dated=dated)


def fetch(run: Run) -> Iterator[Payload]:
    """Kite's list of today, whole."""
    assert run.config is not None
    client = KiteClientWrapper.from_config(
        asdict(run.config.api), retry=retry_policy(run), progress=partial(advance, unit="bytes")
    )
    with operation("authenticate", run.durations):
        client.authenticate()
    with operation("fetch instruments", run.durations):
        client.fetch_instruments()
    assert client.payload is not None  # the fetch has set it
    yield client.payload


def prepare(run: Run, batch: Batch) -> list[dict[str, Any]]:
    """The valid instruments, as rows of the table; the others are added to the run's rejects."""
    valid = validate_instruments(batch.rows, run.figures.rejected)
    # Only `valid` has the rows now: the old dicts go as the new ones come (15 MB less).
    batch.rows.clear()
    for start in range(0, len(valid), _TRANSFORMED_AT_ONCE):
        part = slice(start, start + _TRANSFORMED_AT_ONCE)
        valid[part] = transform_instruments(valid[part])
    return valid


def before_merge(cursor: Any, run: Run) -> None:
    """Tell what the list changes, and whether something else has changed what it changes."""
    classify_changes(cursor, run)
    look_for_others(cursor, run)


def create_kite_instrument_master_table(db_manager: DatabaseManager) -> None:
    """Create the table kite_instrument_master if it doesn't exist, from schema.sql.

    A table whose `strike` has two decimals, as the first design had it, is widened in place.
    Raises DatabaseError if table creation fails.
    """
    schema_sql = read_schema(FEED)
    db_manager.run_in_transaction(lambda cursor: ensure_table(cursor, INSTRUMENT_TABLE, schema_sql))


def parse_instruments(response: bytes | str | Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The instruments in an answer of Kite: its CSV, or rows as the kiteconnect client gives them.

    Each has the eleven stored fields. Raises APIError if this is no instrument list.
    """
    if isinstance(response, str):
        response = response.encode("utf-8")
    if isinstance(response, bytes):
        return parse_dump(response).rows
    return [transform_instrument(row) for row in response]


def validate_instruments(
    instruments: list[dict[str, Any]], rejected: list[RejectedRow] | None = None
) -> list[dict[str, Any]]:
    """The valid instruments, in their order; `rejected` receives the others, with the reasons.

    An instrument that breaks a rule is left out by itself; so is one whose token an earlier one has
    with another symbol, and one whose symbol a later one has under another token (rulings 15, 16
    and 28). Of rows with the same token and symbol only the last is given: they are repeated.

    Raises ValidationError if there were instruments and none is valid.
    """
    invalid = dict(find_invalid(INSTRUMENT_TABLE.columns, instruments, validate_instrument))
    faults = [_rejected(instruments[index], str(fault)) for index, fault in invalid.items()]
    valid = [row for index, row in enumerate(instruments) if index not in invalid]
    symbols: defaultdict[Any, set[Any]] = defaultdict(set)
    for instrument in valid:
        symbols[instrument["exchange"]].add(instrument["tradingsymbol"])
    # Tokens hardly ever repeat, not even between exchanges.
    tokens = set(map(itemgetter("instrument_token"), valid))
    if not len(tokens) == sum(map(len, symbols.values())) == len(valid):
        valid = _without_other_symbols(valid, faults)
        valid = _without_repeated_symbols(valid, faults)
    if faults:
        logger.warning("Validation errors for %d instruments", len(faults))
        for fault in faults:
            logger.debug("line %s: %s", fault.line_number, fault.reason)
    if rejected is not None:
        rejected.extend(faults)
    if instruments and not valid:
        raise ValidationError(
            f"None of the {len(instruments)} instruments is valid; the first: {faults[0].reason}. "
            "The table stays as it is."
        )
    return valid


def validate_instrument(instrument: Mapping[str, Any]) -> bool:
    """True if the instrument can be stored exactly; raises ValidationError that says why not.

    Fields may be typed, or text and floats as Kite and its client give them.
    """
    try:
        return check_instrument(instrument)
    except ValidationError:
        return Instrument.from_kite_response(instrument).validate()


def _without_other_symbols(
    instruments: list[dict[str, Any]], faults: list[RejectedRow]
) -> list[dict[str, Any]]:
    """One row for each key: of those with the symbol that came first, the last (ruling 28)."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for instrument in instruments:
        key = instrument["instrument_token"], instrument["exchange"]
        first = rows.get(key)
        if first is not None and first["tradingsymbol"] != instrument["tradingsymbol"]:
            reason = (
                "instrument_token: an earlier row has the same with another symbol, "
                f"{shorten(first['tradingsymbol'])}, got {shorten(instrument['tradingsymbol'])}"
            )
            faults.append(_rejected(instrument, reason))
            continue
        rows.pop(key, None)  # the later row keeps its own place
        rows[key] = instrument
    return list(rows.values())


def _without_repeated_symbols(
    instruments: list[dict[str, Any]], faults: list[RejectedRow]
) -> list[dict[str, Any]]:
    """Leave out the instruments whose symbol a later one has under another token (ruling 16)."""
    symbol_of = itemgetter("tradingsymbol", "exchange")
    last = {symbol_of(instrument): i for i, instrument in enumerate(instruments)}
    kept = []
    for i, instrument in enumerate(instruments):
        if last[symbol_of(instrument)] == i:
            kept.append(instrument)
            continue
        symbol = shorten(instrument["tradingsymbol"])
        reason = f"tradingsymbol: a later row has the same, got {symbol}"
        faults.append(_rejected(instrument, reason))
    return kept


def transform_instruments(instruments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the table for the instruments, all of one moment: a value for each column."""
    moment = datetime.now()
    create = Instrument.from_kite_response
    return [create(instrument, moment=moment).to_dict() for instrument in instruments]


def transform_instrument(instrument: Mapping[str, Any]) -> dict[str, Any]:
    """The row of the table for one instrument: a value for each of its columns."""
    return Instrument.from_kite_response(instrument).to_dict()


def _rejected(instrument: Mapping[str, Any], reason: str) -> RejectedRow:
    values = ["" if value is None else str(value) for value in map(instrument.get, KITE_ORDER)]
    written = dict(zip(KITE_ORDER, values))
    key = WrittenKey(written["instrument_token"], written["exchange"], written["tradingsymbol"])
    return RejectedRow(instrument.get("line_number"), reason, values, key)


FEED = Feed(
    folder=DAG_FOLDER,
    title="instruments",
    source="Kite",
    table=INSTRUMENT_TABLE,
    fetch=fetch,
    parse=partial(parse_dump, is_whole=False),
    prepare=prepare,
    needs_kite=True,
    are_distinct=True,  # validated
    count_by=("exchange", "instrument_type"),
    only="exchanges",
    fields=(
        Field("parameters.exchanges", exchanges, None),
        Field("parameters.retire_after_days", or_null(integer(1, 36_500)), None, is_extra=True),
    ),
    views=VIEWS,
    changes=CHANGES,
    before_merge=before_merge,
    versions=HISTORY,
    after_merge=write_history,
    plain_views=without_history(VIEWS),
    reads=(OFFICIAL,),
    commands=COMMANDS,
    due_from=time(8, 0),  # IST; fetched earlier, the list is that of the day before
    changes_daily=True,
    empty_note=", as it is on some holidays",
    archive_name="kite_instruments.csv",
)
