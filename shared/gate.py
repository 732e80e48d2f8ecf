"""What a payload must have to be believed: few rejects, and, of a snapshot, rows enough."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from shared.exceptions import ValidationError
from shared.feed import Run
from shared.summary import describe_rejects

logger = logging.getLogger(__name__)

# A small group may well lose half of its few rows from one day to the next.
FEW_ROWS = 100
_MOST_REJECTED_PERCENT = 50  # --force does not help beyond it


def refuse_rejects(run: Run, *, fetched: int, rejected: int, valid: int) -> None:
    """Raise ValidationError if too little of a payload is left to store (ruling 19)."""
    percent = 100 * rejected / fetched if fetched else 0
    limit = 100.0 if run.options.force else run.parameters["max_reject_percent"]
    is_hopeless = percent > _MOST_REJECTED_PERCENT
    if is_hopeless or (fetched >= FEW_ROWS and percent > limit):
        way_out = "" if is_hopeless else " If it is right as it is, run again with --force."
        raise ValidationError(
            f"{rejected:,} of {fetched:,} rows were rejected: too many to rely on, the "
            f"table stays as it is.{way_out}\n{describe_rejects(run)}"
        )
    if not valid and run.feed.table.is_snapshot:
        wanted = f" that parameters.{run.feed.only} names in {run.feed.folder.name}/config.json"
        raise ValidationError(
            f"{run.feed.source}'s list has no row{wanted if run.feed.only else ' to store'}: "
            "nothing to store, the table stays as it is."
        )


class Plausibility:
    """A snapshot against the last good one, by the values of the first column of `count_by`."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._wanted: Sequence[str] = wanted_values(run)
        self._unnamed = f"(no {run.feed.count_by[0]})" if run.feed.count_by else "the list"
        self._max_drop_percent: float = run.parameters["max_drop_percent"]

    def find_scope(self, now: Mapping[str, int]) -> Sequence[str]:
        """The values that the payload speaks of (none: all); other rows are not gone.

        A file with rows of one value alone, as some sources give them on demand, is a part.
        """
        has_groups = self._run.feed.count_by and not self._wanted
        is_part = has_groups and not self._run.key.is_from_api and len(now) == 1
        return list(now) if is_part else self._wanted

    def check(self, now: Counter[str], before: Counter[str]) -> None:
        """Raise ValidationError, with the figures, if too many rows are missing.

        `now` and `before` are rows by value. A value that the configuration names may not vanish;
        any with at least 100 rows may lose at most `max_drop_percent` of them, and so may the
        snapshot as a whole. Where the table no longer holds all rows of the last good run, what
        this run stored counts for the whole (ruling 30).
        """
        last = self._run.last
        faults = [
            f"{value or self._unnamed} fell from {count:,} rows to {now[value]:,}"
            for value, count in sorted(before.items())
            if self._is_wanted(value) and self._is_too_few(count, now[value], value)
        ]
        left, total = before.total(), now.total()
        if last is not None and left < last.stored:
            message = (
                "The table holds %d of the %d rows that run %d stored; something else has changed "
                "or removed the others"
            )
            logger.warning(message, left, last.stored, last.run_id)
            left = last.stored
        stored = left - sum(n for v, n in before.items() if not self._is_wanted(v))
        if not faults and self._is_too_few(stored, total):
            faults.append(f"the list fell from {stored:,} rows to {total:,}")
        if faults and not self._run.options.force:
            raise ValidationError(self._describe(faults, now))
        for value in sorted(before.keys() - now.keys()):
            if self._is_wanted(value):
                message = "%s's list has none of the %d rows that %s had in the last list"
                source, name = self._run.feed.source, value or self._unnamed
                logger.warning(message, source, before[value], name)

    def _describe(self, faults: Sequence[str], now: Mapping[str, int]) -> str:
        said = f"{'; '.join(faults)} since the last good run. Nothing was stored, the list of that "
        said += "run stays."
        source, only = self._run.feed.source, self._run.feed.only
        is_file = not self._run.key.is_from_api
        if is_file and only and len(now) == 1:
            (value,) = now
            return (
                f"The file is only a part of a list, its rows are of {value} alone: {said} "
                f"Import a whole list. If only {value} is wanted from now on, set "
                f'parameters.{only} to ["{value}"]. With --force the file is stored as it is: '
                f"until the next whole list the views show {value} alone."
            )
        way_out = "If it is the list that is wanted, run once with --force."
        if not is_file:
            way_out = (
                f"{source} may not have finished today's list: run again in some minutes. If there "
                "really are so few rows, run once with --force."
            )
        return f"{'The file' if is_file else source}'s list is not plausible: {said} {way_out}"

    def _is_wanted(self, value: str) -> bool:
        return not self._wanted or value in self._wanted

    def _is_too_few(self, count: int, left: int, value: str = "") -> bool:
        if value in self._wanted and left == 0:
            return True
        return count >= FEW_ROWS and 100 * (count - left) > self._max_drop_percent * count


def wanted_values(run: Run) -> Sequence[str]:
    """The values of the first column of `count_by` that the configuration wants; none: all."""
    return (run.feed.only and run.parameters[run.feed.only]) or ()


def select(run: Run, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that the configuration wants; the others are counted in the run's figures.

    Warns of a wanted value that no row has (ruling 9).
    """
    feed, wanted = run.feed, wanted_values(run)
    if not wanted:
        return rows
    column = feed.count_by[0]
    counts = Counter(str(row.get(column)) for row in rows)
    for value in wanted:
        if value not in counts:
            message = "%s's list has no row of %s, which parameters.%s names"
            logger.warning(message, feed.source, value, feed.only)
    run.figures.left_out.update({v: n for v, n in counts.items() if v not in wanted})
    chosen = frozenset(wanted)
    return [row for row in rows if row.get(column) in chosen]
