"""What a run changes: compared and kept in SQL, in the transaction of the merge."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dag_1_import_instruments_from_kite.settings import CHANGES_TABLE
from shared.exceptions import ValidationError
from shared.utils.staged_merge import DELTA_NAME, STAGE_NAME

logger = logging.getLogger(__name__)

CLASSIFY = Path(__file__).with_name("changes.sql").read_text(encoding="utf-8")

# The series of NSE's shares that trade under a suffix: a share moves among them, and to none.
SERIES_SUFFIX = "-(BE|BZ|BT|SM|ST|SZ)$"

# A debt security's symbol: its rate, its issuer, its year (642AS43-SG, 1023NABARD29).
BOND_SYMBOL = "^[0-9]+[A-Z]+[0-9]"

CREATE_CHANGES = """
CREATE TEMPORARY TABLE stock_ingestion_change (
    exchange text, instrument_token bigint, tradingsymbol text, kind text, field text,
    old text, new text)
"""
COUNT_CHANGES = "SELECT kind, count(*) FROM stock_ingestion_change GROUP BY kind"
KEEP_CHANGES = f"""
INSERT INTO {CHANGES_TABLE}
    (run_id, exchange, instrument_token, tradingsymbol, kind, field, old, new)
SELECT %s, exchange, instrument_token, tradingsymbol, kind, field, old, new
FROM stock_ingestion_change
"""
DROP_CHANGES = "DROP TABLE stock_ingestion_change"

COUNT_DUMP = f"SELECT exchange, count(*) FROM {STAGE_NAME} GROUP BY 1"

# By exchange: the rows that only the last list has, less those that only the dump has. Counted in
# the differences: counting the last list itself would read the whole table.
COUNT_LOSSES = f"""
SELECT coalesce(new_exchange, old_exchange),
       count(*) FILTER (WHERE new_exchange IS NULL)
       - count(*) FILTER (WHERE new_exchange IS NOT NULL AND was_current IS NOT TRUE)
FROM {DELTA_NAME} GROUP BY 1
"""

# A smaller exchange may well lose half of its few rows from one day to the next.
FEW_ROWS = 100


@dataclass(frozen=True)
class Plausibility:
    """What a dump must have to be believed, against the last good one."""

    exchanges: Sequence[str]
    max_drop_percent: float
    is_forced: bool = False

    def check(self, now: Mapping[str, int], before: Mapping[str, int]) -> None:
        """Raise ValidationError, with the figures, if an exchange lost too many of its rows.

        `now` and `before` are rows by exchange. An exchange that the configuration names may not
        vanish; any with at least 100 rows may lose at most `max_drop_percent` of them.
        """
        faults = [
            f"{exchange} fell from {count:,} rows to {now.get(exchange, 0):,}"
            for exchange, count in sorted(before.items())
            if self._is_wanted(exchange) and self._is_too_few(exchange, count, now)
        ]
        if faults and not self.is_forced:
            raise ValidationError(
                f"Kite's list is not plausible: {'; '.join(faults)} since the last good run. "
                "Nothing was stored, the list of that run stays. Kite may not have finished "
                "today's list: run again in some minutes. If the exchange really has so few "
                "instruments now, run once with --force."
            )
        for exchange in sorted(before.keys() - now.keys()):
            if self._is_wanted(exchange):
                logger.warning(
                    "Kite's list has none of the %d rows that %s had in the last list",
                    before[exchange],
                    exchange,
                )

    def _is_wanted(self, exchange: str) -> bool:
        return not self.exchanges or exchange in self.exchanges

    def _is_too_few(self, exchange: str, count: int, now: Mapping[str, int]) -> bool:
        left = now.get(exchange, 0)
        if exchange in self.exchanges and left == 0:
            return True
        return count >= FEW_ROWS and 100 * (count - left) > self.max_drop_percent * count


def count_lists(cursor: Any) -> tuple[Counter[str], Counter[str]]:
    """Rows by exchange of the dump, each key once, and of the last list."""
    cursor.execute(COUNT_DUMP)
    now = Counter(dict(cursor.fetchall()))
    cursor.execute(COUNT_LOSSES)
    return now, now + Counter(dict(cursor.fetchall()))


def classify_changes(
    cursor: Any,
    run_id: int | None,
    exchanges: Sequence[str] = (),
    *,
    rejected: Sequence[tuple[str, str]] = (),
    is_replay: bool = False,
) -> Counter[str]:
    """Classify the differences that the merge has found; keep them under `run_id` unless None.

    `exchanges` are those that are stored (none named: all): the others' rows are not gone.
    Neither are those of `rejected`, (instrument_token, exchange) as the dump has them. A replayed
    dump is of another day than today.
    Returns how many there are of each kind.
    """
    cursor.execute(CREATE_CHANGES)
    rules = {
        "series": SERIES_SUFFIX,
        "bond": BOND_SYMBOL,
        "exchanges": list(exchanges),
        "rejected_tokens": [token for token, _ in rejected],
        "rejected_exchanges": [exchange for _, exchange in rejected],
        "is_replay": is_replay,
    }
    cursor.execute(CLASSIFY, rules)
    cursor.execute(COUNT_CHANGES)
    counts = Counter(dict(cursor.fetchall()))
    if run_id is not None:
        cursor.execute(KEEP_CHANGES, (run_id,))
    cursor.execute(DROP_CHANGES)
    return counts
