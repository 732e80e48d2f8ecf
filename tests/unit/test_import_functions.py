"""DAG 1 without a database: parse, select, validate, transform, summary, list of rejects."""

from __future__ import annotations

import csv
import io
import itertools
import logging
import os
import re
import stat
from collections import Counter
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dag_1_import_instruments_from_kite import import_instruments
from dag_1_import_instruments_from_kite.import_instruments import (
    FEED,
    import_instruments_from_kite,
    parse_instruments,
    transform_instrument,
    transform_instruments,
    validate_instrument,
    validate_instruments,
)
from sandbox.kite_server import KiteServer
from shared.config.config_loader import override_config
from shared.config.logging_config import register_secrets
from shared.exceptions import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    DAGExecutionError,
    ValidationError,
)
from shared.feed import Figures, RejectedRow, Run, RunKey, RunOptions
from shared.gate import select
from shared.models.instrument import INSTRUMENT_TABLE
from shared.summary import describe, describe_rejects, summarize, write_rejected_rows
from shared.utils.staged_merge import MergeResult
from tests.conftest import HEADER
from tests.instruments import instrument, to_csv

pytestmark = pytest.mark.usefixtures("trading_today")

A, B = instrument(1, "A"), instrument(2, "B")


MOMENT = datetime(2026, 8, 3, 8, 30)


def make_run(figures: Figures | None = None, **fields: Any) -> Run:
    key = RunKey(1, "import_instruments_from_kite", "api", MOMENT)
    return Run(FEED, key, figures=figures or Figures(), **fields)


def select_exchanges(rows: list[dict[str, Any]], exchanges: Any, left_out: Counter[str]) -> Any:
    return select(make_run(Figures(left_out=left_out), parameters={"exchanges": exchanges}), rows)


def read_rejects(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


# --- parse -------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_type", [bytes, bytes.decode], ids=["bytes", "text"])
def test_parse_instruments_of_csv(as_type: Any) -> None:
    body = HEADER + b"1,3,HAL26AUG,HAL,0,2026-08-27,90.875,0.05,150,CE,NFO-OPT,NFO\n"
    (parsed,) = parse_instruments(as_type(body))
    assert parsed["strike"] == Decimal("90.875")
    assert parsed["expiry"] == date(2026, 8, 27)
    assert set(INSTRUMENT_TABLE.column_names) <= set(parsed)


def test_parse_instruments_of_rows_as_the_client_gives_them() -> None:
    (parsed,) = parse_instruments([{**A, "strike": 90.875, "expiry": "", "last_price": 1.5}])
    assert (parsed["strike"], parsed["expiry"]) == (Decimal("90.875"), None)
    assert "last_price" not in parsed


def test_parse_instruments_of_something_else_fails() -> None:
    with pytest.raises(APIError, match="not Kite's instrument list"):
        parse_instruments("id,name\n1,2\n")


# --- select ------------------------------------------------------------------------------------


@pytest.mark.parametrize("exchanges", [None, [], ()], ids=repr)
def test_select_exchanges_without_a_list_takes_all(exchanges: Any) -> None:
    left_out: Counter[str] = Counter()
    assert select_exchanges([A, B], exchanges, left_out) == [A, B]
    assert not left_out


def test_select_exchanges_counts_what_it_leaves_out(caplog: pytest.LogCaptureFixture) -> None:
    rows = [instrument(i, str(i), e) for i, e in enumerate(["NSE", "NCO", "BSE", "NCO", "NSE"])]
    left_out: Counter[str] = Counter()

    selected = select_exchanges(rows, ["NSE"], left_out)

    assert [row["instrument_token"] for row in selected] == [0, 4]
    assert left_out == {"NCO": 2, "BSE": 1}
    assert caplog.records == []


def test_select_exchanges_warns_of_an_exchange_that_the_dump_lacks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert select_exchanges([A], ["NFO", "MCX"], Counter()) == [A]
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert "no row of MCX" in warning.getMessage()
    assert "NFO" not in warning.getMessage()


# --- validate ----------------------------------------------------------------------------------


def test_validate_instruments_of_an_empty_list_is_empty() -> None:
    assert validate_instruments([]) == []


def test_validate_instruments_leaves_out_the_invalid_and_keeps_order_and_reasons() -> None:
    rejected: list[RejectedRow] = []
    rows = [
        A,
        {**B, "tradingsymbol": None, "line_number": 7},
        instrument(3, "C", lot_size=-1),
        instrument(4, "D"),
    ]

    valid = validate_instruments(rows, rejected)

    assert valid == [rows[0], rows[3]]
    assert [(row.line_number, row.reason) for row in rejected] == [
        (7, "tradingsymbol: required, but missing"),
        (None, "lot_size: expected a whole number from 0 to 2147483647, got '-1'"),
    ]
    assert rejected[0].row[:3] == ["2", "0", ""]  # Kite's order of columns
    assert [row.key for row in rejected] == [
        ("2", "NFO", ""),
        ("3", "NFO", "C"),
    ]  # they are not gone


def test_validate_instruments_logs_how_many_and_each_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    validate_instruments([A, {**B, "exchange": "", "line_number": 9}])
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "Validation errors for 1 instruments"),
        ("DEBUG", "line 9: exchange: required, but missing"),
    ]


