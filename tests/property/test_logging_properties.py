"""Properties 11 and 13, and that no secret reaches an output, in whatever form it comes."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import execute_dags
from execute_dags import execute_dag_wrapper
from shared.config import logging_config
from shared.config.logging_config import (
    as_message,
    redact,
    register_secrets,
    setup_console_logging,
    setup_file_logging,
)
from shared.console import say
from shared.exceptions import APIError, DatabaseError, StockIngestionError
from shared.foreign_text import escape
from shared.utils import operation as operation_module
from shared.utils.operation import operation
from tests.clock import Clock
from tests.property.strategies import durations_in_seconds


def start_of_line(level: str) -> re.Pattern[str]:
    """How a line of the log starts; a text in it may look like the rest."""
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\+0530"
    return re.compile(rf"^{moment} - [\w.]+ - {level} - ", re.MULTILINE)


class Outputs:
    """What a run has written: its log file, standard error and standard output."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.stderr = io.StringIO()
        self.stdout = io.StringIO()

    @property
    def log(self) -> str:
        return self._path.read_text(encoding="utf-8")

    @property
    def all(self) -> str:
        return self.log + self.stderr.getvalue() + self.stdout.getvalue()


@contextlib.contextmanager
def outputs(level: str = "DEBUG") -> Iterator[Outputs]:
    """The real handlers, on files of their own."""
    root = logging.getLogger()
    before, root_level = list(root.handlers), root.level
    with tempfile.TemporaryDirectory() as folder:
        made = Outputs(Path(folder) / logging_config.LOG_FILE_NAME)
        try:
            with contextlib.redirect_stderr(made.stderr), contextlib.redirect_stdout(made.stdout):
                setup_console_logging(level)
                fmt = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
                setup_file_logging(Path(folder), level, fmt, max_bytes=10**7, backup_count=5)
                yield made
        finally:
            for handler in [handler for handler in root.handlers if handler not in before]:
                root.removeHandler(handler)
                handler.close()
            root.setLevel(root_level)


names = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Zs"]), min_size=1).filter(
    str.strip
)
messages = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=60)
error_types = st.sampled_from([ValueError, KeyError, OSError, APIError, DatabaseError])


# Feature: stock-ingestion, Property 11: For any operation execution, the logs must contain both a
# start timestamp and a completion status (success or failure) with execution duration.
@given(
    name=names,
    seconds=durations_in_seconds,
    error=st.one_of(st.none(), st.builds(ValueError, messages)),
)
def test_operation_logs_start_status_and_duration(
    name: str, seconds: float, error: Exception | None
) -> None:
    clock = Clock()
    durations: dict[str, float] = {}
    with outputs() as made, pytest.MonkeyPatch.context() as patch:
        patch.setattr(operation_module, "time", clock)
        with contextlib.suppress(ValueError), operation(name, durations):
            clock.now += seconds
            if error is not None:
                raise error
        lines = made.log.splitlines()

    start, end = filter(start_of_line("INFO").match, lines)
    shown = escape(name)
    assert start.endswith(f" - INFO - {shown}: started")
    status = "succeeded" if error is None else "failed"
    assert end.endswith(f" - INFO - {shown}: {status} in {seconds:.3f} s")
    assert durations == {name: seconds}


# Feature: stock-ingestion, Property 11: For any operation execution, the logs must contain both a
# start timestamp and a completion status (success or failure) with execution duration.
@given(
    dag_id=st.integers(1, 99),
    name=names,
    seconds=durations_in_seconds,
    error=st.one_of(st.none(), error_types),
)
def test_dag_logs_start_status_and_duration(
    dag_id: int, name: str, seconds: float, error: type[Exception] | None
) -> None:
    clock = Clock()

    def run() -> str:
        clock.now += seconds
        if error is not None:
            raise error("it failed")
        return "it ran"

    with outputs() as made, pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute_dags, "time", clock)
        result = execute_dag_wrapper(dag_id, name, run)
        lines = made.log.splitlines()

    start, end = filter(start_of_line("INFO").match, lines)
    shown = escape(name)
    assert start.endswith(f" - INFO - DAG {dag_id} {shown}: started")
    status = "succeeded" if error is None else "failed"
    assert end.endswith(f" - INFO - DAG {dag_id} {shown}: {status} in {seconds:.3f} s")
    assert result[:2] == (dag_id, error is None)
    assert ("it ran" if error is None else "it failed") in result[2]


# Feature: stock-ingestion, Property 13: For any error that occurs, the log entry must include the
# error message, context information (operation being performed), and a stack trace.
@example(["ERROR"], ValueError, "")
@example([" - ERROR - "], OSError, "")
@given(
    operations=st.lists(names, min_size=1, max_size=3),
    error_type=error_types,
    message=messages,
)
def test_error_is_logged_once_with_message_operation_and_stack_trace(
    operations: list[str], error_type: type[Exception], message: str
) -> None:
    def where_it_happens(depth: int) -> None:
        if depth == len(operations):
            raise error_type(message)
        with operation(operations[depth]):
            where_it_happens(depth + 1)

    with outputs() as made:
        _, succeeded, _ = execute_dag_wrapper(1, "dag", lambda: where_it_happens(0))
        log = made.log
        shown = made.stderr.getvalue()

    assert not succeeded
    said = str(error_type(message))
    if not issubclass(error_type, StockIngestionError):
        said = f"{error_type.__name__}: {said}"
    (found,) = start_of_line("ERROR").finditer(log)
    entry = log[found.end() :]
    assert entry.startswith(as_message(f"{operations[-1]} failed: {said}"))
    assert "\n  Traceback (most recent call last):\n" in entry
    assert ", in where_it_happens\n" in entry
    assert re.search(rf"\n  (\w+\.)*{error_type.__name__}(: |\n)", entry)
    # On the console it is one entry, without the stack trace.
    assert len(re.findall("^ERROR: ", shown, re.M)) == 1
    assert "Traceback" not in shown


