"""Arguments of the command line: errors of one line, with the nearest word; the DAGs' commands."""

import argparse
import difflib
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date
from functools import partial
from typing import NoReturn

from shared.config.logging_config import redact
from shared.dag_discovery import DAG
from shared.exceptions import ConfigurationError, StockIngestionError
from shared.feed import Command, Feed
from shared.foreign_text import escape_line
from shared.program import PROGRAM, command


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line; `commands` are the words that may come first."""

    def __init__(self, prog: str, description: str, commands: Collection[str] = ()) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        self._commands = commands

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The arguments in `words`. Bad usage ends the program with status 2."""
        arguments, unknown = self.parse_known_args(words)
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
