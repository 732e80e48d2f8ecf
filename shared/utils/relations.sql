-- name: read_places
-- The schemas of the search_path, in its order, and what each has under a name.
SELECT n.nspname, c.oid::bigint
FROM pg_catalog.unnest(current_schemas(false)) WITH ORDINALITY AS path (name, place)
JOIN pg_namespace AS n ON n.nspname = path.name AND n.nspname !~ '^pg_(temp|catalog)'::text
LEFT JOIN pg_class AS c
  ON c.relnamespace = n.oid AND c.relname = %s AND c.relkind NOT IN ('i', 'I')
ORDER BY path.place;
