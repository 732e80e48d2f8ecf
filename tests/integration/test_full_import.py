"""A full-size dump from the command line, two days in sequence, against an independent reading."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox.dump_generator import generate_dump
from sandbox.kite_server import KiteServer
from tests.conftest import Project, Server
from tests.integration.raw_dump import (
    NO_DIFFERENCES,
    SAME_KEY,
    RawDumps,
    read_breakdown,
    read_figures,
)

pytestmark = pytest.mark.usefixtures("trading_today")


@pytest.fixture
def raw_dumps(server: Server, database: str) -> Iterator[RawDumps]:
    connection = server.connect(database)
    yield RawDumps(connection)
    connection.close()


def test_full_size_dump_into_an_empty_database_and_the_next_day(
    configured_project: Project,
    kite: KiteServer,
    server: Server,
    database: str,
    raw_dumps: RawDumps,
) -> None:
    server.execute("DROP TABLE kite_instrument_master", dbname=database)
    second = generate_dump(11)  # a day on which contracts expire and symbols move among tokens
    first = with_stale_holders(generate_dump(10), second)

    kite.dump = first
    result = configured_project.run("--dag", "1")
    assert (result.returncode, result.stderr) == (0, "")
    rows = raw_dumps.load("first", first)
    assert rows >= 117_000
    assert raw_dumps.differences("first") == NO_DIFFERENCES
    assert read_figures(result.stdout) == {
        "fetched": rows,
        "left out": 0,
        "rejected": 0,
        "inserted": rows,
        "updated": 0,
        "superseded": 0,
    }
    assert_breakdown(result.stdout, raw_dumps, "first")
    assert_moments(raw_dumps, new_rows=rows)
    raw_dumps.remember_table("before")

    kite.dump = second
    result = configured_project.run("--dag", "1")
    assert (result.returncode, result.stderr) == (0, "")
    rows = raw_dumps.load("second", second)
    raw_dumps.expect_after("expected", "before", "second")
    assert raw_dumps.differences("expected") == NO_DIFFERENCES
    changes = raw_dumps.changes("before", "second")
    assert all(changes.values()), changes  # that day holds every kind of change
    assert read_figures(result.stdout) == {
        "fetched": rows,
        "left out": 0,
        "rejected": 0,
        **changes,
    }
    assert_breakdown(result.stdout, raw_dumps, "second")
    assert_second_day_moments(raw_dumps)


def with_stale_holders(dump: bytes, next_day: bytes) -> bytes:
    """The dump with rows whose symbols the next day gives to new tokens, their own being gone."""
    known = {line.split(b",", 3)[2] for line in dump.splitlines()}
    new = [line for line in next_day.splitlines() if line.split(b",", 3)[2] not in known][:5]
    assert len(new) == 5
    return dump + b"".join(
        b"%d,%s\n" % (10**12 + number, line.split(b",", 1)[1]) for number, line in enumerate(new)
    )


def assert_breakdown(output: str, raw_dumps: RawDumps, dump: str) -> None:
    exchanges, types = read_breakdown(output)
    assert exchanges == raw_dumps.counts_by(dump, "exchange")
    assert types == raw_dumps.counts_by(dump, "instrument_type")


def assert_moments(raw_dumps: RawDumps, *, new_rows: int) -> None:
    """All rows are of one moment, that of this minute in the database's time."""
    assert raw_dumps.query(
        "SELECT count(*), count(DISTINCT last_updated), bool_and(created_at = last_updated),"
        " bool_and(last_updated BETWEEN localtimestamp - interval '1 min' AND localtimestamp)"
        " FROM kite_instrument_master"
    ) == [(new_rows, 1, True, True)]


def assert_second_day_moments(raw_dumps: RawDumps) -> None:
    """One later moment for today's rows; created_at is kept where the key was there."""
    today = f"kite_instrument_master AS a WHERE EXISTS (SELECT FROM second AS b WHERE {SAME_KEY})"
    rest = (
        f"kite_instrument_master AS a WHERE NOT EXISTS (SELECT FROM second AS b WHERE {SAME_KEY})"
    )
    first_moment = "(SELECT max(last_updated) FROM before)"
    assert raw_dumps.query(
        f"SELECT count(DISTINCT last_updated), min(last_updated) > {first_moment} FROM {today}"
    ) == [(1, True)]
    assert raw_dumps.query(f"SELECT DISTINCT last_updated = {first_moment} FROM {rest}") == [
        (True,)
    ]
    wrong_creation = (
        "kite_instrument_master AS a LEFT JOIN before AS b ON"
        f" {SAME_KEY} WHERE a.created_at <> coalesce(b.created_at, a.last_updated)"
    )
    assert raw_dumps.count(wrong_creation) == 0
    newest = "last_updated = (SELECT max(last_updated) FROM kite_instrument_master)"
    stored_today = raw_dumps.count(f"kite_instrument_master WHERE {newest}")
    assert stored_today == raw_dumps.count("second")


def test_same_dump_again_changes_nothing_but_the_moment(
    configured_project: Project, kite: KiteServer, raw_dumps: RawDumps
) -> None:
    kite.dump = generate_dump(0, rows=5_000)
    rows = raw_dumps.load("dump", kite.dump)
    for figures in ({"inserted": rows, "updated": 0}, {"inserted": 0, "updated": rows}):
        result = configured_project.run("--dag", "1")
        assert result.returncode == 0
        assert read_figures(result.stdout).items() >= {**figures, "superseded": 0}.items()
        assert raw_dumps.differences("dump") == NO_DIFFERENCES
