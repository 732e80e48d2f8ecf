"""The lists that are drawn here are short, and so are the batches in which they are handled."""

from __future__ import annotations

import pytest

from shared.utils import copy_stream, kite_csv


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read or rendered at a time, for speed: a list of a few rows goes beyond it."""
    monkeypatch.setattr(kite_csv, "_LINES_AT_ONCE", 3)
    monkeypatch.setattr(copy_stream, "_RENDERED_AT_ONCE", 2)
