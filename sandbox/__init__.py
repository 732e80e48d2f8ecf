"""Stand-ins for what a newcomer lacks: a PostgreSQL server, Kite's API, and its instrument dump.

Nothing of the pipeline imports this package; it is reached through configuration alone.
"""
