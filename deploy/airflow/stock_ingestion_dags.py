"""Every DAG folder of Stock Ingestion as a DAG of Airflow 3 (docs/airflow.md).

Airflow's processes run this file, in an environment of their own: it imports nothing of the
project. What it knows of the folders is what `execute_dags.py list --json` says. A task runs
`execute_dags.py --dag N` with the project's own Python, and ends as that ends.

STOCK_INGESTION_HOME is the project's folder (default: the one that this file is in), and
STOCK_INGESTION_POOL the pool of all its tasks, which has to be made (default: stock_ingestion).

A DAG runs by its own schedule, and when one that it comes after has stored its rows: then only if
its own schedule has come round and its rows are not fresh. So one that had to wait catches up.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import (
    DAG,
    Asset,
    AssetAny,
    AssetOrTimeSchedule,
    BaseOperator,
    CronTriggerTimetable,
    Param,
    Variable,
)
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from croniter import croniter

_HOME = os.environ.get("STOCK_INGESTION_HOME") or Path(__file__).resolve().parent.parent.parent
HOME = Path(_HOME).expanduser().absolute()
POOL = os.environ.get("STOCK_INGESTION_POOL") or "stock_ingestion"
TOKEN_VARIABLE = "kite_access_token"  # noqa: S105 - its name; who has no such Variable uses .env
TIME_ZONE = "Asia/Kolkata"
RETRIES = 3  # Airflow waits default_task_retry_delay before each, 5 minutes by default

# What no retry can mend: bad usage or configuration, and a session of Kite's that is over.
LOG_IN_AGAIN = 3
HOPELESS = (2, LOG_IN_AGAIN)
BY_ITSELF = ("scheduled", "asset_triggered")  # the types of runs that nobody has started
DEFAULTS = {"enabled": True, "schedule": "daily", "description": "", "after": [], "slices": 1}
DAILY = "30 8 * * *"  # what "daily" means, where the program cannot be asked
ANSWER_SECONDS = 20  # Airflow ends the reading of a file after 30
LONGEST_ID = 240  # bytes: Airflow takes 250, and has a folder dag_id=<id> for logs: 255 of a name

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
CRON_NAMES = {name: n for names in (_DAYS, ("", *_MONTHS)) for n, name in enumerate(names)}
_WORD = f"([0-9]+|{'|'.join(filter(None, CRON_NAMES))})"
CRON_ITEM = re.compile(rf"(?:\*|{_WORD}(?:-{_WORD})?)(?:/[0-9]+)?")

# Why the program, or a file in its place, gives no answer.
UNANSWERED = (OSError, ValueError, LookupError, subprocess.SubprocessError)

PARAMS = {
    "dry_run": Param(False, type="boolean", description="Show what would change, write nothing."),
    "force": Param(False, type="boolean", description="Store also what is not plausible."),
    "from_file": Param(
        None,
        type=["null", "string"],
        pattern="^[^-]",
        description="A saved list to load in place of the source's: its path on the worker.",
    ),
}


def command(*arguments: str) -> list[str]:
    """The command line of the project's program."""
    return [str(HOME / ".venv" / "bin" / "python"), "execute_dags.py", *arguments]


def environment() -> dict[str, str]:
    """The variables of the program: Airflow's own, which hold passwords, are not among them."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIRFLOW", "_AIRFLOW", "PYTHON"))
    }
    return kept | {"PYTHONUNBUFFERED": "1"}


class Program(SubprocessHook):
    """Runs the program, and keeps the lines of the errors that it prints."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []
        self._is_in_error = False

    @property
    def log(self) -> Any:
        """Airflow's log of the task, through which each line of the program passes."""
        return _Listener(super().log, self.hear)

    def hear(self, line: str) -> None:
        """Keep a line of an error: its further lines are indented, as those of steps are."""
        is_step = re.search(r": (done|failed) in [0-9.]+ s$", line) is not None
        is_first = line.startswith("ERROR: ")
        self._is_in_error = is_first or (self._is_in_error and line[:1] == " " and not is_step)
        if self._is_in_error:
            self.errors.append(line.removeprefix("ERROR: "))


