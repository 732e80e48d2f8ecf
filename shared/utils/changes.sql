-- The temporary tables stock_ingestion_stage and stock_ingestion_delta are those of the merge.

-- name: create_ingestion_change
CREATE TABLE IF NOT EXISTS ingestion_change (
    change_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id BIGINT NOT NULL REFERENCES ingestion_run ON DELETE CASCADE,
    key TEXT NOT NULL,      -- the values of the row's key, with a blank between
    kind TEXT NOT NULL,     -- 'added', 'removed', 'changed'
    field TEXT,
    old TEXT,
    new TEXT
);
CREATE INDEX IF NOT EXISTS idx_ingestion_change_run_id ON ingestion_change(run_id);

-- name: create
DROP TABLE IF EXISTS pg_temp.stock_ingestion_change;
CREATE TEMPORARY TABLE pg_temp.stock_ingestion_change ({definitions});

-- name: count
SELECT kind, count(*) FROM pg_temp.stock_ingestion_change GROUP BY kind;

-- name: keep
INSERT INTO {changes} (run_id, {columns}) SELECT %s, {columns} FROM pg_temp.stock_ingestion_change;

-- name: count_lost
SELECT count(*) FROM (
    SELECT {columns} FROM pg_temp.stock_ingestion_change
    EXCEPT ALL SELECT {columns} FROM {changes} WHERE run_id = %s) AS lost;

-- name: count_losses
-- By value: the rows of the last list, less those of the payload, where they differ: a row may have
-- gone from one value to another. Counting the last list itself would read the whole table.
SELECT value, sum(number) FROM (
    SELECT {old} AS value, 1 AS number FROM pg_temp.stock_ingestion_delta WHERE was_current
    UNION ALL
    SELECT {new}, -1 FROM pg_temp.stock_ingestion_delta WHERE {key} IS NOT NULL) AS differing
GROUP BY 1;

-- name: carry_on
-- What the last list had, and somebody else has given a later moment since; unless it had left
-- before.
UPDATE pg_temp.stock_ingestion_delta AS d SET was_current = true
WHERE was_touched AND NOT was_current
  AND pg_catalog.concat_ws(' ', {old_key}) NOT IN (
      SELECT key FROM (
          SELECT DISTINCT ON (key) key, kind FROM {changes} JOIN {runs} USING (run_id)
          WHERE dag_id = %s AND kind IN ('added', 'removed') ORDER BY key, run_id DESC) AS latest
      WHERE kind = 'removed');

-- name: find_by_key
-- By key. Rows that come and go are told of a snapshot alone: of another feed they are its data.
INSERT INTO pg_temp.stock_ingestion_change (key, kind, field, old, new)
SELECT pg_catalog.concat_ws(' ', {new_key}), 'added', NULL, NULL, NULL
FROM pg_temp.stock_ingestion_delta AS d
WHERE {is_snapshot} AND {new_first} IS NOT NULL AND NOT was_current
UNION ALL
SELECT pg_catalog.concat_ws(' ', {old_key}), 'removed', NULL, NULL, NULL
FROM pg_temp.stock_ingestion_delta AS d
WHERE {is_snapshot} AND {new_first} IS NULL AND was_current
  AND (%(scope)s::text[] = '{{}}' OR {group} = ANY (%(scope)s::text[]))
UNION ALL
SELECT pg_catalog.concat_ws(' ', {new_key}), 'changed', term.field, term.old, term.new
FROM pg_temp.stock_ingestion_delta AS d
CROSS JOIN LATERAL (VALUES {terms}) AS term (field, old, new)
WHERE {new_first} IS NOT NULL AND {old_first} IS NOT NULL AND (was_current OR NOT {is_snapshot})
  AND term.old IS DISTINCT FROM term.new;

-- name: read_runs
-- The good runs whose payload is another one than that of the good run before.
SELECT run_id, started_at, is_first, error FROM (
    SELECT run_id, started_at, error, lag(run_id) OVER good IS NULL AS is_first,
           rows_fetched IS DISTINCT FROM 0 AND (dump_sha256 IS NULL
               OR dump_sha256 IS DISTINCT FROM lag(dump_sha256) OVER good) AS is_new
    FROM ingestion_run WHERE dag_id = %(dag_id)s AND status = 'succeeded'
    WINDOW good AS (ORDER BY run_id)) AS run
WHERE CASE WHEN %(run_id)s::bigint IS NOT NULL THEN run_id = %(run_id)s
           WHEN %(since)s::timestamptz IS NOT NULL THEN started_at >= %(since)s
           ELSE is_new END
ORDER BY run_id DESC;

-- name: read_changes
SELECT {columns} FROM {changes}
WHERE run_id = %(run_id)s AND (%(kind)s::text IS NULL OR lower(kind) = lower(%(kind)s))
  AND (%(group)s::text IS NULL OR lower({group}::text) = lower(%(group)s))
ORDER BY {order};