def test_validate_instruments_when_none_is_valid() -> None:
    rejected: list[RejectedRow] = []
    rows = [{**A, "instrument_token": None}, {**B, "strike": Decimal("0.00001")}]
    with pytest.raises(
        ValidationError, match=r"None of the 2 instruments is valid; the first: ins"
    ):
        validate_instruments(rows, rejected)
    assert len(rejected) == 2


def test_validate_instrument_takes_text_and_floats_as_the_client_gives_them() -> None:
    assert validate_instrument({**A, "strike": 90.875, "instrument_token": "5", "expiry": ""})
    with pytest.raises(ValidationError, match=r"^strike: expected"):
        validate_instrument({**A, "strike": 0.1 + 0.2})


# Rows as (token, symbol) in the order of the dump; which of them (by position) are left out: those
# that are rejected, with the field that the reason names, and those that are repeated (rulings 16
# and 28).
REPEATED = "repeated"
REPEATS = [
    pytest.param("1A 2B", {}, id="nothing-repeated"),
    pytest.param("1A 1A", {0: REPEATED}, id="same-row-twice"),
    pytest.param("1A 1B", {1: "instrument_token"}, id="same-key-new-symbol"),
    pytest.param("1A 1B 1A", {0: REPEATED, 1: "instrument_token"}, id="and-the-first-again"),
    pytest.param("1A 2A", {0: "tradingsymbol"}, id="same-symbol-two-tokens"),
    pytest.param("1A 2A 3A", {0: "tradingsymbol", 1: "tradingsymbol"}, id="symbol-three-times"),
    pytest.param("1A 2A 1A", {0: REPEATED, 1: "tradingsymbol"}, id="first-token-has-the-last-word"),
    pytest.param(
        "1A 2A 1B", {2: "instrument_token", 0: "tradingsymbol"}, id="neither-symbol-is-left-for-one"
    ),
    pytest.param("1A 2B 1B 2A", {2: "instrument_token", 3: "instrument_token"}, id="no-swap"),
    pytest.param("1B 1A 2A", {1: "instrument_token"}, id="the-later-symbol-is-anothers"),
    pytest.param("1A 1A 2A", {0: REPEATED, 1: "tradingsymbol"}, id="loser-same-twice"),
    pytest.param("2A 1B 2B", {2: "instrument_token"}, id="not-taken-over-by-a-later-row"),
]


