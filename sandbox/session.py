"""A sandbox for the command line: an own PostgreSQL and an own Kite, reached by configuration.

Each run that succeeds is a trading day of a made-up market; the next one is the next day. The
data are kept in the sandbox's folder, and nothing outside of it is touched.

A DAG brings its part in a module `sandbox.py` in its folder, which only a sandbox loads:

    @contextmanager
    def open_part(kite: KiteServer, day: date) -> Iterator[Mapping[str, Any]]:
        kite.add_route("/quote", answer_quote)
        yield {"parameters": {"symbols": ["NSE:INFY"]}}

What it yields is merged over the configuration of this DAG.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg2

from sandbox.dump_generator import DEFAULT_ROWS, generate_dump
from sandbox.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError
from sandbox.kite_faults import CutShort, Fault, Hang, HtmlError, HttpError
from sandbox.kite_server import KiteServer
from sandbox.market_ledger import trading_day
from shared.config.config_loader import PROJECT_ROOT, override_config
from shared.dag_discovery import DAG, discover_dags
from shared.exceptions import ConfigurationError
from shared.utils.libpq_environment import without_libpq_variables

DATABASE = "moneytree"
INSTRUMENTS = "/instruments"

# What `--sandbox-fault` offers for the download; each lasts for all attempts. Of the requests for
# single instruments, which are many, the first ones have it.
DOWNLOAD_FAULTS: dict[str, Fault] = {
    "429": HttpError(429, retry_after=1),
    "502": HtmlError(),
    "timeout": Hang(),
    "truncated": CutShort("gzip"),
}
_FAULTY_SINGLES = 6
FAULT_NAMES = (*DOWNLOAD_FAULTS, "expired-token", "bad-rows")


@dataclass(frozen=True)
class SandboxSession:
    """A running sandbox: what it offers today, and where."""

    folder: Path
    day: int
    kite: KiteServer

    def describe(self) -> str:
        """The day and the addresses, in a line."""
        today = trading_day(self.day)
        return (
            f"Day {self.day + 1}, {today:%a %d %b %Y}: Kite at "
            f"{self.kite.root.removeprefix('http://')}, PostgreSQL in {self.folder.name}/postgres"
        )

    @property
    def has_served_list(self) -> bool:
        """Whether somebody got today's list."""
        return any(
            request.path == INSTRUMENTS and request.status == 200 for request in self.kite.requests
        )

    def complete(self) -> None:
        """Note that today's list was stored: the next session is the next trading day."""
        path = _day_file(self.folder)
        beside = path.with_suffix(".new")
        beside.write_text(f"{self.day}\n", encoding="ascii")
        beside.replace(path)


@contextmanager
def open_sandbox(
    folder: Path,
    fault: str | None = None,
    dag_ids: Collection[int] = (),
    *,
    root: Path = PROJECT_ROOT,
    rows: int = DEFAULT_ROWS,
) -> Iterator[SandboxSession]:
    """Start the servers and redirect the configuration to them; stop them at the end.

    The list has about `rows` rows. The parts of the DAGs of these ids are opened, or those of all
    enabled DAGs. Raises ConfigurationError if a server cannot be started or a part is broken.
    """
    folder.mkdir(parents=True, exist_ok=True)
    day = _next_day(folder)
    dump = generate_dump(day, rows=rows)
    if fault == "bad-rows":
        dump = _spoil(dump)
    with (
        without_libpq_variables(kept=()),  # PGSSLMODE too: this server has no certificate
        _start_postgres(folder) as postgres,
        KiteServer(dump) as kite,
    ):
        if fault in DOWNLOAD_FAULTS:
            kite.fail_next(INSTRUMENTS, DOWNLOAD_FAULTS[fault], times=None)
            kite.fail_next(f"{INSTRUMENTS}/", DOWNLOAD_FAULTS[fault], _FAULTY_SINGLES)
        credentials = {
            "kite_api_key": kite.api_key,
            "kite_api_secret": kite.api_secret,
            "kite_access_token": kite.access_token,
        }
        if fault == "expired-token":
            kite.expire_token()
        values: dict[str, Any] = {
            "api": {**credentials, "root": kite.root, "timeout_seconds": 2},
            "database": {
                "host": postgres.host,
                "port": postgres.port,
                "database": DATABASE,
                "user": postgres.user,
                "password": postgres.password,
                "sslmode": "disable",
            },
            "notify": {"urls": [], "ping_url": ""},  # nobody is told of what was tried
            "logging": {"directory": str(folder / "logs")},
            "parameters": {
                "retry_delay_seconds": 1,
                "archive_directory": str(folder / "archive"),
            },
        }
        with override_config("the sandbox", values), ExitStack() as parts:
            for dag in discover_dags(root):
                if dag.dag_id in dag_ids if dag_ids else dag.enabled:
                    _open_part(parts, dag, kite, trading_day(day))
            yield SandboxSession(folder, day, kite)


def _open_part(parts: ExitStack, dag: DAG, kite: KiteServer, day: date) -> None:
    """Open what the DAG's sandbox.py brings, if there is one, until the end of `parts`."""
    path = dag.folder / "sandbox.py"
    if not path.exists():
        return
    try:
        loader = SourceFileLoader(f"{dag.folder.name}_sandbox", str(path))
        module = ModuleType(loader.name)
        module.__file__ = str(path)
        sys.modules[loader.name] = module  # a dataclass looks for it there
        loader.exec_module(module)
        values = parts.enter_context(module.open_part(kite, day))
        if not isinstance(values, Mapping):
            raise TypeError(f"expected open_part to yield a mapping, got {values!r}")
        name = f"the sandbox part of DAG {dag.dag_id}"
        parts.enter_context(override_config(name, values, dag.folder))
    except (Exception, SystemExit) as exc:
        raise ConfigurationError(
            f"DAG {dag.dag_id}: its part of the sandbox, {dag.folder.name}/sandbox.py, cannot be "
            f"opened: {type(exc).__name__}: {exc}"
        ) from exc


@contextmanager
def _start_postgres(folder: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(folder / "postgres")
    try:
        try:
            server.start()
        except (EmbeddedPostgresError, OSError) as exc:
            raise ConfigurationError(f"The sandbox cannot start: {exc}") from exc
        _create_database(server)
        yield server
    finally:
        server.stop()


def _create_database(server: EmbeddedPostgres) -> None:
    connection = psycopg2.connect(**server.conninfo())
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
            if cursor.fetchone() is None:
                cursor.execute(f"CREATE DATABASE {DATABASE}")
    finally:
        connection.close()


def _day_file(folder: Path) -> Path:
    return folder / "last_day"


def _next_day(folder: Path) -> int:
    try:
        return int(_day_file(folder).read_text(encoding="ascii")) + 1
    except (FileNotFoundError, ValueError):
        return 0


def _spoil(dump: bytes) -> bytes:
    """The dump with a few rows broken, each in its own way."""
    lines = dump.split(b"\n")
    damages: list[Callable[[bytes], bytes]] = [
        lambda line: line.replace(b",0.0,", b",0.0,someday", 1),
        lambda line: line[: len(line) // 2],
        lambda line: b"-" + line,
        lambda line: line.replace(b",", b",\xff", 2),
        lambda line: line.replace(b",", b',"', 3),
        lambda line: line + b" OF INDIA",
    ]
    for position in range(12):
        number = 100 + 100 * position
        lines[number] = damages[position % len(damages)](lines[number])
    return b"\n".join(lines)
