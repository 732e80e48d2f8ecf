"""What README.md and docs/ say is so: options, settings, SQL, command lines, links, units."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import execute_dags
from dag_1_import_instruments_from_kite.import_instruments import (
    parse_instruments,
)
from sandbox.dump_generator import generate_dump
from sandbox.kite_server import KiteServer
from sandbox.postgres_host import find_binaries
from shared.config.env_file import set_variable
from shared.config.fields import DAG_FIELDS, REQUIRED, ROOT_FIELDS, Field
from shared.utils.db_manager import DatabaseManager
from tests.change_model import Days
from tests.clone import Clone, make_clone
from tests.conftest import PROJECT, Server

README = PROJECT / "README.md"
DOCUMENTS = [README, *sorted((PROJECT / "docs").glob("*.md"))]
ERRORS = PROJECT / "docs" / "errors.md"
DEPLOY = PROJECT / "deploy"
MAX_LINES = 260
DAG_1 = "dag_1_import_instruments_from_kite"
FEW_ROWS = 6_000


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, the heading that it is under, its language, its text."""

    document: str
    heading: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}: {self.heading}"


def read_blocks(path: Path) -> Iterator[Block]:
    heading, language, lines = "", None, []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("```") and language is None:
            language, lines = line[3:], []
        elif line == "```" and language is not None:
            yield Block(path.name, heading, language, "\n".join(lines))
            language = None
        elif language is not None:
            lines.append(line)
        elif line.startswith("#"):
            heading = line.strip("# ")


BLOCKS = [block for path in DOCUMENTS for block in read_blocks(path)]


def blocks_of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def section(path: Path, heading: str) -> str:
    """The text under a heading."""
    text = path.read_text(encoding="utf-8")
    match = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^\1 |\Z)", text, re.M | re.S)
    assert match is not None, heading
    return match[2]


