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

from dag_1_import_instruments_from_kite.archive import STANDARD_INPUT
from shared.calendar import IST
from shared.feed import API_SOURCE, RejectedRow, RunKey
from shared.foreign_text import escape_line, shorten
from shared.private_files import make_private_folder, private_opener
from shared.utils.run_history import LastRun
from shared.utils.staged_merge import MergeResult

logger = logging.getLogger(__name__)

SHOWN_REJECTS = 5
_COLUMNS = 79
_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")


@dataclass
class Summary:
    """The figures of a run, as far as it came. Durations are in seconds, by step."""

    key: RunKey
    dry_run: bool = False
    target: str = ""
    dump_sha256: str | None = None
    dump_bytes: int | None = None
    last: LastRun | None = None  # the last good run before
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

    @property
    def same_as(self) -> LastRun | None:
        """The last good run, if its list was the same, byte for byte."""
        is_same = self.last is not None and self.last.dump_sha256 == self.dump_sha256
        return self.last if is_same else None


def describe(summary: Summary) -> str:
    """The summary as lines of text, each at most 80 columns wide where names allow it."""
    lines = [*_headlines(summary), "", *_figures(summary)]
    if summary.left_out:
        left_out = f"left out by parameters.exchanges: {_listed(summary.left_out)}"
        lines += ["", *_fill(left_out)]
    if summary.merge is not None and summary.changes is not None:
        lines += ["", *_changes(summary.changes)]
    if summary.rejected:
        lines += ["", *_reject_lines(summary)]
    if summary.by_exchange:
        lines += [
            "",
            *_side_by_side(
                _table("exchange", summary.by_exchange), _table("instrument_type", summary.by_type)
            ),
        ]
    steps = ", ".join(f"{step} {seconds:.2f}" for step, seconds in summary.durations.items())
    lines += ["", *_fill(f"seconds: {steps}")]
    return "\n".join(map(escape_line, lines))


def describe_rejects(summary: Summary) -> str:
    """The rejected rows: counted by reason, the first few shown, and where all of them are."""
    return "\n".join(map(escape_line, _reject_lines(summary)))


def _reject_lines(summary: Summary) -> list[str]:
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
    return lines


def write_rejected_rows(rejected: Sequence[RejectedRow], directory: Path) -> Path | None:
    """Write all rejected rows to a new CSV file in `directory`, which only its owner can read.

    Columns: line_number in the dump (1 is the header), reason, and the row as a line of CSV (a row
    that could be read in Kite's order of columns, without last_price), exactly, but for an
    apostrophe before it where a spreadsheet could take it for a formula. Returns the path, or None,
    after a warning, if the file cannot be written: the valid rows count more.
    """
    path = directory / f"rejected_rows_{datetime.now():%Y-%m-%d_%H%M%S_%f}.csv"
    try:
        make_private_folder(directory)
        with open(path, "x", encoding="utf-8", newline="", opener=private_opener) as file:
            writer = csv.writer(file)
            writer.writerow(["line_number", "reason", "row"])
            for row in rejected:
                cells = (row.reason, _as_line(row.row))
                writer.writerow([row.line_number, *map(_without_formula, cells)])
    except (OSError, ValueError) as exc:
        logger.warning("The list of rejected rows cannot be written to %s: %s", path, exc)
        return None
    return path


def _without_formula(cell: str) -> str:
    """The cell with an apostrophe before a sign that begins a formula, as OWASP advises.

    One is also put before a text that begins with apostrophes and such a sign: so it is undone by
    taking one apostrophe away wherever a text begins so.
    """
    return f"'{cell}" if cell.lstrip("'").startswith(_FORMULA_SIGNS) else cell


def _as_line(fields: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(fields)
    return text.getvalue()


def _headlines(summary: Summary) -> list[str]:
    if summary.dry_run and summary.stored:
        lines = [f"Dry run: {summary.stored:,} instruments would be stored in {summary.target}"]
    elif summary.merge is not None:
        lines = [f"Stored {summary.stored:,} instruments in {summary.target}"]
    else:
        lines = ["Nothing was stored"]
    source = summary.key.source
    if source == STANDARD_INPUT:
        lines.append("The list came from standard input")
    elif source != API_SOURCE:
        lines.append(f"The list is that of the saved dump {source}")
    if summary.same_as is not None:
        lines.append(
            f"The list is the same, byte for byte, as that of run {summary.same_as.run_id} "
            f"({summary.same_as.started_at.astimezone(IST):%a %d %b %Y %H:%M IST})"
        )
    if summary.is_compared_with_newest_rows:
        lines.append("No run is on record: it was compared with the newest rows of the table")
    return lines


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
    lines = [f"{title:<16}{'rows':>9}"]
    return lines + [f"  {name or '-':<14}{n:>9,}" for name, n in rows]  # no name begins a line


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


def _fill(text: str) -> list[str]:
    """The text in lines, with no word broken."""
    return textwrap.wrap(
        text,
        _COLUMNS,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
