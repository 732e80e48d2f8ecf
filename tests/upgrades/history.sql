-- 120 runs, every tenth of them failed, and 200 changes. The last run has the last list.
INSERT INTO ingestion_run (
    dag_id, dag_name, source, status, started_at, ended_at, rows_fetched, rows_left_out,
    rows_rejected, rows_inserted, rows_updated, rows_superseded, list_moment, dump_sha256,
    dump_bytes, durations, error)
SELECT 1, 'import_instruments_from_kite', CASE WHEN n % 50 = 0 THEN 'lists/ä.csv' ELSE 'api' END,
       CASE WHEN n % 10 = 5 THEN 'failed' ELSE 'succeeded' END, moment, moment + INTERVAL '1.5 s',
       30, 0, n % 2, 0, 30, 0,
       CASE WHEN n % 10 <> 5 THEN (moment AT TIME ZONE 'UTC')::timestamp END, md5(n::text),
       4000 + n, jsonb_build_object('store', n / 100.0),
       CASE WHEN n % 10 = 5 THEN 'Kite answered 503: ''later''' END
FROM generate_series(1, 120) AS n,
     LATERAL (SELECT TIMESTAMPTZ '2026-08-03 08:31:02.000003+00' - (120 - n) * INTERVAL '1 day') AS m (moment);

INSERT INTO kite_instrument_change (run_id, exchange, instrument_token, tradingsymbol, kind, field, old, new)
SELECT 2 + n % 100, 'NFO', 256 * n, 'OLD' || n || 'CE', 'terms changed', 'lot_size', '75', n::text
FROM generate_series(1, 200) AS n;