def table_rows(text: str) -> list[list[str]]:
    """The cells of each row of the tables in the text, without their headers."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    rules = [number for number, row in enumerate(rows) if set(row[0]) <= set("- |")]
    skipped = {number for rule in rules for number in (rule - 1, rule)}
    return [row for number, row in enumerate(rows) if number not in skipped]


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


def test_every_option_is_in_the_readme() -> None:
    help_text = subprocess.run(
        [sys.executable, "execute_dags.py", "--help"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    options = set(re.findall(r"--[a-z][a-z-]+", help_text))
    assert {"--dag", "--sandbox-fault"} <= options
    described = " ".join(row[0] for row in table_rows(section(README, "Commands")))
    assert options <= set(re.findall(r"--[a-z][a-z-]+", described))


def test_documents_name_no_option_that_is_not_there() -> None:
    help_text = subprocess.run(
        [sys.executable, "execute_dags.py", "--help"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for block in blocks_of("sh") + blocks_of("crontab"):
        for line in block.text.splitlines():
            if "execute_dags.py" in line:
                options = re.findall(r"--[a-z-]+", line.partition("execute_dags.py")[2])
                assert set(options) <= set(re.findall(r"--[a-z-]+", help_text)), line


def test_every_sandbox_fault_is_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    for fault in execute_dags.SANDBOX_FAULTS:
        assert f"`{fault}`" in text


def test_exit_statuses() -> None:
    rows = table_rows(section(README, "Commands"))
    told = {int(n) for row in rows if row[0][0].isdigit() for n in row[0].split(", ")}
    assert told == set(execute_dags.ExitStatus)


# --- configuration -------------------------------------------------------------------------------


def known_fields() -> list[Field]:
    """Every setting: the shared ones, and those that DAG 1 has beside them."""
    own: tuple[Field, ...] = ()
    if (PROJECT / DAG_1 / "settings.py").exists():
        own = importlib.import_module(f"{DAG_1}.settings").FIELDS
    return [*ROOT_FIELDS, *DAG_FIELDS, *own]


def shipped_settings() -> dict[str, tuple[str, Any]]:
    """Of each setting in the two JSON files: its variable, if it has one, and its value there."""

    def walk(values: Mapping[str, Any], path: str) -> Iterator[tuple[str, tuple[str, Any]]]:
        for key, value in values.items():
            where = f"{path}.{key}" if path else key
            if isinstance(value, dict):
                yield from walk(value, where)
                continue
            match = re.fullmatch(r"\$\{(\w+)(?::-(.*))?\}", value) if type(value) is str else None
            yield where, (match[1], match[2]) if match else ("", value)

    found: dict[str, tuple[str, Any]] = {}
    for name in ("config", DAG_1):
        found.update(walk(json.loads((PROJECT / name / "config.json").read_text()), ""))
    return found


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
    expected = {
        field.path: (shipped.get(field.path, ("",))[0], shown(field.default))
        for field in known_fields()
    }
    assert configuration_table() == expected


def test_shipped_files_agree_with_the_defaults() -> None:
    shipped = shipped_settings()
    assert set(shipped) == {field.path for field in known_fields()}
    for field in known_fields():
        variable, value = shipped[field.path]
        if field.default is REQUIRED:
            assert variable, field.path
            assert value is None, field.path
        elif field.path != "description":
            default = [] if field.default is None else field.default
            assert field.convert(value) == field.convert(default), field.path


def test_env_example_has_every_variable_with_its_default() -> None:
    table = {variable: default for variable, default in configuration_table().values() if variable}
    text = (PROJECT / ".env.example").read_text(encoding="utf-8")
    found = dict(re.findall(r"^#?([A-Z][A-Z_]*)=(.*)$", text, re.M))
    assert found == {name: "" if value == "required" else value for name, value in table.items()}
    for name in found:  # what has a default is commented out
        assert (f"\n#{name}=" in text) == (table[name] != "required")


# --- the table -----------------------------------------------------------------------------------


def test_columns(server: Server, database: str) -> None:
    columns = server.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = 'kite_instrument_master'::regclass AND attnum > 0 ORDER BY attnum",
        dbname=database,
    )
    names = {"character varying": "varchar", "numeric": "decimal", " without time zone": ""}
    told = table_rows(section(README, "The table `kite_instrument_master`"))
    assert sorted((row[0].strip("`"), row[1].lower().replace(" ", "")) for row in told) == sorted(
        (name, re.sub("|".join(names), lambda m: names[m[0]], kind).replace(" ", ""))
        for name, kind in columns
    )


@pytest.fixture(scope="module")
def market(server: Server, template_database: str) -> Iterator[str]:
    """A database with the sandbox's market after days on which contracts came and went."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    server.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}")
    connection = server.connect(name)
    with DatabaseManager(server.config(name)) as manager:
        days = Days(manager, connection)
        for day in (0, 8):
            days.load(parse_instruments(generate_dump(day, rows=FEW_ROWS)))
    connection.close()
    yield name
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def is_for_administrators(block: Block) -> bool:
    return bool(re.search(r"\\connect|\b(CREATE ROLE|DROP|GRANT)\b", block.text))


def queries() -> list[Any]:
    """Each query of the documents; what makes something is for other tests."""
    found = []
    for block in blocks_of("sql"):
        if not is_for_administrators(block) and "CREATE TABLE" not in block.text:
            for statement in filter(None, map(str.strip, block.text.split(";"))):
                title = statement.splitlines()[0].strip("- ")[:40]
                found.append(pytest.param(statement, id=f"{block.document}: {title}"))
    return found


@pytest.mark.parametrize("query", queries())
def test_query_gives_rows(server: Server, market: str, query: str) -> None:
    assert server.execute(query, dbname=market)


