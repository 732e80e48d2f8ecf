-- Which instruments are wanted. NULL: any. Texts are cast to text: an operator of another role for
-- VARCHAR would be preferred to PostgreSQL's own.

-- name: select_listed
-- Those of today's list, with the day of their first version.
WITH matching AS (
    SELECT instrument_id, instrument_token, exchange, tradingsymbol, expiry,
           dense_rank() OVER (PARTITION BY exchange, name ORDER BY expiry) AS expiry_number
    FROM (SELECT instrument_id, instrument_token, exchange::text, tradingsymbol::text,
                 segment::text, instrument_type::text, name::text, expiry
          FROM kite_instrument_today) AS listed
    WHERE (%(exchange)s::text IS NULL OR exchange = upper(%(exchange)s))
      AND (%(symbols)s::text[] IS NULL OR tradingsymbol = ANY(%(symbols)s))
      AND (%(segment)s::text IS NULL OR segment = %(segment)s)
      AND (%(instrument_type)s::text IS NULL OR instrument_type = upper(%(instrument_type)s))
      AND (%(underlying)s::text IS NULL OR (name = %(underlying)s AND expiry IS NOT NULL))
      AND (%(expiries)s::integer IS NULL OR expiry IS NOT NULL)
)
SELECT instrument_id, instrument_token, exchange, tradingsymbol, expiry IS NOT NULL, expiry,
       (SELECT min(valid_from) FROM kite_instrument_history AS h
        WHERE h.instrument_id = m.instrument_id)
FROM matching AS m
WHERE %(expiries)s::integer IS NULL OR expiry_number <= %(expiries)s
ORDER BY exchange, tradingsymbol;

-- name: read_first_lists
-- The first list of each exchange.
SELECT exchange::text, pg_catalog.min(valid_from) FROM kite_instrument_history GROUP BY 1;

-- name: find_ended
-- Those that were asked for once and are in the list no longer, unless that was up to the last day:
-- a contract's expiry, else the day before it was missing. Its token may be another one's now.
SELECT h.instrument_id, h.instrument_token, h.exchange, h.tradingsymbol, h.expiry IS NOT NULL,
       last.day,
       NOT EXISTS (SELECT FROM kite_instrument_history AS other
                   WHERE other.exchange::text = h.exchange::text AND other.valid_to IS NULL
                     AND other.instrument_token = h.instrument_token)
FROM (SELECT instrument_id, max("to") FILTER (WHERE is_final) AS covered_to
      FROM kite_candle_coverage WHERE interval::text = %s GROUP BY instrument_id) AS c
CROSS JOIN LATERAL (SELECT * FROM kite_instrument_history AS v
                    WHERE v.instrument_id = c.instrument_id
                    ORDER BY valid_from DESC LIMIT 1) AS h
CROSS JOIN LATERAL (
    SELECT coalesce(h.expiry, (h.valid_to AT TIME ZONE INTERVAL '5:30')::date - 1) AS day) AS last
WHERE h.valid_to IS NOT NULL
  AND (c.covered_to IS NULL OR c.covered_to < (last.day + 1)::timestamp AT TIME ZONE INTERVAL '5:30')
ORDER BY h.exchange, h.tradingsymbol;

-- name: read_moves
-- When instruments that have had several tokens had each: from the day of its first list on.
SELECT instrument_id, instrument_token,
       date_trunc('day', valid_from AT TIME ZONE INTERVAL '5:30') AT TIME ZONE INTERVAL '5:30',
       date_trunc('day', lead(valid_from) OVER (PARTITION BY instrument_id ORDER BY valid_from)
                         AT TIME ZONE INTERVAL '5:30') AT TIME ZONE INTERVAL '5:30'
FROM kite_instrument_history
WHERE instrument_id IN (SELECT instrument_id FROM kite_instrument_history GROUP BY instrument_id
                        HAVING min(instrument_token) <> max(instrument_token))
ORDER BY instrument_id, valid_from;
