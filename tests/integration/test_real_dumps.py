"""Real dumps, and the API's published mock lists, from the command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from sandbox.kite_server import KiteServer
from tests.conftest import Project, Server
from tests.integration.raw_dump import NO_DIFFERENCES, RawDumps, read_breakdown, read_figures

LoadRealDump = Callable[[str], bytes]


@pytest.fixture
def raw_dumps(server: Server, database: str) -> Iterator[RawDumps]:
    connection = server.connect(database)
    yield RawDumps(connection)
    connection.close()


@pytest.mark.parametrize(
    "name",
    [
        "dumps/nfo_2025-07.csv.gz",
        "dumps/nse_2025-08.csv.gz",
        "dumps/nse_2025-10.csv.gz",
        "mocks/instruments_all.csv",
        "mocks/instruments_nse.csv",
    ],
)
def test_real_dump_is_stored_whole(
    real_dump: LoadRealDump,
    configured_project: Project,
    kite: KiteServer,
    raw_dumps: RawDumps,
    name: str,
) -> None:
    kite.dump = real_dump(name)
    result = configured_project.run("--dag", "1")
    assert (result.returncode, result.stderr) == (0, "")
    rows = raw_dumps.load("dump", kite.dump)
    assert rows >= 98
    assert raw_dumps.differences("dump") == NO_DIFFERENCES
    assert read_figures(result.stdout) == {
        "fetched": rows,
        "left out": 0,
        "rejected": 0,
        "inserted": rows,
        "updated": 0,
        "superseded": 0,
    }
    exchanges, types = read_breakdown(result.stdout)
    assert exchanges == raw_dumps.counts_by("dump", "exchange")
    assert types == raw_dumps.counts_by("dump", "instrument_type")


def test_nse_of_august_then_of_october(
    real_dump: LoadRealDump, configured_project: Project, kite: KiteServer, raw_dumps: RawDumps
) -> None:
    august, october = real_dump("dumps/nse_2025-08.csv.gz"), real_dump("dumps/nse_2025-10.csv.gz")
    kite.dump = august
    assert configured_project.run("--dag", "1").returncode == 0
    raw_dumps.remember_table("before")
    kite.dump = october
    result = configured_project.run("--dag", "1")
    assert (result.returncode, result.stderr) == (0, "")
    rows = raw_dumps.load("october", october)
    raw_dumps.expect_after("expected", "before", "october")
    assert raw_dumps.differences("expected") == NO_DIFFERENCES
    changes = raw_dumps.changes("before", "october")
    assert changes["inserted"] > 500
    assert changes["updated"] > 7_000
    assert read_figures(result.stdout).items() >= {"fetched": rows, **changes}.items()


def test_list_with_repeated_rows(
    real_dump: LoadRealDump, configured_project: Project, kite: KiteServer, raw_dumps: RawDumps
) -> None:
    """36 rows of April 2019 come twice, in another segment: the later one counts (ruling 28)."""
    kite.dump = real_dump("dumps/nse_2019-04.csv.gz")
    header, *lines = kite.dump.splitlines(keepends=True)
    last = {line.split(b",")[3]: line for line in lines}  # instrument_token
    assert (len(lines), len(last)) == (2491, 2455)
    result = configured_project.run("--dag", "1")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("Stored 2,455 instruments in ") == 1
    assert read_figures(result.stdout) == {
        "fetched": 2491,
        "left out": 0,
        "rejected": 0,
        "repeated": 36,
        "inserted": 2455,
        "updated": 0,
        "superseded": 0,
    }
    raw_dumps.load("dump", header + b"".join(last.values()))
    assert raw_dumps.differences("dump") == NO_DIFFERENCES


def test_profile_mock_proves_a_session(
    real_dump: LoadRealDump, configured_project: Project, kite: KiteServer
) -> None:
    from sandbox.kite_faults import CustomAnswer

    profile = CustomAnswer(real_dump("mocks/profile.json"), content_type="application/json")
    kite.fail_next("/user/profile", profile)
    kite.dump = real_dump("mocks/instruments_nse.csv")
    result = configured_project.run("--dag", "1")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(r"^Stored \d+ instruments in ", result.stdout, re.M)
