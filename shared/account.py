"""The commands around the daily session: log in (`--login`), and prove everything (`--check`).

They print through `say`; nothing is imported into the database.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime

from shared.calendar import IST
from shared.config import config_loader
from shared.config.config_loader import ConfigLoader, DatabaseConfig
from shared.config.env_file import reserved
from shared.config.logging_config import register_secrets
from shared.console import say
from shared.dag_discovery import discover_dags
from shared.exceptions import AuthenticationError, StockIngestionError
from shared.kite_login import read_request_token, token_death
from shared.models.instrument import INSTRUMENT_TABLE
from shared.utils.db_manager import DatabaseManager
from shared.utils.kite_client_wrapper import KiteClientWrapper
from shared.utils.retry import RetryPolicy
from shared.utils.table_setup import check_access

TOKEN_VARIABLE = "KITE_ACCESS_TOKEN"  # noqa: S105 - the name of the variable, not a token
_LONGEST_LINE = 8192  # bytes

# A check says what is wrong now, rather than wait for it to pass.
_ONCE = RetryPolicy(max_attempts=1)


def log_in() -> None:
    """Exchange a request token from standard input for an access token, and keep it in `.env`.

    Raises ConfigurationError, AuthenticationError, APIError; `.env` is as it was then.
    """
    client = KiteClientWrapper.from_config(asdict(ConfigLoader.load_api_config(with_token=False)))
    with reserved(config_loader.ENV_FILE) as set_variable:  # before the request token is used up
        access_token = _exchange(client)
        set_variable(TOKEN_VARIABLE, access_token)
    say(
        f"Logged in as {client.user_id}. The token is in .env, and dies at about "
        f"{_describe_death()}."
    )
    if config_loader.environment_overrules(TOKEN_VARIABLE, access_token):
        say(f"Beware: {TOKEN_VARIABLE} is also set in the environment, and wins over .env.")


def _exchange(client: KiteClientWrapper) -> str:
    """Ask for a request token, and give the access token that Kite has for it, proven."""
    if sys.stdin is not None and sys.stdin.isatty():
        say("1. Open this address in a browser and log in to Kite:\n")
        say(f"   {client.login_url}\n")
        say("2. Paste the address that the browser shows then (or its request_token):")
    pasted = _read_line()
    if not pasted.strip():
        raise AuthenticationError(
            f"Nothing came on standard input. Open {client.login_url}, log in, and give the "
            "address that the browser shows then."
        )
    request_token = read_request_token(pasted)
    register_secrets([request_token])
    access_token = client.log_in(request_token)
    register_secrets([access_token])
    client.authenticate()
    return access_token


def _read_line() -> str:
    """A line of standard input, whatever bytes it has; "" if there is none."""
    if sys.stdin is None:  # closed before the start (`<&-`)
        return ""
    return sys.stdin.buffer.readline(_LONGEST_LINE).decode("utf-8", "replace")


def check() -> list[StockIngestionError]:
    """Prove the Kite session and the database, and say what is wrong. Returns the errors."""
    checks = (("Kite session", _check_kite), ("database", _check_database))
    errors = {name: error for name, prove in checks if (error := _report(name, prove)) is not None}
    if "database" not in errors:
        _note_what_is_lacking()
    return list(errors.values())


def _note_what_is_lacking() -> None:
    """Say what runs will do without: no failure (ruling 30)."""
    for dag in discover_dags(config_loader.PROJECT_ROOT):
        try:
            report = dag.load_report("describe_lacking")
            if report is not None and (lacking := report()):
                say(f"lacking DAG {dag.dag_id}: {lacking}")
        except StockIngestionError as exc:
            say(f"lacking DAG {dag.dag_id}: {exc}")


def _report(name: str, prove: Callable[[], str]) -> StockIngestionError | None:
    try:
        say(f"ok      {name}: {prove()}")
    except StockIngestionError as exc:
        say(f"FAILED  {name}: {exc}")
        return exc
    return None


def _check_kite() -> str:
    client = KiteClientWrapper.from_config(asdict(ConfigLoader.load_api_config()), retry=_ONCE)
    client.authenticate()
    return f"logged in as {client.user_id}; the token dies at about {_describe_death()}"


def _check_database() -> str:
    config: DatabaseConfig = ConfigLoader.load_database_config()
    with DatabaseManager(asdict(config), retry=_ONCE) as manager:
        found = manager.run_in_transaction(lambda cursor: check_access(cursor, INSTRUMENT_TABLE))
    return f"{config.database} at {config.host}:{config.port}: {found}"


def _describe_death() -> str:
    death = token_death()
    hours = (death - datetime.now(IST)).total_seconds() / 3600
    return f"{death:%H:%M IST on %d %B} (in {hours:.1f} hours)"
