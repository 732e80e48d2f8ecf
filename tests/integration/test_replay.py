"""Saved lists: kept after good runs, and imported with --from-file."""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox.kite_faults import HttpError
from shared import console
from tests.command_line import CommandLine
from tests.conftest import Server
from tests.instruments import instrument, to_csv
from tests.table_model import fields_of, read_table, wait_until

ROWS = [instrument(number << 8, f"S{number}", "NSE", expiry=None) for number in range(1, 121)]
FIRST = to_csv(ROWS)
SECOND = to_csv([*ROWS[5:], instrument(99, "NEW", "NSE"), instrument(256, "S2-MOVED", "NSE")])


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., str]:
    def save(content: bytes, name: str = "saved.csv") -> str:
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    return save


# Importing a saved list


@pytest.mark.parametrize(
    "pack",
    [
        pytest.param(lambda dump: dump, id="plain"),
        pytest.param(gzip.compress, id="gzipped"),
        pytest.param(
            lambda dump: gzip.compress(dump[:100]) + gzip.compress(dump[100:]), id="twice"
        ),
    ],
)
def test_saved_list_is_stored_as_if_kite_had_given_it(
    cli: CommandLine, saved: Callable[..., str], pack: Callable[[bytes], bytes]
) -> None:
    cli.load(FIRST)
    cli.load(SECOND)
    expected = fields_of(read_table(cli.connection))
    changes = cli.query("SELECT kind, tradingsymbol FROM kite_instrument_change ORDER BY 1, 2")
    assert changes
    cli.query("TRUNCATE kite_instrument_master, ingestion_run CASCADE")
    cli.load(FIRST)
    asked = len(cli.kite.requests)
    path = saved(pack(SECOND), "a list, saved")
    result = cli.run("--dag", "1", "--from-file", path)
    assert (result.status, result.stderr) == (0, "")
    assert len(cli.kite.requests) == asked
    assert fields_of(read_table(cli.connection)) == expected
    assert cli.query("SELECT kind, tradingsymbol FROM kite_instrument_change ORDER BY 1, 2") == (
        changes
    )
    assert f"\nThe list is that of the saved dump {path}\n" in result.stdout
    assert "\n  read saved dump: done in " in result.stdout
    assert re.search(r"^seconds: .*read saved dump \d+\.\d\d", result.stdout, re.M)
    [_, (source, size)] = cli.runs("source", "dump_bytes")
    assert (source, size) == (path, len(SECOND))


