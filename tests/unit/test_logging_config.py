"""Handlers: what goes where, in which shape, and what happens where it cannot be written."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.config import logging_config
from shared.config.logging_config import (
    redact,
    register_secrets,
    setup_console_logging,
    setup_file_logging,
)

LOG = logging.getLogger("tests.logging")


def log_to(
    folder: Path,
    level: str = "INFO",
    fmt: str = "%(asctime)s - %(name)s - %(levelname)s - %(message)s",
    *,
    max_bytes: int = 10_000_000,
    backup_count: int = 5,
) -> Path | None:
    return setup_file_logging(folder, level, fmt, max_bytes=max_bytes, backup_count=backup_count)


@pytest.fixture(autouse=True)
def keep_noisy_levels() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("urllib3", "kiteconnect", "requests")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels):
        logger.setLevel(level)


def fail(message: str) -> None:
    try:
        raise ValueError(message)
    except ValueError as exc:
        LOG.error("store failed: %s", exc, exc_info=exc)


def own_handlers() -> list[logging.Handler]:
    return [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging_config._SafeHandlerMixin)
    ]


def test_console_shows_warnings_and_errors_as_a_line_each_on_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    setup_console_logging()
    LOG.info("not shown")
    LOG.warning("mind %d", 5)
    fail("why")

    shown = capsys.readouterr()

    assert shown.err == "WARNING: mind 5\nERROR: store failed: why\n"
    assert shown.out == ""


def test_console_indents_what_follows_the_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    setup_console_logging()
    LOG.error("faults:\nfirst\nsecond")
    assert capsys.readouterr().err == "ERROR: faults:\n  first\n  second\n"


@pytest.mark.parametrize(
    ("level", "shown"), [("DEBUG", "dicwe"), ("INFO", "icwe"), (None, "cwe"), ("ERROR", "ce")]
)
def test_console_level(level: str | None, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    setup_console_logging(level)
    for name in ("debug", "info", "critical", "warning", "error"):
        getattr(LOG, name)(name)
    letters = [line.split(": ")[1][0] for line in capsys.readouterr().err.splitlines()]
    assert letters == list(shown)


@pytest.mark.parametrize(
    ("is_terminal", "variables", "shown"),
    [
        pytest.param(
            True,
            {},
            "\x1b[33mWARNING\x1b[0m: WARNING\n\x1b[31mERROR\x1b[0m: ERROR\nINFO: INFO\n",
            id="terminal",
        ),
        pytest.param(False, {}, "WARNING: WARNING\nERROR: ERROR\nINFO: INFO\n", id="file"),
        pytest.param(
            True, {"NO_COLOR": "1"}, "WARNING: WARNING\nERROR: ERROR\nINFO: INFO\n", id="NO_COLOR"
        ),
        pytest.param(
            True, {"TERM": "dumb"}, "WARNING: WARNING\nERROR: ERROR\nINFO: INFO\n", id="dumb"
        ),
    ],
)
def test_warnings_and_errors_have_colours_at_a_terminal(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool, variables: dict[str, str], shown: str
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"TERM": "xterm", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", stream)
    setup_console_logging("INFO")
    for level in ("WARNING", "ERROR", "INFO"):
        LOG.log(getattr(logging, level), level)
    assert stream.getvalue() == shown


def test_console_set_up_twice_shows_each_record_once(capsys: pytest.CaptureFixture[str]) -> None:
    setup_console_logging()
    setup_console_logging()
    LOG.error("once")
    assert capsys.readouterr().err == "ERROR: once\n"
    assert len(own_handlers()) == 1


def test_console_writes_to_whatever_standard_error_is_now(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    setup_console_logging()
    with (tmp_path / "stderr").open("w+") as file:
        monkeypatch.setattr(sys, "stderr", file)
        LOG.error("there")
        file.seek(0)
        assert file.read() == "ERROR: there\n"


def test_console_that_nobody_reads_any_more_harms_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    setup_console_logging()
    path = log_to(tmp_path)
    file = (tmp_path / "stderr").open("w")
    file.close()
    monkeypatch.setattr(sys, "stderr", file)

    LOG.error("for the file")

    assert path is not None
    assert "for the file" in path.read_text()


def test_file_has_time_name_level_message_and_the_whole_traceback(tmp_path: Path) -> None:
    setup_console_logging()
    path = log_to(tmp_path / "made" / "here")

    LOG.info("step done")
    fail("why")

    assert path == tmp_path / "made" / "here" / "stock_ingestion.log"
    text = path.read_text()
    first, second, *traceback = text.splitlines()
    assert first.split(" - ", 1)[1] == "tests.logging - INFO - step done"
    assert second.split(" - ", 1)[1] == "tests.logging - ERROR - store failed: why"
    assert traceback[0] == "  Traceback (most recent call last):"
    assert traceback[-1] == "  ValueError: why"
    assert "raise ValueError(message)" in text


def test_time_in_the_file_is_indias_wherever_the_machine_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        path = log_to(tmp_path, fmt="%(asctime)s|%(message)s")
        record = logging.makeLogRecord({"msg": "done", "levelno": logging.INFO})
        record.created, record.msecs = 1_795_748_400.007, 7.0  # 2026-11-27 03:00 UTC
        logging.getLogger().handle(record)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert path is not None
    assert path.read_text() == "2026-11-27 08:30:00,007+0530|done\n"


def test_file_level_and_format_are_the_configured_ones(tmp_path: Path) -> None:
    setup_console_logging()
    path = log_to(tmp_path, "WARNING", "%(levelname)s|%(message)s")
    LOG.info("left out")
    LOG.warning("kept")
    assert path is not None
    assert path.read_text() == "WARNING|kept\n"


def test_file_of_level_debug_gets_debug_while_the_console_stays_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_console_logging()
    path = log_to(tmp_path, "DEBUG", "%(message)s")
    LOG.debug("detail")
    logging.getLogger("urllib3.connectionpool").debug("http://host/?access_token=x")
    assert path is not None
    assert path.read_text() == "detail\n"
    assert capsys.readouterr().err == ""


def test_file_is_appended_to_and_rotated_with_a_bounded_number_of_old_ones(tmp_path: Path) -> None:
    setup_console_logging()
    (tmp_path / "stock_ingestion.log").write_text("from yesterday\n")
    log_to(tmp_path, fmt="%(message)s", max_bytes=1024, backup_count=2)
    LOG.info("today")
    assert (tmp_path / "stock_ingestion.log").read_text() == "from yesterday\ntoday\n"

    for number in range(100):
        LOG.info("%s %d", "x" * 100, number)

    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["stock_ingestion.log", "stock_ingestion.log.1", "stock_ingestion.log.2"]
    assert all(path.stat().st_size <= 1024 for path in tmp_path.iterdir())
    assert (tmp_path / "stock_ingestion.log").read_text().endswith(" 99\n")


def test_file_is_rotated_once_by_all_that_write_to_it(tmp_path: Path) -> None:
    """Eight processes at once had renamed it eight times, and the old ones were gone."""
    for _ in range(3):
        log_to(tmp_path, fmt="%(message)s", max_bytes=3000)
    for number in range(36):
        LOG.info("%s %02d", "x" * 96, number)
    files = [tmp_path / f"stock_ingestion.log{suffix}" for suffix in (".3", ".2", ".1", "")]
    assert [path for path in sorted(tmp_path.iterdir(), reverse=True) if path in files] == files
    assert len([*tmp_path.iterdir()]) == len(files)
    lines = "".join(path.read_text() for path in files).splitlines()
    assert [int(line[-2:]) for line in lines] == [n for n in range(36) for _ in range(3)]


def test_file_that_cannot_be_made_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_console_logging()
    (tmp_path / "logs").write_text("a file is in the way of the folder")

    assert log_to(tmp_path / "logs") is None

    shown = capsys.readouterr().err
    assert shown.startswith("WARNING: No log file: ")
    assert "LOG_DIR" in shown
    assert len(shown.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the full disk of Linux")
def test_full_disk_is_told_once_and_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_console_logging()
    log_to(tmp_path)
    _, file_handler = own_handlers()
    assert isinstance(file_handler, logging.FileHandler)
    file_handler.stream.close()
    file_handler.stream = Path("/dev/full").open("a")  # noqa: SIM115 - as the handler's own

    LOG.info("first")
    LOG.info("second")
    LOG.error("third")

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("WARNING: the log cannot be written: ")
    assert "No space left" in lines[0]
    assert lines[1] == "ERROR: third"
    for handler in own_handlers():
        logging.getLogger().removeHandler(handler)
        with contextlib.suppress(OSError):  # as logging.shutdown does
            handler.close()


def test_text_that_is_not_utf_8_is_written_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_console_logging()
    path = log_to(tmp_path, fmt="%(message)s")
    LOG.info("a file named \udcff")
    assert path is not None
    assert path.read_text(encoding="utf-8") == "a file named \\udcff\n"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("target", ["there", "not there"])
def test_link_in_the_place_of_the_log_is_not_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    (tmp_path / "there").write_text("of another\n")
    (tmp_path / "stock_ingestion.log").symlink_to(tmp_path / target)
    setup_console_logging()

    assert log_to(tmp_path) is None

    LOG.error("on the console alone")
    warning, error = capsys.readouterr().err.splitlines()
    assert "cannot be written (a symbolic link is in its place)" in warning
    assert error == "ERROR: on the console alone"
    assert (tmp_path / "there").read_text() == "of another\n"
    assert not (tmp_path / "not there").exists()


def test_logs_and_their_folders_are_private_whatever_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        path = log_to(tmp_path / "made" / "here", max_bytes=1024)
        for number in range(20):
            LOG.error("%s %d", "x" * 100, number)
    finally:
        os.umask(previous)
    assert path is not None
    modes = {name: stat.S_IMODE(name.stat().st_mode) for name in (tmp_path / "made").rglob("*")}
    assert modes.pop(path.parent) == 0o700
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700
    assert len(modes) > 1  # it was rotated
    assert set(modes.values()) == {0o600}


def test_folder_of_the_logs_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert log_to(tmp_path) is not None
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


# --- text of others (ruling 35; as a user sees it: tests/integration/test_foreign_text.py) -------


FORGED = "gone\n2026-11-27 08:30:00,000 - execute_dags - INFO - DAG 1 x: succeeded in 1.000 s\n\nok"


def test_no_text_begins_a_line_or_steers_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither in a message nor in a stack trace."""
    setup_console_logging()
    path = log_to(tmp_path)
    for unseen in (
        "\r",
        "\x1b[2J",
        "\x9b31m",
        "\x7f",
        "\u2028",
        "\u202e",
        "\u200b",
        "\u3164",
        "\0",
    ):
        fail(f"{unseen}{FORGED}")
    assert path is not None
    for text, prefix in ((path.read_text(), r"\d{4}-\d\d-"), (capsys.readouterr().err, "ERROR: ")):
        lines = text.split("\n")
        own = [line for line in lines if re.match(rf"{prefix}.*store failed: \\", line)]
        assert len(own) == 9
        assert all(line in own or line == "" or line.startswith("  ") for line in lines)
        assert all(character.isprintable() for line in lines for character in line)
        assert "\u3164" not in text