def test_queries_tell_the_truth(server: Server, market: str) -> None:
    texts = {str(param.id): str(param.values[0]) for param in queries()}

    def run(title: str) -> list[tuple[Any, ...]]:
        (query,) = [text for name, text in texts.items() if title in name]
        return server.execute(query, dbname=market)

    today = {
        (row["tradingsymbol"], row["exchange"]): row["instrument_token"]
        for row in parse_instruments(generate_dump(8, rows=FEW_ROWS))
    }
    token_map = {(symbol.split(":", 1)[1], "NSE"): token for token, symbol in run("Token map")}
    assert token_map == {key: token for key, token in today.items() if key[1] == "NSE"}
    gone = {(symbol, exchange) for exchange, symbol, _ in run("Not listed any more")}
    assert gone
    assert not gone & set(today)
    assert {(row[2], row[1]): row[0] for row in run("Listed today")} == today
    chain = run("Option chain")
    assert [row[0] for row in chain] == sorted({row[0] for row in chain})
    for _, call, put, lot_size in chain:
        assert (call, "NFO") in today or (put, "NFO") in today
        assert lot_size > 0


# --- from nothing to every morning ---------------------------------------------------------------


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="readme "))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def clone(folder: Path) -> Clone:
    """A clone whose `.venv/bin/python` is this Python, so that commands run as they are written."""
    made = make_clone(folder, "stock ingestion")
    for name in (".env.example", "Makefile", "requirements.txt"):
        shutil.copy(PROJECT / name, made.folder)
    shutil.copytree(DEPLOY, made.folder / "deploy")
    python = made.folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return made


