"""What a sandbox redirects, its days, and the parts that DAGs bring."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import requests

from sandbox.dump_generator import MIN_ROWS
from sandbox.kite_faults import HttpError
from sandbox.session import DATABASE, FAULT_NAMES, SandboxSession, open_sandbox
from shared.arguments import SANDBOX_FAULTS
from shared.config.config_loader import ConfigLoader
from shared.exceptions import ConfigurationError

KITE = {"X-Kite-Version": "3", "Authorization": "token sandbox_key:sandbox_token"}
PART = """
from __future__ import annotations
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from sandbox.kite_faults import Answer

@dataclass(frozen=True)
class Quote:
    price: int

@contextmanager
def open_part(kite, day):
    def answer(path, query):
        text = f"{path} {query.get('i')} {Quote(1 // len(query)).price}"
        return Answer(200, text.encode(), (("Content-Type", "text/plain"),))

    kite.add_route("/quote", answer)
    kite.add_route("/quote/", answer)
    Path(__file__).with_name("opened").write_text(day.isoformat())
    try:
        yield {"parameters": {"address": kite.root}}
    finally:
        Path(__file__).with_name("closed").touch()
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Give a sandbox's folder, whose cluster is made once."""
    base = Path(tempfile.mkdtemp(prefix="sandbox session "))
    base.chmod(0o711)
    yield base / ".sandbox"
    shutil.rmtree(base)


def add_dag(root: Path, dag_id: int, part: str | None = None, *, enabled: bool = True) -> Path:
    folder = root / f"dag_{dag_id}_quotes"
    folder.mkdir()
    config: dict[str, Any] = {"enabled": enabled, "schedule": "daily", "description": "Quotes"}
    config["parameters"] = {"address": "https://production.example", "other": 1}
    (folder / "config.json").write_text(json.dumps(config))
    if part is not None:
        (folder / "sandbox.py").write_text(part)
    return folder


def read_parameters(folder: Path) -> dict[str, Any]:
    parameters: dict[str, Any] = ConfigLoader.load_dag_config(str(folder))["parameters"]
    return parameters


def ask(session: SandboxSession, route: str, **headers: str) -> requests.Response:
    return requests.get(session.kite.root + route, headers={**KITE, **headers}, timeout=10)


def test_database_is_reached_through_the_configuration_by_its_socket(
    folder: Path, tmp_path: Path
) -> None:
    with open_sandbox(folder, root=tmp_path, rows=MIN_ROWS):
        config = ConfigLoader.load_database_config()
        assert Path(config.host) == (folder / "postgres").resolve()
        connection = psycopg2.connect(
            host=config.host, port=config.port, dbname=config.database, user=config.user
        )
        connection.close()
        assert config.database == DATABASE


