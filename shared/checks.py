"""`check`: proves everything that a run would stumble over, and imports nothing.

It says what is wrong now, rather than wait for it to pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial

from shared.config.config_loader import ConfigLoader
from shared.console import say
from shared.dag_discovery import DAG
from shared.exceptions import ConfigurationError, DatabaseError, StockIngestionError
from shared.feed import Feed
from shared.kite_login import describe_death
from shared.notify import require_apprise
from shared.preparation import Lacking, preview_upgrade, prove_schema
from shared.send_message import open_receiver
from shared.utils.db_manager import DatabaseManager
from shared.utils.kite_client_wrapper import KiteClientWrapper
from shared.utils.retry import ONCE
from shared.utils.table_setup import find_access_faults

_READ_SERVER = "SELECT current_setting('server_version'), current_user::text"


def check(dags: Sequence[DAG]) -> list[StockIngestionError]:
    """Prove that the DAGs can run: a line for each thing. Returns what is wrong."""
    errors: list[StockIngestionError] = []
    feeds = [feed for dag in dags if (feed := _check_dag(dag, errors))]
    if any(feed.needs_kite for feed in feeds):
        with _proving("Kite session", errors):
            _check_kite()
    if feeds:
        with _proving("database", errors):
            _check_database(feeds, errors)
    with _proving("notify", errors):
        _check_notify(errors)
    return errors


@contextmanager
def _proving(name: str, errors: list[StockIngestionError]) -> Iterator[None]:
    """Say and note why the body has failed, and go on."""
    try:
        yield
    except StockIngestionError as exc:
        say(f"FAILED  {name}: {exc}")
        errors.append(exc)


def _check_dag(dag: DAG, errors: list[StockIngestionError]) -> Feed | None:
    """Prove that the DAG's package can be loaded, and its configuration."""
    name = dag.label
    feed, is_loaded = None, False
    with _proving(name, errors):
        if dag.fault and not (dag.folder / "__init__.py").is_file():
            raise ConfigurationError(dag.fault)
        whole = replace(dag, fault=None)  # what else is wrong with it is to be told as well
        feed = whole.load_feed()
        if feed is None:
            whole.load()
        is_loaded = True
    with _proving(name, errors):
        needs_api = feed is not None and feed.needs_kite
        own = feed.settings if feed else ()
        ConfigLoader.load_merged_config(dag.folder, own, needs_api=needs_api)
        if dag.fault and is_loaded:
            raise ConfigurationError(dag.fault)
        if is_loaded and dag.slices > 1 and not dag.can_slice():
            raise ConfigurationError(
                f"slices: expected 1, since the DAG has no --slice, got {dag.slices}."
            )
        say(f"ok      {name}: its configuration is complete")
    return feed


def _check_kite() -> None:
    client = KiteClientWrapper.from_config(asdict(ConfigLoader.load_api_config()), retry=ONCE)
    client.authenticate()
    death = f"the token dies at about {describe_death()}"
    say(f"ok      Kite session: logged in as {client.user_id}; {death}")


def _check_notify(errors: list[StockIngestionError]) -> None:
    """Prove that apprise can use the addresses of the receivers; nothing is sent."""
    config = ConfigLoader.load_notify_config()
    if config.urls:
        require_apprise()
    for number, url in enumerate(config.urls, 1):
        name = f"receiver {number} of notify.urls ({url.partition('://')[0]})"
        with _proving(name, errors):
            receiver, said = open_receiver(url)
            if receiver is None:
                raise ConfigurationError(f"apprise cannot use its address: {' '.join(said)}")
            say(f"ok      {name}: apprise knows it; nothing was sent")
    if config.ping_url:
        say("ok      notify.ping_url: an address; nothing was sent")


def _check_database(feeds: Sequence[Feed], errors: list[StockIngestionError]) -> None:
    config = ConfigLoader.load_database_config()
    with DatabaseManager(asdict(config), retry=ONCE) as manager:
        [(version, role)] = manager.fetch_all(_READ_SERVER)
        place = f"{config.database} at {config.host}:{config.port}"
        say(f"ok      database: {place}: PostgreSQL {version}, role {role}")
        for feed in feeds:
            name = f"DAG {feed.dag_id} {feed.name}"
            with _proving(name, errors):
                _check_table(name, manager, feed)


def _check_table(name: str, manager: DatabaseManager, feed: Feed) -> None:
    """Prove that the rows can be stored, and say what runs will do without (ruling 30)."""
    read = partial(find_access_faults, table=feed.table)
    found, faults = manager.run_in_transaction(read)
    if faults:
        raise DatabaseError(f"a run would fail: {'; '.join(faults)}.")
    manager.run_in_transaction(partial(prove_schema, feed=feed))
    say(f"ok      {name}: {found}")
    try:
        lacking, older, script = manager.run_in_transaction(partial(preview_upgrade, feed=feed))
    except StockIngestionError as exc:  # no failure of the check
        lacking, older, script = Lacking(str(exc)), (), ""
    if older:
        say(f"older   {name}: the next run brings up {', '.join(older)}")
    for line in script.splitlines():
        say(f"        {line}")
    for each in (lacking, _find_lacking(manager, feed)):
        _say_lacking(name, each)


def _find_lacking(manager: DatabaseManager, feed: Feed) -> Lacking:
    """What the feed itself knows to be lacking."""
    if feed.find_lacking is None:
        return Lacking("")
    try:
        return Lacking(*(manager.run_in_transaction(feed.find_lacking) or ("",)))
    except StockIngestionError as exc:  # no failure of the check
        return Lacking(str(exc))


def _say_lacking(name: str, lacking: Lacking) -> None:
    if lacking.words:
        say(f"lacking {name}: {lacking.words}")
    if lacking.script:
        say("        What the owner has to run, in psql for example:")
    for line in lacking.script.splitlines():
        say(f"        {line}")
