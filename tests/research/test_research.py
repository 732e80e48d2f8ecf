"""docs/research.md, every block as it is written, in an environment that has what it installs.

Not part of `make test`: `make research` makes that environment, .venv-research.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sandbox.dump_generator import generate_dump
from shared.calendar import IST
from tests.command_line import CommandLine
from tests.conftest import OWN_VARIABLES, PROJECT, Server
from tests.documents import section, table_rows
from tests.research.page import (
    BLOCKS,
    PAGE,
    modules_of,
    python_blocks,
    read_requirements,
    told_requirements,
)

PYTHON = PROJECT / ".venv-research" / "bin" / "python"
RUNNER = Path(__file__).with_name("run_blocks.py")

PAGE_TEXT = PAGE.read_text(encoding="utf-8")
ROWS = 3_000
# As floats neither is exact; the strike has a call and no put.
CALL = "12345601,48225,EURUSD26AUG1.085CE,EURUSD,0.0,2026-08-27,1.085,0.0025,1,CE,CDS-OPT,CDS\n"
TOKEN, STRIKE, EXPIRY = 12345601, "Decimal('1.0850')", "datetime.date(2026, 8, 27)"
ONE = "underlying = 'EURUSD'"
# A day, the list of it; on the second one there are two.
DAYS = [
    (datetime(2026, 8, 3, 8, 30, tzinfo=IST), 0),
    (datetime(2026, 8, 4, 8, 30, tzinfo=IST), 1),
    (datetime(2026, 8, 4, 9, 30, tzinfo=IST), 6),
]
LISTS = [generate_dump(day, rows=ROWS) + CALL.encode() for _, day in DAYS]
PASSWORD = "p@ss/w:rd %41 $HOME #1"  # nothing of it may be read as part of an address


def rows_of(dump: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(dump.decode().splitlines()))


NEWEST = rows_of(LISTS[-1])


class Page:
    """Runs parts of the page in a folder with `.env` and `archive/`, as a role that may read."""

    def __init__(self, folder: Path, cli: CommandLine, role: str) -> None:
        self.folder = folder
        self.role = role
        self.query = cli.query

    def run(self, blocks: list[str], part: str | None, *expressions: str, **given: str) -> Any:
        """Values of the expressions after the blocks, with what the part's line installs alone."""
        assert PYTHON.exists(), "there is no .venv-research: `make research` makes it"
        told = told_requirements()[part] if part else read_requirements()
        hidden = modules_of(read_requirements()) - modules_of(told)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(OWN_VARIABLES)}
        result = subprocess.run(
            [PYTHON, "-W", "error", RUNNER],
            cwd=self.folder,
            env={**environment, **given},
            input=json.dumps(
                {"blocks": blocks, "hidden": sorted(hidden), "expressions": expressions}
            ),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (result.returncode, result.stderr) == (0, "")
        return json.loads(result.stdout)

    def run_part(self, part: str, *expressions: str) -> Any:
        return self.run(python_blocks("Who may read", part), part, *expressions)


@pytest.fixture
def page(cli: CommandLine, server: Server, database: str, tmp_path: Path) -> Iterator[Page]:
    for (cli.now, _), dump in zip(DAYS, LISTS):
        assert cli.load(dump).status == 0
    role = f"research_{uuid.uuid4().hex[:12]}"
    (script,) = (block.text for block in BLOCKS if block.language == "sql")
    script = script.replace("ROLE research", f"ROLE {role}").replace("TO research", f"TO {role}")
    server.execute(script.replace("choose-one", PASSWORD), dbname=database)
    info = server.conninfo
    (tmp_path / ".env").write_text(
        f"DB_HOST={info['host']}\nDB_PORT={info['port']}\nDB_NAME={database}\n"
        f"DB_USER={role}\nDB_PASSWORD='{PASSWORD}'\n",
        encoding="utf-8",
    )
    yield Page(tmp_path, cli, role)
    server.execute(f"DROP OWNED BY {role}", dbname=database)
    server.execute(f"DROP ROLE {role}")


def told_types(column: str) -> dict[str, str]:
    """The page's table of types: of each column, what it is in this kind of frame."""
    header = ["column", "PostgreSQL", "pandas", "exact", "polars", "Parquet"]
    rows = table_rows(section(PAGE, "What becomes of the types"))
    return {row[0].strip("`"): row[header.index(column)] for row in rows}


def next_chain(page: Page) -> list[tuple[Any, ...]]:
    return page.query(
        "SELECT strike::text, expiry::text, call_token FROM kite_option_chain"
        " WHERE underlying = 'NIFTY' AND exchange = 'NFO' AND expiry = (SELECT min(expiry)"
        " FROM kite_expiry WHERE underlying = 'NIFTY' AND exchange = 'NFO') ORDER BY strike"
    )


def test_settings_are_those_of_the_environment_then_of_the_file(page: Page) -> None:
    (page.folder / ".env").write_text("DB_HOST=file\nDB_NAME=file\nDB_PORT=\nDB_USER=$HOME\n")
    names = ("DB_HOST", "DB_NAME", "DB_PORT", "DB_USER", "DB_PASSWORD")
    values = page.run(
        python_blocks("Who may read"),
        "pandas",
        *(f"setting('{name}', 'default')" for name in names),
        DB_HOST="environment",
        DB_NAME="",
    )
    assert values == ["environment", "file", "default", "$HOME", "default"]


def test_pandas(page: Page) -> None:
    whole, exact, of_exchange, tick, on_tick, floats_on_tick = page.run_part(
        "pandas",
        "{name: str(dtype) for name, dtype in today.dtypes.items()}",
        "{name: str(dtype) for name, dtype in exact.dtypes.items()}",
        "by_exchange.to_dict()",
        "tick",
        "is_on_tick",
        "1402.35 % 0.05 == 0",
    )
    assert told_types("pandas").items() <= whole.items()
    assert told_types("exact").items() <= exact.items()
    assert of_exchange == Counter(row["exchange"] for row in NEWEST)
    (reliance,) = (r for r in NEWEST if (r["tradingsymbol"], r["exchange"]) == ("RELIANCE", "NSE"))
    assert tick == f"Decimal('{Decimal(reliance['tick_size']):.4f}')"
    assert (on_tick, floats_on_tick) == (True, False)

    one = f'pd.read_sql("SELECT * FROM kite_option_chain WHERE {ONE} OR strike > 1e4", engine'
    strike, expiry, nothing, plain, shown, days = page.run_part(
        "pandas",
        f"{one}, coerce_float=False).query(\"underlying == 'EURUSD'\").strike.item()",
        f"{one}).query(\"underlying == 'EURUSD'\").expiry.item()",
        f"{one}, dtype={{'put_token': 'Int64'}}).put_token.isna().sum().item()",
        f"str({one}).dtypes['put_token'])",
        "[[*map(str, r)] for r in zip(chain.strike, chain.expiry.dt.date, chain.call_token)]",
        "[str(chain.dtypes[name]) for name in ('strike', 'expiry', 'call_token', 'put_token',"
        " 'call_instrument_id', 'put_instrument_id')]",
    )
    assert (strike, expiry, nothing, plain) == (STRIKE, EXPIRY, 1, "float64")
    assert shown == [[*map(str, row)] for row in next_chain(page)] != []
    assert days == ["object", "datetime64[s]", *["Int64"] * 4]

    kinds, stored, started = page.run_part(
        "pandas",
        "[[*key, n] for key, n in kinds.items()]",
        "seconds['store'].to_dict()",
        "str(runs.started_at.dtype)",
    )
    assert sorted(map(tuple, kinds)) == page.query(
        "SELECT run_id, kind, count(*) FROM kite_instrument_change GROUP BY 1, 2"
        ' ORDER BY 1, kind COLLATE "C"'
    )
    assert kinds
    assert [(int(run), float(value)) for run, value in stored.items()] == page.query(
        "SELECT run_id, (durations->>'store')::float FROM ingestion_run ORDER BY run_id"
    )
    assert started == "datetime64[us, UTC]"


def test_postgresql_alone_means_another_driver(page: Page) -> None:
    block = """
import sqlalchemy
try:
    sqlalchemy.create_engine("postgresql://localhost/moneytree")
except ModuleNotFoundError as exc:
    missing = exc.name
"""
    assert page.run([block], "pandas", "missing") == ["psycopg"]


def test_polars(page: Page) -> None:
    one = f'pl.read_database_uri("SELECT * FROM kite_option_chain WHERE {ONE}", uri)'
    types, of_exchange, row, shown, strike, kinds, stored, started = page.run_part(
        "polars",
        "{name: str(dtype) for name, dtype in today.schema.items()}",
        "by_exchange.rows()",
        f"{one}.select('strike', 'expiry', 'call_token', 'put_token').row(0)",
        "chain.select(pl.col('strike', 'expiry', 'call_token').cast(pl.String)).rows()",
        "str(chain.schema['strike'])",
        "[[str(day), kind, n] for day, kind, n in kinds.rows()]",
        "seconds.rows()",
        "str(changes.schema['started_at'])",
    )
    assert told_types("polars").items() <= types.items()
    assert dict(of_exchange) == Counter(row["exchange"] for row in NEWEST)
    assert row == ["Decimal('1.0850000000')", EXPIRY, TOKEN, None]
    assert shown == [[*map(str, row)] for row in next_chain(page)] != []
    assert strike == "Decimal(precision=15, scale=4)"
    assert [tuple(each) for each in kinds] == page.query(
        "SELECT (started_at AT TIME ZONE 'Asia/Kolkata')::date::text, kind, count(*)"
        " FROM kite_instrument_change JOIN ingestion_run USING (run_id) GROUP BY 1, 2"
        ' ORDER BY 1, kind COLLATE "C"'
    )
    assert kinds
    assert [tuple(each) for each in stored] == page.query(
        "SELECT run_id, (durations->>'store')::float FROM ingestion_run ORDER BY run_id"
    )
    assert started == "Datetime(time_unit='us', time_zone='UTC')"


def test_polars_by_the_engine_of_pandas(page: Page) -> None:
    inline = 'pl.read_database("SELECT * FROM kite_option_chain", engine)'
    assert f"`{inline}`" in PAGE_TEXT
    [row] = page.run(
        [*python_blocks("Who may read", "pandas"), "import polars as pl"],
        None,
        f"{inline}.filter(underlying='EURUSD').select('strike', 'expiry', 'put_token').row(0)",
    )
    assert row == [STRIKE, EXPIRY, None]


@pytest.mark.parametrize("sslmode", ["allow", "verify-ca", "verify-full"])
def test_sslmodes_that_connectorx_does_not_know(page: Page, sslmode: str) -> None:
    """Should it learn them, the page is to say so."""
    block = f"""
from urllib.parse import quote
import polars as pl
try:
    pl.read_database_uri("SELECT 1", "postgresql://localhost/moneytree?sslmode={sslmode}")
except RuntimeError as exc:
    refusal = str(exc)
"""
    [refusal] = page.run([block], "polars", "refusal")
    assert "sslmode" in refusal


def test_duckdb_has_every_value_of_the_kept_lists(page: Page) -> None:
    columns = list(NEWEST[0])
    types, days, rows, guessed, rounded, lots = page.run(
        python_blocks("DuckDB"),
        "DuckDB",
        "dict(duckdb.sql('SELECT column_name, column_type FROM (DESCRIBE kept)').fetchall())",
        "days",
        f"duckdb.sql('SELECT day, {', '.join(columns)} FROM kept').fetchall()",
        'dict(duckdb.sql("SELECT column_name, column_type FROM (DESCRIBE SELECT *'
        " FROM read_csv('archive/*.csv.gz'))\").fetchall())",
        "duckdb.sql(\"SELECT '1.08505'::DECIMAL(15, 4)\").fetchall()",
        "lots",
    )
    assert told_types("Parquet").items() <= types.items()
    newest = {date(2026, 8, 3): rows_of(LISTS[0]), date(2026, 8, 4): NEWEST}
    assert days == [[repr(day), len(of_day)] for day, of_day in newest.items()]
    expected = [
        [repr(day), *(as_duckdb(row[name], types[name]) for name in columns)]
        for day, of_day in newest.items()
        for row in of_day
    ]
    assert sorted(rows, key=str) == sorted(expected, key=str)
    assert (guessed["strike"], guessed["exchange_token"]) == ("DOUBLE", "BIGINT")
    assert rounded == [["Decimal('1.0851')"]]
    futures = [
        (row["exchange"], row["name"], day, int(row["lot_size"]))
        for day, of_day in newest.items()
        for row in of_day
        if row["instrument_type"] == "FUT"
    ]
    first_days: dict[tuple[str, str, int], date] = {}
    for exchange, name, day, lot in sorted(futures):
        first_days.setdefault((exchange, name, lot), day)
    assert sorted(map(tuple, lots)) == sorted(
        (exchange, name, repr(day), lot) for (exchange, name, lot), day in first_days.items()
    )


def test_duckdb_stops_at_a_line_that_breaks_a_type_or_leaves_it_out(page: Page) -> None:
    bad = LISTS[0] + CALL.replace("1.085,", "a lot,").encode()
    name = "kite_instruments_2026-08-05_083000_0123456789ab.csv.gz"
    (page.folder / "archive" / name).write_bytes(gzip.compress(bad))
    create, *_ = python_blocks("DuckDB")
    read = "\ntry:\n    read = duckdb.sql('SELECT day, strike FROM kept').fetchall()"
    read += "\nexcept duckdb.Error as exc:\n    read = str(exc)"
    [said] = page.run([create + read], "DuckDB", "read")
    assert "a lot" in said
    leave_out = create.replace("header = true", "ignore_errors = true, header = true")
    [rows] = page.run([leave_out + read], "DuckDB", "read")
    assert Counter(day for day, _ in rows)["datetime.date(2026, 8, 5)"] == len(rows_of(LISTS[0]))


def as_duckdb(text: str, kind: str) -> Any:
    """A field of the list as `run_blocks.py` shows what DuckDB makes of it."""
    if text == "":
        return None
    if kind == "DATE":
        return repr(date.fromisoformat(text))
    if kind.startswith("DECIMAL"):
        return f"Decimal('{Decimal(text):.4f}')"
    return int(text) if kind in ("BIGINT", "INTEGER") else text


def test_parquet_is_the_same_in_all_three(page: Page) -> None:
    page.run(python_blocks("DuckDB"), "DuckDB")
    of_frames, of_pandas, exact, widest, same, floats, as_frame = page.run(
        python_blocks("Parquet in all three"),
        None,
        "[in_polars.height, len(in_pandas), len(in_duckdb.fetchall())]",
        "[str(in_pandas.dtypes[name]) for name in ('strike', 'expiry')]",
        "[frame.item() for frame in ("
        "in_polars.filter(name='EURUSD', day=pl.lit('2026-08-04').str.to_date())['strike'],"
        " in_pandas.query(\"name == 'EURUSD'\").strike.tail(1))]",
        "widest",
        "same",
        "str(in_duckdb.df().dtypes['strike'])",
        "str(in_duckdb.pl().schema['strike'])",
    )
    dumps = (LISTS[0], LISTS[-1])
    currencies = [row for dump in dumps for row in rows_of(dump) if row["exchange"] == "CDS"]
    assert of_frames == [len(currencies)] * 3
    assert of_pandas == ["decimal128(15, 4)[pyarrow]", "date32[day][pyarrow]"]
    assert exact == [STRIKE, STRIKE]
    top = max(Decimal(row["strike"]) for row in currencies)
    assert widest == same == [[f"Decimal('{top:.4f}')"]]
    assert (floats, as_frame) == ("float64", "Decimal(precision=15, scale=4)")


def test_list_of_another_day(page: Page) -> None:
    """The moment that is shown is here the end of the first run."""
    (grant,) = re.findall(r"`(GRANT SELECT ON kite_instrument_history TO )research`", PAGE_TEXT)
    page.query(f"{grant}{page.role}")
    ((moment,),) = page.query("SELECT min(ended_at)::text FROM ingestion_run")
    shown = "2026-08-04 09:00+05:30"
    blocks = python_blocks("Who may read", "pandas", "polars", "Another day's list")
    assert sum(shown in block for block in blocks) == 2
    rows, strikes, ids, before = page.run(
        [block.replace(shown, moment) for block in blocks],
        None,
        "[len(pandas_then), polars_then.height]",
        "[frame.item() for frame in (pandas_then.query(\"name == 'EURUSD'\").strike,"
        " polars_then.filter(name='EURUSD')['strike'])]",
        "[frame['instrument_id'].sum() for frame in (pandas_then, polars_then)]",
        "pl.read_database_uri(\"SELECT * FROM kite_instrument_as_of('2020-01-01')\", uri).height",
    )
    assert rows == [len(rows_of(LISTS[0]))] * 2
    assert strikes == [STRIKE, "Decimal('1.0850000000')"]
    assert ids[0] == f"np.int64({ids[1]})"
    assert before == 0


def test_instrument_id_that_is_not_known_makes_floats_of_the_others(page: Page) -> None:
    id_type = "str(today.dtypes['instrument_id'])"
    assert page.run_part("pandas", id_type) == ["int64"]
    page.query("DELETE FROM kite_instrument_history WHERE name = 'EURUSD'")
    assert page.run_part("pandas", id_type) == ["float64"]
