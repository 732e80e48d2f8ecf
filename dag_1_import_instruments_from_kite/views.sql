-- version 4
-- Looking things up. Each view shows the newest list only: the rows of the last good run.
-- Functions are named with their schema, and texts cast to text: else one of another role's in the
-- same schema, made for VARCHAR, would be the better match.
CREATE INDEX IF NOT EXISTS idx_kite_instrument_master_name_expiry
    ON kite_instrument_master(name, expiry);

CREATE OR REPLACE VIEW kite_instrument_today AS
SELECT instrument_token, exchange, tradingsymbol, exchange_token, instrument_type, name, segment,
       expiry, strike, tick_size, lot_size, last_updated, created_at
FROM kite_instrument_master
-- Since, not at: should a run not be recorded, its list is still to be seen.
WHERE last_updated >= (
    SELECT list_moment FROM ingestion_run
    WHERE dag_id = 1 AND status = 'succeeded'::text AND list_moment IS NOT NULL
    ORDER BY run_id DESC LIMIT 1);

-- What a websocket subscription needs: token to symbol, and back.
CREATE OR REPLACE VIEW kite_token_map AS
SELECT instrument_token, exchange, tradingsymbol,
       exchange::text || ':'::text || tradingsymbol::text AS quote_key
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
       pg_catalog.max(lot_size) AS lot_size
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
