"""DAG 1: fetch the instrument list, validate and transform it, store it in one transaction."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from dag_1_import_instruments_from_kite import settings
from dag_1_import_instruments_from_kite.archive import (
    keep_dump,
    name_source,
    parse_saved_dump,
    warn_of_missing,
)
from dag_1_import_instruments_from_kite.changes import FEW_ROWS, Plausibility
from dag_1_import_instruments_from_kite.settings import DAG_ID, DAG_NAME
from dag_1_import_instruments_from_kite.store import (
    SCHEMA_FILE,
    History,
    predict_list,
    prepare_history,
    record_failure,
    store_list,
)
from dag_1_import_instruments_from_kite.summary import (
    Summary,
    describe,
    describe_rejects,
    write_rejected_rows,
)
from shared.config.config_loader import PROJECT_ROOT, ConfigLoader, RootConfig
from shared.exceptions import (
    DAGExecutionError,
    DatabaseError,
    StockIngestionError,
    TransientDatabaseError,
    ValidationError,
)
from shared.feed import API_SOURCE, Batch, RejectedRow, RunKey
from shared.foreign_text import shorten
from shared.models.instrument import INSTRUMENT_TABLE, Instrument, QuickCheck, check_instrument
from shared.utils.db_manager import DatabaseManager
from shared.utils.kite_client_wrapper import (
    KiteClientWrapper,
    RawDump,
    filter_by_exchange,
)
from shared.utils.kite_csv import WrittenKey, parse_dump
from shared.utils.operation import advance, operation
from shared.utils.relations import find_relation
from shared.utils.retry import RetryPolicy
from shared.utils.table_check import check_columns
from shared.utils.table_setup import ensure_table, refuse_table

logger = logging.getLogger(__name__)

DAG_FOLDER = Path(__file__).resolve().parent
_TRANSFORMED_AT_ONCE = 1000
KITE_ORDER = (
    "instrument_token",
    "exchange_token",
    "tradingsymbol",
    "name",
    "expiry",
    "strike",
    "tick_size",
    "lot_size",
    "instrument_type",
    "segment",
    "exchange",
)


def import_instruments_from_kite(
    *, dry_run: bool = False, from_file: str | None = None, force: bool = False
) -> str:
    """
    Main execution function for DAG 1.

    Workflow:
    1. Load DAG configuration
    2. Initialize Kite client and authenticate
    3. Fetch instrument list
    4. Validate and transform data
    5. Create/update kite_instrument_master table
    6. Upsert instruments to database
    7. Log summary statistics

    Args:
        dry_run: Write nothing: work out, and say, what a run would change
        from_file: Import this saved dump (CSV, plain or gzipped; `-` is standard input) instead of
            the API's (steps 2, 3)
        force: Store a list that is not plausible against the last good one

    Returns:
        Success message with statistics

    Raises:
        DAGExecutionError: If any step fails; the step's own error is its `__cause__`
    """
    source = API_SOURCE if from_file is None else name_source(from_file)
    key = RunKey(DAG_ID, DAG_NAME, source, datetime.now().astimezone())
    run = _Run(Summary(key, dry_run), from_file)
    try:
        message = run.execute(force)
    except StockIngestionError as exc:
        run.end_in_failure(exc)
        raise DAGExecutionError(str(exc)) from exc
    except Exception as exc:
        run.end_in_failure(exc)
        raise DAGExecutionError(f"unexpected {type(exc).__name__}: {exc}") from exc
    except BaseException as exc:  # a signal
        run.end_in_failure(exc)
        raise
    logger.info("DAG 1 completed: %s", message)
    return message


class _Run:
    """One run: its configuration and what it has found so far."""

    def __init__(self, summary: Summary, from_file: str | None) -> None:
        self.summary = summary
        self._from_file = from_file
        self._root: RootConfig | None = None

    def execute(self, force: bool) -> str:
        """Go through all steps; returns the summary in words."""
        summary = self.summary
        with operation("load configuration", summary.durations):
            root, dag = ConfigLoader.load_merged_config(
                DAG_FOLDER, settings.FIELDS, needs_api=summary.key.is_from_api
            )
        self._root = root
        parameters = dag.parameters
        summary.target = f"{root.database.database}.{INSTRUMENT_TABLE.name}"
        retry = RetryPolicy(parameters["retry_attempts"], parameters["retry_delay_seconds"])
        if not summary.dry_run:
            with (  # before Kite is asked
                operation("check table", summary.durations),
                DatabaseManager(asdict(root.database), retry=retry) as db_manager,
            ):
                refuse_unsuited_table(db_manager)
        fetched, raw_dump = self._fetch(root, retry)
        summary.dump_sha256, summary.dump_bytes = raw_dump.sha256, raw_dump.size
        instruments = self._prepare(fetched, parameters, root.logging["directory"], force)
        plausibility = Plausibility(
            parameters["exchanges"] or (),
            parameters["max_drop_percent"],
            force,
            is_file=not summary.key.is_from_api,
        )
        if summary.dry_run:
            self._try_store(instruments, root, plausibility)
        else:
            self._store(instruments, root, parameters, retry, plausibility)
            if summary.key.is_from_api:
                directory, days = parameters["archive_directory"], parameters["archive_days"]
                now = summary.key.started_at
                keep_dump(raw_dump, PROJECT_ROOT / directory, days, now=now)
                warn_of_missing(PROJECT_ROOT / directory, days, summary.last, now=now)
        return describe(summary)

    def end_in_failure(self, error: BaseException) -> None:
        """Log how far the run came (Property 14), and record it as failed where it can be."""
        logger.info("DAG 1 did not complete: %s", describe(self.summary))
        if self.summary.dry_run:
            return
        is_stored = self.summary.merge is not None  # only what comes after the commit failed
        # Where the table could be prepared the database was there, and what was lost may be back.
        is_away = (
            isinstance(error, TransientDatabaseError) and "store" not in self.summary.durations
        )
        if self._root and not (is_stored or is_away):
            is_stored = record_failure(self._root.database, self.summary, error)
        if is_stored:
            logger.warning("The list is stored: the run ended only after its commit.")

    def _fetch(self, root: RootConfig, retry: RetryPolicy) -> tuple[list[dict[str, Any]], RawDump]:
        summary = self.summary
        if self._from_file is not None:
            with operation("read saved dump", summary.durations):
                dump, raw_dump = parse_saved_dump(self._from_file)
        else:
            client = KiteClientWrapper.from_config(
                asdict(root.api), retry=retry, progress=partial(advance, unit="bytes")
            )
            with operation("authenticate", summary.durations):
                client.authenticate()
            with operation("fetch instruments", summary.durations):
                dump = Batch(client.fetch_instruments(), client.rejected_rows)
            assert client.raw_dump is not None  # the fetch has set it
            raw_dump = client.raw_dump
        summary.rejected.extend(dump.rejected)
        summary.fetched = len(dump.rows) + len(dump.rejected)
        if not summary.fetched:
            raise ValidationError(
                "Kite's instrument list is empty (a header and no rows), as it is on some "
                "holidays. The table stays as it is; run again later."
            )
        return dump.rows, raw_dump

    def _prepare(
        self,
        fetched: list[dict[str, Any]],
        parameters: Mapping[str, Any],
        log_directory: Path,
        force: bool,
    ) -> list[dict[str, Any]]:
        """Select, validate and transform; fills in the summary, and writes the list of rejects."""
        summary = self.summary
        with operation("validate", summary.durations):
            try:
                selected = select_exchanges(fetched, parameters["exchanges"], summary.left_out)
                valid = validate_instruments(selected, summary.rejected)
                summary.repeated = (
                    summary.fetched - summary.left_out.total() - len(summary.rejected) - len(valid)
                )
            finally:
                if summary.rejected:
                    summary.rejected.sort(key=lambda row: row.line_number or 0)
                    summary.rejects_file = write_rejected_rows(summary.rejected, log_directory)
            max_percent = 100.0 if force else parameters["max_reject_percent"]
            _refuse_bad_dump(summary, len(valid), max_percent)
        with operation("transform", summary.durations):
            # Only `valid` has the rows now: the old dicts go as the new ones come (15 MB less).
            selected.clear()
            fetched.clear()
            for start in range(0, len(valid), _TRANSFORMED_AT_ONCE):
                part = slice(start, start + _TRANSFORMED_AT_ONCE)
                valid[part] = transform_instruments(valid[part])
        summary.stored = len(valid)
        summary.by_exchange = Counter(map(itemgetter("exchange"), valid))
        summary.by_type = Counter(map(itemgetter("instrument_type"), valid))
        return valid

    def _store(
        self,
        instruments: list[dict[str, Any]],
        root: RootConfig,
        parameters: Mapping[str, Any],
        retry: RetryPolicy,
        plausibility: Plausibility,
    ) -> None:
        summary = self.summary
        with DatabaseManager(asdict(root.database), retry=retry) as db_manager:
            with operation("prepare table", summary.durations):
                history = db_manager.run_in_transaction(lambda _: _prepare_tables(db_manager))
            with operation("store", summary.durations):
                store_list(
                    db_manager,
                    instruments,
                    summary,
                    plausibility,
                    batch_size=parameters["batch_size"],
                    history=history,
                )

    def _try_store(
        self, instruments: list[dict[str, Any]], root: RootConfig, plausibility: Plausibility
    ) -> None:
        """Work out what would be stored; without a database the dry run ends here, and says so."""
        once = RetryPolicy(max_attempts=1)
        try:
            with DatabaseManager(asdict(root.database), retry=once) as db_manager:
                refuse_unsuited_table(db_manager)
                predict_list(db_manager, instruments, self.summary, plausibility)
        except DatabaseError as exc:
            logger.warning("What would change in the table could not be worked out: %s", exc)


def _prepare_tables(db_manager: DatabaseManager) -> History:
    create_kite_instrument_master_table(db_manager)
    return prepare_history(db_manager)


def refuse_unsuited_table(db_manager: DatabaseManager) -> None:
    """Raise DatabaseError if the table is there and cannot hold every row exactly (ruling 32), or
    it cannot be told which one is meant (ruling 33).
    """

    def work(cursor: Any) -> None:
        find_relation(cursor, INSTRUMENT_TABLE.name)
        refuse_table(INSTRUMENT_TABLE, check_columns(cursor, INSTRUMENT_TABLE))

    db_manager.run_in_transaction(work)


def create_kite_instrument_master_table(db_manager: DatabaseManager) -> None:
    """
    Create kite_instrument_master table if it doesn't exist, from schema.sql.

    A table whose `strike` has two decimals, as the first design had it, is widened in place.

    Args:
        db_manager: Database manager instance

    Raises:
        DatabaseError: If table creation fails
    """
    schema_sql = SCHEMA_FILE.read_text(encoding="utf-8")
    db_manager.run_in_transaction(lambda cursor: ensure_table(cursor, INSTRUMENT_TABLE, schema_sql))


def parse_instruments(
    response: bytes | str | Iterable[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The instruments in an answer of Kite: its CSV, or rows as the kiteconnect client gives them.

    Each has the eleven stored fields. Raises APIError if this is no instrument list.
    """
    if isinstance(response, str):
        response = response.encode("utf-8")
    if isinstance(response, bytes):
        return parse_dump(response).rows
    return [transform_instrument(row) for row in response]


