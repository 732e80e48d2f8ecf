"""Who is told what: real messages through apprise, and pings, to a server on this machine."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from dotenv import dotenv_values

from shared import notify, send_message
from shared.calendar import IST
from shared.clock import use_clock
from shared.config.config_loader import override_config
from shared.config.fields import ping_address, receivers
from shared.config.logging_config import register_secrets
from shared.exceptions import (
    AuthenticationError,
    ConfigurationError,
    DAGExecutionError,
    TransientDatabaseError,
)
from shared.notify import FAILED, LOG_IN, WELL, Report, compose, tell
from shared.send_message import open_receiver
from tests.command_line import CommandLine
from tests.conftest import PROJECT
from tests.documents import DOCUMENTS, blocks_of
from tests.instruments import instrument, to_csv
from tests.receiver import Receiver, serve

DUMP = to_csv([instrument(1, "A", "NSE")])
NAMES = {1: "DAG 1 one", 2: "DAG 2 two", 3: "DAG 3 three"}
DAG_1 = "DAG 1 import_instruments_from_kite"
HOST = socket.gethostname()
TOKENS = ("Chat-Token-1", "Ping-Token-2")
EIGHT = datetime(2026, 11, 27, 8, 0, tzinfo=IST)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A receiver that .env names for messages and pings."""
    with serve() as receiver:
        monkeypatch.setenv("NOTIFY_URLS", f"json://{receiver.place}/chat/{TOKENS[0]}")
        monkeypatch.setenv("PING_URL", f"http://{receiver.place}/ping/{TOKENS[1]}?create=1")
        yield receiver


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real messages, without the half second that a process takes to load apprise."""

    def run(document: str, end: float) -> str:
        answers = io.StringIO()
        send_message.main(io.StringIO(document), answers)
        return answers.getvalue()

    monkeypatch.setattr(notify, "_run_sender", run)


def pings(receiver: Receiver) -> list[tuple[str, str]]:
    """How each ping ended, and the first line of its body."""
    cut = [(path.partition("?"), body) for path, body in receiver.take(f"/ping/{TOKENS[1]}")]
    assert all(query == "create=1" for (_, _, query), _ in cut)
    return [(end, body.partition("\n")[0]) for (end, _, _), body in cut]


@pytest.mark.usefixtures("in_process")
def test_failure_and_the_first_good_run_after_it_are_told_once(
    cli: CommandLine, receiver: Receiver, tmp_path: Path
) -> None:
    """In the words of docs/production.md."""
    [(documented,)] = [
        re.findall(r"```text\n(Stock Ingestion on .*?)```", path.read_text("utf-8"), re.S)
        for path in DOCUMENTS
        if path.name == "production.md"
    ]
    for word, here in (
        ("/opt/stock_ingestion/logs", tmp_path / "logs"),
        ("/opt/stock_ingestion", PROJECT),
        ("on server", f"on {HOST}"),
    ):
        documented = documented.replace(word, str(here))
    failure, well = documented.strip().split("\n\n")

    assert cli.run("--dag", "1", "--from-file", str(PROJECT / "no-such-file")).status == 2
    [(kind, title, text)] = receiver.messages()
    assert (kind, re.sub(r"(?<=&& )\S+", ".venv/bin/python", f"{title}\n{text}")) == (
        "failure",
        failure,
    )
    assert pings(receiver) == [("/start", ""), ("/fail", "exit status 2")]

    assert cli.load(DUMP).status == 0
    [(kind, title, text)] = receiver.messages()
    assert (kind, f"{title}\n{text}") == ("success", well)
    assert pings(receiver) == [("/start", ""), ("", "exit status 0")]

    assert cli.load(DUMP).status == 0
    assert receiver.messages() == []
    assert pings(receiver) == [("/start", ""), ("", "exit status 0")]


@pytest.mark.usefixtures("in_process")
def test_folder_of_lists_is_told_and_pinged_once(
    cli: CommandLine, receiver: Receiver, tmp_path: Path
) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    for day, content in ((1, DUMP), (2, DUMP), (3, b"<html>"), (4, b"<html>")):
        (folder / f"2025-08-0{day}.csv").write_bytes(content)
    command = ("--dag", "1", "--from-folder", str(folder))
    assert cli.run(*command, "--dry-run").status == 0
    assert (receiver.messages(), pings(receiver)) == ([], [])

    assert cli.run(*command).status == 1
    [(kind, title, text)] = receiver.messages()
    name = "DAG 1 import_instruments_from_kite"
    assert (kind, title) == ("failure", f"Stock Ingestion on {HOST}: {name} failed")
    assert f"{name} failed: list 3 of 4 (2025-08-03 2025-08-03.csv) failed. 2 of 4 lists" in text
    assert "2025-08-03.csv cannot be used." in text
    assert pings(receiver) == [("/start", ""), ("/fail", "exit status 1")]

    for day in (3, 4):
        (folder / f"2025-08-0{day}.csv").write_bytes(DUMP)
    assert cli.run(*command).status == 0
    [(kind, _, _)] = receiver.messages()
    assert kind == "success"
    assert pings(receiver) == [("/start", ""), ("", "exit status 0")]


def test_addresses_of_the_documents_are_such_as_apprise_takes() -> None:
    (block,) = blocks_of("ini")
    values = dotenv_values(stream=io.StringIO(block.text))
    urls = receivers(values["NOTIFY_URLS"])
    assert len(urls) == 3
    assert [url for url in urls if open_receiver(url)[0] is None] == []
    assert ping_address(values["PING_URL"])


def test_dead_session_is_told_with_the_command_to_type(
    cli: CommandLine, receiver: Receiver
) -> None:
    cli.kite.expire_token()
    assert cli.load(DUMP).status == 3

    [(kind, title, text)] = receiver.messages()
    assert (kind, title) == ("warning", f"Stock Ingestion on {HOST}: log in to Kite again")
    assert f"\nLog in: cd {PROJECT} && " in text
    assert " execute_dags.py login\nExit status 3. The log: " in text
    assert pings(receiver) == [("/start", ""), ("/fail", "exit status 3")]


@pytest.mark.usefixtures("in_process")
def test_outage_of_the_database_which_keeps_no_history_is_told_too(
    cli: CommandLine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("DB_PORT", "1")
        assert cli.load(DUMP).status == 1
    assert [kind for kind, _, _ in receiver.messages()] == ["failure"]
    assert cli.load(DUMP).status == 0
    assert [kind for kind, _, _ in receiver.messages()] == ["success"]


def test_dry_run_tells_nobody(cli: CommandLine, receiver: Receiver) -> None:
    cli.kite.expire_token()
    assert cli.load(DUMP, "--dry-run").status == 3
    assert receiver.posts == []


@pytest.mark.usefixtures("in_process")
def test_receivers_that_fail_change_no_run_and_keep_no_other_from_being_told(
    cli: CommandLine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "_PING_SECONDS", 0.2)
    urls = [
        f"json://{receiver.place}/bad/Bad-Token-4",
        "unknown://Unknown-Token-5",
        "json://127.0.0.1:1/Away-Token-6",
        f"json://{receiver.place}/chat",
    ]
    monkeypatch.setenv("NOTIFY_URLS", " ".join(urls))
    monkeypatch.setenv("PING_URL", f"http://{receiver.place}/hang/Ping-Token-8")
    cli.kite.expire_token()

    result = cli.load(DUMP)

    assert result.status == 3
    assert [kind for kind, _, _ in receiver.messages()] == ["warning"]
    log = Path(os.environ["LOG_DIR"], "stock_ingestion.log").read_text(encoding="utf-8")
    for output in (result.stdout, result.stderr, log):
        assert "-Token-" not in output
    warnings = [line for line in result.stderr.splitlines() if line.startswith("WARNING")]
    late = "the dead man's switch.* did not (answer in time|end within 0.2 seconds)."
    ends = [
        f"notify.ping_url .PING_URL. could not be pinged: {late}",
        f"notify.ping_url .PING_URL. could not be pinged: {late}",
        r"Receiver 1 of notify.urls \(json\) was not told: .*error=500.*",
        r"Receiver 2 of notify.urls \(unknown\) was not told: Unparseable URL .*",
        r"Receiver 3 of notify.urls \(json\) was not told: A Connection error .*",
    ]
    assert len(warnings) == len(ends), warnings
    for line, end in zip(warnings, ends):
        assert re.fullmatch(f"WARNING: {end}", line), line


@pytest.mark.usefixtures("in_process")
def test_failure_that_nobody_was_told_is_told_by_the_next_call(receiver: Receiver) -> None:
    report = Report(NAMES, {1: DAGExecutionError("no")}, 1)
    with override_config("test", {"notify": {"urls": [f"json://{receiver.place}/bad"]}}):
        tell(report, since={1: EIGHT})
    with use_clock(lambda: EIGHT):
        tell(report, since={1: EIGHT})
        tell(report, since={1: EIGHT})
    assert [kind for kind, _, _ in receiver.messages()] == ["failure"]
    # What is not told again is pinged again: no ping says success while a failure stands.
    assert pings(receiver) == [("/fail", "exit status 1")] * 3


def test_sender_that_takes_too_long_is_killed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    script = f"#!/bin/sh\necho $$ >{tmp_path}/pid\necho '[1, true, \"\"]'\nexec sleep 60\n"
    python.write_text(script, encoding="utf-8")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    message = notify.Message(FAILED, "title", "text")

    assert notify.send(message, ["json://one", "json://two"], time.monotonic() + 1)

    [text] = [record.getMessage() for record in caplog.records]
    assert text == "Receiver 1 of notify.urls (json) was not told: it took too long"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_termination_while_a_receiver_hangs(
    cli: CommandLine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.at_hang = lambda: os.kill(os.getpid(), signal.SIGTERM)
    monkeypatch.setenv("NOTIFY_URLS", f"json://{receiver.place}/hang")
    cli.kite.expire_token()
    begin = time.monotonic()
    assert cli.load(DUMP).status == 143
    assert time.monotonic() - begin < notify._END_SECONDS


def test_apprise_is_not_installed(
    cli: CommandLine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "find_spec", lambda name: None)
    cli.kite.expire_token()
    lack = "notify.urls needs the package apprise, which is not installed: cd "
    install = f" -m pip install '{notify.APPRISE}'"

    result = cli.load(DUMP)

    [warning] = [line for line in result.stderr.splitlines() if line.startswith("WARNING")]
    assert warning.startswith(f"WARNING: Nobody was told: {lack}")
    assert warning.endswith(install)
    assert result.status == 3
    [fault] = [line for line in cli.run("check").stdout.splitlines() if "apprise" in line]
    assert fault.startswith(f"FAILED  notify: {lack}")
    assert fault.endswith(install)
    assert f"\n{notify.APPRISE} " in (PROJECT / "requirements.txt").read_text(encoding="utf-8")


def test_check_names_each_receiver_that_apprise_cannot_use_and_sends_nothing(
    cli: CommandLine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.load(DUMP)
    receiver.posts.clear()
    assert cli.run("check").status == 0

    urls = f"json://{receiver.place}/chat, tgram://123456789:Telegram-Token-3/456 "
    urls += "slack://Slack-Token-1 unknown://Unknown-Token-2"
    monkeypatch.setenv("NOTIFY_URLS", urls)
    result = cli.run("check")

    assert result.status == 2
    lines = [line for line in result.stdout.splitlines() if "notify" in line]
    assert (
        lines[0] == "ok      receiver 1 of notify.urls (json): apprise knows it; nothing was sent"
    )
    assert lines[1].startswith("ok      receiver 2 of notify.urls (tgram): ")
    assert lines[2].startswith("FAILED  receiver 3 of notify.urls (slack): apprise cannot use its")
    assert lines[3].startswith("FAILED  receiver 4 of notify.urls (unknown): apprise cannot use")
    assert "-Token-" not in result.stdout
    assert receiver.posts == []


# --- which failures, and in which words ----------------------------------------------------------


DEAD = DAGExecutionError("The session is dead.")
DEAD.__cause__ = AuthenticationError("The session is dead.")
BROKEN = DAGExecutionError("It broke.")


def test_failures_of_a_call_are_one_message() -> None:
    """A DAG that was skipped is mentioned, and so is one that is well again."""
    errors = {1: BROKEN, 2: BROKEN}
    message = compose(Report(NAMES, errors, 1, Path("/var/log/it.log")), errors, [3])
    assert message == (
        FAILED,
        f"Stock Ingestion on {HOST}: DAG 1, 2 failed",
        "DAG 1 one failed: It broke.\n"
        "DAG 2 two was skipped: DAG 1 failed.\n"
        "DAG 3 three is well again.\n"
        "Exit status 1. The log: /var/log/it.log",
    )


@pytest.mark.parametrize(
    ("errors", "status", "kind", "words"),
    [
        pytest.param({1: DEAD}, 3, LOG_IN, "execute_dags.py login\n", id="dead"),
        pytest.param({1: DEAD, 2: DEAD}, 3, LOG_IN, "DAG 2 two was skipped", id="dead, skipped"),
        pytest.param({1: DEAD, 2: BROKEN}, 1, FAILED, "DAG 1, 2 failed", id="dead and broken"),
        pytest.param(
            {1: ConfigurationError("No.")}, 2, FAILED, "execute_dags.py check\n", id="configuration"
        ),
        pytest.param({1: KeyError("x")}, 1, FAILED, "failed: KeyError: 'x'", id="unforeseen"),
        pytest.param({1: SystemExit("bye")}, 1, FAILED, "failed: SystemExit: bye", id="exit"),
        pytest.param({}, 0, WELL, "DAG 3 three is well again.", id="well"),
    ],
)
def test_message(errors: dict[int, BaseException], status: int, kind: str, words: str) -> None:
    message = compose(Report(NAMES, errors, status), errors, () if errors else [3])
    assert message is not None
    assert message.kind == kind
    assert words in f"{message.title}\n{message.text}"


def test_message_is_bounded_and_has_no_secret_and_no_line_of_others() -> None:
    register_secrets(["Secret-Value-5e1f0c9a"])
    error = DAGExecutionError("Secret-Value-5e1f0c9a\x1b[31m\nWell again.\n" + "x" * 10_000)
    message = compose(Report(NAMES, {1: error, 2: KeyError("y" * 9999)}, 1), [1, 2], [])
    assert message is not None
    assert "Secret" not in message.text
    assert message.text.startswith("DAG 1 one failed: ***\\x1b[31m\n  Well again.\n  xxx")
    assert len(message.text) <= 1500


@pytest.mark.parametrize("has_receiver", [True, False], ids=["told", "printed alone"])
def test_failure_is_told_once_in_its_slot(
    has_receiver: bool, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []

    def send(message: notify.Message, urls: list[str], end: float) -> bool:
        sent.append(f"{message.kind} {message.text.split()[1]}")
        return True

    monkeypatch.setattr(notify, "send", send)
    monkeypatch.delenv("PING_URL")
    if not has_receiver:
        monkeypatch.delenv("NOTIFY_URLS")
    minutes = iter(range(0, 1000, 10))

    def call(since: datetime, **errors: BaseException) -> list[str]:
        sent.clear()
        by_id = {int(name[-1]): error for name, error in errors.items()}
        names = {1: NAMES[1], 2: NAMES[2]}
        now = EIGHT + timedelta(minutes=next(minutes))
        with use_clock(lambda: now):
            tell(Report(names, by_id, int(bool(errors))), since={1: since, 2: since})
        return sent[:]

    away = TransientDatabaseError("away")
    told = [
        call(EIGHT, dag_1=BROKEN),
        call(EIGHT, dag_1=BROKEN),
        call(EIGHT, dag_1=BROKEN, dag_2=away),  # another DAG's
        call(EIGHT, dag_1=DEAD),  # of another kind; DAG 2 is well
        call(EIGHT, dag_1=BROKEN),
        call(EIGHT + timedelta(minutes=45), dag_1=BROKEN),  # the next slot
        call(EIGHT),
        call(EIGHT),
        call(EIGHT, dag_1=BROKEN),  # it was well meanwhile
    ]

    expected = [["failure 1"], [], ["failure 2"], ["warning 1"], [], ["failure 1"]]
    expected += [["success 1"], [], ["failure 1"]]
    assert told == (expected if has_receiver else [[]] * 9)
    assert notify.read_told().has(1, EIGHT + timedelta(minutes=80), FAILED)
    assert not notify.read_told().has(1, EIGHT, LOG_IN)
    assert not notify.read_told().has(1, EIGHT + timedelta(minutes=81), FAILED)


@pytest.mark.parametrize(("path", "warnings"), [("plain", 0), ("bad", 1)])
def test_ping_that_fails_is_told_once_in_a_slot_of_due(
    path: str, warnings: int, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is answered with any success is well."""
    settings = {"urls": [], "ping_url": f"http://{receiver.place}/{path}"}
    with override_config("test", {"notify": settings}):
        for minute in (10, 20):
            with use_clock(lambda: EIGHT + timedelta(minutes=minute)):  # noqa: B023
                tell(Report({1: NAMES[1]}, {}, 0), since={1: EIGHT})
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == warnings