@pytest.mark.parametrize(("dump", "left_out"), REPEATS)
def test_validate_instruments_when_keys_or_symbols_repeat(
    dump: str, left_out: dict[int, str]
) -> None:
    rows = [instrument(int(text[0]), text[1]) for text in dump.split()]
    rejected: list[RejectedRow] = []

    valid = validate_instruments(rows, rejected)

    assert valid == [row for i, row in enumerate(rows) if i not in left_out]
    assert [row.reason.split(":")[0] for row in rejected] == [
        field for field in left_out.values() if field != REPEATED
    ]
    assert all("row has the same" in row.reason for row in rejected)


def test_rows_of_one_key_and_symbol_that_differ_otherwise_the_last_counts() -> None:
    """Seen 36 times in a real list, by segment alone (ruling 28)."""
    rows = [instrument(1, "A"), B, instrument(1, "A", segment="NFO-FUT")]
    rejected: list[RejectedRow] = []
    assert validate_instruments(rows, rejected) == [B, rows[2]]
    assert rejected == []


def test_second_symbol_of_a_token_is_rejected_with_both_symbols_named() -> None:
    rejected: list[RejectedRow] = []
    row = {**instrument(1, "NEW"), "line_number": 3}
    assert validate_instruments([instrument(1, "OLD"), row], rejected) == [instrument(1, "OLD")]
    assert [(fault.line_number, fault.reason) for fault in rejected] == [
        (3, "instrument_token: an earlier row has the same with another symbol, 'OLD', got 'NEW'")
    ]


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(["1A", "1B", "2A", "2B"], id="two-tokens-two-symbols"),
        pytest.param(["1A", "2A", "3A", "1B"], id="one-symbol-wanted-by-three"),
        pytest.param(["1A", "2B", "2A", "3B"], id="chain"),
    ],
)
def test_validate_instruments_when_repeats_come_in_any_order(rows: list[str]) -> None:
    """Of each key the first row counts; of each symbol the last of these (rulings 16, 28)."""
    for order in itertools.permutations(rows):
        first: dict[str, str] = {}
        for text in order:
            first.setdefault(text[0], text)
        winners = {text[1]: text for text in order if text in first.values()}
        rejected: list[RejectedRow] = []

        valid = validate_instruments([instrument(int(t[0]), t[1]) for t in order], rejected)

        kept = [f"{row['instrument_token']}{row['tradingsymbol']}" for row in valid]
        assert kept == [text for text in order if text in winners.values()], order
        assert len(valid) + len(rejected) == len(order)
        last = {row["instrument_token"]: row["tradingsymbol"] for row in valid}
        assert len(set(last.values())) == len(last), order


def test_same_symbol_on_two_exchanges_is_no_repeat() -> None:
    rows = [instrument(1, "A", "NSE"), instrument(2, "A", "BSE"), instrument(1, "A", "BFO")]
    assert validate_instruments(rows) == rows


def test_repeat_on_one_exchange_leaves_the_rows_of_another_alone() -> None:
    rows = [
        instrument(1, "A", "NSE"),
        instrument(1, "B", "BSE"),
        instrument(2, "A", "NSE"),
        instrument(1, "A", "BFO"),
    ]
    rejected: list[RejectedRow] = []
    assert validate_instruments(rows, rejected) == rows[1:]
    assert [(row.key, row.reason) for row in rejected] == [
        (("1", "NSE", "A"), "tradingsymbol: a later row has the same, got 'A'")
    ]


def test_repeat_of_a_symbol_by_an_invalid_row_harms_nothing() -> None:
    rows = [A, instrument(2, "A", lot_size=-1)]
    assert validate_instruments(rows) == [A]


# --- transform ---------------------------------------------------------------------------------


def test_transform_instruments_gives_all_rows_one_moment_and_every_column() -> None:
    before = datetime.now()
    rows = transform_instruments([A, {**B, "line_number": 3, "last_price": 1}])
    assert {row["last_updated"] for row in rows} == {row["created_at"] for row in rows}
    (moment,) = {row["last_updated"] for row in rows}
    assert before <= moment <= datetime.now()
    columns = {*INSTRUMENT_TABLE.column_names, "last_updated", "created_at"}
    assert [set(row) for row in rows] == [columns, columns]
    assert [{k: row[k] for k in A} for row in rows] == [A, B]