def select_exchanges(
    instruments: list[dict[str, Any]],
    exchanges: Sequence[str] | None,
    left_out: Counter[str],
) -> list[dict[str, Any]]:
    """The instruments of the listed exchanges (None or []: all); the others are counted.

    Warns of a listed exchange that the dump lacks (ruling 9).
    """
    if not exchanges:
        return instruments
    counts = Counter(str(instrument.get("exchange")) for instrument in instruments)
    for exchange in exchanges:
        if exchange not in counts:
            logger.warning("Kite's list has no row of the configured exchange %s", exchange)
    left_out.update({name: count for name, count in counts.items() if name not in exchanges})
    return filter_by_exchange(instruments, exchanges)


def validate_instruments(
    instruments: list[dict[str, Any]], rejected: list[RejectedRow] | None = None
) -> list[dict[str, Any]]:
    """
    Validate instrument data.

    An instrument that breaks a rule is left out by itself; so is one whose token an earlier one has
    with another symbol, and one whose symbol a later one has under another token (rulings 15, 16
    and 28). Of rows with the same token and symbol only the last is given: they are repeated.

    Args:
        instruments: List of instrument dictionaries
        rejected: If given, receives what was left out, with the reasons

    Returns:
        List of valid instruments, in their order

    Raises:
        ValidationError: If there were instruments and none is valid
    """
    faults: list[RejectedRow] = []
    valid = []
    quick_check = QuickCheck()
    for instrument in instruments:
        if quick_check.passes(instrument):
            valid.append(instrument)
            continue
        try:
            validate_instrument(instrument)
        except ValidationError as exc:
            faults.append(_rejected(instrument, str(exc)))
        else:
            valid.append(instrument)
    # Tokens hardly ever repeat, not even between exchanges. A symbol also counts as missing if the
    # quick check missed a valid row.
    tokens = set(map(itemgetter("instrument_token"), valid))
    if not len(tokens) == quick_check.count_symbols() == len(valid):
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
    """
    Transform instrument data for database storage.

    Args:
        instruments: List of instrument dictionaries

    Returns:
        Transformed list ready for database insertion: an entry for each column of the table
    """
    moment = datetime.now()
    create = Instrument.from_kite_response
    return [create(instrument, moment=moment).to_dict() for instrument in instruments]


