"""Fixtures: a real PostgreSQL, a database of its own for each test, a local Kite server.

The server is the one that TEST_DATABASE_URL names, or the DB_* variables of a service container;
else an embedded one is started for the session. No test reads the developer's own environment.
"""

from __future__ import annotations

import compileall
import gc
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest
from hypothesis import HealthCheck, settings

from dag_1_import_instruments_from_kite.import_instruments import (
    FEED,
    create_kite_instrument_master_table,
)
from sandbox.kite_server import KiteServer
from shared import clock
from shared.config import config_loader, logging_config
from shared.config.config_loader import override_config
from shared.preparation import read_schema
from shared.utils.db_manager import DatabaseManager
from shared.utils.retry import RetryPolicy
from tests.clock import OWN_SERVER_CLOCK
from tests.command_line import CommandLine
from tests.databases import Databases
from tests.own_postgres import password_postgres

PROJECT = Path(__file__).resolve().parents[1]
SHARED_DATA = PROJECT.parent / "shared" / "kite"
OWN_VARIABLES = (
    *("KITE_", "DB_", "NOTIFY_URLS", "PING_URL"),
    *("LOG_DIR", "ARCHIVE_DIR", "RETRY_DELAY_SECONDS", "TEST_DATABASE_URL"),
)

# How long an example takes depends on what else the machine does. The examples are the same each
# time; `make chaos` draws others, and more of them.
settings.register_profile(
    "project",
    settings.get_profile("default"),
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
    database=None,
    print_blob=True,
)
settings.register_profile(
    "chaos", settings.get_profile("project"), max_examples=500, derandomize=False
)
settings.load_profile("project")

# The project wants a password; a server that asks for none takes any.
NO_PASSWORD = "not-asked-for"

# Where there is room in memory, tests have their files and databases there: to make some hundred
# thousand files on a disk costs minutes. That of a container is small, or runs no programs.
MEMORY = Path("/dev/shm")
if (
    "TMPDIR" not in os.environ
    and os.access(MEMORY, os.W_OK | os.X_OK)
    and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
    and shutil.disk_usage(MEMORY).free > 4 * 1024**3
    and os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") > 4 * 1024**3
):
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)

# A shell that starts the tests with "&" has Ctrl-C ignored in them and in all that they start, and
# nohup SIGHUP.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Read before any test clears the environment.
_GIVEN = {name: value for name, value in os.environ.items() if value}


def pytest_xdist_auto_num_workers() -> int | None:
    """Two for each processor: half of the time a test waits, for its server or another process."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # xdist goes by it
    return 2 * (len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)


def pytest_collection_finish() -> None:
    """What is there now stays to the end: to look through it for garbage costs a twentieth."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[pytest.TestReport]:
    """Escape captured text that is not UTF-8: pytest-xdist's workers cannot hand it over."""
    report: pytest.TestReport = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No KITE_*, DB_* or .env of the developer's reaches a test; logs go to the test's folder."""
    for name in list(os.environ):
        if name.startswith(OWN_VARIABLES):
            monkeypatch.delenv(name)
    monkeypatch.setattr(config_loader, "ENV_FILE", tmp_path / ".env")
    monkeypatch.setenv("LOG_DIR", str(tmp_path / "logs"))
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        if handler not in handlers:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(level)
    logging_config._secrets.clear()
    logging_config._pattern = None


@pytest.fixture(scope="session", autouse=True)
def _measure_no_process_of_a_test() -> None:
    """A signal can end coverage's own code while it holds its lock: the process hangs then.

    Nor can processes that may write no file, or a small one, write what coverage measured.
    """
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[dict[str, Any]]:
    """How to reach the server, as a role that may create databases and roles."""
    if url := _GIVEN.get("TEST_DATABASE_URL"):
        yield _from_url(url)
    elif _GIVEN.get("DB_HOST") and _GIVEN.get("DB_USER"):
        yield {
            "host": _GIVEN["DB_HOST"],
            "port": int(_GIVEN.get("DB_PORT", "5432")),
            "dbname": _GIVEN.get("DB_NAME", "postgres"),
            "user": _GIVEN["DB_USER"],
            "password": _GIVEN.get("DB_PASSWORD", NO_PASSWORD),
        }
    else:
        with password_postgres() as conninfo:
            yield conninfo


def _from_url(url: str) -> dict[str, Any]:
    dsn = psycopg2.extensions.parse_dsn(url)
    return {
        "host": dsn.get("host", "localhost"),
        "port": int(dsn.get("port", 5432)),
        "dbname": dsn.get("dbname", "postgres"),
        "user": dsn.get("user", "postgres"),
        "password": dsn.get("password", NO_PASSWORD),
    }


class Server:
    """The PostgreSQL server, for tests that create databases and roles."""

    def __init__(self, conninfo: Mapping[str, Any]) -> None:
        self.conninfo = dict(conninfo)

    def execute(
        self, statement: str, params: Any = None, *, dbname: str | None = None
    ) -> list[tuple[Any, ...]]:
        """Run a statement by itself (autocommit) and return its rows, if it gives any."""
        connection = self.connect(dbname)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, params)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def sessions(self, dbname: str, condition: str = "true") -> int:
        """How many sessions there are on a database."""
        query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND {condition}"
        return int(self.execute(query, (dbname,))[0][0])

    def connect(self, dbname: str | None = None, **overrides: Any) -> Any:
        """An autocommit connection of psycopg2's own."""
        wanted = {**self.conninfo, **({"dbname": dbname} if dbname else {}), **overrides}
        connection = psycopg2.connect(**wanted)
        connection.autocommit = True
        return connection

    def config(self, dbname: str, **overrides: Any) -> dict[str, Any]:
        """What a DatabaseManager takes."""
        info = self.conninfo
        return {
            "host": info["host"],
            "port": info["port"],
            "database": dbname,
            "user": info["user"],
            "password": info["password"],
            **overrides,
        }


