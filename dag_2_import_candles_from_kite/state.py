"""What `status` and `check` say of DAG 2: how far the wanted candles are there, and what lacks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psycopg2.extensions import cursor as Cursor

from dag_2_import_candles_from_kite.gaps import count_states
from dag_2_import_candles_from_kite.intervals import INTERVALS
from dag_2_import_candles_from_kite.partitions import find_lacking_partitions
from dag_2_import_candles_from_kite.plan import midnight
from dag_2_import_candles_from_kite.settings import FIELDS
from dag_2_import_candles_from_kite.universe import resolve
from shared import clock
from shared.config.config_loader import ConfigLoader
from shared.config.fields import RETRY_FIELDS

FOLDER = Path(__file__).resolve().parent


def describe_state(cursor: Cursor) -> Mapping[str, int]:
    """The figures of the wanted series, each an instrument in an interval; none, no figures.

    Raises DatabaseError if there is no list yet.
    """
    parameters = _read_parameters()
    if not parameters["instruments"]:
        return {}
    universe = resolve(cursor, parameters["instruments"])
    ids = [target.instrument_id for target in universe.targets]
    pairs = [(each, name) for name in parameters["intervals"] for each in ids]
    if universe.calendar is not None:
        pairs.append((universe.calendar.instrument_id, "day"))
    states = count_states(cursor, pairs, parameters["end"])
    figures = {
        "series wanted": states.wanted,
        "complete": states.complete - states.behind,
        "with gaps": states.with_gaps,
        "days missing": states.missing_days,
        "never answered": states.never_answered,
    }
    rare = {"behind": states.behind, "without a calendar": states.untold}
    return figures | {name: number for name, number in rare.items() if number}


def find_lacking(cursor: Cursor) -> tuple[str, str]:
    """What is wanted at all, and the partitions that no run can make, to the next year or month."""
    parameters = _read_parameters()
    intervals = [INTERVALS[name] for name in dict.fromkeys(("day", *parameters["intervals"]))]
    since = midnight(parameters["start"])
    statements = find_lacking_partitions(cursor, intervals, clock.now(), since)
    faults = []
    if not parameters["instruments"]:
        faults.append("parameters.instruments is empty: a run would not know what to ask for.")
    if statements:
        faults.append(
            "Partitions for candles up to the next year or month, and DB_USER may make none."
        )
    return " ".join(faults), "\n".join(f"{statement};" for statement in statements)


def _read_parameters() -> Mapping[str, Any]:
    fields = (*RETRY_FIELDS, *FIELDS)
    _, dag = ConfigLoader.load_merged_config(FOLDER, fields, needs_api=False)
    return dag.parameters
