CREATE TABLE IF NOT EXISTS trade (
    trade_id BIGINT PRIMARY KEY,
    symbol VARCHAR(50) NOT NULL,
    price NUMERIC(15, 4) NOT NULL,
    quantity INTEGER NOT NULL,
    last_updated TIMESTAMP,
    created_at TIMESTAMP
);
