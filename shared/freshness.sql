-- name: count_rows
-- How many rows of the last list are in the table. Both moments were written in one transaction:
-- they are equal, whatever the time zones are. The history keeps those that have one in UTC.
SELECT count(*) FROM {table} AS t WHERE t.{column} = last.moment;

-- name: newest_rows
-- The newest moment that can be, and how many rows are later than that. The moments are read in
-- the session's time zone.
SELECT max(moment) FILTER (WHERE isfinite(moment) AND moment <= %(limit)s),
       count(*) FILTER (WHERE moment > %(limit)s)
FROM (SELECT {column}::timestamptz AS moment FROM {table}) AS t;