# --- redaction (its properties are in tests/property/test_logging_properties.py) ----------------


def test_redact_without_any_secret_changes_nothing() -> None:
    assert redact("stored 5 rows, ***") == "stored 5 rows, ***"


def test_redact_masks_the_longest_secret_first() -> None:
    register_secrets(["abcdefgh", "abcdefghijkl"])
    assert redact("abcdefghijkl abcdefghij") == "*** ***ij"


@pytest.mark.parametrize("blank", ["", " ", "\n"], ids=repr)
def test_blank_secret_masks_nothing(blank: str) -> None:
    register_secrets([blank])
    assert redact("a b\nc") == "a b\nc"


def test_secret_of_less_than_eight_characters_is_masked_as_a_word_of_its_own_only() -> None:
    register_secrets(["5", "1234567", "ab!"])
    assert (
        redact("password 5: stored 15 of 50 rows, 5%") == "password ***: stored 15 of 50 rows, ***%"
    )
    assert redact("01234567, 1234567: ab! xab!") == "01234567, ***: *** xab!"
    register_secrets(["12345678"])
    assert redact("0123456789") == "0***9"


def test_secrets_registered_one_after_another_are_all_masked() -> None:
    register_secrets(["first_one"])
    register_secrets(["second.one"])
    register_secrets(["first_one"])
    assert redact("first_one second.one secondXone") == "*** *** secondXone"


