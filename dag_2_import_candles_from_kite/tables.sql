-- What stands beside the candles: what was asked for, and what Kite has adjusted.

-- name: create_kite_candle_coverage
-- Spans are half-open: the candles that begin at "from" or later, and before "to", were asked for
-- and answered. So an empty answer is known from one that was never asked for.
CREATE TABLE IF NOT EXISTS kite_candle_coverage (
    instrument_id BIGINT NOT NULL,
    interval VARCHAR(10) NOT NULL,
    "from" TIMESTAMPTZ NOT NULL,
    "to" TIMESTAMPTZ NOT NULL,
    fetched_at TIMESTAMPTZ NOT NULL,
    is_final BOOLEAN NOT NULL,         -- fetched on a later day (India) than the last one in it
    PRIMARY KEY (instrument_id, interval, "from"),
    CHECK ("to" > "from")
);

-- name: create_kite_candle_adjustment
CREATE TABLE IF NOT EXISTS kite_candle_adjustment (
    instrument_id BIGINT NOT NULL,
    interval VARCHAR(10) NOT NULL,
    factor NUMERIC NOT NULL,           -- new price / price that was stored
    found_at TIMESTAMPTZ NOT NULL,
    compared_from TIMESTAMPTZ NOT NULL,
    compared_to TIMESTAMPTZ NOT NULL,
    scaled_before TIMESTAMPTZ,         -- candles before it are the stored ones, times the factor
    PRIMARY KEY (instrument_id, interval, found_at)
);