@pytest.fixture(scope="session")
def server(postgres: dict[str, Any]) -> Server:
    return Server(postgres)


@pytest.fixture(scope="session")
def template_database(server: Server) -> Iterator[str]:
    """A database with the empty table, which each test's own is cloned from."""
    name = f"template_{uuid.uuid4().hex[:12]}"
    server.execute(f"CREATE DATABASE {name}")
    with DatabaseManager(server.config(name)) as manager:
        create_kite_instrument_master_table(manager)
    yield name
    server.execute(f"DROP DATABASE {name}")


@pytest.fixture(scope="session")
def databases(server: Server) -> Iterator[Databases]:
    made = Databases(server, read_schema(FEED))
    yield made
    made.close()


@pytest.fixture
def empty_database(databases: Databases) -> Iterator[str]:
    """A database without any table."""
    name = databases.take(with_table=False)
    yield name
    databases.give_back(name, with_table=False)


@pytest.fixture
def database(databases: Databases) -> Iterator[str]:
    """A database with the empty table, for one test."""
    name = databases.take(with_table=True)
    yield name
    databases.give_back(name, with_table=True)


@pytest.fixture
def clocked_database(server: Server, template_database: str) -> Iterator[str]:
    """A database with the empty table, whose server's clock is the test's (tests/clock.py)."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    server.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}")
    server.execute(OWN_SERVER_CLOCK, dbname=name)
    yield name
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def module_database(server: Server, template_database: str) -> Iterator[str]:
    """A database with the empty table for the property tests of a module: they empty it."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    server.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}")
    yield name
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def make_role(server: Server) -> Iterator[Callable[..., str]]:
    """Make a role that may log in, with `password`; it may do nothing else yet."""
    roles = []

    def make(password: str = "Role-Secret-3f9") -> str:
        name = f"role_{uuid.uuid4().hex[:12]}"
        server.execute(f"CREATE ROLE {name} LOGIN PASSWORD %s", (password,))
        roles.append(name)
        return name

    yield make
    for role in roles:
        for (dbname,) in server.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE 'test\\_%%'"
            " AND (datdba = %s::regrole OR EXISTS (SELECT FROM pg_shdepend AS d"
            " WHERE d.refobjid = %s::regrole AND pg_database.oid IN (d.dbid, d.objid)))",
            (role, role),
        ):
            server.execute(f"DROP OWNED BY {role} CASCADE", dbname=dbname)
        server.execute(f"DROP ROLE {role}")


NO_WAIT = RetryPolicy(3, 1.0, sleep=lambda seconds: None)


@pytest.fixture
def db_manager(server: Server, database: str) -> Iterator[DatabaseManager]:
    """A manager on a database of the test's own, whose retries do not wait."""
    with DatabaseManager(server.config(database), retry=NO_WAIT) as manager:
        yield manager


@pytest.fixture
def emptied_manager(server: Server, module_database: str) -> Iterator[DatabaseManager]:
    """A manager on the module's database, whose table is empty: much faster than one of its own."""
    with DatabaseManager(server.config(module_database), retry=NO_WAIT) as manager:
        manager.execute_query("TRUNCATE kite_instrument_master")
        yield manager


@pytest.fixture
def module_connection(server: Server, module_database: str) -> Iterator[Any]:
    """A second session on the module's database, to look at what is committed."""
    connection = server.connect(module_database)
    yield connection
    connection.close()


@pytest.fixture
def kite() -> Iterator[KiteServer]:
    """A local Kite server with a header-only dump; a test sets `kite.dump`."""
    with KiteServer(HEADER) as running:
        yield running


def trading_days_around_now() -> dict[str, Any]:
    """Settings by which today is a trading day, whatever day it is, and whenever the tests end."""
    today = clock.now().date()
    return {"calendar": {"sessions": [f"{today + timedelta(days)}" for days in (-1, 0, 1)]}}


@pytest.fixture(scope="module")
def trading_today() -> Iterator[None]:
    """Today is a trading day: an empty list is a failure, say."""
    with override_config("the tests", trading_days_around_now()):
        yield


