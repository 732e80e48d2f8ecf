"""Finds the DAG folders, and loads a DAG's code when it is about to run.

A folder `dag_<id>_<name>` is a DAG: a package that has a config.json and exports FEED, or a
function <name>. Nothing else has to be edited for a new one. A broken one is listed with its fault
and harms no other.
"""

import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from shared.calendar import GRACE_MINUTES, Schedule
from shared.config.checks import FAULTS
from shared.config.config_loader import ConfigLoader
from shared.exceptions import ConfigurationError, DAGExecutionError
from shared.feed import Feed

NO_ID = -1  # of a folder whose name has none
_FOLDER_NAME = re.compile(r"dag_([0-9]+)_(\w+)")
_SIMILAR_NAME = re.compile(r"(?i)dag[\W_0-9]")


@dataclass(frozen=True, order=True)
class DAG:
    """A DAG as its folder and its config describe it; `fault` says why it cannot be run."""

    dag_id: int
    name: str
    folder: Path
    enabled: bool = True
    schedule: str = "?"
    description: str = ""
    fault: str | None = None
    after: tuple[int, ...] = ()
    grace_minutes: int = GRACE_MINUTES
    to_enable: str = ""
    slices: int = 1

    @property
    def shown_id(self) -> str:
        """The id as text; "?" where the folder's name has none."""
        return "?" if self.dag_id == NO_ID else str(self.dag_id)

    @property
    def label(self) -> str:
        """What messages call it, such as "DAG 5 count_rows"."""
        return f"DAG {self.dag_id} {self.name}"

    def as_dict(self) -> dict[str, Any]:
        """What a scheduler wants to know; of a broken DAG, whose settings may be unread, not those.

        `cron` is the schedule as a cron expression of five fields.
        """
        settings: dict[str, Any] = {
            "enabled": self.enabled,
            "schedule": self.schedule,
            "cron": "" if self.fault else Schedule(self.schedule).cron,
            "description": self.description,
            "after": self.after,
            "grace_minutes": self.grace_minutes,
            "slices": self.slices,
        }
        dag_id = None if self.dag_id == NO_ID else self.dag_id
        names = {"dag_id": dag_id, "name": self.name, "folder": self.folder.name}
        known = dict.fromkeys(settings) if self.fault else settings
        return {**names, **known, "fault": self.fault}

    def load(self) -> Callable[..., Any]:
        """What runs the DAG: its own function, or the run of its feed.

        Raises ConfigurationError or DAGExecutionError if there is none that a call would run.
        """
        function = getattr(self._import(), self.name, None)
        package = f"DAG {self.dag_id}: {self.folder.name}"
        if callable(function):
            if fault := _find_call_fault(function):
                raise DAGExecutionError(f"{package}: {self.name} {fault}.")
            return function  # type: ignore[no-any-return]
        feed = self.load_feed()
        if feed is None:
            raise DAGExecutionError(
                f"{package} has no function {self.name} and no FEED: its __init__.py must export "
                "one of them."
            )
        from shared.run import run_feed

        return partial(run_feed, feed)

    def can_slice(self) -> bool:
        """Whether it can run in parts. Raises as `load` and `load_feed` do."""
        function, feed = self.load(), self.load_feed()
        takes_part = "slice" in inspect.signature(function).parameters
        return takes_part and (feed is None or feed.can_slice)

    def load_feed(self) -> Feed | None:
        """The FEED that the package exports; None if it is a plain function.

        Raises ConfigurationError or DAGExecutionError if the package or its FEED is broken.
        """
        feed = getattr(self._import(), "FEED", None)
        if feed is None or (isinstance(feed, Feed) and feed.folder.resolve() == self.folder):
            return feed
        raise DAGExecutionError(
            f"DAG {self.dag_id}: FEED in {self.folder.name} must be a Feed (shared/feed.py) with "
            f"folder=Path(__file__).parent, got {getattr(feed, 'folder', feed)}."
        )

    def _import(self) -> ModuleType:
        if self.fault is not None:
            raise ConfigurationError(self.fault)
        package = self.folder.name
        module = sys.modules.get(package)
        if module is not None and Path(module.__file__ or "").parent == self.folder:
            return module
        try:
            return _import_package(self.folder)
        except (Exception, SystemExit) as exc:
            sys.modules.pop(package, None)
            raise DAGExecutionError(
                f"DAG {self.dag_id}: {package} cannot be loaded: {type(exc).__name__}: {exc}"
            ) from exc


