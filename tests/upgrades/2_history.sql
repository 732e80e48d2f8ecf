-- The first version with a history, changes and views; nothing says their version.

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

-- The history of runs: a row for each run of a DAG that writes to this database, failed ones too.
CREATE TABLE IF NOT EXISTS ingestion_run (
    run_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dag_id INTEGER NOT NULL,
    dag_name TEXT NOT NULL,
    source TEXT NOT NULL,              -- 'api', or the file that was replayed
    status TEXT NOT NULL,              -- 'succeeded' or 'failed'
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
    error TEXT
);

-- What changed from one good run to the next.
CREATE TABLE IF NOT EXISTS kite_instrument_change (
    run_id BIGINT NOT NULL REFERENCES ingestion_run ON DELETE CASCADE,
    exchange VARCHAR(10) NOT NULL,
    instrument_token BIGINT NOT NULL,
    tradingsymbol VARCHAR(50) NOT NULL,
    kind TEXT NOT NULL,
    field TEXT,
    old TEXT,
    new TEXT
);

CREATE INDEX IF NOT EXISTS idx_kite_instrument_change_run_id
    ON kite_instrument_change(run_id);

CREATE INDEX IF NOT EXISTS idx_kite_instrument_change_tradingsymbol
    ON kite_instrument_change(tradingsymbol, exchange);

-- Looking things up. Each view shows the newest list only: the rows of the last good run.
CREATE INDEX IF NOT EXISTS idx_kite_instrument_master_name_expiry
    ON kite_instrument_master(name, expiry);

CREATE OR REPLACE VIEW kite_instrument_today AS
SELECT instrument_token, exchange, tradingsymbol, exchange_token, instrument_type, name, segment,
       expiry, strike, tick_size, lot_size, last_updated, created_at
FROM kite_instrument_master
WHERE last_updated = (
    SELECT list_moment FROM ingestion_run
    WHERE list_moment IS NOT NULL AND dag_id = 1
    ORDER BY run_id DESC LIMIT 1);

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
