"""Airflow as a user starts it: scheduler, dag-processor and api-server, on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

from tests import table_model
from tests.conftest import PROJECT, Server
from tests.documents import read_blocks
from tests.own_postgres import free_port

PAGE = PROJECT / "docs" / "airflow.md"

SECONDS = 120  # for what Airflow does in its own time: a task begins some seconds after its turn
OVER = ("success", "failed", "skipped", "upstream_failed")


# Each question costs Airflow an answer.
wait_until = partial(table_model.wait_until, seconds=SECONDS, pause=0.3)


@dataclass
class Engine:
    """A running Airflow, asked through its REST API."""

    project: Path
    environment: Mapping[str, str]
    token: str = ""

    @property
    def home(self) -> Path:
        return Path(self.environment["AIRFLOW_HOME"])

    def run(self, script: str) -> str:
        """What a shell prints that runs this, in the project's folder."""
        return run_shell(script, self.environment, self.project)

    def run_block(self, heading: str, begin: str) -> str:
        """The same for a block of docs/airflow.md."""
        return self.run(find_block(heading, begin))

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the REST API. Raises HTTPError."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        data = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.environment['AIRFLOW__API__PORT']}{path}"
        with urlopen(Request(url, data, headers, method=method), timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def log_in(self) -> bool:
        """Whether the API is there now, and has given a token."""
        with suppress(OSError):
            self.token = self.call("GET", "/auth/token")["access_token"]
        return bool(self.token)

    def dags(self) -> dict[str, dict[str, Any]]:
        """What Airflow knows of each DAG, by its id."""
        return {dag["dag_id"]: dag for dag in self.call("GET", "/api/v2/dags?limit=100")["dags"]}

    def unpause(self, *names: str) -> None:
        for name in names:
            self.call("PATCH", f"/api/v2/dags/{name}", {"is_paused": False})

    def trigger(self, name: str, **params: Any) -> str:
        """Start a run; returns its id."""
        body = {"logical_date": None, "conf": params}
        run = self.call("POST", f"/api/v2/dags/{name}/dagRuns", body)
        return str(run["dag_run_id"])

    def runs(self, name: str) -> list[dict[str, Any]]:
        """All runs of a DAG, the oldest first."""
        found = self.call("GET", f"/api/v2/dags/{name}/dagRuns?order_by=run_after")
        return list(found["dag_runs"])

    def tasks(self, name: str, run: str) -> list[dict[str, Any]]:
        path = f"/api/v2/dags/{name}/dagRuns/{quote(run)}/taskInstances"
        return list(self.call("GET", path)["task_instances"])

    def states(self, name: str, run: str) -> dict[str, str | None]:
        """The state of each task of a run, by its id and part."""
        return {
            " ".join(filter(None, (task["task_id"], task["rendered_map_index"]))): task["state"]
            for task in self.tasks(name, run)
        }

    def attempts(self, name: str, run: str) -> list[int]:
        """How often the task "run" has begun; of each part."""
        return [each["try_number"] for each in self.tasks(name, run) if each["task_id"] == "run"]

    def finish(self, name: str, run: str) -> str:
        """Wait for the end of a run; returns its state."""
        path = f"/api/v2/dags/{name}/dagRuns/{quote(run)}"

        def state() -> str:
            return str(self.call("GET", path)["state"])

        wait_until(lambda: state() in OVER)
        return state()

    def log(self, name: str, run: str, *, part: int | None = None) -> str:
        """What is in the log of the first attempt of the task "run", or of a part's (1: first)."""
        folder = self.home / "logs" / f"dag_id={name}" / f"run_id={run}" / "task_id=run"
        if part is not None:
            folder /= f"map_index={part - 1}"
        return (folder / "attempt=1.log").read_text(encoding="utf-8")

    def mark_failed(self, name: str, run: str) -> None:
        path = f"/api/v2/dags/{name}/dagRuns/{quote(run)}/taskInstances/run"
        self.call("PATCH", path, {"new_state": "failed"})


@contextmanager
def running(project: Path, server: Server, given: Mapping[str, str]) -> Iterator[Engine]:
    """Airflow as docs/airflow.md sets it up and starts it; nothing of it is left in the end."""
    with page_database(server) as own:
        paths = {"/opt/stock_ingestion": str(project)}
        settings = find_block("Installation", "AIRFLOW_HOME=", {**own, **paths})
        (project / ".env.airflow").write_text(settings, encoding="utf-8")
        script = f"{find_block('First start', 'set -a')}\nenv -0"
        output = run_shell(script, {**given, "HOME": str(project)}, project)
        found = dict(line.split("=", 1) for line in output.rstrip("\0").split("\0"))
        engine = Engine(project, {**found, **quick_settings()})
        engine.run_block("First start", "airflow db migrate")
        with ExitStack() as processes:
            for line in find_block("First start", "airflow scheduler").splitlines():
                processes.enter_context(process(engine, line.removesuffix(" &")))
            wait_until(engine.log_in)
            yield engine
        assert find_processes(str(project)) == []


def quick_settings() -> dict[str, str]:
    """What a user would not set: ports of its own, quick answers, an API without a login."""
    port = str(free_port())
    settings = {
        "API__PORT": port,
        "API__WORKERS": "1",
        "CORE__DEFAULT_TASK_RETRY_DELAY": "1",
        "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "1",
        "CORE__PARALLELISM": "8",
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "2",
        "DAG_PROCESSOR__REFRESH_INTERVAL": "2",
        "LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
    }
    return {f"AIRFLOW__{name}": value for name, value in settings.items()}


@contextmanager
def page_database(server: Server) -> Iterator[dict[str, str]]:
    """The page's database under a name of its own: what to write for the page's address."""
    name = f"airflow_{uuid.uuid4().hex[:12]}"
    host = "{host}:{port}".format(**server.conninfo)
    for statement in find_block("Installation", "CREATE ROLE").splitlines():
        server.execute(statement.replace("airflow", name))
    yield {"airflow:choose-one@localhost:5432/airflow": f"{name}:choose-one@{host}/{name}"}
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    server.execute(f"DROP ROLE {name}")


def find_block(heading: str, begin: str, replaced: Mapping[str, str] | None = None) -> str:
    """The block of docs/airflow.md under this heading that begins so, with other names."""
    found = [block.text for block in read_blocks(PAGE) if block.heading == heading]
    [text] = (text for text in found if text.startswith(begin))
    for old, new in (replaced or {}).items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def run_shell(script: str, environment: Mapping[str, str], folder: Path) -> str:
    """What a shell prints that runs this, every line of which has to end well."""
    result = subprocess.run(
        ["sh", "-e", "-c", script],
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@contextmanager
def process(engine: Engine, command: str) -> Iterator[None]:
    """A process of Airflow, in a group of its own, which is gone in the end."""
    words = command.split()
    with (engine.home / f"{words[-1]}.out").open("w") as output:
        started = subprocess.Popen(
            words,
            env=engine.environment,
            cwd=engine.project,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield
        finally:
            started.terminate()
            with suppress(subprocess.TimeoutExpired):
                started.wait(30)
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            started.wait()


def find_processes(*words: str) -> list[str]:
    """The command lines of the processes that have one of the words there, or in a variable."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (path / "cmdline").read_bytes()
            told = command + (path / "environ").read_bytes()
            if any(os.fsencode(word) in told for word in words) and path.name != str(os.getpid()):
                found.append(command.decode(errors="replace").replace("\0", " "))
    return found
