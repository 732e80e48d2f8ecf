-- name: read_doubts
-- Where any of the first two holds, every row is read back. There is a function that is neither
-- PostgreSQL's own nor compiled: it may change rows on their way, by whatever detour it is called
-- (a default, a check, a domain, an operator, an index, a policy, of this table or of any that the
-- transaction writes). One in SQL that gives a table and writes nothing can be called in none of
-- these. Two characters may become one in this encoding. The third: rows are hidden.
SELECT EXISTS (SELECT FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
               WHERE p.oid >= 16384 AND l.lanname NOT IN ('internal', 'c')
                 AND NOT (l.lanname = 'sql' AND p.provolatile IN ('s', 'i') AND p.proretset
                          AND p.prorettype = 'record'::regtype)),
       current_setting('server_encoding') <> 'UTF8',
       row_security_active(%(oid)s::oid);

-- name: read_hooks
-- What may make other rows of those that are written. Triggers and rules count wherever they are: a
-- foreign key or the run's own record may set off those of another table, and they write this one.
-- So may event triggers, as the run makes its temporary tables, and functions that a row calls.
WITH part AS (
    SELECT relid AS oid FROM pg_partition_tree(%(oid)s::oid::regclass) UNION SELECT %(oid)s::oid
)
SELECT format('the trigger %%I on %%s', tgname, tgrelid::regclass) FROM pg_trigger
WHERE NOT tgisinternal AND tgenabled <> 'D'
UNION ALL
SELECT format('the rule %%I on %%s', rulename, ev_class::regclass) FROM pg_rewrite
WHERE ev_type <> '1' AND ev_enabled <> 'D' AND ev_class >= 16384
UNION ALL
SELECT format('the event trigger %%I', evtname) FROM pg_event_trigger WHERE evtenabled <> 'D'
UNION ALL
SELECT DISTINCT format('the function %%s of a default, a check or an index', refobjid::regprocedure)
FROM pg_depend WHERE refclassid = 'pg_proc'::regclass AND refobjid >= 16384
  AND classid IN ('pg_attrdef'::regclass, 'pg_constraint'::regclass, 'pg_class'::regclass)
UNION ALL
SELECT format('row security on %%s', oid::regclass) FROM pg_class
WHERE oid IN (SELECT oid FROM part) AND relrowsecurity
UNION ALL
SELECT format('the generated column %%I', attname) FROM pg_attribute
WHERE attrelid = %(oid)s::oid AND attgenerated <> '' AND NOT attisdropped
UNION ALL
SELECT format('the foreign key %%I', conname) FROM pg_constraint
WHERE contype = 'f' AND conrelid IN (SELECT oid FROM part)
  AND (confupdtype NOT IN ('a', 'r') OR confdeltype NOT IN ('a', 'r'))
UNION ALL
SELECT format('the inheriting table %%s', inhrelid::regclass) FROM pg_inherits
WHERE inhparent = %(oid)s::oid
  AND NOT (SELECT relispartition FROM pg_class WHERE oid = inhrelid);
