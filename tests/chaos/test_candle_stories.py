"""Shares with stories drawn by lot, other ones in each round."""

from __future__ import annotations

from datetime import date

import pytest

from tests.candle_desk import make_desk
from tests.candle_stories import make_stories, play
from tests.command_line import CommandLine

SHARES, INTERVALS = 30, ("day", "minute")


@pytest.fixture
def database(clocked_database: str) -> str:
    return clocked_database


def test_stories(cli: CommandLine, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """With minutes, of which a history takes three requests."""
    market, stories = make_stories(
        seed, SHARES, date(2026, 3, 20), history=100, intervals=INTERVALS
    )
    desk = make_desk(cli, market, monkeypatch, intervals=INTERVALS)
    desk.names = [story.share.name for story in stories]
    desk.parameters["start"] = f"{market.shares[0].bars['day'][0].ts:%Y-%m-%d}"
    play(desk, stories)
