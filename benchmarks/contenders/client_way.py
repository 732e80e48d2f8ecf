"""The client's way: KiteConnect.instruments(), and execute_values in pages of 1000."""

from __future__ import annotations

import os

import psycopg2
from kiteconnect import KiteConnect
from psycopg2.extras import execute_values

from benchmarks.contenders.steps import Steps, database_arguments

COLUMNS = (
    "instrument_token",
    "exchange",
    "tradingsymbol",
    "exchange_token",
    "instrument_type",
    "name",
    "segment",
    "expiry",
    "strike",
    "tick_size",
    "lot_size",
)
UPSERT = """
INSERT INTO kite_instrument_master
    (instrument_token, exchange, tradingsymbol, exchange_token, instrument_type, name, segment,
     expiry, strike, tick_size, lot_size, last_updated)
VALUES %s
ON CONFLICT (instrument_token, exchange) DO UPDATE SET
    tradingsymbol = excluded.tradingsymbol, exchange_token = excluded.exchange_token,
    instrument_type = excluded.instrument_type, name = excluded.name,
    segment = excluded.segment, expiry = excluded.expiry, strike = excluded.strike,
    tick_size = excluded.tick_size, lot_size = excluded.lot_size,
    last_updated = excluded.last_updated
"""
TEMPLATE = f"({', '.join(['%s'] * len(COLUMNS))}, localtimestamp)"


def main() -> None:
    """Load the list."""
    steps = Steps()
    kite = KiteConnect(
        os.environ["KITE_API_KEY"],
        access_token=os.environ["KITE_ACCESS_TOKEN"],
        root=os.environ["KITE_API_ROOT"],
    )
    with steps.step("download and parse"):
        instruments = kite.instruments()
    with steps.step("transform"):
        # The client gives "" for a blank.
        rows = [
            tuple(None if row[name] == "" else row[name] for name in COLUMNS) for row in instruments
        ]
    with steps.step("connect"):
        connection = psycopg2.connect(**database_arguments())
    with connection, connection.cursor() as cursor:
        with steps.step("upsert"):
            execute_values(cursor, UPSERT, rows, template=TEMPLATE, page_size=1000)
        with steps.step("commit"):
            connection.commit()
    connection.close()
    steps.write()


if __name__ == "__main__":
    main()
