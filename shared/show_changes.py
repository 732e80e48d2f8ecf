"""`changes`: what runs have changed, by kind with the first of each, or all of it as JSON."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from shared.arguments import load_feeds
from shared.calendar import IST
from shared.config.config_loader import ConfigLoader
from shared.console import say, say_lines, write_json
from shared.dag_discovery import DAG
from shared.exceptions import ConfigurationError
from shared.feed import Feed
from shared.foreign_text import escape_line
from shared.utils.changes import ChangeReport, read_changes
from shared.utils.db_manager import DatabaseManager

logger = logging.getLogger(__name__)


def show_changes(dags: Sequence[DAG], wanted: Mapping[str, Any], *, as_json: bool = False) -> None:
    """Show what the DAGs' runs have changed; `wanted` are the keywords of `read_changes`.

    A DAG that cannot be loaded is left out with a warning, unless it is the only one. Raises
    ConfigurationError if none keeps changes or has the wanted run, DatabaseError if reading fails.
    """
    feeds, errors = load_feeds(dags)
    if errors and len(dags) == 1:
        raise errors[0]
    for error in errors:
        logger.warning("%s", error)
    if not feeds:
        raise ConfigurationError("None of these DAGs keeps what it changes.")
    found = _read(feeds, wanted)
    if as_json:
        write_json({"dags": [_as_dict(feed, reports) for feed, reports in found]})
        return
    for feed, reports in found:
        if len(found) > 1:
            say(f"DAG {feed.dag_id} {feed.name}")
        if not reports:
            say(f"No run has been recorded {'since then' if wanted['since'] else 'yet'}.")
        for report in reports:
            say_lines("\n".join(_describe(report, wanted)))


def _read(
    feeds: Sequence[Feed], wanted: Mapping[str, Any]
) -> list[tuple[Feed, list[ChangeReport]]]:
    found = []
    with DatabaseManager(asdict(ConfigLoader.load_database_config())) as manager:
        for feed in feeds:
            try:
                found.append((feed, read_changes(manager, feed, **wanted)))
            except ConfigurationError:  # the wanted run may be another DAG's
                if feed is feeds[-1] and not found:
                    raise
    return found


def _as_dict(feed: Feed, reports: Sequence[ChangeReport]) -> dict[str, Any]:
    run: dict[str, Any] | None = None
    if reports:
        last = reports[0]
        run = {"run_id": last.run_id, "started_at": last.started_at}
        if last.remark:  # nothing could be compared
            run["remark"] = last.remark
    changes = [{"run_id": r.run_id, **change} for r in reports for change in r.changes]
    return {"dag_id": feed.dag_id, "name": feed.name, "run": run, "changes": changes}


def _describe(report: ChangeReport, wanted: Mapping[str, Any]) -> list[str]:
    title = f"Run {report.run_id}, {report.started_at.astimezone(IST):%a %d %b %Y %H:%M IST}"
    if report.is_first:
        return [f"{title}: the first list, which the next one is compared with"]
    if report.remark:
        return [f"{title}: {escape_line(report.remark)}"]
    only = {"of kind": wanted["kind"], f"with {report.group}": wanted["group"]}
    chosen = "".join(f" {which} {escape_line(value)}" for which, value in only.items() if value)
    return [f"{title}: {len(report.changes):,} changes{chosen}", *_summarise(report)]


def _summarise(report: ChangeReport) -> list[str]:
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for change in report.changes:
        value = str(change[report.group]) if report.group else ""
        groups.setdefault((change["kind"], value), []).append(change)
    if not groups:
        return []
    lines = ["", f"{'kind':<14}{report.group or '':<10}{'rows':>7}  the first of them"]
    for (kind, value), members in groups.items():
        first = escape_line(_describe_change(members[0], report.label))
        lines.append(f"{kind:<14}{escape_line(value):<10}{len(members):>7,}  {first}")
    return [line if len(line) < 80 else f"{line[:76]}..." for line in lines]


def _describe_change(change: Mapping[str, Any], label: str) -> str:
    if change["field"] is None:
        return str(change[label])
    what = "" if change["field"] == label else f"{change[label]} {change['field']}: "
    return f"{what}{change['old'] or '-'} -> {change['new'] or '-'}"
