"""Tells people what a call of the program has come to, and a dead man's switch that there was one.

Who is told (`notify.urls`) hears of a failure, of a dead session ("log in"), and of the first good
run after either. A dead man's switch (`notify.ping_url`, the protocol of healthchecks.io) hears of
every call, and warns when none comes. A message that cannot be sent is a warning, no more.

What was told is kept in a file beside the log, not read from the history of runs: a run that found
no database is not in it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

from shared import clock
from shared.calendar import IST
from shared.config.config_loader import ConfigLoader, NotifyConfig
from shared.config.logging_config import as_message
from shared.exceptions import (
    AuthenticationError,
    ConfigurationError,
    StockIngestionError,
    TransientAPIError,
    cause_of,
)
from shared.feed import Slice
from shared.foreign_text import escape_line
from shared.private_files import write_state
from shared.program import PROGRAM, command_from_anywhere

logger = logging.getLogger(__name__)

APPRISE = "apprise>=1.9,<3"  # tests/integration/test_notify.py compares requirements.txt

FAILED, LOG_IN, WELL = "failure", "warning", "success"  # what apprise calls such messages
START, SUCCESS, FAIL = "/start", "", "/fail"  # what a ping appends to its address

_FILE_STEM = "told"
_PINGS = -1  # the dead man's switch, among the ids of DAGs
_END_SECONDS = 8.0  # a call takes at most this much longer at its end
_PING_SECONDS = 2.0
_PING_ATTEMPTS = 2
# Some receivers refuse what is longer (Discord: 2,000 characters).
_REASON_CHARACTERS = 500
_TEXT_CHARACTERS = 1500


@dataclass(frozen=True)
class Report:
    """What a call of the program has come to.

    `names` are those of the DAGs that ran or were skipped, by id, in that order, and `errors` of
    those that failed; one that was skipped has the error of the DAG that it comes after. A DAG
    without an error is well; it did not have to run if it is in `idle`. A failure is told whatever
    was told before if its DAG is in `news`. `status` is the call's exit status. Of a call that ran
    a `part` of a DAG it is kept apart what was told: that another part is well says nothing of it.
    """

    names: Mapping[int, str]
    errors: Mapping[int, BaseException]
    status: int
    log_file: Path | None = None
    idle: Collection[int] = ()
    news: Collection[int] = ()
    part: Slice | None = None


class Message(NamedTuple):
    """What is sent; `kind` is FAILED, LOG_IN or WELL."""

    kind: str
    title: str
    text: str


@dataclass
class Told:
    """What was told, and not yet taken back by a good run: when, by DAG and kind."""

    path: Path
    moments: dict[int, dict[str, datetime]] = field(default_factory=dict)

    def has(self, dag_id: int, since: datetime, kind: str) -> bool:
        """Whether a failure of this DAG and kind (FAILED, LOG_IN) was told since then."""
        at = self.moments.get(dag_id, {}).get(kind)
        return at is not None and at >= since

    def is_over(self, dag_id: int, is_idle: bool) -> bool:
        """Whether what was told of a DAG that is well now can be taken back.

        One that did not have to run has not proven that its session lives.
        """
        moments = self.moments.get(dag_id, {})
        return bool(moments) and not (is_idle and LOG_IN in moments)


def ping_start() -> None:
    """Tell the dead man's switch that work begins; it warns where no end follows.

    Raises ConfigurationError if the settings of `notify` are wrong, nothing else.
    """
    _warn_of_ping(ping(START, "", ConfigLoader.load_notify_config(), attempts=1))


def _warn_of_ping(fault: str, level: int = logging.WARNING) -> None:
    if fault:
        logger.log(level, "notify.ping_url (PING_URL) could not be pinged: %s", fault)


def tell(report: Report, *, since: Mapping[int, datetime] | None = None) -> None:
    """Tell all that is to be told of a call, in one message; and ping.

    Each failure is told, but for those of a DAG whose id is in `since`: one of the same kind is
    not told twice since that moment. A DAG is told to be well again if its last failure was told.

    The ping says success only if the exit status is 0. So a call of `--due` that finds nothing to
    do pings success, too, and one that does nothing since a failure stands has to end with that
    failure's status: while it stands, no ping says success.

    Whatever fails in it is a warning: also settings that have become wrong since `ping_start`.
    """
    try:
        _tell(report, since or {}, time.monotonic() + _END_SECONDS)
    except ConfigurationError as exc:
        logger.warning("Nobody was told: %s", exc)
    except Exception as exc:
        logger.warning("Nobody was told: unexpected %s", type(exc).__name__, exc_info=exc)


def _tell(report: Report, since: Mapping[int, datetime], end: float) -> None:
    config, told = ConfigLoader.load_notify_config(), read_told(report.part)
    fault = ping(*_describe_ping(report), config)
    is_news = not told.has(_PINGS, max(since.values(), default=clock.now()), FAILED)
    _warn_of_ping(fault, logging.WARNING if is_news else logging.INFO)
    kinds = {dag_id: _kind_of(error) for dag_id, error in report.errors.items()}
    new = {
        i
        for i, kind in kinds.items()
        if i not in since or i in report.news or not told.has(i, since[i], kind)
    }
    well = [i for i in report.names if i not in kinds and told.is_over(i, i in report.idle)]
    message = compose(report, new, well)
    before = dict(told.moments)
    if fault and is_news:
        told.moments[_PINGS] = {FAILED: clock.now()}
    elif not fault:
        told.moments.pop(_PINGS, None)
    # What nobody was told is told by the next call.
    if message is not None and (not config.urls or send(message, config.urls, end)):
        for dag_id in new:
            told.moments[dag_id] = {**told.moments.get(dag_id, {}), kinds[dag_id]: clock.now()}
        for dag_id in well:
            del told.moments[dag_id]
    if told.moments != before:
        _write_told(told)


def read_told(part: Slice | None = None) -> Told:
    """What was told so far, of calls that ran this part; nothing, if that cannot be read."""
    name = f"{_FILE_STEM}.json" if part is None else f"{_FILE_STEM}_{part.file_name}.json"
    told = Told(ConfigLoader.load_logging_config()["directory"] / name)
    with contextlib.suppress(Exception):  # whatever is in it
        for dag_id, kinds in json.loads(told.path.read_text(encoding="utf-8")).items():
            told.moments[int(dag_id)] = {
                kind: datetime.fromisoformat(at).astimezone(IST) for kind, at in kinds.items()
            }
    return told


def _write_told(told: Told) -> None:
    try:
        write_state(told.path, told.moments)
    except OSError as exc:
        logger.warning(
            "What was told cannot be kept in %s (%s): it is told again, and nobody hears when all "
            "is well again. Set LOG_DIR to a folder that can be written.",
            told.path,
            exc.strerror or exc,
        )


def compose(report: Report, failed: Collection[int], well: Collection[int]) -> Message | None:
    """The message on the DAGs with these ids; None if there are none. It has no secret."""
    lines = list(_describe_failures(report, failed))
    for dag_id in well:
        lines.append(f"{report.names[dag_id]} is well again.")
    if not lines:
        return None
    kinds = {_kind_of(report.errors[dag_id]) for dag_id in failed} or {WELL}
    kind = kinds.pop() if len(kinds) == 1 else FAILED
    if kind == LOG_IN:
        headline = "log in to Kite again"
        lines.append(f"Log in: {command_from_anywhere(PROGRAM, 'login')}")
    elif kind == WELL:
        headline = "well again"
    else:
        ids = [dag_id for dag_id in report.names if dag_id in failed]
        headline = f"DAG {', '.join(map(str, ids))} failed"
        if len(ids) == 1:
            headline = f"{report.names[ids[0]]} failed"
        if report.status == 2:
            prove = command_from_anywhere(PROGRAM, "check")
            lines.append(f"Mend the settings, then prove them: {prove}")
    if failed:
        lines.append(f"Exit status {report.status}. The log: {report.log_file or 'there is none'}")
    text = "\n".join(_shorten(as_message(line), _REASON_CHARACTERS) for line in lines)
    title = escape_line(as_message(f"Stock Ingestion on {socket.gethostname()}: {headline}"))
    return Message(kind, title, _shorten(text, _TEXT_CHARACTERS))


def _describe_failures(report: Report, failed: Collection[int]) -> Iterator[str]:
    first: dict[int, int] = {}
    for dag_id, name in report.names.items():
        error = report.errors.get(dag_id)
        if error is None:
            continue
        cause = first.setdefault(id(error), dag_id)
        if dag_id not in failed:
            continue
        if cause != dag_id:
            yield f"{name} was skipped: DAG {cause} failed."
        else:
            is_foreseen = isinstance(error, StockIngestionError)
            yield f"{name} failed: {'' if is_foreseen else f'{type(error).__name__}: '}{error}"


def _kind_of(error: BaseException) -> str:
    return LOG_IN if isinstance(cause_of(error), AuthenticationError) else FAILED


def _shorten(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[: characters - 4]} ..."


def send(message: Message, urls: list[str], end: float) -> bool:
    """Send it to all receivers, until `end` (of time.monotonic()). Returns whether one was told.

    A receiver that could not be told is a warning.
    """
    try:
        lines = _run_sender(json.dumps({"urls": urls, **message._asdict()}), end).splitlines()
    except ConfigurationError as exc:
        logger.warning("Nobody was told: %s", exc)
        return False
    unheard = dict.fromkeys(range(len(urls)), "it took too long")
    for line in lines:
        with contextlib.suppress(ValueError):  # the last line, when time was over
            number, is_told, said = json.loads(line)
            unheard[number] = said or "it was refused"
            if is_told:
                del unheard[number]
    for number, reason in unheard.items():
        scheme = urls[number].partition("://")[0]
        text = "Receiver %d of notify.urls (%s) was not told: %s"
        logger.warning(text, number + 1, scheme, _shorten(as_message(reason), _REASON_CHARACTERS))
    return len(unheard) < len(urls)


def _run_sender(document: str, end: float) -> str:
    """What the program shared/send_message.py has written until `end`, when it is killed."""
    require_apprise()
    # -P: the modules beside it have names of Python's own.
    command = [sys.executable, "-P", str(Path(__file__).with_name("send_message.py"))]
    try:
        done = subprocess.run(  # noqa: S603 - this project's own program
            command,
            input=document.encode(),
            capture_output=True,
            timeout=max(0.1, end - time.monotonic()),
            start_new_session=True,  # Ctrl-C ends this program, which ends that one
        )
    except subprocess.TimeoutExpired as exc:
        return (exc.stdout or b"").decode("utf-8", "replace")
    except OSError as exc:
        raise ConfigurationError(f"{command[0]} cannot be started: {exc}") from exc
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise ConfigurationError(f"apprise cannot be used: {said}")
    return done.stdout.decode("utf-8", "replace")


def require_apprise() -> None:
    """Raise ConfigurationError, with what to do, if apprise is not installed."""
    if find_spec("apprise") is None:
        install = command_from_anywhere("-m", "pip", "install", APPRISE)
        raise ConfigurationError(
            f"notify.urls needs the package apprise, which is not installed: {install}"
        )


def _describe_ping(report: Report) -> tuple[str, str]:
    status = f"exit status {report.status}"
    message = compose(report, report.errors, ())
    if report.status == 0:
        return SUCCESS, status
    return FAIL, f"{status}\n{message.title}\n{message.text}" if message else status


def ping(kind: str, text: str, config: NotifyConfig, *, attempts: int = _PING_ATTEMPTS) -> str:
    """Tell the dead man's switch, if there is one. Returns why it did not hear; "" if it did."""
    if not config.ping_url:
        return ""
    from shared.utils.http_source import HttpSource
    from shared.utils.retry import ONCE
    from shared.utils.strict_session import Source, StrictSession

    parts = urlsplit(config.ping_url)
    url = urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}{kind}"))
    switch = Source("the dead man's switch", f"{parts.scheme}://{parts.netloc}", "notify.ping_url")
    source = HttpSource(switch.root, source=switch, deadline_seconds=_PING_SECONDS)

    def post(session: StrictSession) -> None:
        body = text.encode()
        with session.request("POST", url, data=body, timeout=_PING_SECONDS, stream=True) as answer:
            if not 200 <= answer.status_code < 300:
                raise TransientAPIError(f"it answered HTTP {answer.status_code}")

    fault = ""
    for _ in range(attempts):  # by itself: each retry of a policy is a warning
        try:
            source.call(post, "ping", ONCE)
            return ""
        except Exception as exc:
            fault = str(exc)
    return fault
