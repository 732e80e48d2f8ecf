-- name: read_view_or_index
-- What it is, its comment, its columns, and whether it reads these relations and no others.
SELECT c.relkind::text, coalesce(pg_catalog.obj_description(c.oid, 'pg_class'::name), ''),
       ARRAY(SELECT attname::text FROM pg_attribute
             WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum),
       ARRAY(SELECT DISTINCT d.refobjid
             FROM pg_rewrite AS w
             JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass::oid AND d.objid = w.oid
              AND d.refclassid = 'pg_class'::regclass::oid AND d.refobjid <> w.ev_class
             WHERE w.ev_class = c.oid ORDER BY 1)
       OPERATOR(pg_catalog.=)
       ARRAY(SELECT DISTINCT to_regclass(name)::oid
             FROM pg_catalog.unnest(%(sources)s::text[]) AS name ORDER BY 1)
FROM pg_class AS c WHERE c.oid = to_regclass(%(name)s)::oid;

-- name: read_function
-- The same of a function, named with its arguments. What it reads stands in it by its full name.
SELECT p.prokind::text, coalesce(pg_catalog.obj_description(p.oid, 'pg_proc'::name), ''), NULL, true
FROM pg_proc AS p WHERE p.oid = to_regprocedure(%(name)s)::oid;