class _Listener:
    """A log that is heard."""

    def __init__(self, log: Any, hear: Callable[[str], None]) -> None:
        self._log = log
        self._hear = hear

    def info(self, message: str, *args: Any) -> None:
        """Log a line."""
        self._log.info(message, *args)
        if message == "%s":
            self._hear(str(args[0]))


class RunFolder(BaseOperator):
    """Runs the DAG `number` of the project, or its part `part` such as "3/8".

    `after` are the DAGs that it comes after, as far as they are run.
    """

    def __init__(
        self, *, number: int, after: Sequence[int] = (), part: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.number = number
        self.after = [*after]
        self.part = part
        self._program: Program | None = None

    def execute(self, context: Mapping[str, Any]) -> None:
        """Run it. Raises AirflowFailException where a retry would not help."""
        options = read_options(context["params"])
        run_type = context["dag_run"].run_type
        self._wait(run_type)
        part = [] if self.part is None else ["--slice", self.part]
        given, token = environment(), (Variable.get(TOKEN_VARIABLE, default=None) or "").strip()
        if token:
            given["KITE_ACCESS_TOKEN"] = token
        self._program = Program()
        try:
            result = self._program.run_command(
                command("--dag", str(self.number), *part, *options), env=given, cwd=str(HOME)
            )
        except (OSError, ValueError) as exc:  # a parameter can hold what no command line can
            raise AirflowFailException(
                f"The program cannot be started: {exc}. Expected the project, with its environment "
                f"in .venv, in {HOME}: install it there, or set STOCK_INGESTION_HOME."
            ) from exc
        if result.exit_code != 0:
            error = AirflowFailException if result.exit_code in HOPELESS else AirflowException
            said = "\n".join(self._program.errors) or result.output
            where = f" The token is that of the Variable {TOKEN_VARIABLE}." if token else ""
            hint = where if result.exit_code == LOG_IN_AGAIN else ""
            raise error(f"Exit status {result.exit_code}: {said}{hint}")
        self._refuse_old_rows(run_type)

    def _wait(self, run_type: str) -> None:
        """Leave alone what is not due, or has to wait. A run that somebody starts does not wait."""
        if run_type not in BY_ITSELF or not self.after:
            return
        due = find_due(self.number, *self.after)
        late = [str(number) for number in self.after if due.get(number)]
        waits = f"DAG {self.number} waits for the rows of DAG {', '.join(late)}, which start it."
        if run_type == "scheduled" and late:
            raise AirflowException(waits)
        if run_type == "asset_triggered" and late:
            raise AirflowSkipException(waits)
        if run_type == "asset_triggered" and due.get(self.number) is False:
            raise AirflowSkipException(f"DAG {self.number} is not due: its rows are fresh.")

    def _refuse_old_rows(self, run_type: str) -> None:
        """Try again where a good run has brought old rows: the source is late.

        What parts have brought is fresh with the last of them, and not before.
        """
        if run_type in BY_ITSELF and self.part is None and find_due(self.number).get(self.number):
            raise AirflowException(
                f"DAG {self.number} has run well, and its rows are not fresh: the source is late. "
                f"`execute_dags.py status --dag {self.number}` says more."
            )

    def on_kill(self) -> None:
        """Pass SIGTERM on: the program rolls back what it has not committed, and ends."""
        if self._program is not None:
            self._program.send_sigterm()


class ReportStored(BaseOperator):
    """Tells Airflow that rows were stored, which starts the DAGs that come after."""

    def execute(self, context: Mapping[str, Any]) -> None:
        """Do so, unless the run was none of the source's rows of today."""
        params = context["params"]
        if params["dry_run"] or params["from_file"] is not None:
            raise AirflowSkipException("What comes after is not started: nothing new was stored.")


class Broken(BaseOperator):
    """Fails, and says why there is nothing to run."""

    def __init__(self, *, fault: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fault = fault

    def execute(self, context: Mapping[str, Any]) -> None:
        """Fail."""
        raise AirflowFailException(self.fault)


def read_options(params: Mapping[str, Any]) -> list[str]:
    """The options of the command line. Raises AirflowFailException for a parameter that is none."""
    if unknown := sorted(set(params) - set(PARAMS)):
        raise AirflowFailException(
            f"Expected the parameters {', '.join(PARAMS)}, got {', '.join(unknown)}: nothing ran."
        )
    options = [f"--{name.replace('_', '-')}" for name in ("dry_run", "force") if params[name]]
    if params["from_file"] is not None:
        options.append(f"--from-file={params['from_file']}")
    return options


def find_due(*numbers: int) -> dict[int, bool | None]:
    """Whether each DAG's schedule has come round and its rows are not fresh; None if unknown."""
    wanted = [word for number in numbers for word in ("--dag", str(number))]
    try:
        dags = json.loads(ask("status", *wanted, "--json"))["dags"]
        return {dag["dag_id"]: dag["is_due"] for dag in dags}
    except (*UNANSWERED, TypeError):
        return {}  # the run itself will say what is wrong


def ask(*arguments: str) -> str:
    """What the program prints. Raises one of UNANSWERED if it cannot be run, or not in time.

    Its exit status is not looked at: that of `status` says whether rows are fresh.
    """
    answer = subprocess.run(  # noqa: S603 - the project's own program
        command(*arguments),
        cwd=HOME,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=ANSWER_SECONDS,
        check=False,
    )
    if not answer.stdout:
        said = answer.stderr.strip().rpartition("\n")[2]
        raise ValueError(said or f"exit status {answer.returncode}")
    return answer.stdout


def list_folders() -> list[dict[str, Any]]:
    """What is known of each DAG folder, broken ones too."""
    if not (HOME / "execute_dags.py").is_file():
        raise FileNotFoundError(
            f"Expected the project of Stock Ingestion in {HOME}: let STOCK_INGESTION_HOME name it."
        )
    try:
        return list(json.loads(ask("list", "--json"))["dags"])
    except (*UNANSWERED, TypeError) as exc:
        return [*read_folders(f"`execute_dags.py list` does not answer ({exc}).")]


def read_folders(why: str) -> Iterator[dict[str, Any]]:
    """The same from the folders themselves, where the program cannot be asked, and `why` not."""
    for folder in sorted(HOME.glob("dag_*")):
        match = re.fullmatch(r"dag_([0-9]+)_(\w+)", folder.name)
        if match is None or not folder.is_dir():
            continue
        known = {"dag_id": int(match[1]), "folder": folder.name, "fault": None}
        try:
            (folder / "__init__.py").stat()
            config = read_config(folder)
        except (*UNANSWERED, RecursionError, TypeError) as exc:
            yield {**known, "fault": f"Its configuration cannot be read: {exc}. {why}"}
        else:
            yield {**known, **config, "description": f"{config['description']} {why}".strip()}


def read_config(folder: Path) -> dict[str, Any]:
    """config.json, and local.json over it, where they are plain: the program takes more.

    Raises one of UNANSWERED, TypeError or RecursionError.
    """
    config = dict(DEFAULTS)
    for path in (folder / "config.json", folder / "local.json"):
        if path.name == "config.json" or path.exists():
            config |= json.loads(path.read_text(encoding="utf-8-sig"))
    for name, default in DEFAULTS.items():
        if type(config[name]) is not type(default):
            raise TypeError(f"{name}: got {json.dumps(config[name])[:60]}")
    if not 1 <= config["slices"] <= 100 or {*map(type, config["after"])} - {int}:
        raise TypeError(f"slices, after: got {config['slices']}, {config['after']}")
    return config | {"cron": DAILY if config["schedule"] == "daily" else config["schedule"]}


def build(folder: Mapping[str, Any], running: Mapping[int, str]) -> DAG:
    """The DAG of a folder that is not broken; `running` are the names of those that run, by id."""
    name, words, tags = folder["folder"], folder["description"], ["stock_ingestion"]
    after = [number for number in folder["after"] if number in running]
    schedule: Any = CronTriggerTimetable(folder["cron"], timezone=TIME_ZONE)
    if after:
        stored = AssetAny(*(asset_of(running[number]) for number in after))
        schedule = AssetOrTimeSchedule(timetable=schedule, assets=stored)
    if not folder["enabled"]:
        schedule, words, tags = None, f"Disabled in its configuration. {words}", [*tags, "disabled"]
    with new_dag(name, words, schedule, tags) as dag:
        run_tasks(folder["dag_id"], after, folder["slices"]) >> ReportStored(
            task_id="stored", outlets=[asset_of(name)], pool=POOL
        )
    return dag


def run_tasks(number: int, after: Sequence[int], count: int) -> Any:
    """The task of a DAG, or one for each of its parts."""
    given = {"task_id": "run", "number": number, "after": after, "pool": POOL, "retries": RETRIES}
    if count == 1:
        return RunFolder(**given)
    parts = [f"{each}/{count}" for each in range(1, count + 1)]
    return RunFolder.partial(**given, map_index_template="{{ task.part }}").expand(part=parts)


def check_cron(cron: str) -> None:
    """Raise ValueError for a schedule that Airflow takes for other times than the program does.

    Their packages, croniter and cronsim, agree on what is plain: numbers and names, ranges that
    rise, steps, L for a day, 5#1 for a weekday. They do not on a range of one (5-5: for croniter
    all), a weekday with a step (4/2), a * where a day of the month and a weekday are given both
    (*/3 and 6), and more of the kind.
    """
    fields, expanded = cron.lower().split(), croniter(cron).expanded
    if len(fields) != 5:
        raise ValueError(f'expected five fields, got "{cron}"')
    fields[2] = re.sub("^l$", "1", fields[2])  # the last day of a month
    if fields[2] == "*":
        fields[4] = re.sub("^[0-7]#[1-5]$", "1", fields[4])  # such as the first Friday
    day, weekday = fields[2], fields[4]
    items = [CRON_ITEM.fullmatch(item) for field in fields for item in field.split(",")]
    ranges = [(item[1], item[2]) for item in items if item and item[2]]
    is_plain = (
        all(items)
        and all(_number(first) < _number(last) for first, last in ranges)
        and not re.search(r"(^|,)\w+/", weekday)
        and ("*" in (day, weekday) or "*" not in (*day, *weekday, *expanded[2], *expanded[4]))
    )
    if not is_plain:
        raise ValueError(f'other times are meant by "{cron}" than Airflow takes it for')
    croniter(cron).get_next()  # fails for one that never comes round


def _number(word: str) -> int:
    return CRON_NAMES[word] if word in CRON_NAMES else int(word)


def build_broken(folder: Mapping[str, Any], fault: str) -> DAG:
    """An unscheduled DAG that says what is wrong with a folder."""
    with new_dag(folder["folder"], f"BROKEN: {fault}", None, ["stock_ingestion", "broken"]) as dag:
        Broken(task_id="run", fault=storable(fault), pool=POOL)
    return dag


def storable(text: str) -> str:
    """The text without what Airflow's database refuses: it would get none of the DAGs then."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", r"\0")


def new_dag(name: str, words: str, schedule: Any, tags: list[str]) -> DAG:
    """An empty DAG. It has no start date: Airflow waits for the next time of its schedule."""
    made = f"airflow pools set {POOL} 8 'Stock Ingestion'"
    dag_id = re.sub(r"[^\w.-]", lambda odd: f"-{ord(odd[0]):x}", name)  # no good name has a -
    return DAG(
        dag_id=dag_id.encode()[:LONGEST_ID].decode(errors="ignore"),
        description=f"{storable(words)} (Without the pool {POOL} its tasks wait for ever: {made})",
        schedule=schedule,
        catchup=False,
        auto_register=False,  # a half-built one shall not stay
        max_active_runs=1,
        params=PARAMS,
        tags=tags,
    )


def asset_of(name: str) -> Asset:
    """What stands for the rows that a DAG stores."""
    return Asset(name=name, uri=f"stock-ingestion://{quote(name)}")  # of ASCII alone


def build_all() -> Iterator[DAG]:
    """All DAGs. A folder that is broken stops no other's schedule."""
    folders = list_folders()
    runs = [each for each in folders if each["fault"] is None and each["enabled"]]
    running = {each["dag_id"]: each["folder"] for each in runs}
    for folder in folders:
        fault = folder["fault"]
        try:
            if fault is None:
                check_cron(folder["cron"])
                yield build(folder, running)
        except Exception as exc:
            fault = f"Airflow cannot take it: {type(exc).__name__}: {exc}"
        if fault is not None:
            yield build_broken(folder, fault)


globals().update({dag.dag_id: dag for dag in build_all()})  # where Airflow finds them
