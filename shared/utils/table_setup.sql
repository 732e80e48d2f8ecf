-- name: read_access
-- What the role may do, and what the server is.
SELECT current_setting('server_version_num')::integer, current_setting('server_version'),
       current_user::text,
       pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean,
       pg_catalog.has_database_privilege(current_database()::text, 'TEMPORARY'),
       coalesce(pg_catalog.has_schema_privilege(current_schema()::text, 'CREATE'), false);
