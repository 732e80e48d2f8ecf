"""DAG 1: the complete instrument list of Kite Connect into `kite_instrument_master`."""

from dag_1_import_instruments_from_kite.import_instruments import FEED, import_instruments_from_kite

__all__ = ["FEED", "import_instruments_from_kite"]