def shell(clone: Clone, line: str, given: str = "", **environment: str) -> str:
    """Run a line of the documents as it is written; its output. It has to succeed."""
    result = subprocess.run(
        ["sh", "-c", line],
        cwd=clone.folder,
        env={**clone.environment, **environment},
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, (line, result.stdout, result.stderr)
    return result.stdout


# Of all the command lines, those that no test runs as they are written.
NOT_RUN = {
    r"make (sandbox|test)": "install the packages; `make -n` below, and CI runs both",
    r"sudo .*": "change the machine; the units have tests of their own",
    r"git (clone|pull).*": "need a remote repository",
    r"python3 -m venv .*": "installs the packages; the Makefile does the same",
    r"\.venv/bin/pip install .*": "installs the packages",
    r"systemctl .*": "needs a running systemd",
    r"ssh .*": "needs another machine; pipes have tests of their own",
}
RUN = {
    "cp .env.example .env && chmod 600 .env": "test_production",
    ".venv/bin/python execute_dags.py --login": "test_production",
    ".venv/bin/python execute_dags.py --login < redirect_address.txt": "test_production",
    ".venv/bin/python execute_dags.py --check": "test_production",
    ".venv/bin/python execute_dags.py --dry-run": "test_production",
    ".venv/bin/python execute_dags.py": "test_production",
    "find logs -name 'rejected_rows_*.csv' -mtime +30 -delete": "test_production",
    ".venv/bin/python execute_dags.py --list": "test_dag_with_a_table_of_its_own",
    ".venv/bin/python execute_dags.py --sandbox --dag 2": "test_dag_with_a_table_of_its_own",
}


def test_every_command_line_is_run_or_named_as_not_run() -> None:
    lines = {
        line.partition("  #")[0].strip()
        for block in blocks_of("sh")
        for line in block.text.splitlines()
    }
    for line in lines:
        not_run = any(re.fullmatch(pattern, line) for pattern in NOT_RUN)
        assert not_run != (line in RUN), line
    assert set(RUN) <= lines
    for test in RUN.values():
        assert test in globals()


def test_make_targets_exist(clone: Clone) -> None:
    for target in ("sandbox", "test", "check", "lint", "types"):
        shell(clone, f"make -n {target}")


def run_sql(server: Server, script: str, names: Mapping[str, str]) -> None:
    """Run a script with psql as an administrator, with other names than the documents'."""
    for old, new in names.items():
        script = re.sub(rf"\b{old}\b", new, script)
    info = server.conninfo
    result = subprocess.run(
        [str(find_binaries(18, None) / "psql"), "-X", "-v", "ON_ERROR_STOP=1", "-q"],
        input=script,
        env={
            "PGHOST": str(info["host"]),
            "PGPORT": str(info["port"]),
            "PGUSER": info["user"],
            "PGPASSWORD": info["password"],
            "PGDATABASE": info["dbname"],
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (0, ""), script


def sql_under(document: str, heading: str) -> list[str]:
    return [
        block.text
        for block in blocks_of("sql")
        if (block.document, block.heading) == (document, heading) and is_for_administrators(block)
    ]


def test_production(server: Server, clone: Clone) -> None:
    """All of "Production", in its order, then what docs/production.md adds, and the uninstall."""
    unique = uuid.uuid4().hex[:8]
    database = f"test_readme_{unique}"
    names = {
        "moneytree": database,
        "stock_ingestion": f"role_{unique}",
        "instrument_reader": f"reader_{unique}",
        "choose-one": "Ch0sen",
        "postgres": server.conninfo["user"],
    }
    (script,) = sql_under("README.md", "Production")
    run_sql(server, script, names)
    dump = generate_dump(0, rows=FEW_ROWS)
    env_file = clone.folder / ".env"
    python = ".venv/bin/python execute_dags.py"
    try:
        with KiteServer(dump) as kite:
            shell(clone, "cp .env.example .env && chmod 600 .env")
            settings = {
                "KITE_API_KEY": kite.api_key,
                "KITE_API_SECRET": kite.api_secret,
                "DB_USER": names["stock_ingestion"],
                "DB_PASSWORD": "Ch0sen",
                # These have defaults that are right in production.
                "KITE_API_ROOT": kite.root,
                "DB_HOST": server.conninfo["host"],
                "DB_PORT": str(server.conninfo["port"]),
                "DB_NAME": database,
            }
            for name, value in settings.items():
                set_variable(env_file, name, value)
            kite.expire_token()
            assert "Logged in as SB0001" in shell(
                clone, f"{python} --login", given=kite.issue_request_token()
            )
            assert shell(clone, f"{python} --check").count("ok ") == 2
            assert "Stored 6,0" in shell(clone, python)
            moments = server.execute(
                "SELECT max(last_updated), now() AT TIME ZONE 'Asia/Kolkata'"
                " FROM kite_instrument_master",
                dbname=database,
            )[0]
            assert timedelta(0) <= moments[1] - moments[0] < timedelta(minutes=5)  # IST

            owned_by_admin, everybody, reader = sql_under(
                "production.md", "The role that owns nothing"
            )
            run_sql(server, owned_by_admin, names)
            run_sql(server, everybody, names)
            run_sql(server, reader, names)
            (clone.folder / "redirect_address.txt").write_text(
                f"https://127.0.0.1/?request_token={kite.issue_request_token()}&status=success\n"
            )
            shell(clone, f"{python} --login < redirect_address.txt")
            assert shell(clone, f"{python} --check").count("ok ") == 2
            assert "Dry run: " in shell(clone, f"{python} --dry-run")
            assert "inserted             0" in shell(clone, python)
            runs = server.execute("SELECT count(*) FROM ingestion_run", dbname=database)
            assert runs == [(2,)]
            old = clone.folder / "logs" / "rejected_rows_old.csv"
            young = clone.folder / "logs" / "rejected_rows_young.csv"
            for path, days in ((old, 40), (young, 20)):
                path.write_text("")
                moment = (datetime.now(timezone.utc) - timedelta(days=days)).timestamp()
                os.utime(path, (moment, moment))
            shell(clone, "find logs -name 'rejected_rows_*.csv' -mtime +30 -delete")
            assert (old.exists(), young.exists()) == (False, True)
    finally:
        env_file.unlink(missing_ok=True)
        (uninstall,) = sql_under("production.md", "Uninstall")
        run_sql(server, uninstall, names)
        server.execute(f"DROP ROLE IF EXISTS {names['instrument_reader']}")


# --- DAGs ----------------------------------------------------------------------------------------


def write_dag(document: Path, heading: str, clone: Clone, name: str) -> None:
    """Make the files that the text names, each from the block after its name."""
    text = section(document, heading)
    files = re.findall(rf"`({name}/[\w.]+)`", text)
    blocks = re.findall(r"^```(?:json|sql|python)\n(.*?)^```$", text, re.M | re.S)
    assert len(files) == len(blocks) > 1
    for file, block in zip(files, blocks):
        path = clone.folder / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(block, encoding="utf-8")


@pytest.fixture
def dag_clone(clone: Clone) -> Iterator[Clone]:
    """The clone, with today's list in its sandbox; DAG 2 is gone afterwards."""
    if not (clone.folder / ".sandbox" / "last_day").exists():
        shell(clone, ".venv/bin/python execute_dags.py --sandbox --dag 1")
    yield clone
    for path in clone.folder.glob("dag_2_*"):
        shutil.rmtree(path)


def test_dag_of_the_readme(dag_clone: Clone) -> None:
    write_dag(README, "Add a DAG", dag_clone, "dag_2_count_rows")
    listed = shell(dag_clone, ".venv/bin/python execute_dags.py --list")
    assert "Say how many instruments are stored" in listed
    result = dag_clone.run("execute_dags.py", "--sandbox", "--dag", "2")
    assert (result.returncode, result.stderr) == (0, "")
    count = int(dag_clone.query("SELECT count(*) FROM kite_instrument_master"))
    assert f"\n{count:,} instruments are stored\n" in result.stdout


def test_dag_with_a_table_of_its_own(dag_clone: Clone) -> None:
    document = PROJECT / "docs" / "dags.md"
    write_dag(document, "An example with a table of its own", dag_clone, "dag_2_list_expiries")
    python = ".venv/bin/python execute_dags.py"
    assert "Underlyings and their expiries" in shell(dag_clone, f"{python} --list")
    assert "expiries would be stored" in shell(dag_clone, f"{python} --sandbox --dag 2 --dry-run")
    first = shell(dag_clone, f"{python} --sandbox --dag 2")
    assert re.search(r"^(\d+) expiries: \1 new, 0 updated$", first, re.M)
    second = shell(dag_clone, f"{python} --sandbox --dag 2")
    assert re.search(r"^(\d+) expiries: 0 new, \1 updated$", second, re.M)
    assert int(dag_clone.query("SELECT count(*) FROM expiry_calendar WHERE exchange = 'NFO'")) > 50


# --- the output that is shown --------------------------------------------------------------------


def test_output_that_is_shown_is_that_of_a_run(dag_clone: Clone) -> None:
    """Line for line but for figures; the bars of a terminal are not drawn where it is a file."""
    output, failure = blocks_of("text")
    result = dag_clone.run("execute_dags.py", "--sandbox", "--dag", "1", "--dry-run")
    real = result.stdout.splitlines()
    said = [line for line in output.text.splitlines() if line and line[:4] != "... "]
    steps = {line.partition("━")[0].strip() for line in said if "━" in line}
    assert {"authenticate", "fetch instruments", "validate", "transform"} <= steps
    labels = {re.split(r"  +|:", line.strip())[0] for line in real if line}
    figures = {"fetched", "left out", "rejected", "seconds"}
    assert figures <= labels
    shown_labels = {re.split(r"  +|:", line.strip())[0] for line in said}
    assert figures | {"inserted", "updated", "superseded"} <= shown_labels
    assert "Starting the sandbox in .sandbox/" in said
    failed = dag_clone.run(
        *["execute_dags.py", "--sandbox", "--dag", "1", "--sandbox-fault", "expired-token"]
    )
    assert failed.returncode == 3
    assert failure.text.splitlines()[0].endswith("--sandbox-fault expired-token; echo $?")
    assert failure.text.splitlines()[-1] == "3"
    for line in failed.stderr.splitlines():
        assert line in failure.text


# --- errors --------------------------------------------------------------------------------------


def test_messages_in_the_tables_are_the_codes_own() -> None:
    code = " ".join(
        path.read_text(encoding="utf-8")
        for name in ("shared", DAG_1, "sandbox")
        for path in (PROJECT / name).rglob("*.py")
    )
    text = re.sub(r'"\s*f?"', "", code)  # texts that go on in the next line
    tables = section(README, "When something is wrong") + ERRORS.read_text()
    for row in table_rows(tables):
        for message in re.findall(r"`([^`]+)`", row[0]):
            for part in re.split(r" ?\.\.\. ?|\d+|\bN\b|\(HTTP", message):
                assert part.strip(" :,()") in text, message


# --- how it is built -----------------------------------------------------------------------------


def test_architecture_table_names_every_module() -> None:
    told = section(README, "How it is built")
    for path in (PROJECT / "shared").rglob("*.py"):
        if path.name not in ("__init__.py", "exceptions.py") and path.parent.name != "models":
            assert re.search(rf"\b{path.stem}\b", told), path
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", told):
        found = [PROJECT / name, PROJECT / "shared" / name, PROJECT / "shared" / "utils" / name]
        assert any(path.exists() for path in found), name


# --- cron and systemd ----------------------------------------------------------------------------

FAKE_DATE = """#!/bin/sh
exec {date} -d "@$FAKE_NOW" "$@"
"""
REAL_DATE = shutil.which("date") or ""


def crontab_command() -> str:
    (block,) = blocks_of("crontab")
    schedule, _, command = block.text.partition(" * * * * ")
    assert schedule == "*/15"
    return command


@pytest.mark.parametrize(
    "unescape",
    [
        pytest.param(lambda line: line.replace(r"\%", "%"), id="as cron on Debian reads it"),
        pytest.param(lambda line: line, id="as a cron that knows no % reads it"),
    ],
)
@pytest.mark.parametrize(
    "zone", ["UTC", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"]
)
def test_crontab_line_runs_at_0830_ist_from_monday_to_friday(
    tmp_path: Path, unescape: Any, zone: str
) -> None:
    """Each quarter of an hour in two weeks, the change to summer time in New York among them."""
    if subprocess.run([REAL_DATE, "-d", "@0"], capture_output=True, check=False).returncode:
        pytest.skip("this date command cannot show another moment")
    project = tmp_path / "project"
    python = project / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$FAKE_NOW $*" >>../runs\n')
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "date").write_text(FAKE_DATE.format(date=REAL_DATE))
    for path in (python, tmp_path / "bin" / "date"):
        path.chmod(0o755)
    command = unescape(crontab_command()).replace("/opt/stock_ingestion", str(project))
    first = datetime(2026, 3, 2, tzinfo=timezone.utc)
    moments = [first + timedelta(minutes=15 * number) for number in range(14 * 96)]
    # Around the hour that matters each one, of the others every fourth: each is a process.
    ticks = [m for m in moments if m.hour in (2, 3) or (m.hour % 4 == 0 and m.minute == 30)]
    script = "".join(
        f"export FAKE_NOW={int(m.timestamp()) + late}\n({command})\n"
        for late, m in zip((0, 1, 59, 200) * len(ticks), ticks)
    )
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "TZ": zone}
    result = subprocess.run(
        ["/bin/sh", "-c", script], env=environment, cwd="/", capture_output=True, text=True
    )
    assert (result.stdout, result.stderr) == ("", "")
    runs = (tmp_path / "runs").read_text().splitlines()
    assert {line.partition(" ")[2] for line in runs} == {"execute_dags.py"}
    ist = timezone(timedelta(hours=5, minutes=30))
    begun = [datetime.fromtimestamp(int(line.split()[0]), ist) for line in runs]
    assert [moment.strftime("%d") for moment in begun] == [
        *("02", "03", "04", "05", "06", "09", "10", "11", "12", "13")
    ]
    assert all(moment.strftime("%H:%M") in ("08:30", "08:31", "08:33") for moment in begun)


@pytest.mark.parametrize("status", [0, 1, 2, 3])
def test_crontab_line_reports_a_failure(tmp_path: Path, status: int) -> None:
    project = tmp_path / "project"
    python = project / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\necho what happened\necho why >&2\nexit {status}\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "date").write_text("#!/bin/sh\necho 3-08:30\n")
    for path in (python, tmp_path / "bin" / "date"):
        path.chmod(0o755)
    shutil.copytree(DEPLOY, project / "deploy")
    command = crontab_command().replace(r"\%", "%").replace("/opt/stock_ingestion", str(project))
    result = subprocess.run(
        ["/bin/sh", "-c", command],
        env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == status
    assert (project / "logs" / "last_run.txt").read_text() == "what happened\nwhy\n"
    if status == 0:
        assert (result.stdout, result.stderr) == ("", "")  # cron sends no mail
    else:
        first, *rest = result.stderr.splitlines()
        assert first.startswith(f"stock_ingestion: exit status {status}: ")
        assert rest == ["what happened", "why"]
        assert ("--login" in first) == (status == 3)


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [("", 0, ""), ("0", 0, ""), ("TERM", 0, ""), ("143", 0, ""), ("KILL", 1, "from outside")],
)
def test_report_of_other_ends(given: str, status: int, said: str) -> None:
    result = subprocess.run(
        ["/bin/sh", str(DEPLOY / "report.sh"), *filter(None, [given])],
        capture_output=True,
        text=True,
    )
    assert result.returncode == status
    assert said in result.stderr
    assert bool(result.stderr) == bool(said)


def test_report_can_be_run() -> None:
    assert (DEPLOY / "report.sh").stat().st_mode & stat.S_IXUSR


needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


@needs_systemd
def test_systemd_units_are_well_formed(tmp_path: Path) -> None:
    """Where the program that the unit starts exists, systemd has nothing to say of it."""
    project = tmp_path / "opt"
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "bin" / "python").symlink_to("/bin/true")
    shutil.copytree(DEPLOY, project / "deploy")
    units = []
    for path in DEPLOY.glob("stock-ingestion.*"):
        unit = tmp_path / path.name
        unit.write_text(path.read_text().replace("/opt/stock_ingestion", str(project)))
        units.append(str(unit))
    assert len(units) == 2
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True
    )
    said = [line for line in result.stderr.splitlines() if "stock-ingestion" in line]
    assert (result.returncode, said) == (0, [])


