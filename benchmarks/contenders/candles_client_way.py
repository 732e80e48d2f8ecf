"""kiteconnect and psycopg2: what historical_data makes of an answer, then execute_values."""

from __future__ import annotations

import json
from typing import Any

import psycopg2
from kiteconnect import KiteConnect
from psycopg2.extras import execute_values

from benchmarks.contenders.candle_steps import COLUMNS, INTERVAL, read_answers
from benchmarks.contenders.steps import Steps, database_arguments

UPSERT = f"""
INSERT INTO kite_candle ({", ".join(COLUMNS)}) VALUES %s
ON CONFLICT (instrument_id, interval, ts) DO UPDATE SET
    open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
    volume = excluded.volume, oi = excluded.oi
"""
VALUES = ("date", "open", "high", "low", "close", "volume")


def main() -> None:
    """Load the answers, each in a transaction."""
    steps = Steps()
    client = KiteConnect("key")
    answers = list(read_answers())
    connection = psycopg2.connect(**database_arguments())
    with steps.step("read and store"):
        for instrument_id, _, body in answers:
            candles: list[dict[str, Any]] = client._format_historical(json.loads(body)["data"])
            rows = [
                (instrument_id, INTERVAL, *(candle[name] for name in VALUES), candle.get("oi"))
                for candle in candles
            ]
            with connection, connection.cursor() as cursor:
                execute_values(cursor, UPSERT, rows, page_size=1000)
    connection.close()
    steps.write()


if __name__ == "__main__":
    main()
