"""`find` and `chain` as they are typed, and the functions of lookup.py, on a real list."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dag_1_import_instruments_from_kite import lookup, lookup_commands
from dag_1_import_instruments_from_kite.import_instruments import (
    transform_instruments,
    validate_instruments,
)
from sandbox.dump_generator import generate_dump
from shared import console
from shared.calendar import IST
from shared.clock import use_clock
from shared.exceptions import NotListedError
from shared.utils.db_manager import DatabaseManager
from shared.utils.kite_csv import parse_dump
from tests.change_model import Days
from tests.command_line import CommandLine, Result
from tests.conftest import NO_WAIT, Project, Server, environment_for
from tests.documents import Block, blocks_of
from tests.instruments import instrument, to_csv

NOON = datetime(2026, 8, 3, 12, tzinfo=IST)  # of the sandbox's first day

# What a trader types, and what is meant by it.
MEANT = {
    "nifty 25000 ce": "NFO:NIFTY2680425000CE",
    "25000 NIFTY call": "NFO:NIFTY2680425000CE",
    "nifty 25,000 pe": "NFO:NIFTY2680425000PE",
    "nifty 25000pe aug": "NFO:NIFTY2680425000PE",
    "256265": "NSE:NIFTY 50",
    "infy": "NSE:INFY",
    "infosys": "NSE:INFY",
    "INFY bse": "BSE:INFY",
    "bse:infy": "BSE:INFY",
    "infy fut": "NFO:INFY26AUGFUT",
    "infy fut bfo": "BFO:INFY26AUGFUT",
    "banknifty sep fut": "NFO:BANKNIFTY26SEPFUT",
    "fut sep bank nifty": "NFO:BANKNIFTY26SEPFUT",
    "nifty 50": "NSE:NIFTY 50",
    "nifty50": "NSE:NIFTY 50",
    "nifty": "NSE:NIFTY 50",
    "nifty bank": "NSE:NIFTY BANK",
    "banknifty": "NSE:NIFTY BANK",
    "finnifty index": "NSE:NIFTY FIN SERVICE",
    "nifty next 50": "NSE:NIFTY NEXT 50",
    "nifty it": "NSE:NIFTY IT",
    "india vix": "NSE:INDIA VIX",
    "sensex": "BSE:SENSEX",
    "sensex 80000 put": "BFO:SENSEX2680680000PE",
    "sensex 13 aug 80000": "BFO:SENSEX2681380000CE",
    "bse": "NSE:BSE",
    "mcx": "NSE:MCX",
    "mcx:gold fut": "MCX:GOLD26AUGFUT",
    "gold fut": "MCX:GOLD26AUGFUT",
    "gold oct fut": "MCX:GOLD26OCTFUT",
    "crude oil fut": "MCX:CRUDEOIL26AUGFUT",
    "usdinr aug fut": "CDS:USDINR26AUGFUT",
    "usdinr 85.5 ce": "CDS:USDINR2680785.5CE",
    "hdfc bank": "NSE:HDFCBANK",
    "hdfc bank sep fut": "NFO:HDFCBANK26SEPFUT",
    "relia": "NSE:RELIANCE",
    "reliance oct 1400 ce": "NFO:RELIANCE26OCT1400CE",
    "m&m": "NSE:M&M",
    "bajaj auto": "NSE:BAJAJ-AUTO",
    "sbi": "NSE:SBIN",
    "tcs 25aug opt": "NFO:TCS26AUG2300CE",
    "nifty 25aug26 24500": "NFO:NIFTY26AUG24500CE",
    "nifty 2026-08-11 24500": "NFO:NIFTY2681124500CE",
    "nifty 26sep fut": "NFO:NIFTY26SEPFUT",
    "NIFTY2690124500CE": "NFO:NIFTY2690124500CE",
    "nifty26aug24500ce": "NFO:NIFTY26AUG24500CE",
    "gift nifty": "NSEIX:GIFT NIFTY",
}


@pytest.fixture(scope="module")
def full(server: Server, module_database: str) -> Iterator[Days]:
    """The sandbox's list of its first day, whole."""
    connection = server.connect(module_database)
    with DatabaseManager(server.config(module_database), retry=NO_WAIT) as manager:
        days = Days(manager, connection)
        days.load(transform_instruments(parse_dump(generate_dump(0)).rows))
        connection.cursor().execute("VACUUM ANALYZE kite_instrument_master")
        yield days
    connection.close()


