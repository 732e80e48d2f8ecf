"""The lists that are drawn here are short, and so are the batches in which they are handled."""

from __future__ import annotations

import pytest

from shared.models import column
from shared.utils import copy_stream, csv_rows


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read or rendered at a time, for speed: a list of a few rows goes beyond it."""
    monkeypatch.setattr(csv_rows, "_LINES_AT_ONCE", 3)
    monkeypatch.setattr(column, "_ROWS_AT_ONCE", 3)
    monkeypatch.setattr(copy_stream, "_RENDERED_AT_ONCE", 2)
