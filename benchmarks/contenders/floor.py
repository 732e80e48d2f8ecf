"""The floor: the dump's own bytes by COPY into a temporary table, and one INSERT ... ON CONFLICT.

Nothing is parsed, checked or reported, and no symbol may have moved to another token.
"""

from __future__ import annotations

import io

import psycopg2

from benchmarks.contenders.steps import Steps, database_arguments, download

STAGE = """
CREATE TEMPORARY TABLE stage (LIKE kite_instrument_master, last_price text) ON COMMIT DROP
"""
COPY = """
COPY stage (instrument_token, exchange_token, tradingsymbol, name, last_price, expiry, strike,
            tick_size, lot_size, instrument_type, segment, exchange)
FROM STDIN WITH (FORMAT csv, HEADER)
"""
UPSERT = """
INSERT INTO kite_instrument_master
    (instrument_token, exchange, tradingsymbol, exchange_token, instrument_type, name, segment,
     expiry, strike, tick_size, lot_size, last_updated)
SELECT instrument_token, exchange, tradingsymbol, exchange_token, instrument_type, name, segment,
       expiry, strike, tick_size, lot_size, localtimestamp
FROM stage
ON CONFLICT (instrument_token, exchange) DO UPDATE SET
    tradingsymbol = excluded.tradingsymbol, exchange_token = excluded.exchange_token,
    instrument_type = excluded.instrument_type, name = excluded.name,
    segment = excluded.segment, expiry = excluded.expiry, strike = excluded.strike,
    tick_size = excluded.tick_size, lot_size = excluded.lot_size,
    last_updated = excluded.last_updated
"""


def main() -> None:
    """Load the list."""
    steps = Steps()
    with steps.step("download"):
        body = download()
    with steps.step("connect"):
        connection = psycopg2.connect(**database_arguments())
    with connection, connection.cursor() as cursor:
        with steps.step("copy"):
            cursor.execute(STAGE)
            cursor.copy_expert(COPY, io.BytesIO(body))
        with steps.step("upsert"):
            cursor.execute(UPSERT)
        with steps.step("commit"):
            connection.commit()
    connection.close()
    steps.write()


if __name__ == "__main__":
    main()