@pytest.fixture(autouse=True)
def noon() -> Iterator[None]:
    with use_clock(lambda: NOON):
        yield


@pytest.mark.parametrize("phrase", MEANT)
def test_first_row_is_what_a_trader_means(full: Days, phrase: str) -> None:
    found = lookup.find(full.manager, phrase, limit=3)
    assert [f"{row['exchange']}:{row['tradingsymbol']}" for row in found][:1] == [MEANT[phrase]]


def test_other_underlyings_come_after_the_exact_one(full: Days) -> None:
    names = [row["name"] for row in lookup.find(full.manager, "nifty 25000 ce", limit=None)]
    assert "FINNIFTY" in names
    assert names == sorted(names, key=lambda name: name != "NIFTY")


def test_options_come_by_exchange_and_expiry(full: Days) -> None:
    rows = lookup.find(full.manager, "nifty 25000 ce nfo")
    days = [row["expiry"] for row in rows if row["name"] == "NIFTY"]
    assert len(days) > 3
    assert days == sorted(days)


def test_row_has_the_values_of_the_list(full: Days) -> None:
    (row,) = lookup.find(full.manager, "NIFTY26AUG24500CE nfo nifty", limit=1)
    [stored] = full.query(
        "SELECT * FROM kite_instrument_master WHERE exchange = 'NFO'"
        " AND tradingsymbol = 'NIFTY26AUG24500CE'"
    )
    assert tuple(row) == lookup.COLUMNS
    assert list(row.values())[1:] == list(stored[:11])
    [(identity,)] = full.query(
        "SELECT instrument_id FROM kite_instrument_today WHERE instrument_token = %s"
        " AND exchange = 'NFO'",
        row["instrument_token"],
    )
    assert row["instrument_id"] == identity
    assert isinstance(row["strike"], Decimal)
    assert str(row["strike"]) == "24500"


def test_how_many_more_there_are(full: Days) -> None:
    found = lookup.find(full.manager, "nifty ce", limit=5)
    [(number,)] = full.query(
        "SELECT count(*) FROM kite_instrument_today WHERE instrument_type = 'CE'"
        " AND (name LIKE '%NIFTY%' OR tradingsymbol LIKE '%NIFTY%')"
    )
    assert (len(found), found.total) == (5, number)
    assert len(lookup.find(full.manager, "nifty ce", limit=None)) == number


def test_no_word(full: Days) -> None:
    with pytest.raises(ValueError, match="words: expected 1 to 30, got 0"):
        lookup.find(full.manager, " ")


def test_token(full: Days) -> None:
    db = full.manager
    assert (
        lookup.token(db, "NSE:NIFTY 50") == lookup.token(db, "nifty 50", exchange="nse") == 256265
    )
    assert lookup.token(db, "NSE:NOT LISTED") is None
    assert lookup.token(db, "NIFTY 50") == 256265  # on one exchange alone
    with pytest.raises(ValueError, match="symbol: expected BSE:INFY or NSE:INFY, got INFY"):
        lookup.token(db, "INFY")


def test_expiries_are_those_of_the_view(full: Days) -> None:
    stored = full.query(
        "SELECT exchange, expiry, futures, calls, puts FROM kite_expiry"
        " WHERE underlying = 'NIFTY' ORDER BY exchange, expiry"
    )
    found = lookup.expiries(full.manager, "nifty")
    assert [tuple(row.values()) for row in found] == stored
    assert list(found[0]) == ["exchange", "expiry", "futures", "calls", "puts"]
    only = lookup.expiries(full.manager, "NIFTY 50", exchange="nfo")
    assert only == [row for row in found if row["exchange"] == "NFO"]
    assert lookup.expiries(full.manager, "NOTHING") == []


