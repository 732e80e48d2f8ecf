"""Saved lists: kept after good runs, and imported with --from-file."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import re
import subprocess
import zipfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dag_1_import_instruments_from_kite.import_instruments import FEED as INSTRUMENTS
from dag_3_import_symbol_changes_from_nse import FEED as SYMBOL_CHANGES
from sandbox.kite_faults import HttpError
from shared import archive, clock, console
from shared import run as run_module
from shared.config.config_loader import ConfigLoader
from shared.feed import API_SOURCE, Feed, Payload, Run, RunKey
from tests.command_line import CommandLine
from tests.conftest import Project, Server
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
    assert f"\nThe instruments are those of the saved file {path}\n" in result.stdout
    assert "\n  read saved file: done in " in result.stdout
    [_, (source, size)] = cli.runs("source", "dump_bytes")
    assert (source, size) == (path, len(SECOND))


def test_only_a_list_that_comes_from_kite_is_counted_in_bytes(
    cli: CommandLine, saved: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_QUIET_SECONDS", "_REPEAT_SECONDS"):
        monkeypatch.setattr(console, name, 0)  # each step that is told is shown
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


def test_path_that_is_empty(cli: CommandLine) -> None:
    """A script's variable that nothing was put into."""
    result = cli.run("--dag", "1", "--from-file", "")
    assert result.status == 2
    assert "--from-file: expected the path of a saved file, or -, got ''." in result.stderr


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


# Pipes, and what is no CSV


FROM_PIPE = [
    pytest.param('cat "$LIST" | "$@" -', id="-"),
    pytest.param('gzip -c "$LIST" | "$@" -', id="-, gzipped"),
    pytest.param('"$@" - < "$LIST"', id="-, a file"),
    pytest.param('cat "$LIST" | "$@" /dev/stdin', id="/dev/stdin"),
    pytest.param('"$@" <(cat "$LIST")', id="process substitution"),
    pytest.param('"$@" <(gzip -c "$LIST")', id="process substitution, gzipped"),
]


def run_in_bash(project: Project, script: str, path: str = "") -> subprocess.CompletedProcess[str]:
    command = project.command("--dag", "1", "--from-file")
    return subprocess.run(
        ["bash", "-c", script, "bash", *command],
        cwd=project.folder,
        env={**project.environment, "LIST": path},
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("script", FROM_PIPE)
def test_list_from_a_pipe(
    configured_project: Project,
    server: Server,
    database: str,
    saved: Callable[..., str],
    script: str,
) -> None:
    result = run_in_bash(configured_project, script, saved(FIRST))
    assert (result.returncode, result.stderr) == (0, "")
    assert "Stored 120 instruments" in result.stdout
    assert "\nThe instruments came from standard input\n" in result.stdout
    assert server.execute("SELECT source, dump_bytes FROM ingestion_run", dbname=database) == [
        ("standard input", len(FIRST))
    ]


def test_list_from_a_pipe_with_a_name(
    configured_project: Project,
    server: Server,
    database: str,
    saved: Callable[..., str],
    tmp_path: Path,
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    result = run_in_bash(
        configured_project, f'cat "$LIST" > {pipe} & "$@" {pipe}; exit $?', saved(FIRST)
    )
    assert (result.returncode, result.stderr) == (0, "")
    query = "SELECT source FROM ingestion_run"
    assert server.execute(query, dbname=database) == [(str(pipe),)]


def test_standard_input_that_is_closed(configured_project: Project) -> None:
    result = run_in_bash(configured_project, '"$@" - <&-')
    assert result.returncode == 2
    assert "What came on standard input cannot be read (it is closed). Expected" in result.stderr


@pytest.mark.parametrize(
    ("script", "size"),
    [
        pytest.param('cat /dev/zero | "$@" -', "32 MB", id="a pipe without an end"),
        pytest.param('"$@" /dev/zero', "32 MB", id="a file without an end"),
        pytest.param(
            'head -c 150000000 /dev/zero | gzip -1 | "$@" -', "128 MB", id="much within little"
        ),
    ],
)
def test_list_that_is_too_large(configured_project: Project, script: str, size: str) -> None:
    result = run_in_bash(configured_project, script)
    assert result.returncode == 1
    assert f"cannot be used. It has more than {size}, which no real one has." in result.stderr


def zipped(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, SECOND)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b'[{"instrument_token": 1}]', "This is JSON", id="JSON, a list"),
        pytest.param(b'\xef\xbb\xbf\n{"status": "error"}\n', "This is JSON", id="JSON, an object"),
        pytest.param(SECOND.decode().encode("utf-16"), "This is UTF-16 text", id="UTF-16"),
        pytest.param(
            b"\xfe\xff" + SECOND.decode().encode("utf-16-be"), "This is UTF-16 text", id="UTF-16BE"
        ),
        pytest.param(
            SECOND.decode().encode("utf-16-le"), "UTF-8 (iconv -f UTF-16", id="UTF-16LE, no mark"
        ),
        pytest.param(
            SECOND.decode().encode("utf-16-be"), "This is UTF-16 text", id="UTF-16BE, no mark"
        ),
        pytest.param(SECOND.decode().encode("utf-32"), "This is UTF-32 text", id="UTF-32"),
        pytest.param(zipped("list.csv"), "This is a zip archive", id="zip"),
        pytest.param(zipped("xl/workbook.xml"), "This is an Excel workbook", id="xlsx"),
        pytest.param(bz2.compress(SECOND), "unpack it first (bunzip2)", id="bzip2"),
        pytest.param(lzma.compress(SECOND), "unpack it first (unxz)", id="xz"),
        pytest.param(
            gzip.compress(gzip.compress(SECOND)), "This is gzip within gzip", id="gzip within gzip"
        ),
    ],
)
def test_file_of_another_kind_is_called_what_it_is(
    cli: CommandLine, saved: Callable[..., str], content: bytes, message: str
) -> None:
    result = cli.run("--dag", "1", "--from-file", saved(content))
    assert result.status == 1
    assert message in result.stderr
    assert "not Kite's instrument list as CSV: " in result.stderr
    assert result.stderr.count("\n") == 1
    assert read_table(cli.connection) == {}


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
    return output[output.index("\nfetched ") : output.index("\nDAG 1 ")]


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
    path = keep(cli, "2020-01-31")
    cli.parameters["archive_days"] = 0
    cli.load(SECOND)
    assert kept(cli) == [path]


