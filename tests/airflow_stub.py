"""The names of Airflow that deploy/airflow/stock_ingestion_dags.py uses, without Airflow.

`make airflow` runs the file on a real one.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any, Self

import pytest

from tests.conftest import PROJECT

FILE = PROJECT / "deploy" / "airflow" / "stock_ingestion_dags.py"


class AirflowException(Exception): ...  # noqa: N818 - Airflow's name


class AirflowFailException(AirflowException): ...


class AirflowSkipException(AirflowException): ...


class DagRunType(str, Enum):  # noqa: UP042 - as Airflow's is: its str() is not its value
    SCHEDULED = "scheduled"
    MANUAL = "manual"
    ASSET_TRIGGERED = "asset_triggered"


@dataclass(frozen=True)
class Asset:
    name: str
    uri: str


class AssetAny(tuple[Asset, ...]):
    def __new__(cls, *assets: Asset) -> Self:
        return super().__new__(cls, assets)


@dataclass
class AssetOrTimeSchedule:
    timetable: CronTriggerTimetable
    assets: AssetAny


@dataclass
class CronTriggerTimetable:
    cron: str
    timezone: str


@dataclass
class Param:
    value: Any
    type: Any
    description: str
    pattern: str | None = None


@dataclass
class DAG:
    dag_id: str
    description: str
    schedule: Any
    catchup: bool
    auto_register: bool
    max_active_runs: int
    params: Mapping[str, Param]
    tags: list[str]
    tasks: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        BaseOperator.dag = self
        return self

    def __exit__(self, *_: object) -> None:
        BaseOperator.dag = None


class BaseOperator:
    """An operator; `parts` are the arguments that a mapped one is expanded over."""

    dag: DAG | None = None

    def __init__(self, *, task_id: str, pool: str, retries: int = 0, outlets: Any = ()) -> None:
        assert self.dag is not None
        self.task_id, self.pool, self.retries, self.outlets = task_id, pool, retries, outlets
        self.parts: dict[str, Any] = {}
        self.upstream: list[str] = []
        self.dag.tasks[task_id] = self

    def __rshift__(self, other: BaseOperator) -> BaseOperator:
        other.upstream.append(self.task_id)
        return other

    @classmethod
    def partial(cls, map_index_template: str, **given: Any) -> Any:
        def expand(**parts: list[str]) -> BaseOperator:
            task = cls(**given)
            task.parts = parts
            return task

        return SimpleNamespace(expand=expand)


class SubprocessHook:
    """Runs a command as Airflow's does, as far as the file goes."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.process: subprocess.Popen[str] | None = None

    @property
    def log(self) -> Any:
        return SimpleNamespace(info=lambda message, *args: self.lines.append(message % args))

    def run_command(self, command: list[str], env: dict[str, str], cwd: str) -> Any:
        self.log.info("Running command: %s", command)
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(command, env=env, cwd=cwd, text=True, **pipes) as self.process:
            assert self.process.stdout is not None
            line = ""
            for line in map(str.rstrip, self.process.stdout):
                self.log.info("%s", line)
        return SimpleNamespace(exit_code=self.process.returncode, output=line)

    def send_sigterm(self) -> None:
        assert self.process is not None
        self.process.terminate()


def croniter(expression: str) -> Any:
    if not expression.startswith("@") and len(expression.split()) not in (5, 6):
        raise ValueError(f"{expression} is no cron expression")
    expanded = [field.split(",") for field in expression.split()]
    return SimpleNamespace(expanded=expanded, get_next=lambda: 0.0)


def load(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> ModuleType:
    """The file as Airflow's processes run it, where Airflow has these Variables."""
    names = {each.__name__: each for each in (DAG, Asset, AssetAny, AssetOrTimeSchedule)}
    names |= {each.__name__: each for each in (BaseOperator, CronTriggerTimetable, Param)}
    names["Variable"] = SimpleNamespace(get=lambda key, default: variables.get(key, default))
    errors = (AirflowException, AirflowFailException, AirflowSkipException)
    modules: dict[str, Mapping[str, Any]] = {
        "airflow": {},
        "airflow.sdk": names,
        "airflow.sdk.exceptions": {each.__name__: each for each in errors},
        "airflow.providers": {},
        "airflow.providers.standard": {},
        "airflow.providers.standard.hooks": {},
        "airflow.providers.standard.hooks.subprocess": {"SubprocessHook": SubprocessHook},
        "croniter": {"croniter": croniter},
    }
    for name, contents in modules.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("stock_ingestion_dags", FILE)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded
