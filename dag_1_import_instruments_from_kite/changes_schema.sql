-- What changed from one good run to the next.
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
