"""The days of saved lists: in their names, and in a file of days."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from shared.exceptions import ConfigurationError
from shared.saved_lists import SavedLists, find_day, read_folder, read_written_day

TODAY = date(2026, 8, 3)
DAY = date(2025, 8, 18)


@pytest.mark.parametrize(
    "name",
    [
        "2025-08-18.csv",
        "20250818.csv.gz",
        "2025_08_18.csv",
        "2025.08.18.csv",
        "18-08-2025.csv",
        "18.08.2025.csv",
        "18082025.csv",
        "18AUG2025.csv",
        "nse_18-Aug-2025.CSV",
        "nse20250818v2.csv",
        "nse_2025-08-18_083512.csv",
        "20250818_083512.csv",
        "nse_2025-08-18T08:35:12+0530.csv",
        "2025-08-18 (1).csv",
        "20250818_2025-08-18.csv",
        "2025-08_2025-08-18.csv",
        "kite_instruments_2025-08-18_083512_1a2b3c4d5e6f.csv.gz",
        "kite_instruments_2025-08-18_201901_201901011234.csv.gz",
        "list_2025-08-18_083512_20190101abcd.csv.gz",
    ],
)
def test_day_in_a_name(name: str) -> None:
    assert find_day(name, TODAY) == DAY


@pytest.mark.parametrize(
    ("name", "day"),
    [
        pytest.param("nse_2025-08.csv.gz", date(2025, 8, 1), id="a month is its first day"),
        pytest.param("2025_08.csv", date(2025, 8, 1), id="a month with another mark"),
        pytest.param("08-07-2025.csv", date(2025, 7, 8), id="the day comes first, as in India"),
        pytest.param("20122012.csv", date(2012, 12, 20), id="eight digits with the year last"),
        pytest.param("29FEB2024.csv", date(2024, 2, 29), id="a leap day"),
        pytest.param("2026-08-03.csv", TODAY, id="today"),
    ],
)
def test_other_day_in_a_name(name: str, day: date) -> None:
    assert find_day(name, TODAY) == day


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("nse.csv", "no day in its name"),
        ("083512.csv", "no day in its name"),
        ("202508.csv", "no day in its name"),  # a time of day looks like it
        ("20250818083512.csv", "no day in its name"),
        ("2025-08-1.csv", "no day in its name"),
        ("2025-08_18.csv", "no day in its name"),
        ("18-08-25.csv", "no day in its name"),
        ("\u0662\u0660\u0662\u0665-08-18.csv", "no day in its name"),
        ("2025-08-18_2025-08-19.csv", "its name can be read as 2025-08-18 and as 2025-08-19"),
        ("2025-08-18_2025-09.csv", "its name can be read as 2025-08-18 and as 2025-09-01"),
        ("12-11-2025-10-09.csv", "its name can be read as 2025-10-09 and as 2025-11-12"),
        ("2025-02-30.csv", "2025-02-30 is no day"),
        ("08-18-2025.csv", "08-18-2025 is no day"),
        ("31SEP2025.csv", "31SEP2025 is no day"),
        ("20251332.csv", "20251332 is no day"),
        ("2025-13.csv", "2025-13 is no day"),
        ("2026-08-04.csv", "2026-08-04 is in the future: in India it is 2026-08-03"),
        ("2026-09.csv", "2026-09-01 is in the future: in India it is 2026-08-03"),
    ],
)
def test_name_without_a_day_that_is_sure(name: str, fault: str) -> None:
    with pytest.raises(ValueError) as caught:
        find_day(name, TODAY)
    assert str(caught.value) == fault


@pytest.mark.parametrize("text", ["2025-08-18", "20250818", "18-08-2025", "18-Aug-2025"])
def test_day_that_is_written(text: str) -> None:
    assert read_written_day(text, TODAY) == DAY


@pytest.mark.parametrize("text", ["", "18/08/2025", "2025-08-18 about", "x2025-08-18", "45887"])
def test_text_that_is_no_day(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected a day as YYYY-MM-DD, got '"):
        read_written_day(text, TODAY)


# Folders


Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(*names: str) -> Path:
        folder = tmp_path / "lists"
        folder.mkdir()
        for name in names:
            (folder / name).touch()
        return folder

    return make


def names_of(found: SavedLists) -> list[str]:
    return [each.path.name for each in found.lists]


def test_lists_come_by_day_then_name(make: Make) -> None:
    folder = make("b_2025-08-18.csv", "a_2025-08-18.csv.gz", "z_2024-01.csv", "2025-08-17.CSV.GZ")
    assert names_of(read_folder(folder, None, TODAY)) == [
        "z_2024-01.csv",
        "2025-08-17.CSV.GZ",
        "a_2025-08-18.csv.gz",
        "b_2025-08-18.csv",
    ]


def test_what_is_no_list_is_left_out_by_name(make: Make) -> None:
    folder = make("2025-08-18.csv", "notes.txt", "2025-08-19.zip", ".2025-08-20.csv", "csv")
    (folder / "2024-01-01.csv").mkdir()
    (folder / "2024-01-02.csv").symlink_to("nowhere")
    days = folder / "notes.csv"
    days.touch()
    found = read_folder(folder, days, TODAY)
    assert names_of(found) == ["2025-08-18.csv"]
    assert sorted(found.left_out) == [
        ".2025-08-20.csv",
        "2024-01-01.csv",
        "2024-01-02.csv",
        "2025-08-19.zip",
        "csv",
        "notes.txt",
    ]


def test_all_names_at_fault_are_told_at_once(make: Make) -> None:
    folder = make("2025-08-18.csv", "nse\n.csv", "2025-02-30.csv", "2027-01-01.csv")
    with pytest.raises(ConfigurationError) as caught:
        read_folder(folder, None, TODAY)
    assert str(caught.value) == (
        f"Of 3 of the 4 lists in {folder} the day is not known:\n"
        "2025-02-30.csv: 2025-02-30 is no day\n"
        "2027-01-01.csv: 2027-01-01 is in the future: in India it is 2026-08-03\n"
        "nse\\n.csv: no day in its name\n"
        "Rename them (nse_2025-08-18.csv), or write their days into a file of lines such as "
        "nse.csv,2025-08-18 and name it with --days. Nothing was imported."
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a.csv,2025-08-18\nb.csv,2024-01\n", id="without a header"),
        pytest.param("name,day\na.csv,2025-08-18\nb.csv,2024-01\n", id="with a header"),
        pytest.param("\ufeffFile,Date\r\n\r\na.csv, 18-08-2025 \r\nb.csv,2024-01-01", id="Excel's"),
        pytest.param('"a.csv","18AUG2025"\n"b.csv","20240101"\n,\n', id="quoted"),
    ],
)
def test_file_of_days_comes_before_names(make: Make, tmp_path: Path, text: str) -> None:
    folder = make("a.csv", "b.csv", "2025-01-01.csv")
    days = tmp_path / "days.csv"
    days.write_text(text, encoding="utf-8")
    found = read_folder(folder, days, TODAY)
    assert [(each.day, each.path.name) for each in found.lists] == [
        (date(2024, 1, 1), "b.csv"),
        (date(2025, 1, 1), "2025-01-01.csv"),
        (DAY, "a.csv"),
    ]


def test_day_in_the_file_counts_where_the_name_has_another(make: Make, tmp_path: Path) -> None:
    folder = make("2025-08-19.csv")
    days = tmp_path / "days"
    days.write_text("2025-08-19.csv,2025-08-18")
    assert [each.day for each in read_folder(folder, days, TODAY).lists] == [DAY]


def test_file_of_days_in_the_folder_is_no_list(make: Make) -> None:
    folder = make("a.csv")
    (folder / "days.csv").write_text("a.csv,2025-08-18\n")
    found = read_folder(folder, folder / ".." / "lists" / "days.csv", TODAY)
    assert (names_of(found), found.left_out) == (["a.csv"], [])


def test_all_lines_at_fault_are_told_at_once(make: Make, tmp_path: Path) -> None:
    folder = make("a.csv", "b.csv", "c.csv")
    days = tmp_path / "days"
    days.write_text(
        "name,day\na.csv,2025-08-18\na.csv,2025-08-19\nd.csv,2025-08-18\n\n"
        "b.csv,tomorrow\nb.csv,2025-08-18,x\nc.csv,2026-08-04\n"
    )
    with pytest.raises(ConfigurationError) as caught:
        read_folder(folder, days, TODAY)
    assert str(caught.value) == (
        f"The file of days {days} is not right:\n"
        "line 3: a.csv is there twice\n"
        "line 4: there is no list 'd.csv' in the folder\n"
        "line 6: expected a day as YYYY-MM-DD, got 'tomorrow'\n"
        "line 7: expected a name and a day, got 3 fields\n"
        "line 8: 2026-08-04 is in the future: in India it is 2026-08-03\n"
        "Expected a line such as nse.csv,2025-08-18 for a list, with its name in the folder. "
        "Nothing was imported."
    )


def test_first_line_with_the_name_of_a_list_is_no_header(make: Make, tmp_path: Path) -> None:
    folder = make("a.csv")
    days = tmp_path / "days"
    days.write_text("a.csv,soon\n")
    with pytest.raises(ConfigurationError, match=r"line 1: expected a day"):
        read_folder(folder, days, TODAY)


@pytest.mark.parametrize(
    "content", [pytest.param(None, id="missing"), pytest.param(b"a" * 200_000, id="one long word")]
)
def test_file_of_days_that_cannot_be_read(
    make: Make, tmp_path: Path, content: bytes | None
) -> None:
    folder = make("a.csv")
    days = tmp_path / "days"
    if content is not None:
        days.write_bytes(content)
    with pytest.raises(
        ConfigurationError, match=re.escape(f"file of days {days} cannot be read (")
    ):
        read_folder(folder, days, TODAY)


def test_folder_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    for folder, reason in ((path, "Not a directory"), (tmp_path / "no", "No such file")):
        with pytest.raises(ConfigurationError, match=rf"cannot be read \({reason}"):
            read_folder(folder, None, TODAY)
