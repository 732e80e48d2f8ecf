"""The tables beside that of the candles: what was asked for, and what Kite has adjusted."""

from shared.utils.extras import ExtraTable
from shared.utils.sql import load_sql

SQL = load_sql(__file__)

COVERAGE = ExtraTable(
    "kite_candle_coverage",
    SQL["create_kite_candle_coverage"],
    privileges=("SELECT", "INSERT", "UPDATE", "DELETE"),
)
ADJUSTMENTS = ExtraTable(
    "kite_candle_adjustment",
    SQL["create_kite_candle_adjustment"],
    privileges=("SELECT", "INSERT"),
)
