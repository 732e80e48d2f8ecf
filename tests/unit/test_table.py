"""What a table's description may say."""

from __future__ import annotations

from typing import Any

import pytest

from shared.models.table import Column, Table

COLUMNS = (
    Column("id", "integer"),
    Column("name", "varchar", length=36),
    Column("code", "varchar", length=35),
    Column("note", "text"),
    Column("size", "integer", nullable=True),
)


@pytest.mark.parametrize(
    "unique", [(("name",),), (("note", "id"),), (("name",), ("note",))], ids=str
)
def test_unique_keys_that_begin_with_a_long_text(unique: tuple[tuple[str, ...], ...]) -> None:
    table = Table("shop", COLUMNS, ("id",), unique)
    assert table.moments == ("last_updated", "created_at")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"key": ("nr",)}, "got nr", id="key"),
        pytest.param({"key": ("id", "size")}, "a key without NULL, got size", id="nullable"),
        pytest.param({"unique": (("name", "nr"),)}, "got nr", id="unique key"),
        pytest.param({"unique": (("code",),)}, "36 characters or more, got code", id="short"),
        pytest.param({"unique": (("id", "name"),)}, "36 characters or more, got id", id="number"),
        pytest.param({"last_updated": ""}, "a snapshot to have last_updated", id="no moment"),
        pytest.param(
            {"columns": (*COLUMNS, Column("since_then", "text", since=2))},
            "a later column to be nullable, got since_then",
            id="later",
        ),
    ],
)
def test_description_that_no_merge_could_follow(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^shop: expected .*{message}"):
        Table(**{"name": "shop", "columns": COLUMNS, "key": ("id",), **options})


def test_other_tables_than_snapshots_need_no_moments() -> None:
    table = Table("shop", COLUMNS, ("id",), (), "", "", is_snapshot=False)
    assert table.moments == ()
