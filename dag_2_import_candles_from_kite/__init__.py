"""DAG 2: candles of Kite's historical API into `kite_candle`, complete and adjusted."""

from pathlib import Path

from dag_2_import_candles_from_kite.candles import CANDLES
from dag_2_import_candles_from_kite.load import load
from dag_2_import_candles_from_kite.refetch import add_refetch, refetch
from dag_2_import_candles_from_kite.settings import FIELDS
from shared.feed import Command, Feed

__all__ = ["FEED"]

FEED = Feed(
    folder=Path(__file__).resolve().parent,
    title="candles",
    source="Kite",
    table=CANDLES,
    load=load,
    needs_kite=True,
    needs_fresh=True,
    fields=FIELDS,
    commands=(
        Command("refetch", "ask for the candles of an instrument anew", refetch, add_refetch),
    ),
)
