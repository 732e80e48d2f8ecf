"""pandas and SQLAlchemy: read the CSV, delete all rows, insert all rows, in one transaction."""

from __future__ import annotations

import io

import pandas as pd
from sqlalchemy import MetaData, Table, create_engine, delete, insert

from benchmarks.contenders.steps import Steps, database_url, download


def main() -> None:
    """Load the list."""
    steps = Steps()
    with steps.step("download"):
        body = download()
    with steps.step("parse"):
        frame = pd.read_csv(
            io.BytesIO(body),
            dtype={"exchange_token": str},
            keep_default_na=False,
            na_values=[""],
            parse_dates=["expiry"],
        ).drop(columns="last_price")
        frame["expiry"] = frame["expiry"].dt.date
    with steps.step("transform"):
        records = frame.astype(object).where(frame.notna(), None).to_dict("records")
    with steps.step("connect"):
        engine = create_engine(database_url("postgresql+psycopg2"))
        connection = engine.connect()
        table = Table("kite_instrument_master", MetaData(), autoload_with=connection)
    with connection:
        with steps.step("delete"):
            connection.execute(delete(table))
        with steps.step("insert"):
            connection.execute(insert(table), records)
        with steps.step("commit"):
            connection.commit()
    engine.dispose()
    steps.write()


if __name__ == "__main__":
    main()
