"""What README.md and docs/ say is so: options, exit statuses, settings, links, messages."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import execute_dags
from shared.arguments import SANDBOX_FAULTS
from shared.config.fields import DAG_FIELDS, REQUIRED, ROOT_FIELDS, Field
from shared.feed import Feed
from tests.conftest import PROJECT
from tests.documents import DOCUMENTS, README, blocks_of, section, table_rows

MAX_LINES = 260
OPTION = re.compile(r"--[a-z][a-z-]+")


# --- the text ------------------------------------------------------------------------------------


def test_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", [*DOCUMENTS, PROJECT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_links_lead_to_files_and_headings_that_exist(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


def test_files_that_the_readme_says_it_is_built_of_exist() -> None:
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", section(README, "How it is built")):
        places = (PROJECT, PROJECT / "shared", PROJECT / "shared" / "utils")
        assert any((place / name).exists() for place in places), name


def test_every_module_is_in_the_table_of_what_the_project_is_built_of() -> None:
    told = set(re.findall(r"\w+", section(README, "How it is built")))
    assert {path.stem for path in (PROJECT / "shared").rglob("[!_]*.py")} - told == set()


def test_messages_in_the_tables_are_the_codes_own() -> None:
    folders = [PROJECT / "shared", PROJECT / "sandbox", *PROJECT.glob("dag_*")]
    paths = [PROJECT / "execute_dags.py", *(p for folder in folders for p in folder.rglob("*.py"))]
    code = " ".join(path.read_text(encoding="utf-8") for path in paths)
    text = re.sub(r'"\s*f?"', "", code)  # texts that go on in the next line
    errors = (PROJECT / "docs" / "errors.md").read_text(encoding="utf-8")
    for row in table_rows(section(README, "When something is wrong") + errors):
        for message in re.findall(r"`([^`]+)`", row[0]):
            for part in re.split(r" ?\.\.\. ?|\d+|\bN\b|\(HTTP", message):
                assert part.strip(" :,()") in text, message


# --- the command line ----------------------------------------------------------------------------


@pytest.fixture
def options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> dict[str, set[str]]:
    """The options of each command, by the commands' own help; "" is a run."""

    def help_of(*command: str) -> str:
        monkeypatch.setattr("sys.argv", ["execute_dags.py", *command, "--help"])
        with pytest.raises(SystemExit, match=r"^0$"):
            execute_dags.parse_arguments()
        return capsys.readouterr().out

    text = help_of()
    commands = re.findall(r"^ +([a-z]+)  +\S", text.partition("ommands:\n")[2], re.M)
    return {"": set(OPTION.findall(text))} | {
        name: set(OPTION.findall(help_of(name))) for name in commands
    }


def test_every_command_and_option_is_in_the_readme_and_no_other(
    options: dict[str, set[str]],
) -> None:
    told = " ".join(row[0] for row in table_rows(section(README, "Commands")))
    assert set(OPTION.findall(told)) == set().union(*options.values())
    assert set(options) - {""} <= set(re.findall(r"`([a-z]+)\b", told))


def test_command_lines_of_the_documents_have_no_other_option(options: dict[str, set[str]]) -> None:
    shell = [line for block in blocks_of("sh") + blocks_of("crontab") for line in block.lines]
    inline = [
        code
        for path in DOCUMENTS
        for code in re.findall(r"`([^`\n]*execute_dags\.py [^`\n]*)`", path.read_text("utf-8"))
    ]
    for line in (*shell, *inline):
        for words in re.findall(r"execute_dags\.py((?: +[\w./-]+)*)", line):
            first = (words.split() or [""])[0]
            command = first if re.fullmatch("[a-z]+", first) else ""
            assert command in options, line
            assert set(OPTION.findall(words)) <= options[command], line


def test_every_sandbox_fault_is_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    assert [fault for fault in SANDBOX_FAULTS if f"`{fault}`" not in text] == []


def test_exit_statuses() -> None:
    rows = table_rows(section(README, "Commands"))
    told = {int(n) for row in rows if row[0][0].isdigit() for n in row[0].split(", ")}
    assert told == set(execute_dags.ExitStatus)


# --- configuration -------------------------------------------------------------------------------


def dag_folders(*, enabled: bool) -> list[Path]:
    """The folders of the DAGs that are shipped enabled, or of the others."""
    configs = {
        path: json.loads(path.read_text("utf-8")) for path in PROJECT.glob("dag_*/config.json")
    }
    return sorted(path.parent for path, config in configs.items() if config["enabled"] is enabled)


