-- name: lock_table
-- No other session writes the table from here to the end of the transaction; who reads it does not
-- wait (ruling 24). It takes no more than the right to update or delete. Not of what is no
-- snapshot: VACUUM could never end on a table of millions that is written every minute.
LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE;

-- name: newest
-- The moment of the newest rows: where it is not known from elsewhere, that of the last list.
SELECT max({last_updated}) FROM {table}
WHERE {last_updated} BETWEEN '0001-01-02' AND '9999-12-30';

-- name: drop
-- What another transaction of a pooled session left behind, or a merge earlier in this one.
DROP TABLE IF EXISTS {stage}, {delta};

-- name: create_stage
CREATE TEMPORARY TABLE {stage} ({definitions}) ON COMMIT DROP;

-- name: copy_to_stage
COPY {stage} ({columns}) FROM STDIN WITH (FORMAT text, NULL '');

-- name: create_delta
-- Where the staged rows differ from the table: a row each, new_* as staged, old_* as stored. A key
-- that only the table has is among them if it was current: one of the last list's moment; or if
-- somebody else has given it another moment since.
CREATE TEMPORARY TABLE {delta} ON COMMIT DROP AS
SELECT {new_and_old},
       (t.{last_updated} OPERATOR(pg_catalog.=) %(previous)s) IS TRUE AS was_current,
       (t.{last_updated} > %(previous)s AND t.{created_at} <= %(previous)s) IS TRUE AS was_touched
FROM {stage} AS s FULL JOIN {table} AS t ON {same_key}
WHERE {t_first} IS NULL
   OR ({s_first} IS NULL
       AND (t.{last_updated} OPERATOR(pg_catalog.=) %(previous)s
            OR (t.{last_updated} > %(previous)s AND t.{created_at} <= %(previous)s) IS TRUE))
   OR ({s_first} IS NOT NULL
       AND ((t.{last_updated} OPERATOR(pg_catalog.=) %(previous)s) IS NOT TRUE
            OR ({s_others}) IS DISTINCT FROM ({t_others})));

-- name: create_delta_of_staged
-- The same of some rows: what is new, and what is stored with other values.
CREATE TEMPORARY TABLE {delta} ON COMMIT DROP AS
SELECT {new_and_old}, {t_first} IS NOT NULL AS was_current, false AS was_touched
FROM {stage} AS s LEFT JOIN {table} AS t ON {same_key}
WHERE {t_first} IS NULL OR ({s_others}) IS DISTINCT FROM ({t_others});

-- name: analyze_delta
ANALYZE {delta};

-- name: count_differences
-- How many keys the table has not, and how many of its rows get other values.
SELECT count(*) FILTER (WHERE {old_first} IS NULL),
       count(*) FILTER (WHERE {old_first} IS NOT NULL AND {new_first} IS NOT NULL
                        AND ({new_others}) IS DISTINCT FROM ({old_others}))
FROM {delta} AS d;

-- name: superseded
-- A row may be superseded for several of its unique keys: UNION counts it once.
SELECT {t_key} FROM {table} AS t JOIN {delta} AS d ON {new_has_unique}
WHERE NOT EXISTS (SELECT FROM {delta} AS d WHERE {new_has_key});

-- name: make_way
-- The stored rows that hold a unique key which the stage gives to another row let go of it. Those
-- that are not staged are removed (superseded); the others take a name that no row has, until the
-- UPDATE. One that is staged is in the delta, since its own unique key must be another one now.
WITH holder AS (
    SELECT {t_key}, EXISTS (SELECT FROM {delta} AS d WHERE {new_has_key}) AS is_staged
    FROM {table} AS t JOIN {delta} AS d ON {new_has_unique}
    WHERE NOT ({new_has_key})
), removed AS (
    DELETE FROM {table} AS t USING holder AS s
    WHERE {same_key} AND NOT s.is_staged
    RETURNING 1
), renamed AS (
    UPDATE {table} AS t SET {name} = pg_catalog.concat(
        pg_catalog.chr(1), pg_catalog.left(pg_catalog.md5(pg_catalog.random()::text), 16), t.ctid)
    FROM holder AS s
    WHERE {same_key} AND s.is_staged
    RETURNING 1
)
SELECT (SELECT count(*) FROM removed), (SELECT count(*) FROM renamed);

-- name: touch
-- The current rows that the delta has not are staged as they are: only their moment is new. (One
-- UPDATE from the stage would join all rows once more: 0.32 s for 118,000, against 0.19 s.)
-- NOT ... ANY, since its subquery is hashed whatever the planner expects. It expects hardly any row
-- of the previous moment where the table was not analysed since, and would go through the delta
-- once for each of them (30 s, with NOT EXISTS).
UPDATE {table} AS t SET {last_updated} = %(moment)s
WHERE t.{last_updated} OPERATOR(pg_catalog.=) %(previous)s
  AND NOT ({t_key}) OPERATOR(pg_catalog.=) ANY (
      SELECT {old_key} FROM {delta} AS d WHERE {old_first} IS NOT NULL);

-- name: update
UPDATE {table} AS t SET {assignments}
FROM {delta} AS d WHERE {old_first} IS NOT NULL AND {new_has_key};

-- name: insert
INSERT INTO {table} ({stored_columns})
SELECT {stored_values} FROM {delta} AS d
WHERE {old_first} IS NULL;

-- name: count_stored
-- The proof (ruling 29): how many rows have the run's moment, how many a later one, and how many
-- that the run has changed or inserted are not as they are staged.
SELECT at_moment, later,
       (SELECT count(*) FROM {delta} AS d
        WHERE {new_first} IS NOT NULL AND NOT EXISTS (
            SELECT FROM {table} AS t WHERE {new_has_key} AND t.{last_updated} = %(moment)s
            AND ({t_others}) IS NOT DISTINCT FROM ({new_others})))
FROM (SELECT count(*) FILTER (WHERE t.{last_updated} = %(moment)s) AS at_moment,
             count(*) FILTER (WHERE t.{last_updated} > %(moment)s) AS later
      FROM {table} AS t WHERE t.{last_updated} >= %(moment)s) AS counted;

-- name: read_back
-- And all rows that have it, as PostgreSQL writes them: they are compared with what was sent. (The
-- stage may be spoilt, too.)
SELECT {t_texts} FROM {table} AS t WHERE t.{last_updated} = %(moment)s;

-- name: count_stored_of_staged
-- The same where the staged keys are all that is looked at.
SELECT count({t_first}), 0,
       count(*) FILTER (WHERE {t_first} IS NULL OR ({s_others}) IS DISTINCT FROM ({t_others}))
FROM {stage} AS s LEFT JOIN {table} AS t ON {same_key};

-- name: read_back_of_staged
SELECT {t_texts} FROM {stage} AS s JOIN {table} AS t ON {same_key};

-- name: is_stored
-- After an answer to COMMIT that was lost.
SELECT EXISTS (SELECT FROM {table} AS t WHERE t.{last_updated} OPERATOR(pg_catalog.=) %(moment)s);