def test_secret_of_bytes_that_are_not_utf_8_is_masked() -> None:
    """An environment variable can hold any bytes."""
    register_secrets(["pass\udcffword"])
    assert redact("pass\udcffword pass%FFword") == "*** ***"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: token some_key:some_token", "Authorization: token some_key:***"),
        (
            "{'Authorization': 'token k.1:t-0', 'x': 1}",
            "{'Authorization': 'token k.1:***', 'x': 1}",
        ),
        ("GET /?access_token=abc&x=1", "GET /?access_token=***&x=1"),
        ("https://host/?request_token=abc", "https://host/?request_token=***"),
        ("PASSWORD=abc host=db", "PASSWORD=*** host=db"),
        ("checksum=0a1b2c", "checksum=***"),
    ],
    ids=["header", "header-in-repr", "query", "redirect", "dsn", "checksum"],
)
def test_credential_of_a_known_shape_is_masked_whoevers_it_is(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text", ["instrument_token: required, but missing", "token 5 was taken over", "tokens: 10:30"]
)
def test_text_that_only_speaks_of_tokens_is_left_alone(text: str) -> None:
    assert redact(text) == text


def test_address_on_the_same_host_as_a_secret_one_is_shown() -> None:
    register_secrets(["http://127.0.0.1:8000/ping/0d2f1c9a-secret"])
    other = "No connection to http://127.0.0.1:8000/chat, and http://127.0.0.1:5010/"
    assert redact(other) == other
    assert redact("at http://127.0.0.1:8000/ping/0d2f1c9a-secret/start") == "at ***/start"
    assert redact("cut: http://127.0.0.1:8000/ping/0d2f1...") == "cut: ***"
