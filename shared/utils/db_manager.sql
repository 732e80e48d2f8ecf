-- name: set_up
-- Bound every wait of the transaction, and pass over temporary tables of others: they come last in
-- its search_path. (PostgreSQL's own names come first by themselves.) What is set for the
-- transaction alone also works behind a connection pooler.
SELECT pg_catalog.set_config('lock_timeout', %s, true),
       pg_catalog.set_config('statement_timeout', %s, true),
       pg_catalog.set_config('search_path', pg_catalog.array_to_string(pg_catalog.array_append(
           ARRAY(
               SELECT pg_catalog.quote_ident(name::pg_catalog.text)
               FROM pg_catalog.unnest(pg_catalog.current_schemas(false))
                    WITH ORDINALITY AS path (name, place)
               WHERE name::pg_catalog.text OPERATOR(pg_catalog.!~) '^pg_(catalog$|temp)'
               ORDER BY place
           ), 'pg_temp'::pg_catalog.text), ', '), true);
