"""NSE's list of symbol changes as a table, for tests that need no DAG to bring it."""

from __future__ import annotations

from datetime import date

from shared.utils.db_manager import DatabaseManager

SYMBOL_CHANGES = """
    CREATE TABLE IF NOT EXISTS nse_symbol_change (
        company VARCHAR(255), old_symbol VARCHAR(50) NOT NULL, new_symbol VARCHAR(50) NOT NULL,
        changed_on DATE NOT NULL, last_updated TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
        created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
        PRIMARY KEY (old_symbol, new_symbol, changed_on))
"""


def write_symbol_change(manager: DatabaseManager, old: str, new: str, changed_on: date) -> None:
    """Add a row to the table."""
    manager.execute_query(
        "INSERT INTO nse_symbol_change (company, old_symbol, new_symbol, changed_on)"
        " VALUES ('A LTD', %s, %s, %s)",
        (old, new, changed_on),
    )