def feed_of(folder: Path) -> Feed:
    feed: Feed = importlib.import_module(folder.name).FEED
    return feed


def known_fields() -> list[Field]:
    """Every setting, those of enabled DAGs too: the others have pages of their own."""
    feeds = map(feed_of, dag_folders(enabled=True))
    own = dict.fromkeys(field for feed in feeds for field in feed.settings)
    return [*ROOT_FIELDS, *DAG_FIELDS, *own]


def shipped_settings(*folders: Path) -> dict[str, tuple[str, Any]]:
    """Of each setting in these folders' config.json: its variable, if it has one, and its value.

    By default the folders are config/ and those of the enabled DAGs.
    """

    def walk(values: Mapping[str, Any], path: str) -> Iterator[tuple[str, tuple[str, Any]]]:
        for key, value in values.items():
            where = f"{path}.{key}" if path else key
            if isinstance(value, dict):
                yield from walk(value, where)
                continue
            match = re.fullmatch(r"\$\{(\w+)(?::-(.*))?\}", value) if type(value) is str else None
            yield where, (match[1], match[2]) if match else ("", value)

    return {
        where: setting
        for folder in folders or (PROJECT / "config", *dag_folders(enabled=True))
        for where, setting in walk(json.loads((folder / "config.json").read_text("utf-8")), "")
    }


def shown(default: Any) -> str:
    """A default as the README writes it."""
    if default is REQUIRED:
        return "required"
    if isinstance(default, float) and default.is_integer():
        default = int(default)
    text = default if isinstance(default, str) else json.dumps(default)
    return text or "empty"


def configuration_table() -> dict[str, tuple[str, str]]:
    """Of each setting in the README: its variable, and its default. A row may have several."""
    found = {}
    for names, variables, _, defaults in table_rows(section(README, "Configuration")):
        settings = names.replace("`", "").split(", ")
        each = [cell.strip("`").split(", ") for cell in (variables or ", " * 9, defaults)]
        assert len(each[1]) == len(settings)
        found.update(zip(settings, zip(*each)))
    return found


def test_configuration_table_has_every_setting_with_variable_and_default() -> None:
    shipped = shipped_settings()
    assert configuration_table() == {
        field.path: (shipped.get(field.path, ("",))[0], shown(field.default))
        for field in known_fields()
    }


def test_shipped_files_agree_with_the_defaults() -> None:
    fields = {field.path: field for field in known_fields()}
    shipped = shipped_settings()
    assert set(shipped) <= set(fields)
    for path, (variable, value) in shipped.items():
        default = fields[path].default
        if default is REQUIRED:
            assert variable, path
            assert value is None, path
        elif path != "description":
            convert = fields[path].convert
            assert convert(value) == convert(default), path


@pytest.mark.parametrize("folder", dag_folders(enabled=False), ids=lambda folder: folder.name)
def test_dag_that_is_not_enabled_has_the_usual_settings_and_a_page_for_its_own(
    folder: Path,
) -> None:
    feed, usual, shipped = feed_of(folder), shipped_settings(), shipped_settings(folder)
    assert set(shipped) >= {field.path for field in feed.settings}
    own = {field.path for field in feed.fields}
    of_its_own = {"enabled", "schedule", "description", "after", "slices", "to_enable"}
    for path in {*shipped} - own - of_its_own:
        assert shipped[path] == usual[path], path
    texts = [path.read_text("utf-8") for path in DOCUMENTS]
    told = " ".join(text for text in texts if f"The table `{feed.table.name}`" in text)
    for path in own:
        assert f"`{path}`" in told
        assert shown(shipped[path][1]) in told


def test_env_example_has_every_variable_with_its_default() -> None:
    table = {variable: default for variable, default in configuration_table().values() if variable}
    text = (PROJECT / ".env.example").read_text(encoding="utf-8")
    found = dict(re.findall(r"^#?([A-Z][A-Z_]*)=(.*)$", text, re.M))
    empty = ("required", "empty", "[]")
    assert found == {name: "" if value in empty else value for name, value in table.items()}
    for name in found:  # what has a default is commented out
        is_asked_for = table[name] == "required" or name == "DB_PASSWORD"
        assert (f"\n#{name}=" in text) != is_asked_for
