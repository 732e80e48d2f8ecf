"""pandas and SQLAlchemy: a frame of each answer, and to_sql."""

from __future__ import annotations

import json

import pandas as pd
from sqlalchemy import create_engine

from benchmarks.contenders.candle_steps import INTERVAL, read_answers
from benchmarks.contenders.steps import Steps, database_url

VALUES = ["ts", "open", "high", "low", "close", "volume"]


def main() -> None:
    """Load the answers, each in a transaction."""
    steps = Steps()
    answers = list(read_answers())
    engine = create_engine(database_url("postgresql+psycopg2"))
    with steps.step("read and store"):
        for instrument_id, _, body in answers:
            frame = pd.DataFrame(json.loads(body)["data"]["candles"], columns=VALUES)
            frame["ts"] = pd.to_datetime(frame["ts"])
            frame.insert(0, "instrument_id", instrument_id)
            frame.insert(1, "interval", INTERVAL)
            with engine.begin() as connection:
                frame.to_sql("kite_candle", connection, if_exists="append", index=False)
    engine.dispose()
    steps.write()


if __name__ == "__main__":
    main()
