-- Partitions are made as tables of their own, and attached: that locks no reader out, as CREATE
-- TABLE ... PARTITION OF would. Each gets the parent's keys, and its index becomes part of theirs.

-- name: read_partitions
-- What takes the candles of an interval: whether the table is divided by interval, whether the role
-- may make what lacks, its DEFAULT; the interval's own table, whether that is divided by time, its
-- DEFAULT, and which spans of {begin, end} its partitions take. Last, whether all of that is
-- committed: nothing is this transaction's own while it has no number.
SELECT coalesce(l.key::text = 'interval'::text, false),
       pg_catalog.pg_has_role(t.relowner, 'USAGE')
       AND coalesce(pg_catalog.pg_has_role(own.relowner, 'USAGE'), true)
       AND pg_catalog.has_schema_privilege(t.relnamespace, 'CREATE'),
       l.rest, own.nspname::text, own.relname::text, coalesce(r.key::text = 'ts'::text, false),
       r.rest, span.begins, span.ends, pg_catalog.pg_current_xact_id_if_assigned() IS NULL
FROM pg_class AS t
LEFT JOIN LATERAL (
    SELECT attname AS key, nullif(partdefid, 0::oid)::regclass::text AS rest
    FROM pg_partitioned_table JOIN pg_attribute ON attrelid = partrelid AND attnum = partattrs[0]
    WHERE partrelid = t.oid AND partstrat = 'l') AS l ON true
LEFT JOIN LATERAL (
    SELECT c.oid, c.relowner, c.relname, n.nspname
    FROM pg_inherits
    JOIN pg_class AS c ON c.oid = inhrelid
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE inhparent = t.oid AND pg_catalog.strpos(
        pg_catalog.pg_get_expr(c.relpartbound, c.oid),
        pg_catalog.quote_literal(%(interval)s::text)) > 0
    LIMIT 1) AS own ON true
LEFT JOIN LATERAL (
    SELECT attname AS key, nullif(partdefid, 0::oid)::regclass::text AS rest
    FROM pg_partitioned_table JOIN pg_attribute ON attrelid = partrelid AND attnum = partattrs[0]
    WHERE partrelid = own.oid AND partstrat = 'r' AND partnatts = 1) AS r ON true
CROSS JOIN LATERAL (
    SELECT pg_catalog.array_agg(greatest(begin, %(begin)s::timestamptz) ORDER BY begin) AS begins,
           pg_catalog.array_agg(least("end", %(end)s::timestamptz) ORDER BY begin) AS ends
    FROM (
        SELECT CASE bounds[1] WHEN 'MINVALUE'::text THEN '-infinity'::timestamptz
               ELSE pg_catalog.btrim(bounds[1], '''')::timestamptz END AS begin,
               CASE bounds[2] WHEN 'MAXVALUE'::text THEN 'infinity'::timestamptz
               ELSE pg_catalog.btrim(bounds[2], '''')::timestamptz END AS "end"
        FROM pg_inherits
        JOIN pg_class AS c ON c.oid = inhrelid
        CROSS JOIN LATERAL pg_catalog.regexp_match(
            pg_catalog.pg_get_expr(c.relpartbound, c.oid),
            '^FOR VALUES FROM \((.*)\) TO \((.*)\)$'::text) AS bounds
        WHERE inhparent = CASE WHEN r.key::text = 'ts'::text THEN own.oid END) AS spans
    WHERE begin < %(end)s::timestamptz AND "end" > %(begin)s::timestamptz) AS span
WHERE t.oid = %(oid)s::oid;

-- name: create_branch
CREATE TABLE {branch} (LIKE {table} INCLUDING ALL) PARTITION BY RANGE (ts);

-- name: attach_branch
ALTER TABLE {table} ATTACH PARTITION {branch} FOR VALUES IN ({interval});

-- name: create_leaf
CREATE TABLE {leaf} (LIKE {table} INCLUDING ALL);

-- name: attach_leaf
ALTER TABLE {branch} ATTACH PARTITION {leaf} FOR VALUES FROM ({begin}) TO ({end});

-- name: read_span
SELECT pg_catalog.min(ts), pg_catalog.max(ts) FROM {rest} WHERE interval = %s;

-- name: move
WITH moved AS (DELETE FROM {rest} WHERE interval = {interval} AND ts >= {begin} AND ts < {end} RETURNING {columns}) INSERT INTO {target} ({columns}) SELECT {columns} FROM moved;
