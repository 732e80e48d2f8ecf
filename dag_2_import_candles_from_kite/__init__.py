"""DAG 2: candles of Kite's historical API into `kite_candle`, complete and adjusted."""

from dag_2_import_candles_from_kite.candles import CANDLES
from dag_2_import_candles_from_kite.gaps import GAPS
from dag_2_import_candles_from_kite.load import load
from dag_2_import_candles_from_kite.refetch import add_refetch, refetch
from dag_2_import_candles_from_kite.settings import FIELDS
from dag_2_import_candles_from_kite.state import FOLDER, describe_state, find_lacking
from dag_2_import_candles_from_kite.tables import ADJUSTMENTS, COVERAGE
from shared.feed import Command, Feed

__all__ = ["FEED"]

FEED = Feed(
    folder=FOLDER,
    title="candles",
    source="Kite",
    table=CANDLES,
    load=load,
    needs_kite=True,
    needs_fresh=True,
    can_slice=True,
    fields=FIELDS,
    needs=(COVERAGE, ADJUSTMENTS),
    views=(FOLDER / "views.sql").read_text(encoding="utf-8"),
    describe_state=describe_state,
    find_lacking=find_lacking,
    commands=(
        GAPS,
        Command("refetch", "ask for the candles of an instrument anew", refetch, add_refetch),
    ),
)
