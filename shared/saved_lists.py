"""The lists in a folder, each with its day: from its name, or from a file that says it."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import NamedTuple

from shared.exceptions import ConfigurationError
from shared.foreign_text import escape_line, shorten

LIST_NAMES = "*.csv or *.csv.gz"
_LIST_NAME = re.compile(r"[^.].*\.csv(\.gz)?", re.IGNORECASE | re.DOTALL)

# What `archive.keep` calls a list: digits of its time and hash are no day.
_KEPT_NAME = re.compile(r".+_(\d{4}-\d{2}-\d{2})_\d{6}_[0-9a-f]{12}\.csv\.gz")

_FIRST_DAY = date(1900, 1, 1)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_YEAR = r"(?P<year>(?:19|20)\d\d)"
_MARK = r"[-_. ]"
# Digits are ASCII, and days of two numbers begin with the day, as they do in India.
_FORMS = (
    rf"{_YEAR}(?P<mark>{_MARK})(?P<month>\d\d)(?P=mark)(?P<day>\d\d)",
    rf"(?P<day>\d\d)(?P<mark>{_MARK})(?P<month>\d\d)(?P=mark){_YEAR}",
    rf"(?P<day>\d\d){_MARK}?(?P<month>{'|'.join(_MONTHS)}){_MARK}?{_YEAR}",
    rf"{_YEAR}(?P<month>(?!19|20)\d\d)(?P<day>\d\d)",
    rf"(?P<day>\d\d)(?P<month>\d\d){_YEAR}",
)
_MONTH_ALONE = rf"{_YEAR}{_MARK}(?P<month>\d\d)"
_FLAGS = re.ASCII | re.IGNORECASE
_WRITTEN = [re.compile(form, _FLAGS) for form in (*_FORMS, _MONTH_ALONE)]
# Looked for at each place: what can be read in two ways has two days.
_IN_NAMES = [re.compile(rf"(?<!\d)(?=(?P<text>{form})(?!\d))", _FLAGS) for form in _FORMS]
_MONTH_IN_NAMES = re.compile(rf"(?<!\d)(?=(?P<text>{_MONTH_ALONE})(?!{_MARK}?\d))", _FLAGS)


class SavedList(NamedTuple):
    """A file with the list of a day."""

    day: date
    path: Path

    @property
    def label(self) -> str:
        """What messages call it: its day and its name."""
        return f"{self.day} {escape_line(self.path.name)}"


@dataclass(frozen=True)
class SavedLists:
    """The lists of a folder by day, then name, and the names of what else is in it."""

    folder: Path
    lists: Sequence[SavedList]
    left_out: Sequence[str]


def read_folder(folder: Path, days_file: Path | None, today: date) -> SavedLists:
    """The lists in `folder` with their days; `days_file` has `name,day` lines for some or all.

    `today` (in India) is the last day that a list can have. Raises ConfigurationError, which names
    every file and line at fault.
    """
    try:
        entries = [path for path in sorted(folder.iterdir()) if not _is_same(path, days_file)]
        paths = [path for path in entries if _LIST_NAME.fullmatch(path.name) and path.is_file()]
    except OSError as exc:
        raise ConfigurationError(
            f"The folder {escape_line(str(folder))} cannot be read ({exc.strerror or exc}). "
            f"Expected a folder of saved lists, {LIST_NAMES}."
        ) from exc
    if not paths:
        raise ConfigurationError(
            f"The folder {escape_line(str(folder))} has no lists: expected files that are called "
            f"{LIST_NAMES}. Folders in it are not looked into."
        )
    known = set(paths)
    days = _read_days_file(days_file, paths, today) if days_file is not None else {}
    lists = sorted(_find_days(folder, paths, days, today), key=lambda each: (each.day, each.path))
    others = [path.name for path in entries if path not in known]
    return SavedLists(folder, lists, others)


def _is_same(path: Path, days_file: Path | None) -> bool:
    """Whether this is the file of days, which may be among the lists."""
    return (
        days_file is not None and path.is_file() and days_file.exists() and path.samefile(days_file)
    )


def _find_days(
    folder: Path, paths: Sequence[Path], days: Mapping[str, date], today: date
) -> list[SavedList]:
    lists, faults = [], []
    for path in paths:
        try:
            lists.append(SavedList(days.get(path.name) or find_day(path.name, today), path))
        except ValueError as exc:
            faults.append(f"{escape_line(path.name)}: {exc}")
    if faults:
        raise ConfigurationError(
            f"Of {len(faults)} of the {len(paths)} lists in {escape_line(str(folder))} the day is "
            "not known:\n" + "\n".join(faults) + "\nRename them (nse_2025-08-18.csv), or write "
            "their days into a file of lines such as nse.csv,2025-08-18 and name it with --days. "
            "Nothing was imported."
        )
    return lists


def find_day(name: str, today: date) -> date:
    """The day in the name of a file; a month alone counts as its 1st.

    Raises ValueError if there is none, or more than one, or it is impossible or after `today`.
    """
    if kept := _KEPT_NAME.fullmatch(name):
        name = kept[1]
    found = [match for form in _IN_NAMES for match in form.finditer(name)]
    days = {_make_day(match, match["text"], today) for match in found}
    months = {_make_day(m, m["text"], today) for m in _MONTH_IN_NAMES.finditer(name)}
    days |= months - {day.replace(day=1) for day in days}
    if not days:
        raise ValueError("no day in its name")
    if len(days) > 1:
        raise ValueError(f"its name can be read as {' and as '.join(map(str, sorted(days)))}")
    return days.pop()


def read_written_day(text: str, today: date) -> date:
    """The day that a text is, in any form that names have. Raises ValueError as find_day does."""
    for form in _WRITTEN:
        if match := form.fullmatch(text):
            return _make_day(match, text, today)
    raise ValueError(f"expected a day as YYYY-MM-DD, got {shorten(text)}")


def _make_day(match: re.Match[str], text: str, today: date) -> date:
    parts = match.groupdict()
    month = parts["month"].lower()
    number = _MONTHS.index(month) + 1 if month in _MONTHS else int(month)
    try:
        day = date(int(parts["year"]), number, int(parts.get("day") or 1))
    except ValueError as exc:
        raise ValueError(f"{text} is no day") from exc
    return check_day(day, today)


def check_day(day: date, today: date) -> date:
    """The day. Raises ValueError if no list can be of it: it is after today, or long ago."""
    if day < _FIRST_DAY:
        raise ValueError(f"expected a day since {_FIRST_DAY}, got {day}")
    if day > today:
        raise ValueError(f"{day} is in the future: in India it is {today}")
    return day


def _read_days_file(path: Path, lists: Sequence[Path], today: date) -> dict[str, date]:
    """The days by name. Raises ConfigurationError, which names every line at fault."""
    names = {each.name for each in lists}
    what = f"The file of days {escape_line(str(path))}"
    days: dict[str, date] = {}
    faults = []
    try:
        with path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
            for number, cells in _read_cells(file, names):
                try:
                    name, day = _read_line(cells, names, today)
                    if name in days:
                        raise ValueError(f"{escape_line(name)} is there twice")
                    days[name] = day
                except ValueError as exc:
                    faults.append(f"line {number}: {exc}")
    except (OSError, csv.Error) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise ConfigurationError(
            f"{what} cannot be read ({reason}). Expected lines such as nse.csv,2025-08-18."
        ) from exc
    if faults:
        raise ConfigurationError(
            f"{what} is not right:\n" + "\n".join(faults) + "\nExpected a line such as "
            "nse.csv,2025-08-18 for a list, with its name in the folder. Nothing was imported."
        )
    return days


def _read_cells(file: Iterator[str], names: set[str]) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not blank, by number, without a header: one that has no digit in a day."""
    reader = csv.reader(file)
    is_first = True
    for row in reader:
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        is_header = is_first and cells[0] not in names and not re.search(r"\d", cells[-1])
        is_first = False
        if not is_header:
            yield reader.line_num, cells


def _read_line(cells: Sequence[str], names: set[str], today: date) -> tuple[str, date]:
    if len(cells) != 2:
        raise ValueError(f"expected a name and a day, got {len(cells)} fields")
    name, text = cells
    if name not in names:
        raise ValueError(f"there is no list {shorten(name, 200)} in the folder")
    return name, read_written_day(text, today)
