"""DAG 8: trades, from an API that gives them in pages, in the order of their numbers."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path

from shared.config.config_loader import ConfigLoader
from shared.config.fields import Field, address, integer
from shared.console import say
from shared.exceptions import TransientAPIError, ValidationError
from shared.feed import Batch, Command, Feed, Payload, RejectedRow, Run
from shared.models.column import check_row
from shared.models.table import Column, Table
from shared.run import retry_policy
from shared.utils.db_manager import DatabaseManager
from shared.utils.http_source import HttpSource

TRADES = Table(
    name="trade",
    columns=(
        Column("trade_id", "bigint", minimum=1),
        Column("symbol", "varchar", length=50),
        Column("price", "numeric", precision=15, scale=4, minimum=0),
        Column("quantity", "integer", minimum=1),
    ),
    key=("trade_id",),
    is_snapshot=False,
)


def parse(body: bytes) -> Batch:
    """A page: {"trades": [{"trade_id": 1, "symbol": "INFY", "price": 1500.05, "quantity": 3}]}."""
    try:
        trades = [dict(trade) for trade in json.loads(body, parse_float=Decimal)["trades"]]
    except (ValueError, KeyError, TypeError) as exc:
        raise TransientAPIError('Expected an object with a list "trades" of objects.') from exc
    batch = Batch([])
    for number, trade in enumerate(trades, 1):
        try:
            row = {column.name: column.convert(trade.get(column.name)) for column in TRADES.columns}
            check_row(TRADES.columns, row)
            batch.rows.append(row)
        except ValidationError as exc:
            batch.rejected.append(RejectedRow(number, str(exc), [*map(str, trade.values())]))
    return batch


def fetch(run: Run) -> Iterator[Payload]:
    """The pages after the last trade that is stored."""
    rate = run.parameters["requests_per_second"]
    api = HttpSource(run.parameters["address"], retry=retry_policy(run), requests_per_second=rate)
    last = _read_last()
    while True:
        payload = api.load(parse, "/trades", {"after": last})
        assert payload.batch is not None
        if payload.batch == Batch([]):
            return
        yield payload
        last = max((row["trade_id"] for row in payload.batch.rows), default=last)


def _read_last() -> int:
    """The highest number that is stored; 0 where nothing is, or there is no table yet."""
    with DatabaseManager(asdict(ConfigLoader.load_database_config())) as manager:
        if manager.fetch_all("SELECT to_regclass('trade')") == [(None,)]:
            return 0
        [(last,)] = manager.fetch_all("SELECT coalesce(max(trade_id), 0) FROM trade")
        return int(last)


def say_last(arguments: argparse.Namespace) -> None:
    """The command `last-trade`."""
    say(f"The last trade that is stored is {_read_last()}")


FEED = Feed(
    folder=Path(__file__).resolve().parent,
    title="trades",
    source="The exchange",
    table=TRADES,
    fetch=fetch,
    parse=parse,
    count_by=("symbol",),
    fields=(
        Field("parameters.address", address),
        Field("parameters.requests_per_second", integer(1, 1000), 100, is_extra=True),
    ),
    commands=(Command("last-trade", "say which trade is the last one", say_last),),
)
