"""DAG 1: the complete instrument list of Kite Connect into `kite_instrument_master`."""

from dag_1_import_instruments_from_kite.import_instruments import import_instruments_from_kite
from dag_1_import_instruments_from_kite.report import describe_changes, describe_lacking

__all__ = ["describe_changes", "describe_lacking", "import_instruments_from_kite"]
