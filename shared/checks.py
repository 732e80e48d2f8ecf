"""`check`: proves everything that a run would stumble over, and imports nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial

from shared.config.config_loader import ConfigLoader
from shared.console import say
from shared.dag_discovery import DAG
from shared.exceptions import ConfigurationError, DatabaseError, StockIngestionError
from shared.feed import Feed
from shared.kite_login import describe_death
from shared.store import find_lacking
from shared.utils.db_manager import DatabaseManager
from shared.utils.kite_client_wrapper import KiteClientWrapper
from shared.utils.retry import RetryPolicy
from shared.utils.table_setup import find_access_faults

# A check says what is wrong now, rather than wait for it to pass.
_ONCE = RetryPolicy(max_attempts=1)
_READ_SERVER = "SELECT current_setting('server_version'), current_user::text"

Errors = list[StockIngestionError]


def check(dags: Sequence[DAG]) -> Errors:
    """Prove that the DAGs can run: a line for each thing. Returns what is wrong."""
    errors: Errors = []
    feeds = [feed for dag in dags if (feed := _check_dag(dag, errors))]
    if any(feed.needs_kite for feed in feeds):
        _prove(errors, "Kite session", _check_kite)
    if feeds:
        _prove(errors, "database", partial(_check_database, feeds, errors))
    return errors


def _prove(errors: Errors, name: str, prove: Callable[[], str]) -> bool:
    """Say what `prove` has found, or why it failed. Returns whether all is well."""
    try:
        if found := prove():
            say(f"ok      {name}: {found}")
    except StockIngestionError as exc:
        say(f"FAILED  {name}: {exc}")
        errors.append(exc)
        return False
    return True


def _check_dag(dag: DAG, errors: Errors) -> Feed | None:
    """Prove that the DAG's package can be loaded, and its configuration."""
    feed = None

    def load() -> str:
        nonlocal feed
        if dag.fault and not (dag.folder / "__init__.py").is_file():
            raise ConfigurationError(dag.fault)
        whole = replace(dag, fault=None)  # what else is wrong with it is to be told as well
        feed = whole.load_feed()
        if feed is None:
            whole.load()
        return ""

    def configure() -> str:
        needs_api = feed is not None and feed.needs_kite
        settings = feed.settings if feed else ()
        ConfigLoader.load_merged_config(dag.folder, settings, needs_api=needs_api)
        if dag.fault and is_loaded:
            raise ConfigurationError(dag.fault)
        return "its configuration is complete"

    name = f"DAG {dag.dag_id} {dag.name}"
    is_loaded = _prove(errors, name, load)
    _prove(errors, name, configure)
    return feed


def _check_kite() -> str:
    client = KiteClientWrapper.from_config(asdict(ConfigLoader.load_api_config()), retry=_ONCE)
    client.authenticate()
    return f"logged in as {client.user_id}; the token dies at about {describe_death()}"


def _check_database(feeds: Sequence[Feed], errors: Errors) -> str:
    config = ConfigLoader.load_database_config()
    with DatabaseManager(asdict(config), retry=_ONCE) as manager:
        [(version, role)] = manager.fetch_all(_READ_SERVER)
        place = f"{config.database} at {config.host}:{config.port}"
        say(f"ok      database: {place}: PostgreSQL {version}, role {role}")
        for feed in feeds:
            name = f"DAG {feed.dag_id} {feed.name}"
            if _prove(errors, name, partial(_check_table, manager, feed)):
                _note_lacking(name, manager, feed)
    return ""


def _check_table(manager: DatabaseManager, feed: Feed) -> str:
    found, faults = manager.run_in_transaction(
        lambda cursor: find_access_faults(cursor, feed.table)
    )
    if faults:
        raise DatabaseError(f"a run would fail: {'; '.join(faults)}.")
    return found


def _note_lacking(name: str, manager: DatabaseManager, feed: Feed) -> None:
    """Say what runs will do without: no failure (ruling 30)."""
    try:
        lacking = find_lacking(manager, feed)
    except StockIngestionError as exc:
        lacking = str(exc)
    if lacking:
        say(f"lacking {name}: {lacking}")
