"""dlt: an Arrow table, merged by dlt's upsert strategy, sent as CSV by COPY.

Chosen as the one that should be the fastest of dlt's ways: Arrow needs no row by row normalising,
and dlt's default sends INSERTs. The others, ADBC among them, were not measured.
"""

from __future__ import annotations

import io
import os
from datetime import datetime

import dlt
import pyarrow as pa
import pyarrow.csv

from benchmarks.contenders.steps import Steps, database_url, download

TYPES = {
    "instrument_token": pa.int64(),
    "exchange": pa.string(),
    "tradingsymbol": pa.string(),
    "exchange_token": pa.string(),
    "instrument_type": pa.string(),
    "name": pa.string(),
    "segment": pa.string(),
    "expiry": pa.date32(),
    "strike": pa.decimal128(15, 4),
    "tick_size": pa.decimal128(10, 4),
    "lot_size": pa.int64(),
}


def main() -> None:
    """Load the list."""
    steps = Steps()
    with steps.step("download"):
        body = download()
    with steps.step("parse"):
        table = pyarrow.csv.read_csv(
            io.BytesIO(body),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=TYPES,
                include_columns=list(TYPES),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
        )
        moment = pa.scalar(datetime.now(), pa.timestamp("us"))
        table = table.append_column("last_updated", pa.repeat(moment, len(table)))
    pipeline = dlt.pipeline(
        "kite_instruments",
        pipelines_dir=os.environ["BENCH_DLT_FOLDER"],
        destination=dlt.destinations.postgres(database_url("postgresql")),
        dataset_name="public",
    )
    arguments = {
        "table_name": "kite_instrument_master",
        "primary_key": ["instrument_token", "exchange"],
        "write_disposition": {"disposition": "merge", "strategy": "upsert"},
        "columns": {"last_updated": {"data_type": "timestamp", "timezone": False}},
        "loader_file_format": "csv",
    }
    with steps.step("extract"):
        pipeline.extract(table, **arguments)
    with steps.step("normalize"):
        pipeline.normalize()
    with steps.step("load"):
        pipeline.load().raise_on_failed_jobs()
    steps.write()


if __name__ == "__main__":
    main()
