-- name: create_ingestion_run
-- The history of runs: a row for each run of a DAG that writes to this database, failed ones too.
CREATE TABLE IF NOT EXISTS ingestion_run (
    run_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dag_id INTEGER NOT NULL,
    dag_name TEXT NOT NULL,
    source TEXT NOT NULL,              -- 'api', 'api 3/8' (a part), or the file that was read
    status TEXT NOT NULL,              -- 'running', 'succeeded', 'skipped' (a day off) or 'failed'
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
    host TEXT,                         -- where it runs, and the file that it holds a lock on
    valid_from TIMESTAMPTZ             -- since when its list counts, where versions are kept
);

-- name: add_host
ALTER TABLE ingestion_run ADD COLUMN host TEXT;

-- name: add_valid_from
ALTER TABLE ingestion_run ADD COLUMN valid_from TIMESTAMPTZ;

-- name: has_versions
SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('ingestion_run')::oid
               AND attname = 'valid_from' AND NOT attisdropped);

-- name: newest_version
SELECT max(valid_from) FROM ingestion_run WHERE dag_id = %s AND status = 'succeeded';

-- name: set_valid_from
UPDATE ingestion_run SET valid_from = %s WHERE run_id = %s RETURNING valid_from;

-- name: newest_run
SELECT coalesce(max(run_id), 0) FROM ingestion_run;

-- name: insert_run
INSERT INTO ingestion_run (dag_id, dag_name, source, status, started_at, ended_at)
VALUES (%(dag_id)s, %(dag_name)s, %(source)s, 'running', %(started_at)s, %(started_at)s)
RETURNING run_id;

-- name: insert_run_last
-- After all others, whatever the sequence says.
INSERT INTO ingestion_run (run_id, dag_id, dag_name, source, status, started_at, ended_at)
OVERRIDING SYSTEM VALUE
SELECT coalesce(max(run_id), 0) + 1, %(dag_id)s, %(dag_name)s, %(source)s, 'running',
       %(started_at)s, %(started_at)s
FROM ingestion_run
RETURNING run_id;

-- name: update_run
UPDATE ingestion_run
SET status = %(status)s, ended_at = clock_timestamp(), rows_fetched = %(fetched)s,
    rows_left_out = %(left_out)s, rows_rejected = %(rejected)s, rows_inserted = %(inserted)s,
    rows_updated = %(updated)s, rows_superseded = %(superseded)s, list_moment = %(moment)s,
    dump_sha256 = %(sha256)s, dump_bytes = %(bytes)s, durations = %(durations)s, error = %(error)s
WHERE run_id = %(run_id)s;

-- name: is_overtaken
-- Good runs are numbered in the order of their lists: one that was overtaken gets a new number.
SELECT EXISTS (SELECT FROM ingestion_run
               WHERE dag_id = %s AND status = 'succeeded' AND run_id > %s);

-- name: set_host
UPDATE ingestion_run SET host = %s WHERE run_id = %s;

-- name: give_up
-- What it says is stored stays.
UPDATE ingestion_run SET status = 'failed', error = %s, ended_at = clock_timestamp()
WHERE run_id = %s;

-- name: renumber
UPDATE ingestion_run SET run_id = DEFAULT WHERE run_id = %s RETURNING run_id;

-- name: end_killed
-- Runs of this DAG on this host that are still called running, while nobody else holds its lock.
UPDATE ingestion_run SET status = 'failed', error = %(error)s
WHERE dag_id = %(dag_id)s AND host = %(host)s AND status = 'running' AND run_id <> %(run_id)s;

-- name: is_at_payload
SELECT EXISTS (SELECT FROM ingestion_run
               WHERE run_id = %s AND status = 'running' AND dump_sha256 = %s);

-- name: is_recorded
-- By this the views and the next run find the list.
SELECT EXISTS (SELECT FROM ingestion_run
               WHERE run_id = %(run_id)s AND status = %(status)s
                 AND list_moment IS NOT DISTINCT FROM %(moment)s::timestamp);

-- name: read_runs
-- The last runs; with only_last, of each DAG, and of each part of it, the last one of each status.
SELECT run_id, dag_id, source, status, started_at, ended_at,
       rows_fetched, rows_rejected, rows_inserted, rows_updated, dump_sha256, error, dag_name,
       pg_catalog.to_jsonb(ingestion_run) ->> 'host',  -- which an older table lacks
       durations
FROM ingestion_run
WHERE (%(dag_ids)s::integer[] IS NULL OR dag_id = ANY(%(dag_ids)s))
  AND (NOT %(only_last)s
       OR run_id IN (SELECT max(run_id) FROM ingestion_run
                     GROUP BY dag_id, status, CASE WHEN source ~ %(part)s THEN source END))
ORDER BY run_id DESC LIMIT %(limit)s;

-- name: read_moment_and_clock
SELECT %s::timestamptz, clock_timestamp();

