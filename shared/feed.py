"""What a DAG gives (`Feed`), and what one run of it is (`Run`): data alone.

fetch(run)          -> payloads: the bytes that a source answered. The only part that asks anybody
parse(bytes)        -> Batch: rows and rejects. A pure function; a saved file enters here
prepare(run, batch) -> rows: the DAG's own rules
then, the same for every DAG (shared/run.py): gates, one transaction a payload, archive, summary

load(run, manager)  in place of these, where what is asked next depends on what is stored
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from shared.config.fields import FEED_FIELDS, RETRY_FIELDS, SNAPSHOT_FIELDS, Field
from shared.models.column import EXACT_TYPES
from shared.models.table import Table

if TYPE_CHECKING:
    import argparse

    from psycopg2.extensions import cursor as Cursor

    from shared.config.config_loader import RootConfig
    from shared.utils.db_manager import DatabaseManager
    from shared.utils.extras import ExtraTable
    from shared.utils.relations import Relation
    from shared.utils.run_history import LastRun
    from shared.utils.staged_merge import MergeResult

# The source of a run that has asked the DAG's own source, of a part "api 3/8"; of another one it is
# a file's path.
API_SOURCE = "api"
PART_SOURCE = rf"^{API_SOURCE} ([1-9][0-9]{{0,3}})/([1-9][0-9]{{0,3}})$"  # also for PostgreSQL


@dataclass(frozen=True)
class RejectedRow:
    """A row that was left out: its line (1 is the header), why, and what it held.

    `key` is what the row is known by, as it is written; None where that cannot be told.
    """

    line_number: int | None
    reason: str
    row: Sequence[str]
    key: tuple[str, ...] | None = field(default=None, compare=False)


@dataclass
class Batch:
    """What a payload holds: the rows that could be read, and the others with their reasons."""

    rows: list[dict[str, Any]]
    rejected: list[RejectedRow] = field(default_factory=list)


@dataclass(frozen=True)
class Payload:
    """An answer of the source: its bytes as they came, and its gzip if that is at hand.

    `batch` is what `parse` has read in it, where fetching had to read it to know that it is whole.
    """

    body: bytes = field(repr=False)
    packed: bytes | None = field(default=None, repr=False)
    batch: Batch | None = field(default=None, repr=False)

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the body, in hexadecimal digits."""
        return hashlib.sha256(self.body).hexdigest()

    def pack(self) -> bytes:
        """The body's gzip."""
        return self.packed or gzip.compress(self.body, 1)


@dataclass(frozen=True)
class Command:
    """A command that a DAG brings: `execute_dags.py NAME ...`.

    `function` is called with the parsed arguments, prints through `shared.console`, and returns an
    exit status (None: 0); what it raises ends the program as an error of a run does.
    `add_arguments` is given the parser.
    """

    name: str
    help: str
    function: Callable[[argparse.Namespace], int | None]
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None


def _not_given(*given: object) -> NoReturn:
    """Stands for fetch and parse of a feed that loads by itself."""
    raise TypeError("A feed that has load has neither fetch nor parse.")


