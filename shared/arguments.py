"""Arguments of the command line: options, errors of one line with the nearest word, DAGs' commands.

What the commands do is in execute_dags.py.
"""

import argparse
import difflib
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date
from functools import partial
from typing import NoReturn

from shared import clock
from shared.calendar import IST
from shared.config.fields import LOG_LEVELS
from shared.config.logging_config import redact
from shared.dag_discovery import DAG
from shared.exceptions import ConfigurationError, StockIngestionError
from shared.feed import Command, Feed, Slice
from shared.foreign_text import escape_line
from shared.program import PROGRAM, command

# Those of sandbox/session.py, which is imported for a sandbox only; a test compares them.
SANDBOX_FAULTS = ("429", "502", "timeout", "truncated", "expired-token", "bad-rows")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line; `commands` are the words that may come first."""

    def __init__(self, prog: str, description: str, commands: Collection[str] = ()) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        self._commands = commands

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The arguments in `words`. Bad usage ends the program with status 2."""
        arguments, unknown = self.parse_known_intermixed_args(words)
        if unknown:
            self.refuse(unknown[0])
        return arguments

    def refuse(self, word: str, note: str = "") -> NoReturn:
        """End the program with status 2: this word is not known."""
        name = word.partition("=")[0] or "''"
        if name in self._commands:
            self.error(f"{name} is a command, its options follow it: {command(name)}")
        known = [*self._option_string_actions, *self._commands]
        nearest = difflib.get_close_matches(name, known, 1)
        all_help = command(*self.prog.split()[1:], "--help")
        hint = f"did you mean {nearest[0]}?" if nearest else f"see {all_help}"
        self.error(f"{name} is not known; {note or hint}")

    def error(self, message: str) -> NoReturn:
        """End the program with status 2. What is quoted may be a file's name, or a token."""
        self.exit(2, f"{self.prog}: {escape_line(redact(message))}\n")


def read_day(text: str) -> date:
    """The day that an argument names."""
    try:
        return date.fromisoformat(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"expected a day as YYYY-MM-DD, got {text!r}") from exc


def read_list_day(text: str) -> date:
    """The day of a list, not in the future; a month alone (YYYY-MM) counts as its 1st."""
    from shared.saved_lists import check_day  # not for each call

    day = read_day(f"{text}-01" if re.fullmatch(r"\d{4}-\d{2}", text) else text)
    try:
        return check_day(day, clock.now().astimezone(IST).date())
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def read_slice(text: str) -> Slice:
    """The part that an argument names: 3/8 is the third of eight."""
    if match := re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text):
        part = Slice(int(match[1]), int(match[2]))
        if 1 <= part.number <= part.count:
            return part
    raise argparse.ArgumentTypeError(f"expected a part of several such as 3/8, got {text!r}")


def read_dag(text: str) -> int | str:
    """The id of a DAG, or a name, that an argument gives."""
    with suppress(ValueError):
        return int(text)
    if not re.fullmatch(r"\w[\w-]*", text):
        raise argparse.ArgumentTypeError(f"expected the id or the name of a DAG, got {text!r}")
    return text


def load_feeds(dags: Sequence[DAG]) -> tuple[list[Feed], list[StockIngestionError]]:
    """The feeds among the DAGs, and the errors of those that cannot be loaded."""
    feeds, errors = [], []
    for dag in dags:
        try:
            if feed := dag.load_feed():
                feeds.append(feed)
        except StockIngestionError as exc:
            errors.append(exc)
    return feeds, errors


def add_commands(dags: Sequence[DAG], commands: dict[str, Command]) -> list[StockIngestionError]:
    """Add the commands that the DAGs bring. Returns the errors of DAGs that cannot be loaded.

    Raises ConfigurationError if one has the name of a command that is there.
    """
    feeds, errors = load_feeds(dags)
    owners = dict.fromkeys(commands, PROGRAM)
    for owner, dag_id, new in (
        (feed.folder.name, feed.dag_id, each) for feed in feeds for each in feed.commands
    ):
        if new.name in owners:
            raise ConfigurationError(
                f"{owner} and {owners[new.name]} both have a command {new.name}: give one "
                "of them another name."
            )
        owners[new.name] = owner
        add_arguments = partial(_add_arguments, new, dag_id)
        commands[new.name] = replace(new, add_arguments=add_arguments)
    return errors


