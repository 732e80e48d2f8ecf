-- Versions have numbers; the last version without identities.

-- The instrument master: one row for each (instrument_token, exchange) that Kite ever listed.
CREATE TABLE IF NOT EXISTS kite_instrument_master (
    -- Primary identifiers
    instrument_token BIGINT NOT NULL,
    exchange VARCHAR(10) NOT NULL,

    -- Instrument details
    tradingsymbol VARCHAR(50) NOT NULL,
    exchange_token VARCHAR(50),
    instrument_type VARCHAR(10),
    name VARCHAR(255),
    segment VARCHAR(20),

    -- Derivative-specific fields (as Kite gives them: 0 or NULL where there is none)
    expiry DATE,
    strike DECIMAL(15, 4),  -- USDINR options step by 0.125

    -- Trading parameters
    tick_size DECIMAL(10, 4),
    lot_size INTEGER,

    -- Metadata
    last_updated TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,

    -- Constraints
    PRIMARY KEY (instrument_token, exchange),
    CONSTRAINT unique_tradingsymbol_exchange UNIQUE (tradingsymbol, exchange)
)
-- Every row is updated every day: half-full pages keep the updates heap-only.
WITH (fillfactor = 50);

-- Indexes for query performance
CREATE INDEX IF NOT EXISTS idx_kite_instrument_master_tradingsymbol
    ON kite_instrument_master(tradingsymbol);

CREATE INDEX IF NOT EXISTS idx_kite_instrument_master_exchange
    ON kite_instrument_master(exchange);

CREATE INDEX IF NOT EXISTS idx_kite_instrument_master_instrument_type
    ON kite_instrument_master(instrument_type);

CREATE INDEX IF NOT EXISTS idx_kite_instrument_master_segment
    ON kite_instrument_master(segment);

CREATE TABLE IF NOT EXISTS ingestion_run (
    run_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dag_id INTEGER NOT NULL,
    dag_name TEXT NOT NULL,
    source TEXT NOT NULL,              -- 'api', or the file that was replayed
    status TEXT NOT NULL,              -- 'running', 'succeeded', 'skipped' (a day off) or 'failed'
    started_at TIMESTAMPTZ NOT NULL,
    ended_at TIMESTAMPTZ NOT NULL,
    rows_fetched INTEGER,
    rows_left_out INTEGER,
    rows_rejected INTEGER,
    rows_inserted INTEGER,
    rows_updated INTEGER,
    rows_superseded INTEGER,
    list_moment TIMESTAMP,             -- last_updated of the rows that the run stored
    dump_sha256 TEXT,
    dump_bytes BIGINT,
    durations JSONB,                   -- seconds by step
    error TEXT,                        -- of a good run: why its changes are not known
    host TEXT                          -- where it runs, and the file that it holds a lock on
);

CREATE TABLE IF NOT EXISTS kite_instrument_change (
    run_id BIGINT NOT NULL REFERENCES ingestion_run ON DELETE CASCADE,
    exchange VARCHAR(10) NOT NULL,
    instrument_token BIGINT NOT NULL,
    tradingsymbol VARCHAR(50) NOT NULL,
    kind TEXT NOT NULL,
    field TEXT,
    old TEXT,
    new TEXT,
    -- Without a key nothing can be deleted while the table is published.
    change_id UUID DEFAULT gen_random_uuid() PRIMARY KEY
);

CREATE INDEX IF NOT EXISTS idx_kite_instrument_change_run_id
    ON kite_instrument_change(run_id);

CREATE INDEX IF NOT EXISTS idx_kite_instrument_change_tradingsymbol
    ON kite_instrument_change(tradingsymbol, exchange);

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
COMMENT ON VIEW kite_instrument_today IS 'Made by stock_ingestion, version 4 0180b188fdb9';

CREATE OR REPLACE VIEW kite_token_map AS
SELECT instrument_token, exchange, tradingsymbol,
       exchange::text || ':'::text || tradingsymbol::text AS quote_key
FROM kite_instrument_today;
COMMENT ON VIEW kite_token_map IS 'Made by stock_ingestion, version 4 228ac5a8cd79';

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
COMMENT ON VIEW kite_option_chain IS 'Made by stock_ingestion, version 4 f077eeed8ddd';

CREATE OR REPLACE VIEW kite_expiry AS
SELECT name AS underlying, exchange, expiry,
       pg_catalog.count(*) FILTER (WHERE instrument_type::text = 'FUT'::text) AS futures,
       pg_catalog.count(*) FILTER (WHERE instrument_type::text = 'CE'::text) AS calls,
       pg_catalog.count(*) FILTER (WHERE instrument_type::text = 'PE'::text) AS puts
FROM kite_instrument_today
WHERE expiry IS NOT NULL AND name IS NOT NULL
GROUP BY name, exchange, expiry;
COMMENT ON VIEW kite_expiry IS 'Made by stock_ingestion, version 4 e450683cf139';

CREATE OR REPLACE VIEW kite_underlying AS
SELECT name AS underlying, exchange, pg_catalog.count(DISTINCT expiry) AS expiries,
       pg_catalog.count(*) AS contracts
FROM kite_instrument_today
WHERE expiry IS NOT NULL AND name IS NOT NULL
GROUP BY name, exchange;
COMMENT ON VIEW kite_underlying IS 'Made by stock_ingestion, version 4 5c18f01e3684';

COMMENT ON TABLE kite_instrument_master IS 'Made by stock_ingestion, version 1';

COMMENT ON TABLE ingestion_run IS 'Made by stock_ingestion, version 2';

COMMENT ON TABLE kite_instrument_change IS 'Made by stock_ingestion, version 2';