def test_nobody_is_told_of_what_a_sandbox_does(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_URLS", "json://127.0.0.1:1/chat")
    monkeypatch.setenv("PING_URL", "http://127.0.0.1:1/ping")
    with open_sandbox(folder, root=tmp_path, rows=MIN_ROWS):
        config = ConfigLoader.load_notify_config()
    assert (config.urls, config.ping_url) == ([], "")


def test_day_is_the_next_one_when_it_was_completed(folder: Path, tmp_path: Path) -> None:
    (folder / "last_day").unlink(missing_ok=True)
    for day, text in ((0, "Day 1, Mon 03 Aug 2026"), (1, "Day 2, Tue 04 Aug 2026")):
        with open_sandbox(folder, root=tmp_path, rows=MIN_ROWS) as session:
            assert session.day == day
            described = session.describe()
            assert described.startswith(text)
            assert described.endswith("PostgreSQL in .sandbox/postgres")
            assert not session.has_served_list
            assert ask(session, "/instruments").status_code == 200
            assert session.has_served_list
            session.complete()
    (folder / "last_day").unlink()


@pytest.mark.parametrize(
    ("fault", "status"), [("429", 429), ("502", 502), ("expired-token", 403), ("bad-rows", 200)]
)
def test_fault(folder: Path, tmp_path: Path, fault: str, status: int) -> None:
    with open_sandbox(folder, fault, root=tmp_path, rows=MIN_ROWS) as session:
        for _ in range(2):
            assert ask(session, "/instruments").status_code == status


def test_fault_is_of_the_first_requests_for_single_instruments_too(
    folder: Path, tmp_path: Path
) -> None:
    with open_sandbox(folder, "429", root=tmp_path, rows=MIN_ROWS) as session:
        found = [ask(session, "/instruments/NSE").status_code for _ in range(7)]
    assert found == [*[429] * 6, 200]


def test_every_fault_is_offered_and_tried() -> None:
    """Here, and a download that is cut short in test_sandbox_command."""
    tried = {"429", "502", "expired-token", "bad-rows", "timeout", "truncated"}
    assert tried == set(FAULT_NAMES)
    assert SANDBOX_FAULTS == FAULT_NAMES


def test_fault_timeout(folder: Path, tmp_path: Path) -> None:
    with (
        open_sandbox(folder, "timeout", root=tmp_path, rows=MIN_ROWS) as session,
        pytest.raises(requests.ReadTimeout),
    ):
        requests.get(f"{session.kite.root}/instruments", headers=KITE, timeout=0.1)


def test_part_of_a_dag_adds_routes_and_values_of_its_own(folder: Path, tmp_path: Path) -> None:
    mine, other = add_dag(tmp_path, 2, PART), add_dag(tmp_path, 3)
    with open_sandbox(folder, root=tmp_path, rows=MIN_ROWS) as session:
        assert read_parameters(mine)["address"] == session.kite.root
        assert read_parameters(mine)["other"] == 1
        assert read_parameters(other)["address"] == "https://production.example"
        assert (mine / "opened").read_text() == date(2026, 8, 3).isoformat()

        answer = ask(session, "/quote?i=NSE:INFY&i=NSE:TCS")
        assert (answer.status_code, answer.text) == (200, "/quote ['NSE:INFY', 'NSE:TCS'] 1")
        assert ask(session, "/quote/ltp?i=").text == "/quote/ltp [''] 1"
        assert ask(session, "/quotes").status_code == 404
        assert ask(session, "/quote?i=1", Authorization="token a:b").status_code == 403
        assert (
            requests.post(f"{session.kite.root}/quote", headers=KITE, timeout=10).status_code == 405
        )
        session.kite.fail_next("/quote", HttpError(503))
        assert ask(session, "/quote?i=1").status_code == 503
        failed = ask(session, "/quote")
        assert failed.status_code == 500
        assert "ZeroDivisionError" in failed.json()["message"]
        assert [each.path for each in session.kite.requests][:2] == ["/quote", "/quote/ltp"]
        assert not (mine / "closed").exists()
    assert (mine / "closed").exists()
    assert read_parameters(mine)["address"] == "https://production.example"


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        pytest.param("import no_such_module", "No module named 'no_such_module'", id="import"),
        pytest.param("raise SystemExit(3)", "SystemExit: 3", id="exit"),
        pytest.param("", "has no attribute 'open_part'", id="nothing"),
        pytest.param("def open_part(kite, day):\n    1 / 0", "ZeroDivisionError", id="error"),
        pytest.param(
            "from contextlib import contextmanager\n\n"
            "@contextmanager\ndef open_part(kite, day):\n    yield",
            "expected open_part to yield a mapping, got None",
            id="no values",
        ),
    ],
)
def test_broken_part_is_told(folder: Path, tmp_path: Path, part: str, reason: str) -> None:
    add_dag(tmp_path, 2, part)
    with (
        pytest.raises(ConfigurationError) as refusal,
        open_sandbox(folder, root=tmp_path, rows=MIN_ROWS),
    ):
        pass
    told = "DAG 2: its part of the sandbox, dag_2_quotes/sandbox.py, cannot be opened: "
    assert str(refusal.value).startswith(told)
    assert reason in str(refusal.value)


def test_broken_part_of_a_dag_is_nothing_to_another_that_is_named(
    folder: Path, tmp_path: Path
) -> None:
    add_dag(tmp_path, 2, "import no_such_module")
    mine = add_dag(tmp_path, 3, PART)
    with open_sandbox(folder, None, [3], root=tmp_path, rows=MIN_ROWS):
        assert (mine / "opened").exists()


def test_part_of_a_disabled_dag_is_opened_only_where_it_is_named(
    folder: Path, tmp_path: Path
) -> None:
    mine = add_dag(tmp_path, 2, PART, enabled=False)
    with open_sandbox(folder, root=tmp_path, rows=MIN_ROWS):
        assert not (mine / "opened").exists()
    with open_sandbox(folder, None, [2], root=tmp_path, rows=MIN_ROWS):
        assert (mine / "opened").exists()


def test_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / ".sandbox").mkdir()
    (tmp_path / ".sandbox" / "postgres").write_text("a file")
    with (
        pytest.raises(ConfigurationError, match=r"The sandbox cannot start: .*postgres'"),
        open_sandbox(tmp_path / ".sandbox", root=tmp_path, rows=MIN_ROWS),
    ):
        pass