def test_only_a_list_that_comes_from_kite_is_counted_in_bytes(
    cli: CommandLine, saved: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_QUIET_SECONDS", 0)  # each step that is told is shown
    downloaded = cli.load(FIRST)
    assert re.search(r"^  fetch instruments: (\S+) of \1 bytes$", downloaded.stdout, re.M)
    replayed = cli.run("--dag", "1", "--from-file", saved(SECOND))
    assert " bytes\n" not in replayed.stdout
    assert "\n  store: 117 of 117 rows\n" in replayed.stdout


def test_path_of_a_saved_list_counts_from_where_the_user_is(
    cli: CommandLine, saved: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(saved(FIRST))
    monkeypatch.chdir(path.parent)
    assert cli.run("--dag", "1", "--from-file", path.name).status == 0
    assert cli.runs("source") == [(str(path),)]


def test_saved_list_needs_no_account(
    cli: CommandLine, saved: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KITE_API_KEY", "KITE_API_SECRET", "KITE_ACCESS_TOKEN"):
        monkeypatch.delenv(name)
    assert cli.run("--dag", "1", "--from-file", saved(FIRST)).status == 0
    assert len(read_table(cli.connection)) == len(ROWS)


def test_saved_list_needs_no_living_session(cli: CommandLine, saved: Callable[..., str]) -> None:
    cli.kite.expire_token()
    assert cli.run("--dag", "1", "--from-file", saved(FIRST)).status == 0
    assert cli.kite.requests == []


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        pytest.param(None, 2, "cannot be read (No such file or directory)", id="missing"),
        pytest.param("folder", 2, "cannot be read (Is a directory)", id="a folder"),
        pytest.param(gzip.compress(SECOND)[:-9], 1, "damaged or cut short", id="gzip cut short"),
        pytest.param(
            gzip.compress(SECOND)[:40] + b"\0\0" + gzip.compress(SECOND)[42:],
            *(1, "damaged or cut short"),
            id="gzip damaged",
        ),
        pytest.param(gzip.compress(SECOND)[:2], 1, "damaged or cut short", id="gzip's mark alone"),
        pytest.param(b"<html>Bad gateway</html>\n", 1, "", id="a page"),
        pytest.param(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 1, "", id="an image"),
        pytest.param(b"", 1, "", id="empty"),
        pytest.param(to_csv([]), 1, "is empty (a header and no rows)", id="header only"),
        pytest.param(SECOND[:-20], 1, "", id="cut in its last row"),
        pytest.param(gzip.compress(gzip.compress(SECOND)), 1, "", id="gzipped twice over"),
    ],
)
def test_file_that_is_no_list_leaves_the_table_as_it_is(
    cli: CommandLine, tmp_path: Path, content: bytes | str | None, status: int, message: str
) -> None:
    cli.load(FIRST)
    before = read_table(cli.connection)
    path = tmp_path / "saved.csv.gz"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    result = cli.run("--dag", "1", "--from-file", str(path))
    assert result.status == status
    assert read_table(cli.connection) == before
    assert result.stderr.startswith("ERROR: ")
    assert result.stderr.count("ERROR") == 1
    assert message in result.stderr
    assert str(path) in result.stderr  # which of the files that somebody replays in a loop
    assert "fetch" not in result.stderr.lower()  # nothing was fetched
    assert cli.runs("status", "source")[1:] == [("failed", str(path))]


def test_file_that_may_not_be_read(cli: CommandLine, saved: Callable[..., str]) -> None:
    path = saved(FIRST)
    Path(path).chmod(0)
    with contextlib.suppress(PermissionError):
        Path(path).read_bytes()
        pytest.skip("this user may read everything")
    result = cli.run("--dag", "1", "--from-file", path)
    assert result.status == 2
    assert "cannot be read (Permission denied)" in result.stderr


def test_saved_list_must_be_plausible_too(cli: CommandLine, saved: Callable[..., str]) -> None:
    cli.load(FIRST)
    path = saved(to_csv(ROWS[:30]))
    assert cli.run("--dag", "1", "--from-file", path).status == 1
    assert cli.run("--dag", "1", "--from-file", path, "--force").status == 0


def test_rejected_rows_of_a_saved_list_have_its_line_numbers(
    cli: CommandLine, saved: Callable[..., str]
) -> None:
    path = saved(FIRST + b"x,1,BAD,,0,,,0.05,1,EQ,NSE,NSE\n")
    result = cli.run("--dag", "1", "--from-file", path)
    assert result.status == 0
    assert "line 122: instrument_token: expected a whole number" in result.stdout


# What a dry run writes


def everything(server: Server, database: str) -> dict[str, Any]:
    """All that is in the database: rows, objects, sequences, and what was ever written to them."""
    connection = server.connect(database)
    with connection.cursor() as cursor:

        def query(statement: str) -> list[tuple[Any, ...]]:
            cursor.execute(statement)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows

        # Counters of sessions that have ended may be on their way yet.
        wait_until(
            lambda: (
                query(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND backend_type = 'client backend'"
                )
                == [(1,)]
            )
        )
        tables = [
            name
            for (name,) in query(
                "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
                " AND relkind = 'r' ORDER BY 1"
            )
        ]
        state: dict[str, Any] = {
            name: query(f"SELECT xmin::text, ctid::text, * FROM {name} ORDER BY ctid")
            for name in tables
        }
        state["objects"] = query(
            "SELECT oid, relname, relkind, relfilenode, relnatts FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace ORDER BY oid"
        )
        state["numbers"] = query("SELECT sequencename, last_value FROM pg_sequences ORDER BY 1")
        state["counters"] = query(
            "SELECT relname, n_tup_ins, n_tup_upd, n_tup_del, n_tup_hot_upd, n_dead_tup"
            " FROM pg_stat_user_tables ORDER BY 1"
        )
        state["temporary"] = query(
            "SELECT relname FROM pg_class WHERE relpersistence = 't' ORDER BY 1"
        )
    connection.close()
    return state


@pytest.mark.parametrize("is_replay", [True, False], ids=["saved list", "Kite's list"])
def test_dry_run_shows_what_would_change_and_writes_nothing(
    cli: CommandLine,
    server: Server,
    database: str,
    saved: Callable[..., str],
    is_replay: bool,
) -> None:
    cli.load(FIRST)
    cli.connection.close()
    before = everything(server, database)
    assert set(before) > {"kite_instrument_master", "kite_instrument_change", "ingestion_run"}
    cli.kite.dump = SECOND
    source = ("--from-file", saved(SECOND)) if is_replay else ()
    tried = cli.run("--dag", "1", "--dry-run", *source)
    assert (tried.status, tried.stderr) == (0, "")
    assert everything(server, database) == before
    assert len(kept(cli)) == 1  # that of the first run

    cli.connection = server.connect(database)
    done = cli.run("--dag", "1", *source)
    assert figures(tried.stdout) == figures(done.stdout)
    assert "token reused" in tried.stdout or "renamed" in tried.stdout
    cli.connection.close()
    after = everything(server, database)
    for name, state in before.items():  # so the comparison above is not blind
        assert (after[name] == state) is (name in ("objects", "temporary")), name


def figures(output: str) -> str:
    """The summary from its counts to its breakdown."""
    return output[output.index("\nfetched ") : output.index("\nseconds: ")]


def test_dry_run_on_a_database_without_tables_makes_none(
    cli: CommandLine, server: Server, database: str, saved: Callable[..., str]
) -> None:
    cli.query("DROP TABLE kite_instrument_master")
    cli.connection.close()
    before = everything(server, database)
    result = cli.run("--dag", "1", "--dry-run", "--from-file", saved(FIRST))
    assert (result.status, result.stderr) == (0, "")
    assert re.search("^inserted +120$", result.stdout, re.M)
    assert everything(server, database) == before


# Keeping lists


def kept(cli: CommandLine) -> list[Path]:
    return sorted(cli.archive.iterdir()) if cli.archive.exists() else []


def test_good_list_is_kept_byte_for_byte(cli: CommandLine) -> None:
    assert cli.load(FIRST).status == 0
    [path] = kept(cli)
    assert re.fullmatch(r"kite_instruments_\d{4}-\d\d-\d\d_\d{6}_[0-9a-f]{12}\.csv\.gz", path.name)
    assert gzip.decompress(path.read_bytes()) == FIRST
    [(sha256,)] = cli.runs("dump_sha256")
    assert sha256[:12] in path.name
    result = cli.run("--dag", "1", "--from-file", str(path))
    assert result.status == 0
    assert "byte for byte" in result.stdout


def test_each_good_list_is_kept(cli: CommandLine) -> None:
    cli.load(FIRST)
    cli.load(SECOND)
    assert sorted(gzip.decompress(path.read_bytes()) for path in kept(cli)) == sorted(
        [FIRST, SECOND]
    )


@pytest.mark.parametrize(
    ("prepare", "arguments", "status"),
    [
        pytest.param(None, ["--dry-run"], 0, id="a dry run"),
        pytest.param("replay", [], 0, id="a replay"),
        pytest.param("implausible", [], 1, id="an implausible list"),
        pytest.param("refused", [], 1, id="a list that the database refuses"),
        pytest.param("no list", [], 1, id="no list"),
    ],
)
def test_nothing_is_kept_of(
    cli: CommandLine,
    saved: Callable[..., str],
    prepare: str | None,
    arguments: list[str],
    status: int,
) -> None:
    cli.parameters["archive_days"] = 0
    cli.load(FIRST)
    del cli.parameters["archive_days"]
    cli.kite.dump = SECOND
    if prepare == "replay":
        arguments = ["--from-file", saved(SECOND)]
    elif prepare == "implausible":
        cli.kite.dump = to_csv(ROWS[:10])
    elif prepare == "refused":
        cli.query("ALTER TABLE kite_instrument_master ADD CHECK (tradingsymbol <> 'NEW')")
    elif prepare == "no list":
        cli.kite.fail_next("/instruments", HttpError(400))
    assert cli.run("--dag", "1", *arguments).status == status
    assert kept(cli) == []


def test_archive_days_of_0_keeps_nothing_and_deletes_nothing(cli: CommandLine) -> None:
    cli.load(FIRST)
    [path] = kept(cli)
    age(path, days=100)
    cli.parameters["archive_days"] = 0
    cli.load(SECOND)
    assert kept(cli) == [path]


def age(path: Path, days: float) -> None:
    moment = time.time() - days * 86_400
    os.utime(path, (moment, moment))


def test_kept_lists_are_deleted_after_archive_days(cli: CommandLine) -> None:
    cli.parameters["archive_days"] = 7
    cli.load(FIRST)
    [old] = kept(cli)
    young = old.with_name("kite_instruments_2026-08-03_083012_0123456789ab.csv.gz")
    young.write_bytes(b"")
    unfinished = old.with_suffix(".part")  # of a run that was killed
    others = [
        cli.archive / "notes.txt",
        cli.archive / "mine.csv.gz",
        old.with_name(f"{old.name}.bak"),
    ]
    for path in (unfinished, *others):
        path.write_bytes(b"")
        age(path, days=100)
    age(old, days=7.01)
    age(young, days=6.99)
    cli.load(SECOND)
    names = set(kept(cli))
    assert not {old, unfinished} & names
    assert {young, *others} < names
    assert len(names) == 5


def test_failed_run_deletes_no_kept_list(cli: CommandLine) -> None:
    cli.load(FIRST)
    [path] = kept(cli)
    age(path, days=100)
    assert cli.load(to_csv(ROWS[:10])).status == 1
    assert kept(cli) == [path]


@pytest.mark.parametrize("what", ["a file", "below a file", "read-only"])
def test_archive_that_cannot_be_written_is_a_warning(
    cli: CommandLine, tmp_path: Path, what: str
) -> None:
    target = tmp_path / "there"
    if what == "read-only":
        target.mkdir(mode=0o500)
        if os.access(target, os.W_OK):
            pytest.skip("this user may write everywhere")
    else:
        target.write_text("something else")
    directory = target / "archive" if what == "below a file" else target
    cli.parameters["archive_directory"] = str(directory)
    result = cli.load(FIRST)
    assert result.status == 0
    assert len(read_table(cli.connection)) == len(ROWS)
    assert re.fullmatch(
        rf"WARNING: The dump could not be kept in {re.escape(str(directory))}: .+\n", result.stderr
    )
    if target.is_file():
        assert target.read_text() == "something else"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        pytest.param(OSError(28, "No space left"), 0, ": No space left\n", id="disk full"),
        pytest.param(KeyboardInterrupt(), 130, "is rolled back.\n", id="SIGINT"),
    ],
)
def test_archive_leaves_no_unfinished_file(
    cli: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    message: str,
) -> None:
    """As far as can be: the file that is not whole never has a kept list's name."""

    def stop_midway(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:50])
        raise error

    monkeypatch.setattr(Path, "write_bytes", stop_midway)
    result = cli.load(FIRST)
    assert result.status == status
    assert result.stderr.endswith(message)
    assert [path for path in kept(cli) if path.name.endswith(".csv.gz")] == []
    assert kept(cli) == []