def test_transform_instruments_of_an_empty_list_is_empty() -> None:
    assert transform_instruments([]) == []


def test_transform_instrument_stores_zero_as_zero_and_blank_as_none() -> None:
    stored = transform_instrument({**A, "strike": "0", "tick_size": "", "lot_size": 0})
    assert (stored["strike"], stored["tick_size"], stored["lot_size"]) == (Decimal(0), None, 0)


# --- summary and list of rejects ---------------------------------------------------------------


def test_describe_has_every_figure() -> None:
    figures = Figures(
        fetched=12_345,
        left_out=Counter({"NCO": 2, "BCD": 1}),
        rejected=[RejectedRow(7, "lot_size: expected a whole number, got 'x'", ["1", "x"])],
        stored=12_341,
        merge=MergeResult(inserted=11_000, updated=1_341, superseded=60, changed=341),
        counts={
            "exchange": Counter({"NSE": 12_000, "BSE": 341}),
            "instrument_type": Counter({"EQ": 12_340, None: 1}),
        },
    )
    figures.changes = Counter({"listed": 1_000, "gone": 83})
    run = make_run(figures, durations={"fetch instruments": 1.234, "store": 0.5})

    text = describe(run)

    lines = text.splitlines()
    assert lines[0] == "Stored 12,341 instruments in kite_instrument_master"
    assert [line.rsplit(maxsplit=1) for line in lines[2:10]] == [
        ["fetched", "12,345"],
        ["left out", "3"],
        ["rejected", "1"],
        ["inserted", "11,000"],
        ["updated", "1,341"],
        ["  changed", "341"],
        ["  unchanged", "1,000"],
        ["superseded", "60"],
    ]
    assert "left out by parameters.exchanges: NCO 2, BCD 1" in lines
    assert "  line 7: lot_size: expected a whole number, got 'x': '1,x'" in lines
    table = [line.split() for line in lines]
    assert ["exchange", "rows", "instrument_type", "rows"] in table
    assert ["NSE", "12,000", "EQ", "12,340"] in table
    assert ["BSE", "341", "-", "1"] in table
    assert lines[-1] == "seconds: fetch instruments 1.23, store 0.50"
    assert max(map(len, lines)) <= 80
    summary = summarize(run)
    assert lines == [*summary.splitlines(), "", lines[-1]]  # the console has the seconds already
    assert summary.counts == "12,341 stored, 11,000 new, 1,083 changes, 1 rejected"


@pytest.mark.parametrize(
    ("given", "dry_run", "counts"),
    [
        pytest.param({}, False, "0 stored", id="nothing came"),
        pytest.param({"stored": 5}, True, "5 would be stored", id="database away"),
        pytest.param(
            {"stored": 3, "merge": MergeResult(1, 2), "changes": Counter(listed=1)},
            True,
            "3 would be stored, 1 new, 1 change",
            id="dry run",
        ),
        pytest.param(
            {"stored": 3, "merge": MergeResult(3, 0)}, False, "3 stored, all new", id="first list"
        ),
        pytest.param(
            {"stored": 3, "merge": MergeResult(0, 3), "changes": Counter()},
            False,
            "3 stored, 0 new, 0 changes",
            id="same list",
        ),
    ],
)
def test_summary_in_few_words(given: dict[str, Any], dry_run: bool, counts: str) -> None:
    run = make_run(Figures(**given), options=RunOptions(dry_run=dry_run))
    assert summarize(run).counts == counts


def test_describe_of_a_run_that_stored_nothing_says_so() -> None:
    assert describe(make_run(Figures(fetched=5))).startswith("Nothing was stored\n")


