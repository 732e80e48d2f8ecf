"""What a run has done, in words, and its rejected rows in a file."""

import csv
import io
import logging
import textwrap
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from shared.archive import STANDARD_INPUT
from shared.calendar import IST
from shared.feed import RejectedRow, Run, Summary
from shared.foreign_text import escape_line, shorten
from shared.private_files import make_private_folder, private_opener
from shared.utils.run_history import LastRun

logger = logging.getLogger(__name__)

SHOWN_REJECTS = 5
_COLUMNS = 79
_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")


def summarize(run: Run) -> Summary:
    """The summary for the console, where the seconds of each step stand already."""
    return Summary("\n".join(map(escape_line, _lines(run))), _in_few_words(run))


def describe(run: Run) -> str:
    """The summary for the log: that of `summarize`, and the seconds."""
    steps = ", ".join(f"{step} {seconds:.2f}" for step, seconds in run.durations.items())
    return "\n".join(map(escape_line, [*_lines(run), "", *_fill(f"seconds: {steps}")]))


def _lines(run: Run) -> list[str]:
    """The summary in lines, each at most 80 columns wide where names allow it."""
    figures = run.figures
    if run.day_off is not None:
        return [_describe_day_off(run)]
    lines = _headlines(run)
    if not _is_a_look(run):
        lines += ["", *_counts(run)]
    if figures.notes:
        lines += ["", *(line for note in figures.notes for line in _fill(note))]
    if figures.left_out:
        listed = ", ".join(f"{name} {count:,}" for name, count in figures.left_out.most_common())
        lines += ["", *_fill(f"left out by parameters.{run.feed.only}: {listed}")]
    if figures.merge is not None and figures.changes is not None:
        last = "since the last list" if run.feed.table.is_snapshot else "in rows stored before"
        kinds = [f"{count:>8,}  {kind}" for kind, count in figures.changes.most_common()]
        lines += ["", f"changes {last}:" if kinds else f"nothing changed {last}", *kinds]
    if figures.rejected:
        lines += ["", *_reject_lines(run)]
    tables = [_table(column, counts) for column, counts in figures.counts.items() if counts]
    if tables:
        rows = zip_longest(*tables, fillvalue="")
        lines += ["", *("".join(f"{cell:<29}" for cell in row).rstrip() for row in rows)]
    return lines


def _in_few_words(run: Run) -> str:
    figures, merge = run.figures, run.figures.merge
    if _is_a_look(run):
        counts = ["nothing was stored"]
    elif run.options.dry_run:
        counts = [f"{figures.stored:,} would be stored"]
    else:
        counts = [f"{merge.given if merge else 0:,} stored"]
    if merge is not None:
        is_all = 0 < merge.inserted == merge.given
        counts.append("all new" if is_all else f"{merge.inserted:,} new")
    if figures.changes is not None:
        changes = figures.changes.total()
        counts.append(f"{changes:,} change{'' if changes == 1 else 's'}")
    if figures.rejected:
        counts.append(f"{len(figures.rejected):,} rejected")
    return ", ".join(counts)


def _is_a_look(run: Run) -> bool:
    """Whether a feed that loads by itself has only looked what it would ask for."""
    is_by_itself = run.feed.load is not None
    return is_by_itself and run.options.dry_run and run.figures.merge is None


def is_unchanged(run: Run) -> bool:
    """Whether the run has stored the bytes of the last good run before it."""
    sha256 = run.figures.sha256  # a feed that loads by itself has none
    return sha256 is not None and run.last is not None and run.last.dump_sha256 == sha256


def _describe_day_off(run: Run) -> str:
    no_trading = f"No trading today ({run.day_off}): {run.feed.source}'s list is"
    if run.last is None:
        return f"{no_trading} empty, the table stays as it is"
    return f"{no_trading} {_same_list(run.last)}"


def _same_list(last: LastRun) -> str:
    at = f"{last.started_at.astimezone(IST):%a %d %b %Y %H:%M IST}"
    return f"the same, byte for byte, as that of run {last.run_id} ({at})"


def describe_rejects(run: Run) -> str:
    """The rejected rows: counted by reason, the first few shown, and where all of them are."""
    return "\n".join(map(escape_line, _reject_lines(run)))


