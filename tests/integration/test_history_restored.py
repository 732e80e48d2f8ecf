"""Histories that were restored without the sequence of their run_id: no import fails for that."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.command_line import CommandLine
from tests.conftest import Server
from tests.instruments import instrument, to_csv

ROWS = [instrument(number, f"S{number}", expiry=None) for number in range(1, 151)]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param("ALTER SEQUENCE ingestion_run_run_id_seq RESTART", id="numbers are taken"),
        pytest.param(
            "DELETE FROM ingestion_run WHERE run_id < 3;"
            "ALTER SEQUENCE ingestion_run_run_id_seq RESTART",
            id="lower numbers are free",
        ),
    ],
)
@pytest.mark.parametrize("is_owner", [True, False], ids=["owner", "least privileges"])
def test_run_whose_history_has_its_sequence_behind(
    cli: CommandLine,
    server: Server,
    database: str,
    make_role: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    spoil: str,
    is_owner: bool,
) -> None:
    for _ in range(3):
        assert cli.load(to_csv(ROWS)).status == 0
    cli.query(spoil)
    if not is_owner:
        role = make_role()
        cli.query(
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON kite_instrument_master TO {role};"
            f"GRANT SELECT, INSERT, UPDATE ON ingestion_run, kite_instrument_history TO {role};"
            f"GRANT SELECT, INSERT ON kite_instrument_change TO {role}"
        )
        monkeypatch.setenv("DB_USER", role)
        monkeypatch.setenv("DB_PASSWORD", "Role-Secret-3f9")
    for gone in (1, 2):
        result = cli.load(to_csv(ROWS[gone:]))
        assert (result.status, result.stderr) == (0, "")
    cli.kite.expire_token()
    assert cli.run("--dag", "1").status == 3
    assert cli.runs("run_id", "status")[-3:] == [
        (4, "succeeded"),
        (5, "succeeded"),
        (6, "failed"),
    ]
    assert cli.query("SELECT run_id, kind, tradingsymbol FROM kite_instrument_change") == [
        (4, "gone", "S1"),
        (5, "gone", "S2"),
    ]