def test_describe_rejects_counts_by_reason_and_shows_the_first_five() -> None:
    rejected = [RejectedRow(n, f"lot_size: expected this, got '{n}'", ["x"]) for n in range(2, 9)]
    rejected.append(RejectedRow(9, "not UTF-8", ["y" * 500]))
    run = make_run(Figures(rejected=rejected), rejects_file=Path("logs/rejected.csv"))

    text = describe_rejects(run)

    lines = text.splitlines()
    assert lines[0].startswith("rejected 8 rows:")
    assert [line.split() for line in lines[1:3]] == [
        ["7", "lot_size:", "expected", "this"],
        ["1", "not", "UTF-8"],
    ]
    shown = [line.split(":")[0] for line in lines if line.startswith("  line ")]
    assert shown == [f"  line {number}" for number in range(2, 7)]
    assert lines[-1].endswith("all of them: logs/rejected.csv")


def test_write_rejected_rows_keeps_all_of_them_exactly(tmp_path: Path) -> None:
    rows = [
        RejectedRow(2, "not UTF-8", ["5", 'A "B", C', "\N{REPLACEMENT CHARACTER}\x1b"]),
        RejectedRow(None, "strike: required", []),
    ]

    path = write_rejected_rows(rows, tmp_path / "made" / "logs", MOMENT)

    assert path is not None
    assert path.parent == tmp_path / "made" / "logs"
    assert read_rejects(path) == [
        ["line_number", "reason", "row"],
        ["2", "not UTF-8", '5,"A ""B"", C",\N{REPLACEMENT CHARACTER}\x1b'],
        ["", "strike: required", ""],
    ]


def test_write_rejected_rows_when_a_row_holds_nul(tmp_path: Path) -> None:
    rows = [RejectedRow(2, "lot_size: expected a whole number", ["1", "\0", "a\0b"])]

    path = write_rejected_rows(rows, tmp_path, MOMENT)

    assert path is not None
    assert read_rejects(path)[1:] == [["2", "lot_size: expected a whole number", "1,\0,a\0b"]]


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r"], ids=repr)
def test_write_rejected_rows_puts_an_apostrophe_before_a_formula(tmp_path: Path, sign: str) -> None:
    """And before what looks as if it had one already: taking one away gives the row back."""
    formula = f"{sign}cmd|' /C calc'!A0"
    cells = [formula, f"'{formula}", f"''{formula}", f"a{formula}", f" {formula}", "'a", "'", ""]
    rows = [RejectedRow(number, "x", [cell, "1"]) for number, cell in enumerate(cells, 2)]

    path = write_rejected_rows(rows, tmp_path, MOMENT)

    assert path is not None
    written = [row[2] for row in read_rejects(path)[1:]]
    assert not [cell for cell in written if cell.startswith(sign)]
    undone = [re.sub(r"^'('*[=+\-@\t\r])", r"\1", cell) for cell in written]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([cell, "1"] for cell in cells)
    assert "".join(f"{line}\n" for line in undone) == text.getvalue()


def test_write_rejected_rows_is_private_and_masks_nothing(tmp_path: Path) -> None:
    register_secrets(["12345678"])
    previous = os.umask(0)
    try:
        path = write_rejected_rows(
            [RejectedRow(2, "x", ["A12345678"])], tmp_path / "a" / "b", MOMENT
        )
    finally:
        os.umask(previous)
    assert path is not None
    assert read_rejects(path)[1] == ["2", "x", "A12345678"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in path.parents[:2]} == {0o700}


@pytest.mark.parametrize("target", ["there", "not there"])
def test_write_rejected_rows_follows_no_link_and_overwrites_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, target: str
) -> None:
    (tmp_path / "there").write_text("of another")
    link = tmp_path / "rejected_rows_2026-08-03_083000_000000.csv"
    link.symlink_to(tmp_path / target)

    assert write_rejected_rows([RejectedRow(2, "x", ["y"])], tmp_path, MOMENT) is None

    (warning,) = caplog.records
    assert "cannot be written" in warning.getMessage()
    assert (tmp_path / "there").read_text() == "of another"
    assert link.is_symlink()
    assert not (tmp_path / "not there").exists()


