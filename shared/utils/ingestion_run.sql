-- The history of runs: a row for each run of a DAG that writes to this database, failed ones too.
CREATE TABLE IF NOT EXISTS ingestion_run (
    run_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dag_id INTEGER NOT NULL,
    dag_name TEXT NOT NULL,
    source TEXT NOT NULL,              -- 'api', or the file that was replayed
    status TEXT NOT NULL,              -- 'running', 'succeeded' or 'failed'
    started_at TIMESTAMPTZ NOT NULL,
    ended_at TIMESTAMPTZ NOT NULL,
    rows_fetched INTEGER,
    rows_left_out INTEGER,
    rows_rejected INTEGER,
    rows_inserted INTEGER,
    rows_updated INTEGER,
    rows_superseded INTEGER,
    list_moment TIMESTAMP,             -- last_updated of the rows that the run stored
    dump_sha256 TEXT,
    dump_bytes BIGINT,
    durations JSONB,                   -- seconds by step
    error TEXT,                        -- of a good run: why its changes are not known
    host TEXT                          -- where it runs, and the file that it holds a lock on
);