def test_dead_session_is_not_well_again_by_what_did_not_ask_kite(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: list[str] = []
    monkeypatch.setattr(
        notify, "send", lambda message, *_: bool(kinds.append(message.kind)) or True
    )
    for errors, idle in ({1: DEAD}, ()), ({}, {1}), ({}, ()):
        tell(Report({1: NAMES[1]}, errors, 3 if errors else 0, idle=idle))
    assert kinds == [LOG_IN, WELL]


@pytest.mark.parametrize("name", ["urls", "ping_url"])
def test_wrong_setting_is_named_without_its_value(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with override_config("local.json", {"notify": {name: "Secret-Value-12"}}):
        with pytest.raises(ConfigurationError) as caught:
            notify.ping_start()
        tell(Report(NAMES, {}, 0))  # it was right when the run began
    assert re.search(rf"\nlocal.json: notify.{name}: expected (an )?address", str(caught.value))
    assert "Secret" not in str(caught.value)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"x": 1}', b'{"1": {"failure": 5}}', b"\xff"])
def test_file_that_cannot_be_read_is_nothing_told(content: bytes, receiver: Receiver) -> None:
    path = notify.read_told().path
    path.parent.mkdir()
    path.write_bytes(content)
    assert notify.read_told().moments == {}


def test_file_that_cannot_be_written_is_a_warning(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "logs").write_text("in the way", encoding="utf-8")
    tell(Report(NAMES, {1: BROKEN}, 1))
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "told.json (File exists)" in record.getMessage()