def test_write_rejected_rows_where_no_file_can_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").write_text("a file is in the way of the folder")

    path = write_rejected_rows([RejectedRow(2, "x", ["y"])], tmp_path / "logs", MOMENT)

    assert path is None
    (warning,) = caplog.records
    assert "cannot be written" in warning.getMessage()


# --- the whole DAG as a dry run: the real client, a real server, no database -------------------


@pytest.fixture
def dry_run_environment(kite: KiteServer, monkeypatch: pytest.MonkeyPatch) -> KiteServer:
    """The local server, and a database that nobody can reach."""
    for name, value in {
        "KITE_API_KEY": kite.api_key,
        "KITE_API_SECRET": kite.api_secret,
        "KITE_ACCESS_TOKEN": kite.access_token,
        "KITE_API_ROOT": kite.root,
        "DB_HOST": "127.0.0.1",
        "DB_PORT": "1",
        "DB_USER": "nobody",
        "DB_PASSWORD": "no_password",
        "RETRY_DELAY_SECONDS": "0",
    }.items():
        monkeypatch.setenv(name, value)
    return kite


def dry_run() -> str:
    return import_instruments_from_kite(dry_run=True)


def fail_dry_run(cause: type[Exception], match: str) -> None:
    with pytest.raises(DAGExecutionError, match=match) as caught:
        dry_run()
    assert type(caught.value.__cause__) is cause