@dataclass(frozen=True)
class Feed:
    """A DAG that brings rows from a source into a table. Its package exports one as FEED.

    `folder` is the DAG's: its id and name come from it, schema.sql is in it. `title` is what
    messages call the rows ("candles"), `source` whom they ask ("Kite"). A snapshot
    (`table.is_snapshot`) is one payload, the whole list; another feed gives any number, and each is
    a transaction of its own. `fields` are the settings that it has beside those of every feed.

    `load` asks and stores by itself, each answer in a transaction of its own: for a feed where what
    is asked next depends on what is stored. It is given in place of fetch and parse. It fills
    `run.figures`, sets `run.stage` when something is committed, and names its own operations; in a
    dry run it writes nothing.

    `are_distinct`: no two rows of `prepare` have the same key. `count_by`: columns that the summary
    counts by; no value of a snapshot's first one, nor the snapshot as a whole, may lose too many
    rows. `only`: the parameter that lists the wanted values of that first one (empty: all).
    `views` is a script of views and indexes that a run can do without.

    `changes` is the table that the differences between two runs are kept in, and `before_merge`
    finds them, in the transaction, before the table is changed: it fills CHANGE_NAME of
    shared/utils/changes.py. By default differences are told by key, in a table for all feeds.

    `versions` is a table that keeps what each row was, and from when to when, and `after_merge`
    writes it, in the transaction, when the table is changed. A feed that has it takes saved lists
    of other days (`--dated`). `plain_views` are the views where that table cannot be had.
    `reads` are tables of other DAGs that these two use, where they are there. `needs` are tables
    beside its own that a run cannot do without.

    `describe_state` gives the figures that `status` shows of the DAG, by their names in words: it
    reads, soon, in one transaction. `find_lacking` says what `check` names as lacking, also before
    the first run, and the SQL with which the table's owner gives it ("": nothing to run); None, or
    no words, if nothing is lacking. It changes nothing.

    `needs_fresh`: a run fails before it asks anybody where the rows of a DAG that it comes after
    (`after` in config.json), and that the same call does not run, are not fresh.

    `can_slice`: `load` brings only what `run.options.slice` holds, where that is given. Runs of all
    the parts, at the same time too, store what one run of the whole would.

    `due_from`: a load from this hour on (India) brings the day's rows (default: the schedule's).
    `changes_daily`: each day's bytes differ from those of the days before (ruling 31). `empty_note`
    says what it means that a snapshot has no row. Kept payloads have `archive_name` in their names.

    Raises ValueError if `count_by` names no column, or `only` no parameter of such values, and
    unless exactly one way to load is given: fetch and parse, or load (of no snapshot); also where
    `can_slice` is given without load.
    """

    folder: Path
    title: str
    table: Table
    fetch: Callable[[Run], Iterable[Payload]] = _not_given
    parse: Callable[[bytes], Batch] = _not_given
    prepare: Callable[[Run, Batch], list[dict[str, Any]]] = lambda run, batch: batch.rows
    load: Callable[[Run, DatabaseManager], None] | None = None
    are_distinct: bool = False
    count_by: tuple[str, ...] = ()
    only: str = ""
    source: str = "The source"
    fields: tuple[Field, ...] = ()
    needs_kite: bool = False
    views: str = ""
    changes: ExtraTable | None = None
    before_merge: Callable[[Cursor, Run], None] | None = None
    versions: ExtraTable | None = None
    after_merge: Callable[[Cursor, Run, MergeResult], None] | None = None
    plain_views: str = ""
    reads: tuple[ExtraTable, ...] = ()
    needs: tuple[ExtraTable, ...] = ()
    commands: tuple[Command, ...] = ()
    describe_state: Callable[[Cursor], Mapping[str, int]] | None = None
    find_lacking: Callable[[Cursor], tuple[str, str] | None] | None = None
    needs_fresh: bool = False
    can_slice: bool = False
    due_from: time | None = None
    changes_daily: bool = False
    empty_note: str = ""
    archive_name: str = ""

    def __post_init__(self) -> None:
        if inexact := [c for c in self.table.columns if c.sql_type not in EXACT_TYPES]:
            expected = f"columns of the types {', '.join(EXACT_TYPES)}"
            raise ValueError(f"{self.table.name}: expected {expected}, got {inexact[0].sql_type}")
        if wrong := set(self.count_by).difference(self.table.column_names):
            raise ValueError(f"count_by: expected columns of {self.table.name}, got {min(wrong)}")
        given = [step for step in (self.fetch, self.parse) if step is not _not_given]
        if len(given) != (0 if self.load else 2) or (self.load and self.table.is_snapshot):
            expected = "fetch and parse, or load alone, which is for a table that is no snapshot"
            raise ValueError(f"{self.table.name}: expected {expected}")
        if self.can_slice and self.load is None:
            raise ValueError(f"{self.table.name}: can_slice is for a feed with load")
        paths = {item.path for item in self.fields} if self.count_by else set()
        if self.only and f"parameters.{self.only}" not in paths:
            expected = "a parameter in fields that lists values of the first column of count_by"
            raise ValueError(f"only: expected {expected}, got {self.only}")

    @property
    def settings(self) -> tuple[Field, ...]:
        """All the settings that a run of it reads from its config.json."""
        if self.load is not None:
            return (*RETRY_FIELDS, *self.fields)
        of_snapshots = SNAPSHOT_FIELDS if self.table.is_snapshot else ()
        return (*FEED_FIELDS, *of_snapshots, *self.fields)

    @property
    def dag_id(self) -> int:
        """The number in the folder's name."""
        return int(self.folder.name.split("_")[1])

    @property
    def name(self) -> str:
        """The name in the folder's name."""
        return self.folder.name.split("_", 2)[2]


