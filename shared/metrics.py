"""`status --prometheus`: what is known of the DAGs, for node_exporter's textfile collector.

The text exposition format 0.0.4 of Prometheus: gauges without timestamps, in seconds and rows.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from shared.feed import Slice
from shared.freshness import FRESH, Now, Verdict
from shared.utils.run_history import RecordedRun

# What each says, by the name behind stock_ingestion_.
GAUGES = {
    "up": "Whether the database could be asked.",
    "fresh": "Whether the data are fresh; 0 also where that cannot be known.",
    "state": "What the DAG tells of what is stored, by the name of the figure.",
    "age_seconds": "How long ago the source gave what is stored.",
    "last_success_timestamp_seconds": "When the last good run ended.",
    "last_success_fetched_rows": "Rows that the last good run was given.",
    "last_success_rejected_rows": "Rows that the last good run left out, since they broke a rule.",
    "last_success_stored_rows": "Rows that the last good run inserted or updated.",
    "last_success_step_duration_seconds": "How long a step of the last good run took.",
    "last_run_timestamp_seconds": "When the last run that is over ended.",
    "last_run_succeeded": "Whether the last run that is over ended well (exit status 0), and of a "
    "DAG that runs in parts the last one of each of them.",
}

# A gauge, its labels, and its value; None where that is not known.
_Sample = tuple[str, Mapping[str, object], float | None]


def describe_metrics(
    verdicts: Sequence[Verdict], last_runs: Sequence[RecordedRun], now: Now | None
) -> str:
    """All that is known, without the last line's end.

    `last_runs` are the last one of each DAG, or part of it, and status. `now` is None if the
    database is away.
    """
    samples: list[_Sample] = [("up", {}, now is not None)]
    for verdict in verdicts:
        runs = [run for run in last_runs if run.dag_id == verdict.dag_id]
        labels = {"dag_id": verdict.dag_id, "name": verdict.name}
        samples += [(name, {**labels, **more}, value) for name, more, value in _measure(runs)]
        samples.append(("fresh", labels, verdict.verdict == FRESH))
        for figure, number in (verdict.state or {}).items():
            samples.append(("state", {**labels, "figure": figure}, number))
        if now and verdict.loaded_at:
            age = max(now.here, now.server) - verdict.loaded_at
            samples.append(("age_seconds", labels, age.total_seconds()))
    return "\n".join(_write(samples))


def _measure(runs: Sequence[RecordedRun]) -> Iterator[_Sample]:
    """What the last runs of one DAG, by their part and status, say.

    Good runs of parts are told where there are as many parts as at the last good run of one.
    """
    by_id = sorted(runs, key=lambda run: run.run_id)
    if over := [run for run in by_id if run.status != "running"]:
        yield "last_run_timestamp_seconds", {}, over[-1].ended_at.timestamp()
        yield "last_run_succeeded", {}, _have_ended_well(over)
    good = [run for run in by_id if run.status == "succeeded"]
    total = next((run.part.count for run in reversed(good) if run.part), None)
    for run in good:
        if run.part is not None and run.part.count != total:
            continue
        labels = {} if run.part is None else {"part": str(run.part)}
        yield "last_success_timestamp_seconds", labels, run.ended_at.timestamp()
        yield "last_success_fetched_rows", labels, run.fetched
        yield "last_success_rejected_rows", labels, run.rejected
        if run.inserted is not None and run.updated is not None:
            yield "last_success_stored_rows", labels, run.inserted + run.updated
        for step, seconds in (run.durations or {}).items():
            yield "last_success_step_duration_seconds", {**labels, "step": step}, seconds


def _have_ended_well(over: Sequence[RecordedRun]) -> bool:
    """Whether no failure of the last runs of the whole and of its parts stands.

    One stands until the same part, the whole, or each of the parts of one number runs again. `over`
    are in the order of their numbers.
    """
    last = {run.part: run.run_id for run in over}
    failed = {run.run_id for run in over if run.status == "failed"}
    return not any(
        run_id in failed and not _is_whole({part for part, at in last.items() if at > run_id})
        for run_id in last.values()
    )


def _is_whole(parts: Collection[Slice | None]) -> bool:
    """Whether these are all parts of one number, or have the whole (None) among them."""
    counts = Counter(part.count for part in parts if part)
    return None in parts or any(count == found for count, found in counts.items())


def _write(samples: Sequence[_Sample]) -> Iterator[str]:
    """The lines, those of one gauge together."""
    for name, says in GAUGES.items():
        found = [
            f"stock_ingestion_{name}{_write_labels(labels)} {_write_value(value)}"
            for each, labels, value in samples
            if each == name and value is not None
        ]
        if found:
            yield f"# HELP stock_ingestion_{name} {says}"
            yield f"# TYPE stock_ingestion_{name} gauge"
            yield from found


def _write_labels(labels: Mapping[str, object]) -> str:
    pairs = [f'{name}="{_escape(str(value))}"' for name, value in labels.items()]
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _write_value(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.3f}"
