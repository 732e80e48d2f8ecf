"""The ways to load the list, each a program of its own: only what it imports counts for it.

Each takes KITE_API_ROOT, KITE_API_KEY, KITE_ACCESS_TOKEN and DB_* from the environment, and writes
the seconds that its steps took, by name, as JSON to the file BENCH_STEPS_FILE.
"""
