"""A hundred shares with stories drawn by lot: adjusted, corrected, suspended, badly answered.

tests/chaos/test_candle_stories.py draws others.
"""

from __future__ import annotations

from datetime import date

import pytest

from tests.candle_desk import make_desk
from tests.candle_stories import make_stories, play
from tests.command_line import CommandLine

SEED, SHARES = 14, 100


@pytest.fixture
def database(clocked_database: str) -> str:
    return clocked_database


def test_stories_of_a_hundred_shares(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    market, stories = make_stories(SEED, SHARES, date(2026, 3, 20))
    desk = make_desk(cli, market, monkeypatch)
    desk.names = [story.share.name for story in stories]
    desk.parameters["start"] = f"{market.shares[0].bars['day'][0].ts:%Y-%m-%d}"
    play(desk, stories)
