"""What each kind of setting takes, gives, and says when it takes not."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from shared.config import fields

# These are made anew for every value: `make mutation` switches a change on after the import.


def port(value: Any) -> int:
    return fields.integer(1, 65535)(value)


def count(value: Any) -> int:
    return fields.integer(1, fields.UNBOUNDED)(value)


def from_two(value: Any) -> int:
    return fields.integer(2, fields.UNBOUNDED)(value)


def seconds(value: Any) -> float:
    return fields.number(0.001, 3600)(value)


def level(value: Any) -> str:
    return fields.one_of(("DEBUG", "INFO"), upper=True)(value)


def exact(value: Any) -> str:
    return fields.one_of(("disable", "prefer"))(value)


ADDRESS = "expected an address that begins with https:// (or http://)"
NO_USER = "expected an address without user and password (user:password@)"
CREDENTIAL = "expected ASCII letters, digits and signs without blanks"
DATES = 'expected a list of dates such as ["2026-01-26"]'
EXCHANGES = 'expected a list of exchange codes such as ["NSE", "NFO"], or null'
FORMAT = "expected a log format such as %(levelname)s - %(message)s"
HOME = "expected a folder whose ~ is a home folder that exists"
NUMBERS = "expected a number from 0.001 to 3600"
PORTS = "expected an integer from 1 to 65535"
PRINTABLE = "expected a folder without control characters in its name"
OBJECT = "expected an object {...}"
SCHEDULE = 'expected "daily" or a cron expression in Indian time such as "0 18 * * 1-5"'
IDS = "expected a list of DAG ids such as [1]"
RECEIVERS = 'expected addresses such as "mailto://user:password@example.com"'
TEXT = "expected a text that is not blank"


@pytest.mark.parametrize(
    ("convert", "value", "expected"),
    [
        pytest.param(port, 1, 1, id="integer, least"),
        pytest.param(port, 65535, 65535, id="integer, most"),
        pytest.param(port, " 5432 ", 5432, id="integer as text"),
        pytest.param(port, "0" * 15 + "65535", 65535, id="integer of 20 digits"),
        pytest.param(count, 10**9, 10**9, id="integer without limit"),
        pytest.param(seconds, 0.001, 0.001, id="number, least"),
        pytest.param(seconds, 3600, 3600.0, id="number, most, whole"),
        pytest.param(seconds, " 12.5 ", 12.5, id="number as text"),
        pytest.param(fields.boolean, True, True, id="boolean"),
        pytest.param(fields.boolean, " TRUE ", True, id="true as text"),
        pytest.param(fields.boolean, "False", False, id="false as text"),
        pytest.param(level, " debug ", "DEBUG", id="choice in any case"),
        pytest.param(exact, "prefer", "prefer", id="choice"),
        pytest.param(fields.exchanges, None, [], id="no exchanges"),
        pytest.param(fields.exchanges, [" nse", "NFO", "NSE"], ["NSE", "NFO"], id="exchanges"),
        pytest.param(fields.schedule, "daily", "daily", id="daily"),
        pytest.param(fields.schedule, "*/5 9-15 * * 1-5", "*/5 9-15 * * 1-5", id="cron"),
        pytest.param(fields.dag_ids, [], (), id="no DAGs"),
        pytest.param(fields.dag_ids, [3, "1", 3], (3, 1), id="DAGs"),
        pytest.param(fields.json_object, {"a": [1]}, {"a": [1]}, id="object"),
        pytest.param(fields.dates, [], [], id="no dates"),
        pytest.param(
            fields.address, "https://api.kite.trade", "https://api.kite.trade", id="https"
        ),
        pytest.param(fields.address, "HTTP://[::1]:8000/x", "HTTP://[::1]:8000/x", id="http"),
        pytest.param(fields.ping_address, "", "", id="no ping"),
        pytest.param(fields.ping_address, "https://x/y?z=1", "https://x/y?z=1", id="ping"),
        pytest.param(fields.receivers, "", [], id="no receivers"),
        pytest.param(fields.receivers, [], [], id="an empty list of receivers"),
        pytest.param(
            fields.receivers,
            " a://b,c;d\ne://f , g://h,i://j;k://l ",
            ["a://b,c;d", "e://f", "g://h", "i://j", "k://l"],
            id="receivers in a text",
        ),
        pytest.param(
            fields.receivers,
            ["a://b", "c://d e://f", "a://b"],
            ["a://b", "c://d", "e://f"],
            id="receivers in a list",
        ),
        pytest.param(fields.credential, "a-Z_0~9", "a-Z_0~9", id="credential"),
        pytest.param(fields.folder, "logs/of today", "logs/of today", id="folder"),
        pytest.param(fields.folder, "~/logs", str(Path.home() / "logs"), id="folder at home"),
        pytest.param(fields.log_format, "%(lineno)5d 100%%", "%(lineno)5d 100%%", id="log format"),
        pytest.param(
            fields.dates,
            ["2026-01-26", "2026-08-15"],
            [date(2026, 1, 26), date(2026, 8, 15)],
            id="dates",
        ),
    ],
)
def test_value_that_is_right(convert: Any, value: Any, expected: Any) -> None:
    found = convert(value)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("convert", "value", "message"),
    [
        pytest.param(port, 0, PORTS, id="integer, too small"),
        pytest.param(port, 65536, PORTS, id="integer, too large"),
        pytest.param(port, True, PORTS, id="integer, a boolean"),
        pytest.param(port, 80.0, PORTS, id="integer, a float"),
        pytest.param(port, "80.5", PORTS, id="integer, text of a float"),
        pytest.param(port, "\N{SUPERSCRIPT TWO}", PORTS, id="integer, a digit that is none"),
        pytest.param(port, "\N{ARABIC-INDIC DIGIT ONE}", PORTS, id="integer, not ASCII"),
        pytest.param(port, "0" * 18 + "5432", PORTS, id="integer of 22 digits"),
        pytest.param(port, "9" * 5000, PORTS, id="integer, too long for Python"),
        pytest.param(port, "", PORTS, id="integer, empty"),
        pytest.param(count, 0, "expected a positive integer", id="integer, not positive"),
        pytest.param(
            from_two, 1, "expected an integer from 2 to 1000000000", id="integer, another least"
        ),
        pytest.param(seconds, 0, NUMBERS, id="number, too small"),
        pytest.param(seconds, 3600.1, NUMBERS, id="number, too large"),
        pytest.param(seconds, True, NUMBERS, id="number, a boolean"),
        pytest.param(seconds, "nan", NUMBERS, id="number, none"),
        pytest.param(seconds, "1e3", NUMBERS, id="number, with an exponent"),
        pytest.param(seconds, None, NUMBERS, id="number, null"),
        pytest.param(fields.boolean, 1, "expected true or false", id="boolean, a number"),
        pytest.param(fields.boolean, "yes", "expected true or false", id="boolean, another word"),
        pytest.param(level, "TRACE", "expected one of DEBUG, INFO", id="choice, unknown"),
        pytest.param(level, 10, "expected one of DEBUG, INFO", id="choice, a number"),
        pytest.param(exact, "PREFER", "expected one of disable, prefer", id="choice, another case"),
        pytest.param(fields.exchanges, "NSE", EXCHANGES, id="exchanges, a text"),
        pytest.param(fields.exchanges, ["NSE", 5], EXCHANGES, id="exchanges, a number among them"),
        pytest.param(fields.exchanges, ["NSE", " "], EXCHANGES, id="exchanges, a blank one"),
        pytest.param(fields.schedule, "hourly", SCHEDULE, id="schedule, a word"),
        pytest.param(fields.schedule, 5, SCHEDULE, id="schedule, a number"),
        pytest.param(fields.dag_ids, 1, IDS, id="DAGs, a number"),
        pytest.param(fields.dag_ids, [True], IDS, id="DAGs, a boolean among them"),
        pytest.param(fields.dag_ids, [-1], IDS, id="DAGs, a negative one"),
        pytest.param(fields.json_object, [], OBJECT, id="object, a list"),
        pytest.param(fields.dates, "2026-01-26", DATES, id="dates, a text"),
        pytest.param(fields.dates, ["2026-02-30"], DATES, id="dates, none of the calendar"),
        pytest.param(fields.dates, [20260126], DATES, id="dates, a number"),
        pytest.param(fields.address, 5, ADDRESS, id="address, a number"),
        pytest.param(fields.address, "ftp://x", ADDRESS, id="address, another scheme"),
        pytest.param(fields.address, "https://", ADDRESS, id="address, no host"),
        pytest.param(fields.address, "https://[::1", ADDRESS, id="address, half a bracket"),
        pytest.param(fields.address, "https://x/\x07", ADDRESS, id="address, a control character"),
        pytest.param(fields.address, "https://u:p@x", NO_USER, id="address, a password"),
        pytest.param(fields.address, "https://u@[x", NO_USER, id="address, a user of no address"),
        pytest.param(fields.ping_address, "x", ADDRESS, id="ping, no address"),
        pytest.param(fields.ping_address, None, ADDRESS, id="ping, null"),
        pytest.param(fields.receivers, "me@example.com", RECEIVERS, id="receiver, no address"),
        pytest.param(fields.receivers, ["a://b", 5], RECEIVERS, id="receivers, a number"),
        pytest.param(fields.receivers, {"a": "b://c"}, RECEIVERS, id="receivers, an object"),
        pytest.param(fields.receivers, None, RECEIVERS, id="receivers, null"),
        pytest.param(fields.receivers, "a://b\x07", RECEIVERS, id="receiver, a control character"),
        pytest.param(fields.credential, 5, TEXT, id="credential, a number"),
        pytest.param(fields.credential, "", TEXT, id="credential, empty"),
        pytest.param(fields.credential, "schlüssel", CREDENTIAL, id="credential, not ASCII"),
        pytest.param(fields.credential, "a\nb", CREDENTIAL, id="credential, a line break"),
        pytest.param(fields.credential, "a b", CREDENTIAL, id="credential, a blank within"),
        pytest.param(fields.folder, " ", TEXT, id="folder, blank"),
        pytest.param(fields.folder, "~no-such-user/x", HOME, id="folder, nobody's home"),
        pytest.param(fields.folder, "logs\x1b", PRINTABLE, id="folder, a control character"),
        pytest.param(fields.log_format, "", FORMAT, id="log format, empty"),
        pytest.param(fields.log_format, "fixed", FORMAT, id="log format, no field"),
        pytest.param(fields.log_format, "%(mesage)s", FORMAT, id="log format, unknown field"),
        pytest.param(fields.log_format, "%(message)d", FORMAT, id="log format, text as number"),
        pytest.param(fields.log_format, "%(message)s 100%", FORMAT, id="log format, open percent"),
    ],
)
def test_value_that_is_wrong(convert: Any, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        convert(value)
    assert str(caught.value) == message
