"""`--changes`: what the last run that had something to compare with has changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dag_1_import_instruments_from_kite.settings import CHANGES_TABLE, DAG_ID
from dag_1_import_instruments_from_kite.store import CHANGES, check_history
from shared.calendar import IST
from shared.config.config_loader import ConfigLoader
from shared.foreign_text import escape_line
from shared.utils import run_history
from shared.utils.db_manager import DatabaseManager
from shared.utils.extras import is_ours
from shared.utils.retry import RetryPolicy

# The last good run, whether one before it gave it a list to compare with, and why it could not be.
LAST_RUN = """
SELECT run_id, started_at, count(*) OVER () > 1, error FROM ingestion_run
WHERE dag_id = %s AND status = 'succeeded' ORDER BY run_id DESC LIMIT 1
"""
READ_CHANGES = f"""
SELECT exchange, instrument_token, tradingsymbol, kind, field, old, new
FROM {CHANGES_TABLE} WHERE run_id = %s
ORDER BY kind, exchange, tradingsymbol, field
"""
_COLUMNS = 79
NAMES = ("exchange", "instrument_token", "tradingsymbol", "kind", "field", "old", "new")


def describe_lacking() -> str:
    """What a run can do without and will lack, history or views: "" if nothing (`--check`)."""
    config = asdict(ConfigLoader.load_database_config())
    with DatabaseManager(config, retry=RetryPolicy(max_attempts=1)) as manager:
        return check_history(manager)


def describe_changes(*, as_json: bool = False) -> str:
    """The last good run's changes: counted by kind and exchange with the first of each, or, as
    JSON, every one of them.

    Raises ConfigurationError or DatabaseError if they cannot be read.
    """
    with DatabaseManager(asdict(ConfigLoader.load_database_config())) as manager:
        runs = (
            manager.fetch_all(LAST_RUN, (DAG_ID,))
            if manager.run_in_transaction(
                lambda cursor: run_history.is_kept(cursor) and is_ours(cursor, CHANGES)
            )
            else []
        )
        changes = manager.fetch_all(READ_CHANGES, (runs[0][0],)) if runs else []
    if as_json:
        return _to_json(runs, changes)
    if not runs:
        return "No run has been recorded yet."
    run_id, started_at, is_compared, remark = runs[0]
    title = f"Run {run_id}, {started_at.astimezone(IST):%a %d %b %Y %H:%M IST}"
    if not changes and not is_compared:
        return f"{title}: the first list, which the next one is compared with"
    if remark:
        return f"{title}: {escape_line(remark)}"
    return "\n".join([f"{title}: {len(changes):,} changes", "", *_summarise(changes)]).rstrip()


def _summarise(changes: Sequence[Sequence[Any]]) -> list[str]:
    groups: dict[tuple[str, str], list[Sequence[Any]]] = {}
    for change in changes:
        groups.setdefault((change[3], change[0]), []).append(change)
    lines = [f"{'kind':<14}{'exchange':<10}{'rows':>7}  the first of them"] if groups else []
    for (kind, exchange), members in groups.items():
        first = escape_line(_describe(*members[0]))
        lines.append(f"{kind:<14}{escape_line(exchange):<10}{len(members):>7,}  {first}")
    return [line if len(line) <= _COLUMNS else f"{line[: _COLUMNS - 3]}..." for line in lines]


def _describe(
    exchange: str,
    instrument_token: int,
    tradingsymbol: str,
    kind: str,
    field: str | None,
    old: str | None,
    new: str | None,
) -> str:
    if kind == "terms changed":
        return f"{tradingsymbol} {field}: {old or '-'} -> {new or '-'}"
    if field == "tradingsymbol":
        return f"{old} -> {new}"
    if field == "instrument_token":
        return f"{tradingsymbol}: {old} -> {new}"
    return tradingsymbol


def _to_json(runs: Sequence[Sequence[Any]], changes: Sequence[Sequence[Any]]) -> str:
    run = None
    if runs:
        run_id, started_at, _, remark = runs[0]
        run = {"run_id": run_id, "started_at": started_at.isoformat()}
        if remark:  # there are no changes then, since nothing could be compared
            run["remark"] = remark
    return json.dumps(
        {"run": run, "changes": [dict(zip(NAMES, change)) for change in changes]},
        indent=1,
    )