def keep(cli: CommandLine, day: str, suffix: str = ".csv.gz") -> Path:
    """A file as a run of that day has made it."""
    cli.archive.mkdir(exist_ok=True)
    path = cli.archive / f"kite_instruments_{day}_083012_0123456789ab{suffix}"
    path.write_bytes(b"")
    return path


def days_ago(days: int) -> str:
    return f"{datetime.now() - timedelta(days=days):%Y-%m-%d}"


def test_kept_lists_are_deleted_after_archive_days(cli: CommandLine) -> None:
    """By the dates in their names."""
    cli.parameters["archive_days"] = 7
    old = [keep(cli, days_ago(9)), keep(cli, days_ago(100), ".csv.part")]  # the latter: of a kill
    young = [keep(cli, days_ago(1)), keep(cli, days_ago(6))]
    cli.load(FIRST)
    names = kept(cli)
    assert not set(old) & set(names)
    assert set(young) < set(names)
    assert len(names) == 3


def test_only_files_that_runs_have_made_are_deleted(cli: CommandLine) -> None:
    cli.archive.mkdir()
    own = "kite_instruments_2020-01-31_083012_0123456789ab.csv.gz"
    for name in (
        "notes.txt",
        "kite_instruments_before_the_merger.csv.gz",
        "kite_instruments_2020-02-31_083012_0123456789ab.csv.gz",  # no such day
        "kite_instruments_2020-01-31_083012_0123456789AB.csv.gz",
        f"{own}.bak",
        f"my_{own}",
        own.removesuffix(".gz"),
        "kite_instruments_\u0662020-01-31_083012_0123456789ab.csv.gz",
    ):
        (cli.archive / name).write_bytes(b"")
        os.utime(cli.archive / name, (0, 0))
    (cli.archive / own).mkdir()
    (cli.archive / own.replace("31_", "30_")).symlink_to("nowhere")
    (cli.archive / own.replace("31_", "29_")).symlink_to("notes.txt")
    before = kept(cli)
    result = cli.load(FIRST)
    assert (result.status, result.stderr) == (0, "")
    assert set(before) < set(kept(cli))


def test_wrong_clock_deletes_no_kept_list(cli: CommandLine) -> None:
    """Not in the run that has it, and not in the next one, which has the right time."""
    lists = [keep(cli, days_ago(days)) for days in (1, 10, 29)]
    old = keep(cli, days_ago(40))
    cli.now = clock.now() + timedelta(days=3650)
    assert cli.load(FIRST).status == 0
    assert set(lists) < set(kept(cli))
    assert not old.exists()
    cli.now = None
    assert cli.load(SECOND).status == 0
    assert set(lists) < set(kept(cli))
    assert len(kept(cli)) == 5


def test_first_kept_list_of_a_wrong_clock_is_not_what_the_others_are_measured_by(
    cli: CommandLine,
) -> None:
    future = keep(cli, days_ago(-3650))
    assert cli.load(FIRST).status == 0
    assert len(kept(cli)) == 2
    assert future.exists()