def discover_dags(root: Path) -> list[DAG]:
    """All DAGs in `root`, by id and name. Never raises for a broken one."""
    folders = [path for path in sorted(root.resolve().iterdir()) if _look(path.is_dir)]
    dags = [dag for folder in folders if (dag := _describe(folder)) is not None]
    return sorted(replace(dag, fault=_find_fault_among(dag, dags) or dag.fault) for dag in dags)


def in_order(dags: Iterable[DAG]) -> list[DAG]:
    """The DAGs, each behind those that it comes after, otherwise by id.

    Ids in `after` that are not among them do not matter. DAGs that wait for each other, which is a
    fault of theirs, come by id.
    """
    waiting = sorted(dags)
    ordered = []
    while waiting:
        ids = {dag.dag_id for dag in waiting}
        ready = next((dag for dag in waiting if ids.isdisjoint(dag.after)), waiting[0])
        waiting.remove(ready)
        ordered.append(ready)
    return ordered


def _describe(folder: Path) -> DAG | None:
    """The DAG in a folder, as far as it can be told by itself; None if it does not look like one.

    A folder by a similar name may be a copy that was put aside, one without config.json and
    __init__.py what git has left of a DAG: they are not enabled.
    """
    is_package = _look((folder / "__init__.py").is_file)
    match = _FOLDER_NAME.fullmatch(folder.name)
    if match is None:
        is_dag = is_package or _look((folder / "config.json").exists)
        if not (is_dag and _SIMILAR_NAME.match(folder.name)):
            return None
        fault = (
            f"{folder.name}: the folder of a DAG must be named dag_<id>_<name>, such as "
            "dag_5_prices (a number, then letters, digits and _). Rename it, or move it away."
        )
        return DAG(NO_ID, folder.name, folder, enabled=False, fault=fault)
    name = match[2]
    no_package = f"{folder.name} has no __init__.py: it must export FEED or a function {name}."
    dag = DAG(int(match[1]), name, folder, is_package, fault=None if is_package else no_package)
    try:
        return replace(dag, **ConfigLoader.load_dag_summary(folder))
    except ConfigurationError as exc:
        return replace(dag, fault=" ".join(str(exc).split()).removeprefix(f"{FAULTS} "))


def _look(ask: Callable[[], bool]) -> bool:
    """What a question about a path has for an answer; False where the rights for it lack."""
    try:
        return ask()
    except OSError:
        return False


def _find_fault_among(dag: DAG, dags: Sequence[DAG]) -> str | None:
    """What is wrong with a DAG beside the others: its id, or what it comes after."""
    folders = [other.folder.name for other in dags if other.dag_id == dag.dag_id]
    if len(folders) > 1 and dag.dag_id != NO_ID:
        return f"DAG id {dag.dag_id} is used by several folders: {', '.join(folders)}."
    after = {other.dag_id: other.after for other in dags}
    if unknown := [str(dag_id) for dag_id in dag.after if dag_id not in after]:
        return f"{dag.folder.name}: after: there is no DAG {', '.join(unknown)}."
    before = _all_before(dag.dag_id, after)
    if dag.dag_id in before:
        by_way = sorted(i for i in before - {dag.dag_id} if dag.dag_id in _all_before(i, after))
        by_way_of = f", by way of {', '.join(map(str, by_way))}" if by_way else ""
        return (
            f"{dag.folder.name}: after: DAG {dag.dag_id} would have to run after itself{by_way_of}."
        )
    return None


def _all_before(dag_id: int, after: Mapping[int, Sequence[int]]) -> set[int]:
    """The DAGs that a DAG comes after, directly or through others."""
    found: set[int] = set()
    todo = [*after.get(dag_id, ())]
    while todo:
        if (before := todo.pop()) not in found:
            found.add(before)
            todo += after.get(before, ())
    return found


def _find_call_fault(function: Callable[..., Any]) -> str | None:
    """Why a call without arguments would not run the function."""
    if inspect.iscoroutinefunction(function):
        return "is async, and nobody awaits it"
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return "is a generator, and nobody runs it"
    try:
        inspect.signature(function).bind()
    except TypeError as exc:
        return f"must be callable without arguments: {exc}"
    except ValueError:  # a builtin does not say
        pass
    return None


def _import_package(folder: Path) -> ModuleType:
    """Import the package in `folder` under the folder's name."""
    spec = importlib.util.spec_from_file_location(
        folder.name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None  # so it is for a file whose name ends with .py
    assert spec.loader is not None
    module = sys.modules[folder.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