def _add_arguments(new: Command, dag_id: int, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a DAG's command, which is about this DAG: a sandbox has its part."""
    parser.set_defaults(dag=[dag_id])
    new.add_arguments(parser)


def add_run(parser: argparse.ArgumentParser) -> None:
    """The options of a run."""
    add_dag(parser, "run the DAG with this id or name; may be given several times")
    add = parser.add_argument
    due = "run what is due, and not fresh yet: for a call every few minutes (cron, systemd)"
    add("--due", action="store_true", help=due)
    add("--dry-run", action="store_true", help="show what would change, write nothing")
    from_file = "read a saved file (plain or gzipped; -: standard input) instead of the source"
    add("--from-file", metavar="PATH", help=from_file)
    dated = "the file has the list of this earlier day (YYYY-MM-DD; YYYY-MM is its 1st)"
    add("--dated", metavar="DAY", type=read_list_day, help=dated)
    folder = "import all lists of a folder by their days, each as a run of its own"
    add("--from-folder", metavar="DIR", help=folder)
    days = "the days of the folder's lists: lines of name,day (default: as in their names)"
    add("--days", metavar="FILE", help=days)
    part = "load the third of eight parts of what is wanted (the others run as well)"
    add("--slice", metavar="3/8", type=read_slice, help=part)
    force = "store also what is not plausible: too many rows are gone, or rejected"
    add("--force", action="store_true", help=force)
    add("--list", action="store_true", help="the same as the command list")


def find_misuse(arguments: argparse.Namespace) -> str:
    """What is wrong with options that do not go together; "" if nothing is."""
    if arguments.sandbox_fault and not arguments.sandbox:
        return "--sandbox-fault needs --sandbox"
    if arguments.command is not None:
        return ""
    others = {"dry_run": False, "force": False, "from_file": None, "from_folder": None}
    if arguments.due and any(getattr(arguments, name) != value for name, value in others.items()):
        return "--due takes no --dry-run, --force, --from-file or --from-folder: leave it out"
    if arguments.from_folder == "":
        return "--from-folder: expected the path of a folder, got ''"
    if arguments.from_folder is not None and (
        arguments.from_file is not None or arguments.dated is not None
    ):
        return "--from-folder takes no --from-file or --dated: its lists have days of their own"
    is_whole = arguments.due or arguments.from_folder is not None or arguments.from_file is not None
    if arguments.slice is not None and is_whole:
        return "--slice takes no --due, --from-file or --from-folder: they are for the whole"
    if arguments.dated is not None and arguments.from_file is None:
        return "--dated needs --from-file: it says of which day that list is"
    if arguments.days is not None and arguments.from_folder is None:
        return "--days needs --from-folder"
    return ""


def add_dag(parser: argparse.ArgumentParser, text: str = "of this DAG alone; repeatable") -> None:
    """The option --dag."""
    parser.add_argument("--dag", metavar="N", type=read_dag, action="append", default=[], help=text)


def add_json(parser: argparse._ActionsContainer) -> None:
    """The option --json."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def add_list(parser: argparse.ArgumentParser) -> None:
    """The options of the command list."""
    parser.set_defaults(list=True)
    add_json(parser)


def add_status(parser: argparse.ArgumentParser) -> None:
    """The options of the command status."""
    add_dag(parser)
    form = parser.add_mutually_exclusive_group()
    add_json(form)
    metrics = "print metrics for the textfile collector of Prometheus' node_exporter"
    form.add_argument("--prometheus", action="store_true", help=metrics)


def add_changes(parser: argparse.ArgumentParser) -> None:
    """The options of the command changes."""
    add_dag(parser)
    add_json(parser)
    which = parser.add_mutually_exclusive_group()
    run = "what this run has changed (default: the last one that brought another list)"
    which.add_argument("--run", metavar="N", type=int, help=run)
    since = "what all runs since this day have changed (YYYY-MM-DD)"
    which.add_argument("--since", metavar="DATE", type=read_day, help=since)
    parser.add_argument("--kind", help="changes of this kind alone")
    parser.add_argument("--exchange", help="changes on this exchange alone")


def add_surroundings(
    parser: argparse.ArgumentParser, *, has_sandbox: bool = True, has_quiet: bool = True
) -> None:
    """What a command tells, and where it runs."""
    parser.set_defaults(sandbox=False, sandbox_fault=None, quiet=False)
    add = parser.add_argument
    told = parser.add_mutually_exclusive_group()
    level = f"log from this level on, also to standard error ({', '.join(LOG_LEVELS)})"
    told.add_argument(
        "--log-level", metavar="LEVEL", type=str.upper, choices=LOG_LEVELS, help=level
    )
    verbose = "tell also each request and SQL statement, with its seconds: --log-level DEBUG"
    told.add_argument(
        "--verbose", action="store_const", dest="log_level", const="DEBUG", help=verbose
    )
    if has_quiet:
        quiet = "print nothing unless something is wrong"
        told.add_argument("--quiet", action="store_true", help=quiet)
    if has_sandbox:
        sandbox = "use a PostgreSQL and a Kite of its own in .sandbox/, without credentials; "
        sandbox += "each good run is the next trading day of a made-up market"
        add("--sandbox", action="store_true", help=sandbox)
        fault = f"let the sandbox's Kite misbehave: {', '.join(SANDBOX_FAULTS)}"
        add("--sandbox-fault", metavar="FAULT", choices=SANDBOX_FAULTS, help=fault)
