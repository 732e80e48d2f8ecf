"""What is measured, on the servers, in the order in which it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.candle_experiments import CandleExperiments, CandlePlan
from benchmarks.contestants import CONTESTANTS, FLOOR_NAME, PROJECT_NAME, Contestant, Runner
from benchmarks.lists import DAY_OF_MOVES, Lists, make_lists
from benchmarks.processes import Measurement, UnequalTablesError, measure
from benchmarks.statements import group_statements

Say = Callable[[str], None]

# All values of the rows of the newest moment, in the order of their key: today's list.
DIGEST = """
SELECT count(*), md5(string_agg(
    concat_ws('|', instrument_token, exchange, tradingsymbol, coalesce(exchange_token, '-'),
              coalesce(instrument_type, '-'), coalesce(name, '-'), coalesce(segment, '-'),
              coalesce(expiry::text, '-'), coalesce(strike::text, '-'),
              coalesce(tick_size::text, '-'), coalesce(lot_size::text, '-')),
    E'\\n' ORDER BY instrument_token, exchange))
FROM public.kite_instrument_master
WHERE last_updated = (SELECT max(last_updated) FROM public.kite_instrument_master)
"""
TABLE_STATE = """
SELECT n_tup_upd, n_tup_hot_upd, pg_total_relation_size(relid) / 1e6::float8
FROM pg_stat_user_tables WHERE relname = 'kite_instrument_master' AND schemaname = 'public'
"""


@dataclass(frozen=True)
class Plan:
    """How much is measured. `rounds` is how often each contender runs what is compared."""

    rows: int
    rounds: int
    warm_up_rounds: int
    growth_rows: Sequence[int]
    growth_rounds: int
    refreshes_in_a_row: int
    candles: CandlePlan = field(default_factory=CandlePlan)
    fsync: bool = True


class Experiments:
    """The experiments, on running servers."""

    def __init__(self, runner: Runner, plan: Plan, say: Say) -> None:
        self._runner = runner
        self._servers = runner.servers
        self._plan = plan
        self._say = say
        self._own_templates: dict[tuple[str, str], str] = {}
        self._contestants = [each for each in CONTESTANTS if not each.missing]
        for each in CONTESTANTS:
            if each.missing:
                say(f"skipped: {each.name} ({', '.join(each.missing)} not installed: make bench)")

    def run(self) -> dict[str, Any]:
        """Do everything; returns the results, as they go into the JSON."""
        lists = make_lists(self._plan.rows)
        self._prepare(lists)
        results: dict[str, Any] = {
            "rows": {
                "yesterday": lists.yesterday.count(b"\n") - 1,
                "today": lists.rows,
                "left_out_as_symbol_moved": lists.left_out,
            },
            "contenders": {each.name: each.what for each in self._contestants},
            "refresh": self._compare("refresh", "loaded", check=True),
            "first_load": self._compare("first load", "empty", check=False),
            "refreshes_in_a_row": self._refresh_in_a_row(lists),
            "list_seconds": self._time_list(),
            "statements": self._time_statements(),
            "growth": [self._grow(rows) for rows in self._plan.growth_rows],
        }
        candles = CandleExperiments(self._runner, self._plan.candles, self._say, listed="loaded")
        return {**results, "candles": candles.run()}

    def _prepare(self, lists: Lists) -> None:
        """Make the templates: `empty` has the tables, `loaded` yesterday's list as well."""
        self._say(f"preparing {lists.rows:,} rows")
        self._make_loaded("loaded", lists)
        self._servers.create("empty", "loaded")
        self._servers.execute(
            "TRUNCATE kite_instrument_master, ingestion_run, kite_instrument_change",
            database="empty",
        )
        if dlt := next((each for each in self._contestants if each.name == "dlt"), None):
            # dlt has tables of its own, which its first run makes.
            self._runner.clone("loaded", "loaded_dlt")
            self._runner.run(dlt, "loaded_dlt")
            self._servers.execute("VACUUM ANALYZE", database="loaded_dlt")
            self._own_templates["loaded", dlt.name] = "loaded_dlt"
        self._runner.serve(lists.today)

    def _make_loaded(self, database: str, lists: Lists) -> None:
        """Make a database as it is before a run: loaded, refreshed, and vacuumed since."""
        project = self._find(PROJECT_NAME)
        self._runner.serve(lists.yesterday)
        self._servers.create(database)
        for _ in range(2):
            self._runner.run(project, database)
        self._servers.execute("VACUUM ANALYZE", database=database)

    def _compare(self, title: str, template: str, *, check: bool) -> dict[str, Any]:
        """All contenders in turn, in another one first each round."""
        measured: dict[str, list[Measurement]] = {each.name: [] for each in self._contestants}
        digests: dict[str, Any] = {}
        for number in range(-self._plan.warm_up_rounds, self._plan.rounds):
            first = number % len(self._contestants)
            for contestant in self._contestants[first:] + self._contestants[:first]:
                measurement = self._run_on_clone(contestant, template)
                self._say(_line(f"{title} {number + 1}", contestant.name, measurement))
                if number >= 0:
                    measured[contestant.name].append(measurement)
                if check and contestant.name not in digests:
                    digests[contestant.name] = self._servers.execute(DIGEST, database="run")[0]
        if check:
            self._check_digests(digests)
        return {name: [asdict(each) for each in several] for name, several in measured.items()}

    def _check_digests(self, digests: dict[str, Any]) -> None:
        expected = digests[FLOOR_NAME]
        for name, digest in digests.items():
            if digest != expected:
                raise UnequalTablesError(
                    f"{name} left {digest[0]:,} rows with the digest {digest[1]}, the floor "
                    f"{expected[0]:,} with {expected[1]}: they cannot be compared."
                )
        self._say(f"equal tables: {expected[0]:,} rows of {', '.join(digests)}")

    def _run_on_clone(self, contestant: Contestant, template: str) -> Measurement:
        own_template = self._own_templates.get((template, contestant.name), template)
        self._runner.clone(own_template, "run")
        # A daily run always comes after a checkpoint: its pages go into the WAL whole.
        self._servers.execute("CHECKPOINT")
        return self._runner.run(contestant, "run")

    def _refresh_in_a_row(self, lists: Lists) -> list[dict[str, Any]]:
        """The project again and again on the same table, yesterday's and today's list in turn."""
        project = self._find(PROJECT_NAME)
        self._runner.clone("loaded", "run")
        states = []
        for number in range(self._plan.refreshes_in_a_row):
            self._runner.serve(lists.yesterday if number % 2 else lists.today)
            before = self._servers.execute(TABLE_STATE, database="run")[0]
            measurement = self._runner.run(project, "run")
            self._servers.wait_for_sessions("run")
            after = self._servers.execute(TABLE_STATE, database="run")[0]
            states.append(
                {
                    **asdict(measurement),
                    "updates": after[0] - before[0],
                    "heap_only_updates": after[1] - before[1],
                    "table_mb": after[2],
                }
            )
            self._say(_line(f"in a row {number + 1}", PROJECT_NAME, measurement))
        self._runner.serve(lists.today)
        return states

    def _time_list(self) -> list[float]:
        """The wall time of `execute_dags.py --list`."""
        rounds = range(2 * self._plan.rounds)
        project = self._runner.project
        return [measure(["execute_dags.py", "--list"], {}, project).seconds for _ in rounds]

    def _time_statements(self) -> dict[str, list[dict[str, float]]]:
        """The milliseconds of the project's statements, on an ordinary day and one of moves."""
        ordinary = [self._log_statements("loaded") for _ in range(self._plan.rounds)]
        lists = make_lists(self._plan.rows, day=DAY_OF_MOVES, with_moves=True)
        self._make_loaded("loaded_before_moves", lists)
        self._runner.serve(lists.today)
        moves = [self._log_statements("loaded_before_moves") for _ in range(self._plan.rounds)]
        self._servers.drop("loaded_before_moves")
        return {"ordinary_day": ordinary, "day_of_moves": moves}

    def _log_statements(self, template: str) -> dict[str, float]:
        self._runner.clone(template, "run")
        self._servers.execute("ALTER DATABASE run SET log_min_duration_statement = 0")
        self._servers.execute("CHECKPOINT")
        log = self._servers.postgres.log_path
        begin = log.stat().st_size
        self._runner.run(self._find(PROJECT_NAME), "run")
        with log.open("rb") as file:
            file.seek(begin)
            return group_statements(file.read().decode("utf-8"))

    def _grow(self, rows: int) -> dict[str, Any]:
        """The project and the floor, refreshing a table of so many rows."""
        lists = make_lists(rows)
        self._make_loaded("grown", lists)
        self._runner.serve(lists.today)
        measured: dict[str, list[dict[str, Any]]] = {PROJECT_NAME: [], FLOOR_NAME: []}
        for number in range(self._plan.growth_rounds):
            for name, several in measured.items():
                measurement = self._run_on_clone(self._find(name), "grown")
                several.append(asdict(measurement))
                self._say(_line(f"{lists.rows:,} rows {number + 1}", name, measurement))
        self._servers.drop("grown")
        return {"rows": lists.rows, "contenders": measured}

    def _find(self, name: str) -> Contestant:
        return next(each for each in CONTESTANTS if each.name == name)


def _line(title: str, name: str, measurement: Measurement) -> str:
    return f"{title:<20}{name:<22}{measurement.seconds:7.2f} s {measurement.peak_mb:7.0f} MB"
