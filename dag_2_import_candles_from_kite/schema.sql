-- Candles: one row for each instrument, interval and start. Partitions are made by runs
-- (partitions.sql): kite_candle_<interval>, and below each one for a year (of day candles) or a
-- month (of others).
CREATE TABLE IF NOT EXISTS kite_candle (
    -- What it is a candle of
    instrument_id BIGINT NOT NULL,   -- that of kite_instrument_history
    interval VARCHAR(10) NOT NULL,   -- minute, 3minute, ..., 60minute, day
    ts TIMESTAMPTZ NOT NULL,         -- its start; of a day 00:00 in India

    -- Prices, adjusted by Kite for splits, bonuses and the like
    open NUMERIC(15, 4) NOT NULL,
    high NUMERIC(15, 4) NOT NULL,
    low NUMERIC(15, 4) NOT NULL,
    close NUMERIC(15, 4) NOT NULL,

    -- Quantities
    volume BIGINT NOT NULL,
    oi BIGINT,                       -- open interest; NULL where Kite gives none

    -- Constraints
    PRIMARY KEY (instrument_id, interval, ts)
)
PARTITION BY LIST (interval);
