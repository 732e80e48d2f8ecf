"""Which DAGs a call of the command line runs, in which order, and how."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from shared.dag_discovery import DAG, NO_ID, in_order
from shared.exceptions import ConfigurationError, StockIngestionError
from shared.feed import RunOptions
from shared.program import command

if TYPE_CHECKING:
    from shared.utils.db_manager import DatabaseManager

Plan = Sequence[tuple[DAG, Callable[[], Any]]]  # each DAG, and what runs it


def find_ids(dags: Sequence[DAG], wanted: Sequence[int | str]) -> list[int]:
    """The ids of DAGs that are wanted by id, or by their own or their folder's name.

    Raises ConfigurationError if a name is not known, or that of several.
    """
    return [_find_id(dags, each) if isinstance(each, str) else each for each in wanted]


def _find_id(dags: Sequence[DAG], name: str) -> int:
    named = [dag for dag in dags if name in (dag.name, dag.folder.name)]
    ids = sorted({dag.dag_id for dag in named})
    if not ids:
        known = {known for dag in dags for known in (dag.name, dag.folder.name)}
        nearest = get_close_matches(name, sorted(known), 1)
        hint = f"Did you mean {nearest[0]}? " if nearest else ""
        raise ConfigurationError(f"There is no DAG {name}. {hint}All are in: {command('list')}")
    if len(ids) > 1:
        which = ", ".join(map(str, ids))
        raise ConfigurationError(f"Several DAGs have the name {name}: give an id of {which}.")
    if ids == [NO_ID]:
        raise ConfigurationError(named[0].fault or "")
    return ids[0]


def select(dags: Sequence[DAG], wanted: Sequence[int], *, also_disabled: bool = False) -> list[DAG]:
    """The DAGs with the wanted ids; without any, all enabled ones. Raises ConfigurationError."""
    known = sorted({dag.dag_id for dag in dags} - {NO_ID})
    if unknown := [dag_id for dag_id in wanted if dag_id not in known]:
        ids = ", ".join(map(str, known)) or "none"
        raise ConfigurationError(
            f"There is no DAG {unknown[0]}. Known ids: {ids} (see {command('list')})."
        )
    selected = [dag for dag in dags if (dag.dag_id in wanted if wanted else dag.enabled)]
    if not selected:
        raise ConfigurationError(f"There is no enabled DAG (see {command('list')}).")
    for dag in selected:
        if not dag.enabled and not also_disabled:
            disabled = (
                f'DAG {dag.dag_id} is disabled: set "enabled": true in '
                f"{dag.folder.name}/local.json to run it."
            )
            raise ConfigurationError(f"{disabled} {dag.to_enable}".rstrip())
    return selected


def plan_runs(
    dags: Sequence[DAG],
    options: RunOptions,
    known: Sequence[DAG] = (),
    *,
    in_sandbox: bool = False,
) -> Plan:
    """The DAGs in the order in which they run, each with what runs it.

    `known` are all that there are: where a feed needs it, those that it comes after, and that do
    not run, are looked at. One that cannot be loaded fails in its turn. Raises ConfigurationError
    for wrong options.
    """
    if options.from_file == "":
        raise ConfigurationError("--from-file: expected the path of a saved file, or -, got ''.")
    if options.from_file is not None:
        only_one(dags, "--from-file")
    if options.slice is not None:
        only_one(dags, "--slice")
    others = [dag for dag in known if dag not in dags]
    return [(dag, _make_call(dag, options, others, in_sandbox)) for dag in in_order(dags)]


def only_one(dags: Sequence[DAG], option: str) -> DAG:
    """The DAG that an option is for. Raises ConfigurationError if there are several."""
    if len(dags) != 1:
        ids = ", ".join(str(dag.dag_id) for dag in dags)
        raise ConfigurationError(
            f"{option} is for one DAG, and these would run: {ids}. Name one with --dag."
        )
    return dags[0]


def _make_call(
    dag: DAG, options: RunOptions, others: Sequence[DAG], in_sandbox: bool
) -> Callable[[], Any]:
    from shared.run import run_function  # not for a command that runs nothing

    try:
        function, feed = dag.load(), dag.load_feed()
    except StockIngestionError as exc:
        return partial(fail, exc)
    given = {name: value for name, value in vars(options).items() if value not in (None, False)}
    for name in given:
        if name not in inspect.signature(function).parameters:
            option = f"--{name.replace('_', '-')}"
            fault = f"its function {dag.name} takes no {name}"
            raise ConfigurationError(f"DAG {dag.dag_id} has no {option}: {fault}.")
    if feed and feed.load and options.from_file:
        fault = "it asks and stores by itself"
        raise ConfigurationError(f"DAG {dag.dag_id} has no --from-file: {fault}.")
    if feed and not feed.can_slice and options.slice:
        raise ConfigurationError(f"DAG {dag.dag_id} has no --slice: it is loaded as a whole.")
    if feed and feed.versions is None and options.dated:
        raise ConfigurationError(f"DAG {dag.dag_id} has no --dated: it keeps no versions.")
    before = [each for each in others if each.dag_id in dag.after and _has_rows(each)]
    if feed and feed.needs_fresh and before and options.from_file is None:
        given["require"] = _require_fresh(dag, before, options, in_sandbox)
    call = partial(function, **given)  # of a feed it records its run itself
    return call if feed else partial(run_function, dag.dag_id, dag.name, call, options.slice)


def _has_rows(dag: DAG) -> bool:
    """Whether the DAG is a feed, also one that is broken."""
    try:
        return dag.load_feed() is not None
    except StockIngestionError:
        return True


def _require_fresh(
    dag: DAG, before: Sequence[DAG], options: RunOptions, in_sandbox: bool
) -> Callable[[DatabaseManager], None]:
    from shared.freshness import require_fresh

    dry_run = options.dry_run
    return partial(require_fresh, dag=dag, before=before, in_sandbox=in_sandbox, dry_run=dry_run)


def fail(error: StockIngestionError) -> NoReturn:
    """Stands for a DAG that cannot even begin."""
    raise error
