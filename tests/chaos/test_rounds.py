"""A run is hit at a random moment; whatever happened, the list is whole and the next run is well.

`make chaos ROUNDS=300 SEED=7`. A round is made from its seed alone; how far the run has come when
it is hit depends on the machine, so that a seed may have to be tried more than once.
"""

from __future__ import annotations

import random
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress

from sandbox.kite_faults import CutShort, Fault, HtmlError, HttpError, Reset
from sandbox.kite_server import KiteServer
from tests.conftest import connect_project
from tests.instruments import to_csv
from tests.rig import ROWS, Rig, make_day
from tests.table_model import wait_until

LIFETIME_SECONDS = 1.5  # of a run, about: what is hit later is hit after its end
WRITING_SECONDS = 0.5
SIGNALS = {
    signal.SIGINT: 130,
    signal.SIGTERM: 143,
    signal.SIGHUP: 129,
    signal.SIGKILL: -signal.SIGKILL,
}
FAULTS: tuple[Fault, ...] = (
    HttpError(429),
    HttpError(503),
    HtmlError(502),
    Reset("answer"),
    Reset("body"),
    CutShort("length"),
    CutShort("gzip"),
)

# Given the run and its rig; returns the exit statuses that it explains.
Blow = Callable[[subprocess.Popen[str], Rig], set[int]]


def draw_signal(rng: random.Random) -> Blow:
    number = rng.choice(list(SIGNALS))

    def strike(process: subprocess.Popen[str], rig: Rig) -> set[int]:
        process.send_signal(number)
        # Before the program's own code runs, and after it, a signal ends Python as any program.
        return {SIGNALS[number], -number}

    return strike


def draw_lost_connection(rng: random.Random) -> Blow:
    def strike(process: subprocess.Popen[str], rig: Rig) -> set[int]:
        rig.server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = %s AND application_name = 'stock_ingestion'",
            (rig.database,),
        )
        return set()  # tried again

    return strike


def draw_dead_session(rng: random.Random) -> Blow:
    def strike(process: subprocess.Popen[str], rig: Rig) -> set[int]:
        rig.kite.expire_token()
        return {3}

    return strike


def test_round(rig: Rig, seed: int) -> None:
    rng = random.Random(seed)
    for path in ("/user/profile", "/instruments"):
        if rng.random() < 0.3:
            rig.kite.fail_next(path, rng.choice(FAULTS))
    explained = {0}
    with rig.start() as process:
        for draw in rng.choices(
            [draw_signal, draw_lost_connection, draw_dead_session],
            [6, 3, 1],
            k=rng.choice([1, 1, 2]),
        ):
            wait_for_a_moment(rng, rig, process)
            explained |= draw(rng)(process, rig)
        _, errors = process.communicate(timeout=60)
    assert process.returncode in explained, errors
    if process.returncode != -signal.SIGINT:  # which may come while Python itself begins
        assert "Traceback" not in errors
    wait_until(lambda: not rig.sessions())
    day = assert_whole(rig)
    if process.returncode == 0:
        assert day == 2
    assert_next_run_is_well(rig, day)


def wait_for_a_moment(rng: random.Random, rig: Rig, process: subprocess.Popen[str]) -> None:
    """Somewhere in the run's life, half of the time while it writes: the shorter part of it."""
    moment = rng.uniform(0, LIFETIME_SECONDS)
    if rng.random() < 0.5:
        wait_until(
            lambda: rig.sessions("backend_xid IS NOT NULL") or process.poll() is not None,
            seconds=60,
        )
        moment = rng.uniform(0, WRITING_SECONDS)
    with suppress(subprocess.TimeoutExpired):
        process.wait(moment)


def assert_whole(rig: Rig) -> int:
    """The table is one day's, and the history says which; returns the day."""
    ((day, rows),) = rig.days()
    assert rows == ROWS
    assert rig.fields() == {(row["instrument_token"], "NSE"): row for row in make_day(day)}
    assert rig.good_runs() == day
    assert rig.query("SELECT count(*) FROM kite_instrument_today") == [(ROWS,)]
    # Symbols rotate, so that each day but the first has changes.
    assert rig.query("SELECT count(DISTINCT run_id) FROM kite_instrument_change") == [(day - 1,)]
    return day


def assert_next_run_is_well(rig: Rig, day: int) -> None:
    with KiteServer(to_csv(make_day(day + 1))) as kite:
        connect_project(rig.project, rig.server, rig.database, kite)
        result = rig.project.run("--dag", "1")
    assert result.returncode == 0, result.stderr
    assert assert_whole(rig) == day + 1