def transform_instrument(instrument: Mapping[str, Any]) -> dict[str, Any]:
    """The row of the table for one instrument: a value for each of its columns."""
    return Instrument.from_kite_response(instrument).to_dict()


def _rejected(instrument: Mapping[str, Any], reason: str) -> RejectedRow:
    fields = map(instrument.get, KITE_ORDER)
    values = ["" if value is None else str(value) for value in fields]
    key = WrittenKey(
        *(values[KITE_ORDER.index(n)] for n in ("instrument_token", "exchange", "tradingsymbol"))
    )
    return RejectedRow(instrument.get("line_number"), reason, values, key)


def _refuse_bad_dump(summary: Summary, valid: int, max_reject_percent: float) -> None:
    """Raise ValidationError if nothing, or too little, is left to store (ruling 19)."""
    percent = 100 * len(summary.rejected) / summary.fetched
    if percent > 50 or (summary.fetched >= FEW_ROWS and percent > max_reject_percent):
        way_out = "" if percent > 50 else " If it is right as it is, run again with --force."
        raise ValidationError(
            f"{len(summary.rejected):,} of {summary.fetched:,} rows were rejected: this is no list "
            f"to rely on, the table stays as it is.{way_out}\n{describe_rejects(summary)}"
        )
    if not valid:
        raise ValidationError(
            "Kite's list has no row of the configured exchanges (parameters.exchanges in "
            f"{DAG_FOLDER.name}/config.json): nothing to store, the table stays as it is."
        )