def test_chain_is_that_of_the_view(full: Days) -> None:
    chain = lookup.chain(full.manager, "nifty", expiry=date(2026, 8, 25))
    stored = full.query(
        "SELECT strike, call_symbol, call_token, put_symbol, put_token, lot_size"
        " FROM kite_option_chain WHERE underlying = 'NIFTY' AND exchange = 'NFO'"
        " AND expiry = '2026-08-25' ORDER BY strike"
    )
    assert [tuple(row.values()) for row in chain["strikes"]] == stored
    assert (chain["underlying"], chain["exchange"], chain["expiry"]) == (
        *("NIFTY", "NFO"),
        date(2026, 8, 25),
    )
    assert chain["exchanges"] == ["NFO", "NSEIX"]
    assert date(2026, 8, 4) in chain["expiries"]


@pytest.mark.parametrize(
    ("today", "expiry"),
    [
        pytest.param(date(2026, 8, 4), date(2026, 8, 4), id="on the day itself"),
        pytest.param(date(2026, 8, 5), date(2026, 8, 11), id="on the day after"),
        pytest.param(date(2099, 1, 1), date(2026, 8, 4), id="all are past"),
    ],
)
def test_expiry_by_default(full: Days, today: date, expiry: date) -> None:
    with use_clock(lambda: datetime(today.year, today.month, today.day, 9, tzinfo=IST)):
        assert lookup.chain(full.manager, "NIFTY")["expiry"] == expiry
        assert lookup.chain(full.manager, "Nifty Bank")["underlying"] == "BANKNIFTY"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"underlying": "NIFTI"}, r"Nothing called NIFTI has options\. Did you mean NIFTY or "),
        ({"underlying": "INDIA VIX"}, r"Nothing called INDIA VIX has options\."),
        (
            {"underlying": "NIFTY", "exchange": "BFO"},
            r"NIFTY has no options on BFO; there are some on NFO, NSEIX\.",
        ),
        (
            {"underlying": "NIFTY", "expiry": date(2026, 8, 26)},
            r"NIFTY on NFO has no options that expire on 2026-08-26; the nearest expiries are "
            r"2026-08-11, 2026-08-18, 2026-08-25, 2026-09-01, 2026-09-08\.",
        ),
    ],
    ids=["name", "no options", "exchange", "expiry"],
)
def test_chain_that_is_not_there(full: Days, given: dict[str, Any], message: str) -> None:
    with pytest.raises(NotListedError, match=message):
        lookup.chain(full.manager, **given)


def test_chain_where_two_contracts_share_a_strike(server: Server, database: str) -> None:
    """As the view has it: the smallest token's, and a symbol with another ending by itself."""
    connection = server.connect(database)
    rows = [
        instrument(250, "ABC126DEC100CE", lot_size=20),
        instrument(299, "ABC26DEC100CE", lot_size=10),
        instrument(300, "ABC26DEC100PE", lot_size=10, instrument_type="PE"),
        instrument(6, "MM", lot_size=4, strike=Decimal(1)),
        instrument(7, "MMCE", lot_size=3, strike=Decimal(1)),
    ]
    with DatabaseManager(server.config(database), retry=NO_WAIT) as manager:
        days = Days(manager, connection)
        days.load(rows)
        found = lookup.chain(manager, "hindpetro")["strikes"]
        assert [tuple(row.values()) for row in found] == days.query(
            "SELECT strike, call_symbol, call_token, put_symbol, put_token, lot_size"
            " FROM kite_option_chain ORDER BY strike"
        )
    connection.close()