@dataclass(frozen=True)
class Slice:
    """Part `number`, from 1 on, of `count` parts that run as processes of their own."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def holds(self, key: int) -> bool:
        """Whether this part has what is known by `key`: exactly one of the parts has it."""
        return key % self.count == self.number - 1

    @property
    def file_name(self) -> str:
        """What the names of its own files have in them."""
        return f"part_{self.number}_of_{self.count}"


def name_api_source(part: Slice | None) -> str:
    """The source of a run that asks the DAG's own source for all, or for a part."""
    return API_SOURCE if part is None else f"{API_SOURCE} {part}"


def read_part(source: str) -> Slice | None:
    """Which part a run with this source was; None if it was of the whole, or of a file."""
    match = re.fullmatch(PART_SOURCE, source)
    return Slice(int(match[1]), int(match[2])) if match else None


@dataclass(frozen=True)
class RunOptions:
    """What the command line asks of a run.

    `dry_run` writes nothing; `from_file` is read in place of the source (`-`: standard input);
    `force` stores what is not plausible; `dated` is the day (India) whose list the file has;
    `slice` is the part of what is wanted that it loads (None: all).
    """

    dry_run: bool = False
    from_file: str | None = None
    force: bool = False
    dated: date | None = None
    slice: Slice | None = None


@dataclass(frozen=True)
class RunKey:
    """Which run it is: of which DAG, on what (`api`, `api 3/8` or a file's path), since when."""

    dag_id: int
    dag_name: str
    source: str
    started_at: datetime

    @property
    def part(self) -> Slice | None:
        """Which part it loads; None if it is of the whole, or of a file."""
        return read_part(self.source)

    @property
    def is_from_api(self) -> bool:
        """Whether the rows came from the source, not from a saved file."""
        return self.source == API_SOURCE or self.part is not None

    @property
    def label(self) -> str:
        """What the log calls it: "DAG 5", or "DAG 5, part 3/8,"."""
        return f"DAG {self.dag_id}, part {self.part}," if self.part else f"DAG {self.dag_id}"


class Stage(IntEnum):
    """How far a run has come."""

    STARTED = 0
    RECORDED = 1  # the database was there
    STORED = 2  # at least one payload is committed


@dataclass
class Figures:
    """What a run has counted so far, over all of its payloads."""

    fetched: int = 0
    rejected: list[RejectedRow] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)  # by the value that is not wanted
    repeated: int = 0
    stored: int = 0
    payload_bytes: int | None = None
    sha256: str | None = None
    counts: dict[str, Counter[str | None]] = field(default_factory=dict)  # by column of count_by
    changes: Counter[str] | None = None
    merge: MergeResult | None = None
    retired: int = 0  # rows that the table of versions alone keeps
    notes: list[str] = field(default_factory=list)  # what load has to say, each a paragraph


class Summary(str):
    """What a run has done, in lines of text; `counts` is the same in a few words."""

    counts: str

    def __new__(cls, text: str, counts: str) -> Self:
        """The text, with its counts."""
        summary = super().__new__(cls, text)
        summary.counts = counts
        return summary


@dataclass
class Run:
    """One run of a feed. Its steps fill it; it is given to fetch, prepare and before_merge."""

    feed: Feed
    key: RunKey
    options: RunOptions = RunOptions()
    config: RootConfig | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    require: Callable[[DatabaseManager], None] | None = None  # raises where it may not run now
    stage: Stage = Stage.STARTED
    run_id: int | None = None  # in the history, from the start on
    table: Relation | None = None  # where the feed's table is
    changes: Relation | None = None  # where that of its changes is, if it can be read
    runs: Relation | None = None  # where the history is, if it can be read
    last: LastRun | None = None  # the last good run before
    last_moment: datetime | None = None  # what the rows of the last list have in last_updated
    versions: Relation | None = None  # where the table of versions is, if it can be written
    reads: Mapping[str, Relation] = field(default_factory=dict)  # those of the feed, by name
    valid_from: datetime | None = None  # since when the list counts, in the table of versions
    is_compared_with_newest_rows: bool = False  # there is no run on record
    is_touched: bool = False  # something else has written rows of the last list since
    day_off: str | None = None  # why there is no trading, of a snapshot that brought nothing new
    scope: Sequence[str] = ()  # the values of count_by's first column that it speaks of; all
    figures: Figures = field(default_factory=Figures)
    rejects_file: Path | None = None
    durations: dict[str, float] = field(default_factory=dict)  # seconds by step
