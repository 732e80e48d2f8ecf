-- name: lock
-- One run at a time writes a table: held until the transaction ends (ruling 21).
SELECT pg_catalog.pg_advisory_xact_lock(%s);

-- name: moment
-- The run's own moment: now, and later than the last list's even if a clock was set back
-- (ruling 18).
SELECT greatest(clock_timestamp()::{type},
                %(previous)s::{type} + interval '1 microsecond');

-- name: read_zoned
-- Whether the table's moments have a time zone: then they are the same whatever zone a session has.
WITH RECURSIVE base (oid) AS (
    SELECT atttypid FROM pg_attribute
    WHERE attrelid = %(oid)s::oid AND attname = %(column)s
    UNION ALL
    SELECT typbasetype FROM base JOIN pg_type USING (oid) WHERE typtype = 'd'
)
SELECT coalesce(bool_or(oid = 'timestamptz'::regtype), false) FROM base;

-- name: planning
-- Room for the join of all rows: with the default of 4 MB it goes over the disk. Compiling a plan
-- takes longer than any of these statements; so does a look at more than 3,000 rows of the delta.
SELECT set_config('work_mem', '64MB', true), set_config('jit', 'off', true),
       set_config('default_statistics_target', '10', true);

-- name: fire_deferred
-- What is deferred to the end of the transaction happens now, where it can still be looked at.
SET CONSTRAINTS ALL IMMEDIATE;

-- name: end_writing
-- And what would still write, during the proof or at COMMIT, is an error.
SET TRANSACTION READ ONLY;
