-- What lookup.py asks. {source} is the list: a view, or the function of a moment. Functions are
-- named with their schema, and texts cast to text, as in views.sql.

-- name: find_function
-- Where the list of another day comes from; no row if there is no such function.
SELECT n.nspname
FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
WHERE p.oid = pg_catalog.to_regprocedure('kite_instrument_as_of(timestamp with time zone)')
  AND 'tradingsymbol' = ANY (p.proargnames);  -- else it is somebody else's

-- name: has_id
SELECT 1 FROM pg_catalog.pg_attribute
WHERE attrelid = %s AND attname = 'instrument_id' AND NOT attisdropped;

-- name: searched
-- The list, with symbol and name as words are looked for in them: in capitals, without blanks.
SELECT *, pg_catalog.replace(pg_catalog.upper(tradingsymbol::text COLLATE "C"), ' ', '') AS s,
       coalesce(pg_catalog.replace(pg_catalog.upper(name::text COLLATE "C"), ' ', ''), '') AS n
FROM {source} AS list;

-- name: find
SELECT {instrument_id} AS instrument_id, instrument_token, exchange, tradingsymbol, exchange_token,
       instrument_type, name, segment, expiry, pg_catalog.trim_scale(strike),
       pg_catalog.trim_scale(tick_size), lot_size, pg_catalog.count(*) OVER ()
FROM (SELECT *
      FROM ({searched}) AS list
      WHERE {condition}
      OFFSET 0) AS found  -- s and n are worked out once
ORDER BY {phrase}, {rank},
         -- Shares and indices, futures, options.
         CASE WHEN expiry IS NULL THEN 0 WHEN instrument_type::text = 'FUT' THEN 1 ELSE 2 END,
         -- A share before its other series and its issuer's bonds.
         expiry IS NULL AND pg_catalog.strpos(tradingsymbol::text, '-') > 0,
         expiry < %(day)s NULLS FIRST,
         pg_catalog.array_position(%(exchanges)s::text[], exchange::text) NULLS LAST, exchange,
         expiry,
         CASE WHEN expiry IS NULL THEN pg_catalog.length(tradingsymbol::text) END,
         name, strike, instrument_type, tradingsymbol, instrument_token
LIMIT %(limit)s;

-- name: is_met
-- Whether any row of the list meets a condition.
EXISTS (
    SELECT 1
    FROM ({searched}) AS list
    WHERE {condition});

-- name: token
SELECT exchange, instrument_token FROM {source} AS list
WHERE tradingsymbol::text = ANY (%(symbols)s::text[])
  AND (%(exchange)s::text IS NULL OR exchange::text = %(exchange)s::text)
ORDER BY tradingsymbol::text = %(symbol)s::text DESC, exchange;

-- name: expiries
SELECT name, exchange, expiry,
       pg_catalog.count(*) FILTER (WHERE instrument_type::text = 'FUT') AS futures,
       pg_catalog.count(*) FILTER (WHERE instrument_type::text = 'CE') AS calls,
       pg_catalog.count(*) FILTER (WHERE instrument_type::text = 'PE') AS puts
FROM {source} AS list
WHERE expiry IS NOT NULL AND name::text = ANY (%(names)s::text[])
  AND (%(exchange)s::text IS NULL OR exchange::text = %(exchange)s::text)
GROUP BY name, exchange, expiry
ORDER BY pg_catalog.array_position(%(names)s::text[], name::text), exchange, expiry;

-- name: options
SELECT pg_catalog.trim_scale(strike), instrument_type, tradingsymbol, instrument_token, lot_size
FROM {source} AS list
WHERE name::text = %(name)s::text AND exchange::text = %(exchange)s::text AND expiry = %(expiry)s
  AND instrument_type::text IN ('CE', 'PE')
ORDER BY strike, instrument_token;

-- name: underlyings
SELECT DISTINCT name::text FROM {source} AS list
WHERE instrument_type::text IN ('CE', 'PE') AND name IS NOT NULL ORDER BY 1;

-- name: is_empty
SELECT NOT EXISTS (SELECT 1 FROM {source} AS list);

-- name: first_day
SELECT pg_catalog.min(valid_from) FROM {history};