def test_dry_run_needs_no_database_and_tells_what_would_be_stored(
    dry_run_environment: KiteServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rows = to_csv([A, instrument(5, "INFY", "NSE", instrument_type="EQ")])
    dry_run_environment.dump = rows + b"7,,,,,,,,,,,BSE\n6,2,BAD,N,0,,,,many,EQ,NSE,NSE\n"

    message = dry_run()

    assert message.startswith(
        "Dry run: 2 instruments would be stored in moneytree.kite_instrument_master\n"
    )
    figures = [line.split() for line in message.splitlines()[2:5]]
    assert figures == [["fetched", "4"], ["left", "out", "0"], ["rejected", "2"]]
    assert "inserted" not in message
    (logged,) = [m for m in caplog.messages if m.startswith(f"DAG 1 completed: {message}")]
    table = [line.split() for line in message.splitlines()]
    headings = table.index(["exchange", "rows", "instrument_type", "rows"])
    assert table[headings + 1 : headings + 3] == [["NFO", "1", "CE", "1"], ["NSE", "1", "EQ", "1"]]
    (path,) = (tmp_path / "logs").glob("rejected_rows_*.csv")
    assert str(path) in message
    assert [row[:2] for row in read_rejects(path)[1:]] == [
        ["4", "tradingsymbol: required, but missing"],  # found by the second look at the list
        ["5", "lot_size: expected a whole number, got 'many'"],
    ]
    seconds = " ".join(logged.split("seconds: ")[1].split())
    assert [part.rsplit(" ", 1)[0] for part in seconds.split(", ")] == [
        "load configuration",
        "authenticate",
        "fetch instruments",
        "validate",
    ]


def test_run_without_rejects_writes_no_list_of_them(
    dry_run_environment: KiteServer, tmp_path: Path
) -> None:
    dry_run_environment.dump = to_csv([A])
    assert "all of them" not in dry_run()
    assert list(tmp_path.rglob("rejected_rows_*")) == []


def test_run_when_the_dump_has_a_header_alone(dry_run_environment: KiteServer) -> None:
    fail_dry_run(ValidationError, "list is empty .* The table stays as it is")


@pytest.mark.parametrize(
    ("good", "bad", "fails"), [(2, 2, False), (2, 3, True), (0, 3, True), (1, 0, False)]
)
def test_run_when_most_rows_are_rejected(
    good: int, bad: int, fails: bool, dry_run_environment: KiteServer, tmp_path: Path
) -> None:
    rows = to_csv([instrument(i, f"S{i}") for i in range(1, good + 1)])
    dry_run_environment.dump = rows + b"x,1\n" * bad

    if fails:
        fail_dry_run(
            ValidationError, f"{bad} of {good + bad} rows were rejected: .* stays as it is"
        )
        assert len(list((tmp_path / "logs").glob("rejected_rows_*.csv"))) == 1
    else:
        assert f"Dry run: {good} instruments" in dry_run()


def test_run_when_no_row_is_valid_keeps_the_list_of_rejects(
    dry_run_environment: KiteServer, tmp_path: Path
) -> None:
    dry_run_environment.dump = to_csv([{**A, "tradingsymbol": ""}])
    fail_dry_run(ValidationError, "None of the 1 instruments is valid")
    (path,) = (tmp_path / "logs").glob("rejected_rows_*.csv")
    assert len(read_rejects(path)) == 2


def test_run_with_a_list_of_exchanges_stores_those_and_counts_the_others(
    dry_run_environment: KiteServer,
) -> None:
    rows = [instrument(i, f"S{i}", e) for i, e in enumerate(["NSE", "NCO", "NSE", "BSE"], 1)]
    dry_run_environment.dump = to_csv(rows)

    with override_config("the test", {"parameters": {"exchanges": ["nse"]}}):
        message = dry_run()

    assert "Dry run: 2 instruments" in message
    assert "left out by parameters.exchanges: NCO 1, BSE 1" in message


def test_run_when_the_dump_has_none_of_the_listed_exchanges(
    dry_run_environment: KiteServer,
) -> None:
    dry_run_environment.dump = to_csv([A])
    with override_config("the test", {"parameters": {"exchanges": ["MCX"]}}):
        fail_dry_run(ValidationError, "has no row that parameters.exchanges names")


def test_run_with_a_dead_token_fails_with_the_error_as_cause(
    dry_run_environment: KiteServer,
) -> None:
    dry_run_environment.expire_token()
    fail_dry_run(AuthenticationError, "6 AM IST")
    assert [request.path for request in dry_run_environment.requests] == ["/user/profile"]


def test_run_without_configuration_fails_before_any_request(
    dry_run_environment: KiteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KITE_ACCESS_TOKEN")
    monkeypatch.setenv("DB_USER", "")
    fail_dry_run(ConfigurationError, "config.json: not set, or empty: KITE_ACCESS_TOKEN, DB_USER")
    assert dry_run_environment.requests == []


def test_run_that_ends_in_an_unforeseen_error_logs_how_far_it_came(
    dry_run_environment: KiteServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    def fail(instruments: list[dict[str, Any]]) -> list[dict[str, Any]]:
        raise ZeroDivisionError("a fault of the program")

    monkeypatch.setattr(import_instruments, "transform_instruments", fail)
    dry_run_environment.dump = to_csv([A])
    with pytest.raises(DAGExecutionError, match="unexpected ZeroDivisionError: a fault") as caught:
        dry_run()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert any(m.startswith("DAG 1 did not complete: Nothing") for m in caplog.messages)


def test_run_that_fails_logs_how_far_it_came(
    dry_run_environment: KiteServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    dry_run_environment.dump = to_csv([A]) + b"x\n" * 3
    fail_dry_run(ValidationError, "3 of 4 rows were rejected")
    (summary,) = [m for m in caplog.messages if m.startswith("DAG 1 did not complete: Nothing")]
    assert "fetched              4" in summary
    assert "validate" in summary.split("seconds: ")[1]


def test_summary_breaks_no_name_of_an_exchange() -> None:
    run = make_run()
    names = [f"AB-CD-EF-GH-NAME{number}" for number in range(100, 140)]
    run.figures.left_out.update(dict.fromkeys(names, 1))
    shown = describe(run)
    assert max(map(len, shown.splitlines())) <= 80
    assert [name for name in names if name not in shown] == []
