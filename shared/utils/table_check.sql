-- name: read_table
-- What the relation is, which rights the role lacks on it, and the columns of each unique index
-- that holds for all rows.
SELECT CASE c.relkind WHEN 'v' THEN 'a view' WHEN 'm' THEN 'a materialized view'
                      WHEN 'f' THEN 'a foreign table' WHEN 'S' THEN 'a sequence'
                      WHEN 'c' THEN 'a type' ELSE c.relkind::text END,
       pg_catalog.pg_has_role(c.relowner, 'USAGE'),
       ARRAY(SELECT privilege
             FROM pg_catalog.unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
             WHERE NOT pg_catalog.has_table_privilege(c.oid, privilege)),
       EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid),
       EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal
               AND tgenabled IN ('O', 'A')
               AND tgtype::integer & 7 = 7),  -- FOR EACH ROW, BEFORE, INSERT
       EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary),
       (SELECT coalesce(pg_catalog.json_agg(ARRAY(
                   SELECT attname::text FROM pg_attribute
                   WHERE attrelid = c.oid AND attnum = ANY ((indkey::int2[])[0:indnkeyatts - 1]))),
               '[]')
        FROM pg_index WHERE indrelid = c.oid AND indisunique AND indisvalid
          AND indpred IS NULL AND indexprs IS NULL),
       ARRAY(SELECT i.relname::text FROM pg_index JOIN pg_class AS i ON i.oid = indexrelid
             WHERE indrelid = c.oid AND indisvalid),
       coalesce(pg_catalog.obj_description(c.oid, 'pg_class'::name), '')
FROM pg_class AS c WHERE c.oid = %(oid)s::oid;

-- name: read_columns
-- Each column with its type; that of a domain is the one that it is over.
WITH RECURSIVE resolved AS (
    SELECT attnum, atttypid AS type_id, atttypmod AS modifier, attnotnull AS is_required,
           atthasdef OR attidentity <> '' AS has_default
    FROM pg_attribute
    WHERE attrelid = %(oid)s::oid AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT r.attnum, t.typbasetype, greatest(r.modifier, t.typtypmod),
           r.is_required OR t.typnotnull, r.has_default OR t.typdefault IS NOT NULL
    FROM resolved AS r JOIN pg_type AS t ON t.oid = r.type_id AND t.typtype = 'd'
)
SELECT a.attname::text,
       CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace::oid
            THEN CASE t.typname WHEN 'int2' THEN 'smallint' WHEN 'int4' THEN 'integer'
                                WHEN 'int8' THEN 'bigint' WHEN 'bool' THEN 'boolean'
                                WHEN 'float8' THEN 'double precision' ELSE t.typname::text END
       END,
       r.modifier,
       pg_catalog.concat(
           pg_catalog.format_type(a.atttypid, a.atttypmod),
           CASE WHEN a.atttypid <> r.type_id THEN pg_catalog.concat(
               ', a domain over ', pg_catalog.format_type(r.type_id, r.modifier)) END,
           CASE WHEN NOT c.collisdeterministic THEN ' with a nondeterministic collation' END),
       a.atttypid <> r.type_id, coalesce(c.collisdeterministic, true), a.attnotnull, r.is_required, r.has_default,
       CASE WHEN a.attidentity = 'a' THEN 'identity' ELSE a.attgenerated::text END
FROM resolved AS r
JOIN pg_type AS t ON t.oid = r.type_id AND t.typtype <> 'd'
JOIN pg_attribute AS a ON a.attrelid = %(oid)s::oid AND a.attnum = r.attnum
LEFT JOIN pg_collation AS c ON c.oid = a.attcollation;

-- name: read_views
-- The views on these columns, and the views on those: none of the columns may change its type.
WITH RECURSIVE dependent AS (
    SELECT %(oid)s::oid AS id, ARRAY(
        SELECT attnum::integer FROM pg_attribute
        WHERE attrelid = %(oid)s::oid AND attname = ANY (%(columns)s)) AS numbers
    UNION
    SELECT w.ev_class, NULL FROM dependent
    JOIN pg_depend AS d ON d.refclassid = 'pg_class'::regclass::oid AND d.refobjid = dependent.id
     AND (numbers IS NULL OR d.refobjsubid = ANY (numbers))
    JOIN pg_rewrite AS w ON d.classid = 'pg_rewrite'::regclass::oid AND w.oid = d.objid
    WHERE w.ev_class <> d.refobjid
)
SELECT id::regclass::text FROM dependent WHERE numbers IS NULL ORDER BY id DESC;
