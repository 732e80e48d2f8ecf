-- Looking things up. Each view shows the newest list only: the rows of the last good run.
CREATE INDEX IF NOT EXISTS idx_kite_instrument_master_name_expiry
    ON kite_instrument_master(name, expiry);

CREATE OR REPLACE VIEW kite_instrument_today AS
SELECT instrument_token, exchange, tradingsymbol, exchange_token, instrument_type, name, segment,
       expiry, strike, tick_size, lot_size, last_updated, created_at
FROM kite_instrument_master
-- Since, not at: should a run not be recorded, its list is still to be seen.
WHERE last_updated >= (SELECT max(list_moment) FROM ingestion_run WHERE dag_id = 1);

-- What a websocket subscription needs: token to symbol, and back.
CREATE OR REPLACE VIEW kite_token_map AS
SELECT instrument_token, exchange, tradingsymbol, exchange || ':' || tradingsymbol AS quote_key
FROM kite_instrument_today;

-- Calls and puts side by side, for each underlying, expiry and strike.
CREATE OR REPLACE VIEW kite_option_chain AS
SELECT name AS underlying, exchange, expiry, strike,
       max(tradingsymbol) FILTER (WHERE instrument_type = 'CE') AS call_symbol,
       max(instrument_token) FILTER (WHERE instrument_type = 'CE') AS call_token,
       max(tradingsymbol) FILTER (WHERE instrument_type = 'PE') AS put_symbol,
       max(instrument_token) FILTER (WHERE instrument_type = 'PE') AS put_token,
       max(lot_size) AS lot_size
FROM kite_instrument_today
WHERE instrument_type IN ('CE', 'PE')
GROUP BY name, exchange, expiry, strike;

-- Which expiries an underlying has, and how many contracts of each type.
CREATE OR REPLACE VIEW kite_expiry AS
SELECT name AS underlying, exchange, expiry,
       count(*) FILTER (WHERE instrument_type = 'FUT') AS futures,
       count(*) FILTER (WHERE instrument_type = 'CE') AS calls,
       count(*) FILTER (WHERE instrument_type = 'PE') AS puts
FROM kite_instrument_today
WHERE expiry IS NOT NULL
GROUP BY name, exchange, expiry;

-- What has derivatives.
CREATE OR REPLACE VIEW kite_underlying AS
SELECT name AS underlying, exchange, count(DISTINCT expiry) AS expiries, count(*) AS contracts
FROM kite_instrument_today
WHERE expiry IS NOT NULL
GROUP BY name, exchange;
