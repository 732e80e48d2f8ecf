"""Signals at random moments of a sandbox: from its first data to the end of a run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clone import Clone, make_clone

RUN = ("execute_dags.py", "--sandbox", "--dag", "1")
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
NEWEST_ROWS = (
    "SELECT count(*) FROM kite_instrument_master WHERE last_updated ="
    " (SELECT max(last_updated) FROM kite_instrument_master)"
)
LIFETIME_SECONDS = 4.0  # of a run, with its first data


@pytest.fixture(scope="module")
def clone() -> Iterator[Clone]:
    base = Path(tempfile.mkdtemp(prefix="sandbox chaos "))
    base.chmod(0o755)
    yield make_clone(base, "my project")
    shutil.rmtree(base)


def is_server_left(clone: Clone) -> bool:
    try:
        clone.assert_no_server_is_left()
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def test_signal_at_a_random_moment_leaves_a_sandbox_that_works(clone: Clone, seed: int) -> None:
    rng = random.Random(seed)
    # A killed run's server, whose folder is gone, takes the next one's socket with it at its end.
    if rng.random() < 0.3 and not is_server_left(clone):
        shutil.rmtree(clone.sandbox, ignore_errors=True)
    number = rng.choice(list(STATUS))
    was_left = is_server_left(clone)  # of a round before, which was killed
    process = clone.start(*RUN)
    time.sleep(rng.uniform(0, LIFETIME_SECONDS))
    if process.poll() is None:
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=60)
    # Before the program's own code runs, and after it, a signal ends Python as any program.
    assert process.returncode in (0, STATUS[number], -number), errors
    if process.returncode != -number:
        assert "Traceback" not in errors
        assert (was_left and process.returncode) or not is_server_left(clone)
    if rng.random() < 0.3:
        after = clone.run(*RUN)
        assert after.returncode == 0, after.stderr
        assert int(clone.query(NEWEST_ROWS)) > 110_000
        clone.assert_no_server_is_left()