-- name: has_succeeded
SELECT EXISTS (SELECT FROM ingestion_run
               WHERE dag_id = %(dag_id)s AND source = %(source)s AND started_at = %(started_at)s
                 AND status = 'succeeded');

-- name: read_last_good_run
-- That of a part is none of the whole. Python knows no other years.
SELECT run_id, source,
       CASE WHEN started_at BETWEEN '0001-01-02' AND '9999-12-30' THEN started_at
            ELSE to_timestamp(0) END,
       dump_sha256,
       CASE WHEN list_moment BETWEEN '0001-01-02' AND '9999-12-30' THEN list_moment END,
       coalesce(rows_inserted::bigint + rows_updated, 0),
       (pg_catalog.to_jsonb(ingestion_run) ->> 'valid_from')::timestamptz  -- which an older table lacks
FROM ingestion_run
WHERE dag_id = %s AND status = 'succeeded' AND source !~ %s ORDER BY run_id DESC LIMIT 1;

-- name: read_list_days
-- The lists of a DAG's good runs: since when each counts (an older table does not say), its hash.
SELECT CASE WHEN moment BETWEEN '0001-01-02' AND '9999-12-30' THEN moment
            ELSE to_timestamp(0) END,
       dump_sha256
FROM ingestion_run AS run,
     coalesce((pg_catalog.to_jsonb(run) ->> 'valid_from')::timestamptz, started_at) AS moment
WHERE dag_id = %s AND status = 'succeeded' ORDER BY run_id;

-- name: read_last_load
-- What a DAG has stored last ({zone} is that of the list's moment), how much of it is in the table
-- now ({stored_rows}), and since when there are its bytes. The list of a replayed file is old,
-- unless the API gave the very same one; so is a list that an earlier run had, even one that
-- failed; that of a dated file had come by the end of its day in India.
-- Good runs of all parts of a DAG are as a run of the whole: as old as the oldest of the newest ones
-- of each; the latest of these is shown. Parts of one number of parts complete no others.
-- First come, of as many parts as the last good run of a part was one of, how many these are, and
-- the numbers and starts of their newest good runs: also where there is no last load.
-- One statement: no run comes in between.
WITH part AS (
    SELECT DISTINCT ON (source) run_id, started_at, match[1]::int AS number, match[2]::int AS total
    FROM ingestion_run, regexp_match(source, %(part)s) AS match
    WHERE dag_id = %(dag_id)s AND status = 'succeeded' AND match IS NOT NULL
      AND %(has_parts)s AND match[1]::int <= match[2]::int
    ORDER BY source, run_id DESC
), whole AS (
    (SELECT run_id AS since_run_id, run_id AS last_run_id, NULL::timestamptz AS oldest
     FROM ingestion_run
     WHERE dag_id = %(dag_id)s AND status = 'succeeded' AND source !~ %(part)s
       AND (%(also_files)s OR source = 'api')
     ORDER BY run_id DESC LIMIT 1)
    UNION ALL
    SELECT min(run_id), (array_agg(run_id ORDER BY started_at DESC, run_id DESC))[1],
           min(started_at)
    FROM part GROUP BY total HAVING count(*) = total
), last AS (
    SELECT run.*, CASE WHEN list_moment BETWEEN '0001-01-02' AND '9999-12-30'
                       THEN list_moment END{zone} AS moment, whole.oldest
    FROM whole JOIN ingestion_run AS run ON run.run_id = whole.last_run_id
    ORDER BY whole.since_run_id DESC LIMIT 1
)
SELECT newest.total, newest.numbers, newest.starts,
       last.run_id, last.source, last.started_at, last.ended_at, last.moment::timestamptz,
       coalesce(last.rows_inserted::bigint + last.rows_updated, 0), {stored_rows},
       coalesce(last.oldest, served.started_at), first.run_id, first.started_at
FROM (
    SELECT max(total) AS total, array_agg(number) AS numbers, array_agg(started_at) AS starts
    FROM part WHERE total = (SELECT total FROM part ORDER BY run_id DESC LIMIT 1)
) AS newest
LEFT JOIN last ON true
LEFT JOIN LATERAL (
    SELECT started_at FROM ingestion_run AS run
    WHERE run.dag_id = last.dag_id AND run.status = 'succeeded' AND run.source = 'api'
      AND (run.run_id = last.run_id OR run.dump_sha256 = last.dump_sha256)
    ORDER BY run.run_id DESC LIMIT 1
) AS served ON true
LEFT JOIN LATERAL (
    SELECT run_id, least(
               run.started_at,
               date_trunc('day', (pg_catalog.to_jsonb(run) ->> 'valid_from')::timestamptz
                                 AT TIME ZONE INTERVAL '5:30') AT TIME ZONE INTERVAL '5:30'
               + INTERVAL '1 day - 1 microsecond'
           ) AS started_at
    FROM ingestion_run AS run
    WHERE run.dag_id = last.dag_id
      AND (run.run_id = last.run_id OR run.dump_sha256 = last.dump_sha256)
    ORDER BY 2, run_id LIMIT 1
) AS first ON true;