@pytest.mark.parametrize("name", ["dumps/nfo_2019-05.csv.gz", "dumps/nfo_2025-07.csv.gz"])
def test_every_chain_of_a_real_list_is_that_of_the_view(
    server: Server, database: str, real_dump: Callable[[str], bytes], name: str
) -> None:
    rows = transform_instruments(validate_instruments(parse_dump(real_dump(name)).rows))
    connection = server.connect(database)
    with DatabaseManager(server.config(database), retry=NO_WAIT) as manager:
        days = Days(manager, connection)
        days.load(rows)
        places = days.query(
            "SELECT DISTINCT underlying, expiry FROM kite_option_chain ORDER BY 1, 2"
        )[::7]
        for underlying, expiry in places:
            chain = lookup.chain(manager, underlying, expiry=expiry)
            assert [tuple(row.values()) for row in chain["strikes"]] == days.query(
                "SELECT strike, call_symbol, call_token, put_symbol, put_token, lot_size"
                " FROM kite_option_chain WHERE underlying = %s AND expiry = %s ORDER BY strike",
                underlying,
                expiry,
            )
    connection.close()


# The commands

SHARE = {"instrument_type": "EQ", "expiry": None, "strike": Decimal(0), "lot_size": 1}
LIST = [
    instrument(408065, "INFY", "NSE", name="INFOSYS", **{**SHARE, "segment": "NSE"}),
    *(
        instrument(
            1000 + 2 * number + (kind == "PE"),
            f"INFY26AUG{1000 + number}{kind}",
            name="INFY",
            strike=Decimal(1000 + number),
            instrument_type=kind,
            lot_size=400,
        )
        for number in range(40)
        for kind in ("CE", "PE")
    ),
    instrument(9, "INFY26SEP1000CE", name="INFY", strike=Decimal(1000), expiry=date(2026, 9, 24)),
    instrument(
        *(10, "INFY26AUG1000PE", "BFO"),
        name="INFY",
        strike=Decimal(1000),
        instrument_type="PE",
    ),
]


@pytest.fixture
def listed(cli: CommandLine) -> CommandLine:
    assert cli.load(to_csv(LIST)).status == 0
    cli.now = NOON
    return cli


