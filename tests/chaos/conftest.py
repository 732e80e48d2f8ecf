"""`--rounds` and `--seed`, and a database in which the first day is stored."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sandbox.kite_server import KiteServer
from tests.conftest import Project, Server, connect_project, make_project
from tests.instruments import to_csv
from tests.rig import Rig, cloned, first_day_stored, make_day

DEFAULT_ROUNDS = 10


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos")
    group.addoption("--rounds", type=int, default=DEFAULT_ROUNDS, help="how many rounds")
    group.addoption("--seed", type=int, default=1, help="of the first round; one more for each")


def pytest_report_header(config: pytest.Config) -> str:
    return f"chaos: --rounds {config.getoption('rounds')} --seed {config.getoption('seed')}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        first, rounds = (metafunc.config.getoption(name) for name in ("seed", "rounds"))
        seeds = range(first, first + rounds)
        metafunc.parametrize("seed", seeds, ids=[f"seed {number}" for number in seeds])


@pytest.fixture(scope="session")
def chaos_project(shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(shipped, tmp_path_factory.mktemp("chaos"))


@pytest.fixture(scope="session")
def first_day(chaos_project: Project, server: Server) -> Iterator[str]:
    with first_day_stored(chaos_project, server) as name:
        yield name


@pytest.fixture
def rig(chaos_project: Project, first_day: str, server: Server, kite: KiteServer) -> Iterator[Rig]:
    """After the first day; Kite lists the second."""
    kite.dump = to_csv(make_day(2))
    with cloned(server, first_day) as name, closing(server.connect(name)) as connection:
        connect_project(chaos_project, server, name, kite)
        yield Rig(chaos_project, kite, server, name, connection)
    for path in (Path(chaos_project.environment["LOG_DIR"]), chaos_project.folder / "archive"):
        shutil.rmtree(path, ignore_errors=True)