HEADER = (
    b"instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,"
    b"lot_size,instrument_type,segment,exchange\n"
)


@dataclass
class Project:
    """A copy of the project, to run its commands in as a user does."""

    folder: Path
    environment: dict[str, str]

    def run(
        self, *arguments: str, timeout: float = 60, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """`python execute_dags.py ARGUMENTS`, with the environment changed for this run."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    @contextmanager
    def start(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """The same, while it runs; what is left of it is killed at the end."""
        process = subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, str(self.folder / "execute_dags.py"), *arguments]

    @property
    def log(self) -> str:
        path = Path(self.environment["LOG_DIR"]) / "stock_ingestion.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's files as they are shipped, compiled once for all copies."""
    folder = tmp_path_factory.mktemp("shipped") / "project"
    copy_project(folder)
    compileall.compile_dir(folder, quiet=2)
    return folder


def copy_project(folder: Path) -> None:
    """Copy what a run needs: code, configuration, the sandbox."""
    folder.mkdir(parents=True)
    shutil.copy2(PROJECT / "execute_dags.py", folder)
    for path in (*PROJECT.glob("dag_*"), *map(PROJECT.joinpath, ("shared", "config", "sandbox"))):
        shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))


def make_project(shipped: Path, base: Path) -> Project:
    """A copy of the project, to which today is a trading day, else configured as it is shipped."""
    folder = base / "project"
    shutil.copytree(shipped, folder)
    own = folder / "config" / "local.json"
    own.write_text(json.dumps(trading_days_around_now()), encoding="utf-8")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(OWN_VARIABLES)
    }
    return Project(folder, {**environment, "LOG_DIR": str(base / "logs")})


@pytest.fixture
def project(shipped: Path, tmp_path: Path) -> Project:
    return make_project(shipped, tmp_path)


AddDAG = Callable[..., Path]


@pytest.fixture
def add_dag(project: Project) -> AddDAG:
    """Drop a DAG folder into the project: its code and its config.json."""

    def add(
        dag_id: int,
        name: str,
        code: str = "",
        config: str | None = None,
        **extra: Any,
    ) -> Path:
        default = {"enabled": True, "schedule": "daily", "description": f"About {name}", **extra}
        code = code or f"def {name}():\n    return '{name} was here'\n"
        folder = project.folder / f"dag_{dag_id}_{name}"
        folder.mkdir()
        (folder / "__init__.py").write_text(code, encoding="utf-8")
        text = json.dumps(default) if config is None else config
        (folder / "config.json").write_text(text, encoding="utf-8")
        return folder

    return add


def environment_for(server: Server, database: str, kite: KiteServer) -> dict[str, str]:
    """The variables that name this Kite server and this database."""
    config = server.config(database)
    return {
        "KITE_API_KEY": kite.api_key,
        "KITE_API_SECRET": kite.api_secret,
        "KITE_ACCESS_TOKEN": kite.access_token,
        "KITE_API_ROOT": kite.root,
        "DB_HOST": str(config["host"]),
        "DB_PORT": str(config["port"]),
        "DB_NAME": database,
        "DB_USER": config["user"],
        "DB_PASSWORD": config["password"],
    }


def connect_project(project: Project, server: Server, database: str, kite: KiteServer) -> None:
    """Let the project's environment name this Kite server and this database."""
    project.environment.update(environment_for(server, database, kite), RETRY_DELAY_SECONDS="0.01")


@pytest.fixture
def configured_project(
    project: Project, server: Server, database: str, kite: KiteServer
) -> Project:
    """A project whose environment names the local Kite server and the test's own database."""
    connect_project(project, server, database, kite)
    return project


@pytest.fixture
def cli(
    server: Server,
    database: str,
    kite: KiteServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[CommandLine]:
    """The command line in this process, on the local Kite server and a database of the test's."""
    for name, value in environment_for(server, database, kite).items():
        monkeypatch.setenv(name, value)
    connection = server.connect(database)
    yield CommandLine(kite, tmp_path, connection, monkeypatch)
    connection.close()


@pytest.fixture
def as_role(
    cli: CommandLine,
    server: Server,
    database: str,
    make_role: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., str]:
    """From now on runs are those of a role that has rights on the instrument table alone."""

    def become(*further: str) -> str:
        role = make_role()
        for statement in (
            "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON kite_instrument_master TO {role}",
            *(right.format(role=role) for right in further),
        ):
            server.execute(statement, dbname=database)
        monkeypatch.setenv("DB_USER", role)
        monkeypatch.setenv("DB_PASSWORD", "Role-Secret-3f9")
        return role

    return become


@pytest.fixture
def real_dump() -> Callable[[str], bytes]:
    """The bytes of a real dump or mock; the test is skipped where the data is not at hand."""
    import gzip

    def load(name: str) -> bytes:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"the real data {name} is not on this machine")
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content

    return load