def test_list_is_on_the_disk_before_an_old_one_is_deleted(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _ = keep(cli, "2020-01-31"), keep(cli, days_ago(1))
    seen: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda _descriptor: seen.append(old.exists()))
    assert cli.load(FIRST).status == 0
    assert seen == [True, True]  # the file, then its folder
    assert not old.exists()


def test_link_in_the_place_of_a_kept_list_is_replaced_and_not_followed(
    cli: CommandLine, tmp_path: Path
) -> None:
    moment = clock.now()
    cli.now = moment
    cli.load(FIRST)
    [path] = kept(cli)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    cli.query("TRUNCATE kite_instrument_master, ingestion_run CASCADE")
    result = cli.load(FIRST)
    assert (result.status, result.stderr) == (0, "")
    assert kept(cli) == [path]
    assert gzip.decompress(path.read_bytes()) == FIRST
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("place", ["kept list", "unfinished one"])
def test_something_in_the_place_of_a_kept_list_is_a_warning(
    cli: CommandLine, tmp_path: Path, place: str
) -> None:
    cli.now = clock.now()
    cli.load(FIRST)
    [path] = kept(cli)
    path.unlink()
    if place == "kept list":
        path.mkdir()
    else:
        path = path.with_suffix(".part")
        path.symlink_to(tmp_path / "elsewhere")
    cli.query("TRUNCATE kite_instrument_master, ingestion_run CASCADE")
    result = cli.load(FIRST)
    assert result.status == 0
    assert result.stderr.startswith("WARNING: The instruments could not be kept in ")
    assert kept(cli) == [path]  # it is not ours
    assert not (tmp_path / "elsewhere").exists()
    assert len(read_table(cli.connection)) == len(ROWS)


def test_failed_run_deletes_no_kept_list(cli: CommandLine) -> None:
    cli.load(FIRST)
    lists = {keep(cli, "2020-01-31"), *kept(cli)}
    assert cli.load(to_csv(ROWS[:10])).status == 1
    assert set(kept(cli)) == lists


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
        rf"WARNING: The instruments could not be kept in {re.escape(str(directory))}: .+\n",
        result.stderr,
    )
    if target.is_file():
        assert target.read_text() == "something else"


@pytest.mark.parametrize("feed", [INSTRUMENTS, SYMBOL_CHANGES], ids=lambda feed: feed.name)
def test_archive_is_where_archive_dir_says(
    feed: Feed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def directory() -> str:
        _, dag = ConfigLoader.load_merged_config(feed.folder, feed.settings, needs_api=False)
        return str(dag.parameters["archive_directory"])

    monkeypatch.setenv("DB_USER", "any")
    assert directory() == "archive"
    monkeypatch.setenv("ARCHIVE_DIR", "")
    assert directory() == "archive"
    monkeypatch.setenv("ARCHIVE_DIR", str(tmp_path / "kept"))
    key = RunKey(feed.dag_id, feed.name, API_SOURCE, clock.now())
    parameters = {"archive_days": 30, "archive_directory": directory()}
    archive.keep(Run(feed, key, parameters=parameters), Payload(b"x"))
    assert len(list((tmp_path / "kept").iterdir())) == 1


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

    def stop_midway(_descriptor: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", stop_midway)
    result = cli.load(FIRST)
    assert result.status == status
    assert result.stderr.endswith(message)
    assert [path for path in kept(cli) if path.name.endswith(".csv.gz")] == []
    assert kept(cli) == []


# A run that was ended between its commit and the keeping of its list


def test_list_that_a_killed_run_did_not_keep_is_noticed_by_the_next_run(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Stands for SIGKILL after the commit: nothing more is done."""

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    assert cli.load(FIRST).status == 0
    with monkeypatch.context() as patch:
        patch.setattr(archive, "keep", die)
        patch.setattr(run_module, "_end_in_failure", lambda *_: None)
        with pytest.raises(Killed):
            cli.load(SECOND)
    result = cli.load(FIRST)
    assert result.status == 0
    assert result.stderr == (
        f"WARNING: What run 2 loaded is not among the files in {cli.archive}: that run was ended "
        "before it could keep it, or the file was removed. It cannot be loaded again\n"
    )
    assert cli.load(SECOND).stderr == ""  # told once


@pytest.mark.parametrize("days", [0, 1])
def test_list_that_need_not_be_kept_is_not_missed(cli: CommandLine, days: int) -> None:
    cli.parameters["archive_days"] = 0
    assert cli.load(FIRST).status == 0
    cli.query("UPDATE ingestion_run SET started_at = started_at - interval '2 days'")
    cli.parameters["archive_days"] = days
    assert cli.load(SECOND).stderr == ""
