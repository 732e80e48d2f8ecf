"""What a run of DAG 1 did: collected, put into words, and the rejected rows kept in a file."""

from __future__ import annotations

import csv
import io
import logging
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from shared.config.logging_config import redact
from shared.kite_login import IST
from shared.utils.kite_csv import RejectedRow, shorten
from shared.utils.run_history import API_SOURCE, LastRun, RunKey
from shared.utils.staged_merge import MergeResult

logger = logging.getLogger(__name__)

SHOWN_REJECTS = 5
_COLUMNS = 79


@dataclass
class Summary:
    """The figures of a run, as far as it came. Durations are in seconds, by step."""

    key: RunKey
    dry_run: bool = False
    target: str = ""
    dump_sha256: str | None = None
    dump_bytes: int | None = None
    same_as: LastRun | None = None
    is_compared_with_newest_rows: bool = False  # there is no run on record
    changes: Counter[str] | None = None
    fetched: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    rejected: list[RejectedRow] = field(default_factory=list)
    rejects_file: Path | None = None
    repeated: int = 0
    stored: int = 0
    merge: MergeResult | None = None
    by_exchange: Counter[str] = field(default_factory=Counter)
    by_type: Counter[str | None] = field(default_factory=Counter)
    durations: dict[str, float] = field(default_factory=dict)


def describe(summary: Summary) -> str:
    """The summary as lines of text, each at most 80 columns wide where names allow it."""
    lines = [_headline(summary), "", *_figures(summary)]
    if summary.left_out:
        left_out = f"left out by parameters.exchanges: {_listed(summary.left_out)}"
        lines += ["", _fill(left_out)]
    if summary.merge is not None and summary.changes is not None:
        lines += ["", *_changes(summary.changes)]
    if summary.rejected:
        lines += ["", describe_rejects(summary)]
    if summary.by_exchange:
        lines += [
            "",
            *_side_by_side(
                _table("exchange", summary.by_exchange), _table("instrument_type", summary.by_type)
            ),
        ]
    steps = ", ".join(f"{step} {seconds:.2f}" for step, seconds in summary.durations.items())
    lines += ["", _fill(f"seconds: {steps}")]
    return "\n".join(lines)


def describe_rejects(summary: Summary) -> str:
    """The rejected rows: counted by reason, the first few shown, and where all of them are."""
    reasons = Counter(_kind(row.reason) for row in summary.rejected)
    rows = "1 row" if len(summary.rejected) == 1 else f"{len(summary.rejected):,} rows"
    lines = [f"rejected {rows}:"]
    lines += [f"{count:>8,}  {reason}" for reason, count in reasons.most_common()]
    lines.append("the first of them:" if len(summary.rejected) > SHOWN_REJECTS else "they are:")
    lines += [
        f"  line {row.line_number}: {row.reason}: {shorten(','.join(row.row), 60)}"
        for row in summary.rejected[:SHOWN_REJECTS]
    ]
    if summary.rejects_file is not None:
        lines.append(f"all of them: {summary.rejects_file}")
    return "\n".join(lines)


def write_rejected_rows(rejected: Sequence[RejectedRow], directory: Path) -> Path | None:
    """Write all rejected rows to a new CSV file in `directory`.

    Columns: line_number in the dump (1 is the header), reason, and the row as a line of CSV (a row
    that could be read in Kite's order of columns, without last_price). Returns the path, or None,
    after a warning, if the file cannot be written: the valid rows count more.
    """
    path = directory / f"rejected_rows_{datetime.now():%Y-%m-%d_%H%M%S_%f}.csv"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["line_number", "reason", "row"])
            for row in rejected:
                line = _as_line([redact(field) for field in row.row])  # before quotes are doubled
                writer.writerow([row.line_number, redact(row.reason), line])
    except (OSError, ValueError) as exc:
        logger.warning("The list of rejected rows cannot be written to %s: %s", path, exc)
        return None
    return path


def _as_line(fields: Sequence[str]) -> str:
    text = io.StringIO()
    # NUL as its escape: Python 3.10 cannot write it, and few programs read it.
    csv.writer(text, lineterminator="").writerow(field.replace("\0", r"\x00") for field in fields)
    return text.getvalue()


def _headline(summary: Summary) -> str:
    if summary.dry_run and summary.stored:
        text = f"Dry run: {summary.stored:,} instruments would be stored in {summary.target}"
    elif summary.merge is not None:
        text = f"Stored {summary.stored:,} instruments in {summary.target}"
    else:
        text = "Nothing was stored"
    if summary.key.source != API_SOURCE:
        text += f"\nThe list is that of the saved dump {summary.key.source}"
    if summary.same_as is not None:
        text += (
            f"\nThe list is the same, byte for byte, as that of run {summary.same_as.run_id} "
            f"({summary.same_as.started_at.astimezone(IST):%a %d %b %Y %H:%M IST})"
        )
    if summary.is_compared_with_newest_rows:
        text += "\nNo run is on record: it was compared with the newest rows of the table"
    return text


def _figures(summary: Summary) -> list[str]:
    figures = {
        "fetched": summary.fetched,
        "left out": sum(summary.left_out.values()),
        "rejected": len(summary.rejected),
    }
    if summary.repeated:
        figures["repeated"] = summary.repeated
    if summary.merge is not None:
        figures["inserted"] = summary.merge.inserted
        figures["updated"] = summary.merge.updated
        figures["superseded"] = summary.merge.superseded
    return [f"{name:<12}{count:>10,}" for name, count in figures.items()]


def _changes(changes: Counter[str]) -> list[str]:
    if not changes:
        return ["nothing changed since the last list"]
    lines = ["changes since the last list:"]
    return lines + [f"{count:>8,}  {kind}" for kind, count in changes.most_common()]


def _table(title: str, counts: Counter[str] | Counter[str | None]) -> list[str]:
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0] or ""))
    return [f"{title:<16}{'rows':>9}"] + [f"{name or '-':<16}{n:>9,}" for name, n in rows]


def _side_by_side(left: list[str], right: list[str]) -> list[str]:
    height = max(len(left), len(right))
    left = left + [""] * (height - len(left))
    right = right + [""] * (height - len(right))
    return [f"{a:<29}{b}".rstrip() for a, b in zip(left, right)]


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common())


def _kind(reason: str) -> str:
    """The reason without the value that came, so that rows with the same fault count together."""
    return reason.split(", got ")[0]


def _fill(text: str) -> str:
    """The text in lines, with no word broken."""
    return textwrap.fill(
        text,
        _COLUMNS,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