# --- no secret in any output -------------------------------------------------------------------

# An asterisk is what the mask is made of; a secret of up to seven characters is masked as a word.
secrets = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="*"), min_size=8, max_size=40),
    st.text(st.sampled_from("aZ0'\"\\ %&+/?=#@:é😀\n\t$<>"), min_size=8, max_size=12),
    st.from_regex(r"[A-Za-z0-9]{32}", fullmatch=True),
).filter(lambda secret: len(secret.strip()) >= 8)


def register_only(values: list[str]) -> None:
    """Start anew for an example: the secrets of those before would mask more than these do."""
    logging_config._secrets.clear()
    register_secrets(values)


def lower_escapes(text: str) -> str:
    return re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), text)


FORMS: dict[str, Callable[[str], str]] = {
    "raw": lambda secret: secret,
    "quoted": quote,
    "quoted-all": lambda secret: quote(secret, safe=""),
    "quoted-lower": lambda secret: lower_escapes(quote(secret)),
    "quoted-all-lower": lambda secret: lower_escapes(quote(secret, safe="")),
    "quote_plus": quote_plus,
    "quote_plus-lower": lambda secret: lower_escapes(quote_plus(secret)),
    "repr": repr,
    "ascii": ascii,
    "repr-of-a-dict": lambda secret: repr({"password": secret}),
    "repr-of-quotes": lambda secret: repr(f"\"x\" 'y' {secret}"),
    "json": json.dumps,
    "json-utf-8": lambda secret: json.dumps(secret, ensure_ascii=False),
}


def bare_forms(secret: str) -> set[str]:
    """What must not be seen: the secret as it is, and as it is within quotes and URLs."""
    return {
        secret,
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        lower_escapes(quote(secret)),
        lower_escapes(quote(secret, safe="")),
        lower_escapes(quote_plus(secret)),
        repr(secret)[1:-1],
        json.dumps(secret)[1:-1],
    }


def fail_with_a_chain(text: str) -> None:
    """Raise an error whose cause, and whose cause's context, have the text in theirs."""
    try:
        try:
            raise OSError(f"connection to {text} failed")
        except OSError:
            raise KeyError(f"host={text}") from None
    except KeyError as exc:
        try:
            raise ValueError(f"cannot use <{text}>") from exc
        except ValueError:
            raise RuntimeError(text)  # noqa: B904 - the context is what is tested


@given(
    values=st.lists(secrets, min_size=1, max_size=3),
    form=st.sampled_from(sorted(FORMS)),
    around=st.sampled_from(["{}", "password={} x", "<{}>", "'{}'", "https://h/?a={}&b=1", "x{}y"]),
)
@example(values=["it's long"], form="repr-of-quotes", around="{}")
@example(values=['p"w\\d long'], form="json", around="{}")
@example(values=["äöü€äöü€"], form="ascii", around="{}")
@example(values=["000000\r\U00018d09"], form="json-utf-8", around="{}")
@example(values=["a+b/c d%"], form="quote_plus-lower", around="x{}y")
@example(values=["first secret", "st secret", "first se"], form="raw", around="{}")
def test_no_secret_in_any_output(values: list[str], form: str, around: str) -> None:
    register_only(values)
    log = logging.getLogger("tests.secrets")
    texts = [around.format(FORMS[form](value)) for value in values]

    with outputs() as made:
        for value, text in zip(values, texts):
            log.debug("in the message: %s", text)
            log.warning("as an argument: %r", {"value": text if form == "raw" else value})
            log.error(f"formatted before: {text}")
            try:
                fail_with_a_chain(text)
            except RuntimeError as exc:
                log.error("with a traceback", exc_info=exc)
                log.exception("again")
            log.info("with a stack", stack_info=True)
            say(f"on standard output: {text}")
            with contextlib.suppress(RuntimeError), operation(f"working with {text}"):
                fail_with_a_chain(text)
            execute_dag_wrapper(1, text, lambda text=text: fail_with_a_chain(text))
        written = made.all

    for value in values:
        for shape in bare_forms(value):
            assert shape not in written
    assert "***" in written


@given(value=secrets, before=messages, after=messages)
def test_redact_leaves_no_secret_and_no_more_than_that_out(
    value: str, before: str, after: str
) -> None:
    register_only([value])
    redacted = redact(f"{before}{value}{after}")
    assert value not in redacted
    assert "***" in redacted


@given(st.lists(st.sampled_from(["rows", "stored", "NSE", "12,345", "at 08:30"]), min_size=1))
def test_redact_leaves_text_without_secrets_as_it_is(words: list[str]) -> None:
    register_secrets(["0123456789abcdef"])
    text = " ".join(words)
    assert redact(text) == text
