-- version 5
-- Looking things up. Each view shows the newest list only: the rows of the last good run.
-- Functions are named with their schema, and texts cast to text: else one of another role's in the
-- same schema, made for VARCHAR, would be the better match.
CREATE INDEX IF NOT EXISTS idx_kite_instrument_master_name_expiry
    ON kite_instrument_master(name, expiry);

CREATE OR REPLACE VIEW kite_instrument_today AS
SELECT t.instrument_token, t.exchange, t.tradingsymbol, t.exchange_token, t.instrument_type,
       t.name, t.segment, t.expiry, t.strike, t.tick_size, t.lot_size, t.last_updated, t.created_at,
       h.instrument_id
FROM kite_instrument_master AS t
-- No identity where the open version is not the row's.
LEFT JOIN kite_instrument_history AS h
  ON h.exchange::text = t.exchange::text AND h.instrument_token = t.instrument_token
 AND h.valid_to IS NULL
 AND (h.tradingsymbol::text, h.exchange_token::text, h.instrument_type::text, h.name::text,
      h.segment::text, h.expiry, h.strike, h.tick_size, h.lot_size)
     IS NOT DISTINCT FROM
     (t.tradingsymbol::text, t.exchange_token::text, t.instrument_type::text, t.name::text,
      t.segment::text, t.expiry, t.strike, t.tick_size, t.lot_size)
-- Since, not at: should a run not be recorded, its list is still to be seen.
WHERE t.last_updated >= (
    SELECT list_moment FROM ingestion_run
    WHERE dag_id = 1 AND status = 'succeeded'::text AND list_moment IS NOT NULL
    ORDER BY run_id DESC LIMIT 1);

-- What a websocket subscription needs: token to symbol, and back.
CREATE OR REPLACE VIEW kite_token_map AS
SELECT instrument_token, exchange, tradingsymbol,
       exchange::text || ':'::text || tradingsymbol::text AS quote_key, instrument_id
FROM kite_instrument_today;

-- Calls and puts side by side, for each underlying, expiry and strike. A call and its put have one
-- symbol but for the ending. Where two contracts share a strike, that of the smallest token counts:
-- symbol, token and lot size are one contract's.
CREATE OR REPLACE VIEW kite_option_chain AS
SELECT DISTINCT ON (name, exchange, expiry, strike)
       name AS underlying, exchange, expiry, strike,
       pg_catalog.max(tradingsymbol::text) FILTER (WHERE instrument_type::text = 'CE'::text)
           AS call_symbol,
       pg_catalog.max(instrument_token) FILTER (WHERE instrument_type::text = 'CE'::text)
           AS call_token,
       pg_catalog.max(tradingsymbol::text) FILTER (WHERE instrument_type::text = 'PE'::text)
           AS put_symbol,
       pg_catalog.max(instrument_token) FILTER (WHERE instrument_type::text = 'PE'::text)
           AS put_token,
       pg_catalog.max(lot_size) AS lot_size,
       pg_catalog.max(instrument_id) FILTER (WHERE instrument_type::text = 'CE'::text)
           AS call_instrument_id,
       pg_catalog.max(instrument_id) FILTER (WHERE instrument_type::text = 'PE'::text)
           AS put_instrument_id
FROM kite_instrument_today
WHERE instrument_type::text = ANY ('{CE,PE}'::text[]) AND name IS NOT NULL
GROUP BY name, exchange, expiry, strike,
         CASE WHEN pg_catalog.right(tradingsymbol::text, 2) = instrument_type::text
              THEN pg_catalog.left(tradingsymbol::text, -2) END,
         -- A symbol with another ending is a contract of its own.
         CASE WHEN pg_catalog.right(tradingsymbol::text, 2) <> instrument_type::text
              THEN tradingsymbol END
ORDER BY name, exchange, expiry, strike, pg_catalog.min(instrument_token);

-- Which expiries an underlying has, and how many contracts of each type.
CREATE OR REPLACE VIEW kite_expiry AS
SELECT name AS underlying, exchange, expiry,
       pg_catalog.count(*) FILTER (WHERE instrument_type::text = 'FUT'::text) AS futures,
       pg_catalog.count(*) FILTER (WHERE instrument_type::text = 'CE'::text) AS calls,
       pg_catalog.count(*) FILTER (WHERE instrument_type::text = 'PE'::text) AS puts
FROM kite_instrument_today
WHERE expiry IS NOT NULL AND name IS NOT NULL
GROUP BY name, exchange, expiry;

-- What has derivatives.
CREATE OR REPLACE VIEW kite_underlying AS
SELECT name AS underlying, exchange, pg_catalog.count(DISTINCT expiry) AS expiries,
       pg_catalog.count(*) AS contracts
FROM kite_instrument_today
WHERE expiry IS NOT NULL AND name IS NOT NULL
GROUP BY name, exchange;

-- The list as it stood at a moment. PostgreSQL puts the body into the query that calls it.
CREATE OR REPLACE FUNCTION kite_instrument_as_of(TIMESTAMPTZ)
RETURNS TABLE (
    instrument_id BIGINT, instrument_token BIGINT, exchange VARCHAR, tradingsymbol VARCHAR,
    exchange_token VARCHAR, instrument_type VARCHAR, name VARCHAR, segment VARCHAR, expiry DATE,
    strike NUMERIC, tick_size NUMERIC, lot_size INTEGER,
    valid_from TIMESTAMPTZ, valid_to TIMESTAMPTZ)
LANGUAGE sql STABLE AS $$
    SELECT h.instrument_id, h.instrument_token, h.exchange, h.tradingsymbol, h.exchange_token,
           h.instrument_type, h.name, h.segment, h.expiry, h.strike, h.tick_size, h.lot_size,
           h.valid_from, h.valid_to
    FROM kite_instrument_history AS h
    WHERE h.valid_to IS NULL AND h.valid_from OPERATOR(pg_catalog.<=) $1
    UNION ALL
    SELECT h.instrument_id, h.instrument_token, h.exchange, h.tradingsymbol, h.exchange_token,
           h.instrument_type, h.name, h.segment, h.expiry, h.strike, h.tick_size, h.lot_size,
           h.valid_from, h.valid_to
    FROM kite_instrument_history AS h
    WHERE h.valid_to IS NOT NULL
      AND pg_catalog.tstzrange(h.valid_from, h.valid_to) OPERATOR(pg_catalog.@>) $1
$$;
