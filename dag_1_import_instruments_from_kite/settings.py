"""What DAG 1 is called, and the parameters that it has beside those that every DAG has."""

from __future__ import annotations

from shared.config.fields import Field, folder, integer, number

DAG_ID = 1
DAG_NAME = "import_instruments_from_kite"
CHANGES_TABLE = "kite_instrument_change"

FIELDS = (
    # An exchange that lost more of its rows than this since the last good run fails the run.
    Field("parameters.max_drop_percent", number(0, 100), 50.0, is_extra=True),
    # So does a dump of which more rows than this are rejected.
    Field("parameters.max_reject_percent", number(0, 100), 5.0, is_extra=True),
    # How long good dumps are kept; 0 keeps none.
    Field("parameters.archive_days", integer(0, 36500), 30, is_extra=True),
    Field("parameters.archive_directory", folder, "archive", is_extra=True),
)
