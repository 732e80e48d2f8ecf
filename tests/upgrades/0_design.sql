-- As an early design had it: strikes of two decimals.
CREATE TABLE kite_instrument_master (
    instrument_token BIGINT NOT NULL,
    exchange VARCHAR(10) NOT NULL,
    tradingsymbol VARCHAR(50) NOT NULL,
    exchange_token VARCHAR(50),
    instrument_type VARCHAR(10),
    name VARCHAR(255),
    segment VARCHAR(20),
    expiry DATE,
    strike DECIMAL(15, 2),
    tick_size DECIMAL(10, 4),
    lot_size INTEGER,
    last_updated TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (instrument_token, exchange),
    CONSTRAINT unique_tradingsymbol_exchange UNIQUE (tradingsymbol, exchange)
);
