"""The table of candles."""

from functools import partial

from shared.models.column import Column
from shared.models.table import Table

_price = partial(Column, sql_type="numeric", precision=15, scale=4, minimum=0)

CANDLES = Table(
    name="kite_candle",
    columns=(
        Column("instrument_id", "bigint"),
        Column("interval", "varchar", length=10),
        Column("ts", "timestamptz", is_distinct=True),
        _price("open"),
        _price("high"),
        _price("low"),
        _price("close"),
        Column("volume", "bigint", minimum=0, is_distinct=True),
        Column("oi", "bigint", minimum=0, nullable=True),
    ),
    key=("instrument_id", "interval", "ts"),
    last_updated="",
    created_at="",
    is_snapshot=False,
)