def _reject_lines(run: Run) -> list[str]:
    rejected = run.figures.rejected
    # Without the value that came, so that rows with the same fault count together.
    reasons = Counter(row.reason.split(", got ")[0] for row in rejected)
    lines = [f"rejected {'1 row' if len(rejected) == 1 else f'{len(rejected):,} rows'}:"]
    lines += [f"{count:>8,}  {reason}" for reason, count in reasons.most_common()]
    lines.append("the first of them:" if len(rejected) > SHOWN_REJECTS else "they are:")
    lines += [
        f"  {_name_line(row)}{row.reason}: {shorten(','.join(row.row), 60)}"
        for row in rejected[:SHOWN_REJECTS]
    ]
    if run.rejects_file is not None:
        lines.append(f"all of them: {run.rejects_file}")
    return lines


def _name_line(row: RejectedRow) -> str:
    return "" if row.line_number is None else f"line {row.line_number}: "


def write_rejected_rows(
    rejected: Sequence[RejectedRow], directory: Path, moment: datetime, *, is_more: bool = False
) -> Path | None:
    """Write rejected rows to a new CSV file in `directory`, which only its owner can read.

    Columns: line_number in the payload (1 is the header), reason, and the row as a line of CSV,
    with an apostrophe where a spreadsheet could take it for a formula. `moment` is in the file's
    name; with `is_more` the rows are added to it. Returns its path; None if it cannot be written.
    """
    path = directory / f"rejected_rows_{moment:%Y-%m-%d_%H%M%S_%f}.csv"
    try:
        make_private_folder(directory)
        mode = "a" if is_more else "x"
        with open(path, mode, encoding="utf-8", newline="", opener=private_opener) as file:
            writer = csv.writer(file)
            if not is_more:
                writer.writerow(["line_number", "reason", "row"])
            for row in rejected:
                line = io.StringIO()
                csv.writer(line, lineterminator="").writerow(row.row)
                cells = map(_without_formula, (row.reason, line.getvalue()))
                writer.writerow([row.line_number, *cells])
    except (OSError, ValueError) as exc:
        logger.warning("The list of rejected rows cannot be written to %s: %s", path, exc)
        return None
    return path


def _without_formula(cell: str) -> str:
    """The cell with an apostrophe before a sign that begins a formula, as OWASP advises.

    Also where apostrophes come before the sign: taking one away always undoes it.
    """
    return f"'{cell}" if cell.lstrip("'").startswith(_FORMULA_SIGNS) else cell


def _headlines(run: Run) -> list[str]:
    figures, title = run.figures, run.feed.title
    target = f"{run.config.database.database}." if run.config else ""
    target += run.feed.table.name
    if _is_a_look(run):
        lines = ["Dry run: nothing was stored"]
    elif run.options.dry_run and figures.stored:
        lines = [f"Dry run: {figures.stored:,} {title} would be stored in {target}"]
    elif figures.merge is not None:
        lines = [f"Stored {figures.merge.given:,} {title} in {target}"]
    else:
        lines = ["Nothing was stored"]
    if run.options.slice is not None:
        lines.append(f"This is part {run.options.slice}: the others are runs of their own")
    if run.key.source == STANDARD_INPUT:
        lines.append(f"The {title} came from standard input")
    elif not run.key.is_from_api:
        lines.append(f"The {title} are those of the saved file {run.key.source}")
    if run.last is not None and is_unchanged(run):
        lines.append(f"The list is {_same_list(run.last)}")
    if run.is_compared_with_newest_rows:
        lines.append("No run is on record: it was compared with the newest rows of the table")
    return lines


def _counts(run: Run) -> list[str]:
    figures, merge = run.figures, run.figures.merge
    counts = {
        "fetched": figures.fetched,
        "left out": figures.left_out.total(),
        "rejected": len(figures.rejected),
    }
    if figures.repeated:
        counts["repeated"] = figures.repeated
    if merge is not None:
        counts |= {"inserted": merge.inserted, "updated": merge.updated}
        if merge.updated:
            unchanged = merge.updated - merge.changed
            counts |= {"  changed": merge.changed, "  unchanged": unchanged}
        if run.feed.table.is_snapshot:
            counts["superseded"] = merge.superseded
    if figures.retired:
        counts["retired"] = figures.retired
    return [f"{name:<12}{count:>10,}" for name, count in counts.items()]


def _table(title: str, counts: Counter[Any]) -> list[str]:
    texts = (("" if value is None else str(value), count) for value, count in counts.items())
    rows = sorted(texts, key=lambda item: (-item[1], item[0]))
    return [f"{title:<16}{'rows':>9}", *(f"  {name or '-':<14}{n:>9,}" for name, n in rows)]


def _fill(text: str) -> list[str]:
    return textwrap.wrap(
        text, _COLUMNS, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
