-- The first version: the table alone.

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