def table(result: Result) -> list[list[str]]:
    """The cells of the rows of a table in ASCII."""
    lines = [line for line in result.stdout.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_find(listed: CommandLine) -> None:
    result = listed.run("find", "infy", "1001", "ce")
    assert result.status == 0
    assert table(result) == [
        ["NFO:INFY26AUG1001CE", "1002", "CE", "2026-08-27", "1001", "400", "INFY"]
    ]
    assert result.stderr == ""


def test_find_says_how_many_more_there_are(listed: CommandLine) -> None:
    result = listed.run("find", "infy")
    rows = table(result)
    assert len(rows) == 20
    assert rows[0] == ["NSE:INFY", "408065", "EQ", "", "", "1", "INFOSYS"]
    assert result.stdout.endswith("\n63 more: further words narrow it, --csv gives all.\n")


def test_find_nothing(listed: CommandLine) -> None:
    result = listed.run("find", "infy", "zzz", "o'hare")
    assert (result.status, result.stderr) == (1, "")
    assert result.stdout == "Nothing is found by 'zzz' or by \"o'hare\".\n"
    result = listed.run("find", "408065", "ce")
    assert result.status == 1
    assert result.stdout == (
        "Nothing has all of these words; each of them has matches by itself.\n"
    )


def test_find_as_json_gives_all(listed: CommandLine) -> None:
    document = json.loads(listed.run("find", "infy", "--json").stdout)
    assert (document["total"], len(document["instruments"])) == (83, 83)
    assert document["instruments"][0]["instrument_token"] == 408065
    result = listed.run("find", "zzz", "--json")
    assert result.status == 1
    assert json.loads(result.stdout) == {"total": 0, "unmatched": ["zzz"], "instruments": []}


def test_find_as_csv_gives_all(listed: CommandLine) -> None:
    rows = list(csv.DictReader(io.StringIO(listed.run("find", "infy", "--csv").stdout)))
    assert len(rows) == 83
    assert tuple(rows[0]) == lookup.COLUMNS
    assert (rows[0]["tradingsymbol"], rows[0]["expiry"]) == ("INFY", "")
    assert listed.run("find", "zzz", "--csv").stdout == f"{','.join(lookup.COLUMNS)}\n"


def test_options_may_stand_between_words(listed: CommandLine) -> None:
    result = listed.run("find", "infy", "--csv", "1001", "ce")
    assert len(result.stdout.splitlines()) == 2


@pytest.mark.parametrize(
    "words",
    [
        ("find",),
        ("find", " "),
        ("find", "x", "--json", "--csv"),
        ("find", "x", "--as-of", "yesterday"),
        ("chain",),
        ("chain", "infy", "--around", "nan"),
        ("chain", "infy", "--expiry", "aug"),
    ],
    ids=" ".join,
)
def test_bad_usage(cli: CommandLine, words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.run(*words)


def test_foreign_text_steers_no_terminal(cli: CommandLine) -> None:
    row = instrument(1, "A\x1b[31mB", "NSE", name="X\x9b2J", **{**SHARE, "segment": "NSE"})
    cli.load(to_csv([row]))
    result = cli.run("find", "a")
    assert "NSE:A\\x1b[31mB" in result.stdout
    assert not {"\x1b", "\x9b"} & set(result.stdout)
    assert cli.run("find", "\x1b[2J\n").stdout == "Nothing is found by '\\x1b[2J'.\n"
    assert json.loads(cli.run("find", "a", "--json").stdout)["instruments"][0]["name"] == "X\x9b2J"


def test_chain(listed: CommandLine) -> None:
    result = listed.run("chain", "infy")
    assert result.status == 0
    assert result.stdout.startswith("INFY on NFO, Thu 27 Aug 2026, lot 400\n\n")
    rows = table(result)
    assert len(rows) == 20
    assert rows[10] == ["INFY26AUG1020CE", "1040", "1020", "1041", "INFY26AUG1020PE"]
    assert result.stdout.endswith(
        "\n\n10 strikes below, 10 above: --around PRICE, or --csv for all.\n"
        "Other expiries: 2026-09-24 (--expiry).\n"
        "Also on BFO (--exchange).\n"
    )


@pytest.mark.parametrize(
    ("price", "first", "last"),
    [("1,012.3", "1002", "1021"), ("0", "1000", "1019"), ("9999", "1020", "1039")],
)
def test_chain_around_a_price(listed: CommandLine, price: str, first: str, last: str) -> None:
    rows = table(listed.run("chain", "infy", "--around", price))
    assert (rows[0][2], rows[-1][2], len(rows)) == (first, last, 20)


def test_chain_where_a_side_is_not_listed(listed: CommandLine) -> None:
    result = listed.run("chain", "infy", "--exchange", "bfo")
    assert table(result) == [["", "", "1000", "10", "INFY26AUG1000PE"]]
    assert "strikes below" not in result.stdout


def test_chain_as_data(listed: CommandLine) -> None:
    document = json.loads(listed.run("chain", "infy", "--json").stdout)
    assert len(document["strikes"]) == 40
    assert document["expiry"] == "2026-08-27"
    rows = list(csv.reader(io.StringIO(listed.run("chain", "infy", "--csv").stdout)))
    assert rows[0] == list(lookup.OPTION_COLUMNS)
    assert rows[1] == ["1000", "INFY26AUG1000CE", "1000", "INFY26AUG1000PE", "1001", "400"]
    assert len(rows) == 41


def test_chain_that_is_not_listed(listed: CommandLine) -> None:
    result = listed.run("chain", "infi")
    assert (result.status, result.stderr) == (1, "")
    assert result.stdout == "Nothing called infi has options. Did you mean INFY?\n"
    result = listed.run("chain", "infi", "--csv")
    assert (result.status, result.stdout) == (1, "")
    assert "Nothing called infi has options." in result.stderr


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize("command", ["find infy", "find infy aug", "chain infy"])
def test_no_cell_is_folded(
    listed: CommandLine, monkeypatch: pytest.MonkeyPatch, command: str, width: int
) -> None:
    monkeypatch.setattr(lookup_commands, "console_width", lambda: width)
    lines = listed.run(*command.split()).stdout.splitlines()
    assert max(len(line) for line in lines if line.startswith(("|", "+"))) <= width


def test_names_of_bonds_stay_in_a_narrow_terminal(
    full: Days, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lookup_commands, "console_width", lambda: 60)
    lookup_commands._say_found(rows := lookup.find(full.manager, "mfl"), rows.total)
    lines = capsys.readouterr().out.splitlines()
    header = next(line for line in lines if "instrument" in line)
    assert header.replace("|", " ").split() == ["instrument", "token", "name"]
    assert max(map(len, lines)) <= 60
    assert any("..." in line for line in lines)


def test_call_and_put_are_one_symbol_in_a_narrow_terminal(
    listed: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup_commands, "console_width", lambda: 40)
    rows = table(listed.run("chain", "infy", "--around", "1000"))
    assert rows[0] == ["1000", "1000", "1001", "INFY26AUG1000CE/PE"]
    rows = table(listed.run("chain", "infy", "--exchange", "bfo"))
    assert rows[0] == ["", "1000", "10", "INFY26AUG1000PE"]


def test_database_without_a_list(cli: CommandLine, database: str) -> None:
    for command in ("find x", "chain x", "find x --json"):
        result = cli.run(*command.split())
        assert result.status == 1
        said = result.stdout + result.stderr
        assert re.search(
            r"There is no instrument list yet\. It is loaded by: .*--dag 1$", said, re.M
        )


def test_database_that_is_away(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "wrong")
    result = cli.run("find", "x")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr.startswith("ERROR: ")
    monkeypatch.setenv("DB_USER", "")
    assert cli.run("find", "x").status == 2


def test_reader_needs_the_view_alone(listed: CommandLine, as_role: Callable[..., str]) -> None:
    as_role("GRANT SELECT ON kite_instrument_today TO {role}")
    assert listed.run("find", "infy").status == 0
    assert listed.run("chain", "infy").status == 0


def test_in_a_pipe_lines_are_whole_and_a_reader_may_go(
    configured_project: Project, kite: Any
) -> None:
    kite.dump = to_csv(LIST)
    assert configured_project.run("--dag", "1").returncode == 0
    for command in ("find infy", "chain infy --expiry 2026-08-27"):
        words = shlex.join(configured_project.command(*command.split()))
        result = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {words} | head -3"],
            cwd=configured_project.folder,
            env=configured_project.environment,
            capture_output=True,
            text=True,
        )
        assert (result.returncode, result.stderr) == (0, "")
        assert "INFY" in result.stdout


# The list of another day


@pytest.fixture
def earlier(listed: CommandLine) -> CommandLine:
    """The list of 3 August, as if loaded then; a contract that left it on the next day."""
    listed.now = None
    assert listed.load(to_csv(LIST[:1] + LIST[3:])).status == 0
    listed.query(
        "UPDATE kite_instrument_history SET valid_from = '2026-08-03 08:30+05:30',"
        " valid_to = CASE WHEN valid_to IS NOT NULL THEN '2026-08-04 08:30+05:30'::timestamptz END"
    )
    listed.now = NOON
    return listed


def test_list_of_another_day(earlier: CommandLine) -> None:
    for day, symbols in (("2026-08-03", ["INFY26AUG1000CE"]), ("2026-08-04", [])):
        result = earlier.run("find", "infy", "1000", "ce", "aug", "--as-of", day, "--json")
        rows = json.loads(result.stdout)["instruments"]
        assert [row["tradingsymbol"] for row in rows] == symbols
        assert all(row["instrument_id"] for row in rows)
    for day, strikes in (("2026-08-03", 40), ("2026-08-04", 39)):
        result = earlier.run("chain", "infy", "--as-of", day, "--json")
        assert len(json.loads(result.stdout)["strikes"]) == strikes
    assert len(earlier.run("chain", "infy", "--csv").stdout.splitlines()) == 40


def test_day_is_the_end_of_it(earlier: CommandLine) -> None:
    earlier.query(
        "UPDATE kite_instrument_history SET valid_to = '2026-08-04 00:00+05:30'"
        " WHERE valid_to IS NOT NULL"
    )
    assert earlier.run("find", "infy26aug1000ce", "--as-of", "2026-08-03").status == 0
    assert earlier.run("find", "infy26aug1000ce", "--as-of", "2026-08-04").status == 1


@pytest.mark.parametrize("command", ["find infy", "chain infy"])
def test_day_without_a_list(earlier: CommandLine, command: str) -> None:
    result = earlier.run(*command.split(), "--as-of", "2026-08-02")
    assert (result.status, result.stderr) == (1, "")
    assert result.stdout == "There is no list of 2026-08-02: the first is of 2026-08-03.\n"


def test_moment(earlier: CommandLine, server: Server, database: str) -> None:
    with DatabaseManager(server.config(database), retry=NO_WAIT) as db:
        moment = datetime(2026, 8, 4, 8, 29, tzinfo=IST)
        key = "NFO:INFY26AUG1000CE"
        assert lookup.token(db, key, as_of=moment) == 1000
        assert lookup.token(db, key, as_of=date(2026, 8, 3)) == 1000
        assert lookup.token(db, key, as_of=moment.replace(hour=9)) is None
        calls = [
            lookup.expiries(db, "INFY", exchange="NFO", as_of=at)[0]["calls"]
            for at in (moment, moment.replace(hour=9))
        ]
        assert calls == [40, 39]
        with pytest.raises(NotListedError):
            lookup.token(db, key, as_of=datetime(2026, 8, 3, 8, 29, tzinfo=IST))
        with pytest.raises(ValueError, match="as_of: expected a day, or a moment with a time zone"):
            lookup.find(db, "infy", as_of=moment.replace(tzinfo=None))


def test_lists_of_other_days_are_not_kept(listed: CommandLine) -> None:
    listed.query("DROP FUNCTION kite_instrument_as_of")
    result = listed.run("find", "infy", "--as-of", "2026-08-03")
    assert result.status == 1
    assert "no function kite_instrument_as_of" in result.stdout


# What docs/lookup.md shows


@pytest.fixture
def asked(
    full: Days, server: Server, module_database: str, kite: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration names the database with the whole list."""
    for name, value in environment_for(server, module_database, kite).items():
        monkeypatch.setenv(name, value)


SHOWN = [block for block in blocks_of("text") if block.document == "lookup.md"]


@pytest.mark.parametrize("block", SHOWN, ids=lambda block: block.text.splitlines()[0])
def test_output_in_the_documents_is_real(
    asked: None,
    block: Block,
    monkeypatch: pytest.MonkeyPatch,
    kite: Any,
    tmp_path: Path,
) -> None:
    line, _, shown = block.text.partition("\n")
    words = shlex.split(line.removeprefix("$ .venv/bin/python execute_dags.py "))
    monkeypatch.setattr(console, "_can_draw", lambda: True)
    said = CommandLine(kite, tmp_path, None, monkeypatch, now=NOON).run(*words).stdout
    assert [each.rstrip() for each in said.splitlines()] == shown.splitlines()


def test_python_in_the_documents_runs(asked: None, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = [block for block in blocks_of("python") if block.document == "lookup.md"]
    exec(block.text, {})
    first, *_, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\d+ 15 NIFTY2680425000CE 2026-08-04", first)
    assert last.startswith("NFO [")


def test_more_words_than_anybody_means(cli: CommandLine) -> None:
    result = cli.run("find", *map(str, range(3000)))
    assert result.status == 2
    assert "words: expected 1 to 30, got 3,000" in result.stderr


def test_function_of_somebody_elses_is_not_asked(listed: CommandLine) -> None:
    listed.query(
        "ALTER FUNCTION kite_instrument_as_of(timestamptz) RENAME TO ours;"
        "CREATE FUNCTION kite_instrument_as_of(timestamptz) RETURNS TABLE (mine INTEGER)"
        " LANGUAGE sql STABLE AS 'SELECT 7'"
    )
    try:
        result = listed.run("find", "infy", "--as-of", "2026-01-01")
    finally:
        listed.query(
            "DROP FUNCTION kite_instrument_as_of(timestamptz);"
            "ALTER FUNCTION ours(timestamptz) RENAME TO kite_instrument_as_of"
        )
    assert result.status == 1
    assert "there is no function kite_instrument_as_of" in result.stdout
