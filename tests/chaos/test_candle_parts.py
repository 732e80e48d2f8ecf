"""Parts of DAG 2 that are killed at random moments, and run again in any order, beside one run."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path

import pytest

from sandbox.kite_server import KiteServer
from tests.candle_desk import make_desk
from tests.candle_parts import NAMES, Twins, make_market, split_fetches, twins
from tests.candle_rig import list_stored
from tests.candle_stories import make_stories, play
from tests.command_line import CommandLine
from tests.conftest import Project, Server, make_project

LIFETIME_SECONDS = 1.5  # of a part of an empty database
MOST_PARTS = len(NAMES) + 3
SHARES, INTERVALS = 20, ("day", "minute")


@pytest.fixture(scope="module")
def parts_project(shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(shipped, tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def listed(parts_project: Project, server: Server) -> Iterator[str]:
    with list_stored(parts_project, server, make_market()) as name:
        yield name


@pytest.fixture
def both(parts_project: Project, server: Server, kite: KiteServer, listed: str) -> Iterator[Twins]:
    with twins(parts_project, server, kite, listed, make_market()) as pair:
        yield pair
    logs = parts_project.environment["LOG_DIR"]
    for folder in (logs, f"{logs}_parts"):
        shutil.rmtree(folder, ignore_errors=True)


def test_killed_parts_come_to_what_one_process_does(both: Twins, seed: int) -> None:
    rng = random.Random(seed)
    for is_first in (True, False):
        if not is_first:
            both.change()
        both.run_one()
        count = rng.randint(2, MOST_PARTS)
        left = [f"{number}/{count}" for number in range(1, count + 1)]
        while left:
            rng.shuffle(left)
            begun = left[: rng.randint(1, 4)]
            ended = run_and_kill(rng, both, begun)
            left = [part for part in left if part not in ended or rng.random() < 0.1]
        both.assert_equal()


def run_and_kill(rng: random.Random, both: Twins, parts: list[str]) -> set[str]:
    """Run these at once, and end some of them at random moments. Those that have ended well."""
    with both.started(*parts) as processes:
        deadline = time.monotonic() + LIFETIME_SECONDS
        for process in processes:
            if rng.random() < 0.3:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0, rng.uniform(0, deadline - time.monotonic())))
                process.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
        ended = set()
        for part, process in zip(parts, processes):
            stdout, stderr = process.communicate(timeout=60)
            assert "Traceback" not in stderr, stdout + stderr
            assert process.returncode in (0, -9, -15, 128 + 15), stdout + stderr
            if process.returncode == 0:
                ended.add(part)
    both.parts.wait_for_the_end()
    return ended


@pytest.fixture
def database(clocked_database: str) -> str:
    return clocked_database


def test_stories_in_parts(cli: CommandLine, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng = random.Random(seed)
    market, stories = make_stories(
        seed, SHARES, date(2026, 3, 20), history=100, intervals=INTERVALS
    )
    desk = make_desk(cli, market, monkeypatch, intervals=INTERVALS)
    split_fetches(desk, monkeypatch, rng.randint(2, 5))
    desk.names = [story.share.name for story in stories]
    desk.parameters["start"] = f"{market.shares[0].bars['day'][0].ts:%Y-%m-%d}"
    play(desk, stories)
