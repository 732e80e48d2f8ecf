"""Finds the DAG folders, and loads a DAG's function when it is about to run.

A folder `dag_<id>_<name>` is a DAG: a package that has a config.json and exports a function
<name>. Nothing else has to be edited for a new one, and a broken one is listed with its fault.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from shared.config.config_loader import ConfigLoader
from shared.exceptions import ConfigurationError, DAGExecutionError

_FOLDER_NAME = re.compile(r"dag_(\d+)_(\w+)")


@dataclass(frozen=True)
class DAG:
    """A DAG as its folder and config.json describe it; `fault` says why it cannot be run."""

    dag_id: int
    name: str
    folder: Path
    enabled: bool = True
    schedule: str = "?"
    description: str = ""
    fault: str | None = None

    def load(self) -> Callable[..., str]:
        """The DAG's function. Raises ConfigurationError or DAGExecutionError if there is none."""
        module = self._import()
        function = getattr(module, self.name, None)
        if not callable(function):
            raise DAGExecutionError(
                f"DAG {self.dag_id}: {self.folder.name} has no function {self.name}: its "
                "__init__.py must export one by that name."
            )
        return function  # type: ignore[no-any-return]

    def load_report(self, name: str) -> Callable[..., str] | None:
        """The function `name` that the DAG may export beside its own, or None."""
        function = getattr(self._import(), name, None)
        return function if callable(function) else None

    def _import(self) -> ModuleType:
        if self.fault is not None:
            raise ConfigurationError(self.fault)
        package = self.folder.name
        try:
            module = sys.modules.get(package)
            if module is None or Path(module.__file__ or "").parent != self.folder:
                module = _import_package(self.folder)
        except (Exception, SystemExit) as exc:
            raise DAGExecutionError(
                f"DAG {self.dag_id}: {package} cannot be loaded: {type(exc).__name__}: {exc}"
            ) from exc
        return module


def discover_dags(root: Path) -> list[DAG]:
    """All DAGs in `root`, by id and name. Never raises for a broken one."""
    dags = []
    for folder in sorted(root.resolve().iterdir()):
        match = _FOLDER_NAME.fullmatch(folder.name)
        if match and folder.is_dir():
            dags.append(_describe(DAG(int(match[1]), match[2], folder)))
    folders_per_id = Counter(dag.dag_id for dag in dags)
    return sorted(
        (_refuse_shared_id(dag, dags) if folders_per_id[dag.dag_id] > 1 else dag for dag in dags),
        key=lambda dag: (dag.dag_id, dag.name),
    )


def _describe(dag: DAG) -> DAG:
    try:
        summary = ConfigLoader.load_dag_summary(dag.folder)
    except ConfigurationError as exc:
        return replace(dag, fault=" ".join(str(exc).split()))
    return replace(
        dag,
        enabled=summary["enabled"],
        schedule=summary["schedule"],
        description=summary["description"],
    )


def _refuse_shared_id(dag: DAG, dags: list[DAG]) -> DAG:
    folders = ", ".join(other.folder.name for other in dags if other.dag_id == dag.dag_id)
    return replace(dag, fault=f"DAG id {dag.dag_id} is used by several folders: {folders}.")


def _import_package(folder: Path) -> ModuleType:
    """Import the package in `folder` under the folder's name."""
    spec = importlib.util.spec_from_file_location(
        folder.name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None or not (folder / "__init__.py").is_file():
        raise ImportError("no __init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[folder.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[folder.name]
        raise
    return module
