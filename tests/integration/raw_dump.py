"""An independent reading of a dump: its raw bytes, copied into text columns, cast in SQL.

Nothing of the project reads the CSV here; PostgreSQL compares, row for row.
"""

from __future__ import annotations

import io
import re
from typing import Any

COLUMNS = {
    "instrument_token": "bigint",
    "exchange": "text",
    "tradingsymbol": "text",
    "exchange_token": "text",
    "instrument_type": "text",
    "name": "text",
    "segment": "text",
    "expiry": "date",
    "strike": "numeric",
    "tick_size": "numeric",
    "lot_size": "integer",
}
NAMES = ", ".join(COLUMNS)
SAME_KEY = "(a.instrument_token, a.exchange) = (b.instrument_token, b.exchange)"
SAME_SYMBOL = "(a.tradingsymbol, a.exchange) = (b.tradingsymbol, b.exchange)"


class RawDumps:
    """Dumps in tables of their own, beside kite_instrument_master."""

    def __init__(self, connection: Any) -> None:
        self._cursor = connection.cursor()

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        self._cursor.execute(statement)
        rows: list[tuple[Any, ...]] = self._cursor.fetchall()
        return rows

    def count(self, statement: str) -> int:
        return int(self.query(f"SELECT count(*) FROM {statement}")[0][0])

    def load(self, name: str, dump: bytes) -> int:
        """Copy a dump into the table `name`; return its rows. Its keys and symbols are unique."""
        header = [field.strip() for field in dump.split(b"\n", 1)[0].decode().split(",")]
        texts = ", ".join(f"{column} text" for column in header)
        self._cursor.execute(f"CREATE TEMP TABLE raw_{name} ({texts})")
        self._cursor.copy_expert(
            f"COPY raw_{name} FROM STDIN"
            f" WITH (FORMAT csv, HEADER, FORCE_NULL ({', '.join(header)}))",
            io.BytesIO(dump),
        )
        casts = ", ".join(f"{column}::{kind}" for column, kind in COLUMNS.items())
        self._cursor.execute(f"CREATE TEMP TABLE {name} AS SELECT {casts} FROM raw_{name}")
        self._cursor.execute(f"CREATE UNIQUE INDEX ON {name} (instrument_token, exchange)")
        self._cursor.execute(f"CREATE UNIQUE INDEX ON {name} (tradingsymbol, exchange)")
        self._cursor.execute(f"ANALYZE {name}")
        return self.count(name)

    def remember_table(self, name: str) -> None:
        self._cursor.execute(f"CREATE TEMP TABLE {name} AS TABLE kite_instrument_master")
        self._cursor.execute(f"CREATE UNIQUE INDEX ON {name} (instrument_token, exchange)")
        self._cursor.execute(f"CREATE UNIQUE INDEX ON {name} (tradingsymbol, exchange)")
        self._cursor.execute(f"ANALYZE {name}")

    def expect_after(self, name: str, before: str, dump: str) -> None:
        """Make the table that has to be there: the dump, and what it leaves of `before`."""
        self._cursor.execute(
            f"CREATE TEMP TABLE {name} AS SELECT {NAMES} FROM {dump}"
            f" UNION ALL SELECT {NAMES} FROM {before} AS a WHERE NOT EXISTS"
            f" (SELECT FROM {dump} AS b WHERE {SAME_KEY})"
            f" AND NOT EXISTS (SELECT FROM {dump} AS b WHERE {SAME_SYMBOL})"
        )

    def differences(self, expected: str) -> dict[str, list[tuple[Any, ...]]]:
        """The rows that only one of `expected` and kite_instrument_master has, some of each."""
        select_expected = f"SELECT {NAMES} FROM {expected}"
        select_stored = f"SELECT {NAMES} FROM kite_instrument_master"
        return {
            "missing": self.query(f"{select_expected} EXCEPT ALL {select_stored} LIMIT 5"),
            "unexpected": self.query(f"{select_stored} EXCEPT ALL {select_expected} LIMIT 5"),
        }

    def changes(self, before: str, dump: str) -> dict[str, int]:
        """What a run with `dump` on the table `before` has to report."""
        known = f"EXISTS (SELECT FROM {before} AS b WHERE {SAME_KEY})"
        return {
            "inserted": self.count(f"{dump} AS a WHERE NOT {known}"),
            "updated": self.count(f"{dump} AS a WHERE {known}"),
            "superseded": self.count(
                f"{before} AS a WHERE NOT EXISTS (SELECT FROM {dump} AS b WHERE {SAME_KEY})"
                f" AND EXISTS (SELECT FROM {dump} AS b WHERE {SAME_SYMBOL})"
            ),
        }

    def counts_by(self, dump: str, column: str) -> dict[str, int]:
        rows = self.query(f"SELECT coalesce({column}, '-'), count(*) FROM {dump} GROUP BY 1")
        return dict(rows)


NO_DIFFERENCES: dict[str, list[tuple[Any, ...]]] = {"missing": [], "unexpected": []}


def read_figures(output: str) -> dict[str, int]:
    """The summary's figures, by their names: fetched, left out, rejected and so on."""
    found = re.findall(
        r"^(fetched|left out|rejected|repeated|inserted|updated|superseded) +([\d,]+)$",
        output,
        re.M,
    )
    return {name: int(count.replace(",", "")) for name, count in found}


def read_breakdown(output: str) -> tuple[dict[str, int], dict[str, int]]:
    """The summary's rows by exchange and by instrument_type."""
    exchanges, types = {}, {}
    lines = output[output.index("\nexchange ") + 1 :].splitlines()[1:]
    for line in lines:
        match = re.fullmatch(r"(?:  (\S+) +([\d,]+))?(?: {2,}(\S+) +([\d,]+))?", line)
        if not line or match is None:
            break
        if match[1]:
            exchanges[match[1]] = int(match[2].replace(",", ""))
        if match[3]:
            types[match[3]] = int(match[4].replace(",", ""))
    return exchanges, types