@needs_systemd
def test_systemd_timer_elapses_at_0830_ist_from_monday_to_friday() -> None:
    match = re.search(r"^OnCalendar=(.*)$", (DEPLOY / "stock-ingestion.timer").read_text(), re.M)
    assert match is not None
    result = subprocess.run(
        ["systemd-analyze", "calendar", "--iterations=5", match[1]],
        env={**os.environ, "TZ": "America/New_York", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    )
    moments = re.findall(r"\(in UTC\): (\w+) \S+ (\S+) UTC", result.stdout)
    assert sorted({day for day, _ in moments}) == ["Fri", "Mon", "Thu", "Tue", "Wed"]
    assert {time for _, time in moments} == {"03:00:00"}


def test_systemd_service_treats_exit_statuses_as_the_readme_says() -> None:
    lines = (DEPLOY / "stock-ingestion.service").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))
    status = execute_dags.ExitStatus
    assert settings["RestartPreventExitStatus"].split() == [
        str(int(status.USAGE_OR_CONFIGURATION)),
        str(int(status.LOG_IN_AGAIN)),
    ]
    assert settings["SuccessExitStatus"] == str(int(status.TERMINATED))
    assert settings["Restart"] == "on-failure"
    program, script = settings["ExecStart"].split()
    assert (program, script) == ("/opt/stock_ingestion/.venv/bin/python", "execute_dags.py")
    assert settings["WorkingDirectory"] == "/opt/stock_ingestion"
