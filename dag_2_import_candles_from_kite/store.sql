-- The transaction of an answer. Statements on {candles} carry the answer's own bounds: the planner
-- then looks at the partitions of these alone. Those that read for the plan, or write, cast texts to
-- text: see universe.sql.

-- name: read_path
SELECT pg_catalog.current_setting('search_path');

-- name: set_path
-- To the end of the transaction.
SELECT pg_catalog.set_config('search_path', %s, true);

-- name: read_coverage
SELECT instrument_id, "from", "to", fetched_at, is_final FROM {coverage}
WHERE instrument_id = ANY(%s) AND interval::text = %s ORDER BY instrument_id, "from";

-- name: read_covered
-- The instruments of which candles of an interval were asked for.
SELECT interval::text, pg_catalog.array_agg(DISTINCT instrument_id) FROM {coverage}
GROUP BY 1 ORDER BY 1;

-- name: has_candles
-- Whether one of these instruments has a candle of the interval. It ends with the first that has.
SELECT EXISTS (SELECT FROM unnest(%(instrument_ids)s::bigint[]) AS own(instrument_id)
               CROSS JOIN LATERAL (SELECT FROM {candles} AS c
                                   WHERE c.instrument_id = own.instrument_id
                                     AND c.interval::text = %(interval)s LIMIT 1) AS stored);

-- name: forget
DELETE FROM {coverage}
WHERE interval::text = %(interval)s AND instrument_id = ANY(%(instrument_ids)s::bigint[]);

-- name: read_overlaps
-- Where the last so many stored candles before a moment begin, for each instrument and moment.
SELECT (SELECT min(ts) FROM (SELECT ts FROM {candles} AS c
                             WHERE c.instrument_id = wanted.instrument_id
                               AND interval::text = %(interval)s
                               AND ts >= %(begin)s AND ts < %(end)s
                               AND ts >= wanted.begin AND ts < wanted.before
                             ORDER BY ts DESC LIMIT wanted.count) AS last)
FROM unnest(%(instrument_ids)s::bigint[], %(begins)s::timestamptz[], %(befores)s::timestamptz[],
            %(counts)s::integer[])
     WITH ORDINALITY AS wanted(instrument_id, begin, before, count, number)
ORDER BY number;

-- name: read_candles
SELECT ts, open, high, low, close, volume, oi FROM {candles}
WHERE instrument_id = %(instrument_id)s AND interval = %(interval)s
  AND ts >= %(begin)s AND ts < %(end)s
ORDER BY ts;

-- name: delete_candles
DELETE FROM {candles}
WHERE instrument_id = %(instrument_id)s AND interval::text = %(interval)s
  AND ts >= %(begin)s AND ts < %(end)s AND ts = ANY(%(moments)s::timestamptz[]);

-- name: create_stage
-- A whole history that is to be stored, and what of the stored one it does not reach.
DROP TABLE IF EXISTS pg_temp.stock_ingestion_candle, pg_temp.stock_ingestion_unreached;
CREATE TEMPORARY TABLE stock_ingestion_candle (
    instrument_id BIGINT, interval VARCHAR, ts TIMESTAMPTZ PRIMARY KEY, open NUMERIC, high NUMERIC,
    low NUMERIC, close NUMERIC, volume BIGINT, oi BIGINT) ON COMMIT DROP;
CREATE TEMPORARY TABLE stock_ingestion_unreached (ts TIMESTAMPTZ PRIMARY KEY) ON COMMIT DROP;

-- name: copy_to_stage
COPY pg_temp.stock_ingestion_candle FROM STDIN (FORMAT text, NULL '');

-- name: choose_unreached
-- What is before the first candle of the answer, or was traded under another token.
INSERT INTO pg_temp.stock_ingestion_unreached
SELECT ts FROM {candles} AS c
WHERE instrument_id = %(instrument_id)s AND interval = %(interval)s
  AND ts >= %(begin)s AND ts < %(end)s
  AND NOT EXISTS (SELECT FROM pg_temp.stock_ingestion_candle AS s WHERE s.ts = c.ts)
  AND (ts < (SELECT min(ts) FROM pg_temp.stock_ingestion_candle)
       OR EXISTS (SELECT FROM unnest(%(begins)s::timestamptz[], %(ends)s::timestamptz[])
                              AS elsewhere(begin, "end")
                  WHERE ts >= elsewhere.begin AND ts < elsewhere."end"));

-- name: count_unreached
SELECT count(*) FROM pg_temp.stock_ingestion_unreached;

-- name: scale_unreached
-- What Kite does not answer for, on the scale of what it does. Its prices are whole paise.
UPDATE {candles}
SET open = greatest(round(open * %(factor)s, 2), 0.01),
    high = greatest(round(high * %(factor)s, 2), 0.01),
    low = greatest(round(low * %(factor)s, 2), 0.01),
    close = greatest(round(close * %(factor)s, 2), 0.01)
WHERE instrument_id = %(instrument_id)s AND interval::text = %(interval)s
  AND ts >= %(begin)s AND ts < %(end)s
  AND ts IN (SELECT ts FROM pg_temp.stock_ingestion_unreached);

-- name: delete_reached
DELETE FROM {candles}
WHERE instrument_id = %(instrument_id)s AND interval::text = %(interval)s
  AND ts >= %(begin)s AND ts < %(end)s
  AND ts NOT IN (SELECT ts FROM pg_temp.stock_ingestion_unreached);

-- name: insert_staged
INSERT INTO {candles} (instrument_id, interval, ts, open, high, low, close, volume, oi)
SELECT instrument_id, interval, ts, open, high, low, close, volume, oi
FROM pg_temp.stock_ingestion_candle;

-- name: count_as_staged
-- How many candles of the history are in the table as they are.
SELECT count(*) FROM {candles} AS c JOIN pg_temp.stock_ingestion_candle AS s USING (ts)
WHERE c.instrument_id = %(instrument_id)s AND c.interval = %(interval)s
  AND ts >= %(begin)s AND ts < %(end)s
  AND (c.open, c.high, c.low, c.close, c.volume) = (s.open, s.high, s.low, s.close, s.volume)
  AND c.oi IS NOT DISTINCT FROM s.oi;

-- name: copy_candles
COPY {candles} (instrument_id, interval, ts, open, high, low, close, volume, oi)
FROM STDIN (FORMAT text, NULL '');

-- name: fire_deferred
-- What is deferred to the end of the transaction happens now, where it can still be looked at.
SET CONSTRAINTS ALL IMMEDIATE;

-- name: count_candles
SELECT count(*) FROM {candles}
WHERE instrument_id = %(instrument_id)s AND interval = %(interval)s
  AND ts >= %(begin)s AND ts < %(end)s;

-- name: delete_coverage
DELETE FROM {coverage} WHERE instrument_id = %s AND interval::text = %s;

-- name: insert_coverage
INSERT INTO {coverage} (instrument_id, interval, "from", "to", fetched_at, is_final) VALUES {rows};

-- name: is_adjusted
-- Of most candles that are stored and staged the close is nearer to what the factor makes of it.
SELECT count(*) FILTER (
           WHERE abs(s.close - c.close * %(factor)s) < abs(s.close - c.close)) * 2 > count(*)
FROM {candles} AS c JOIN pg_temp.stock_ingestion_candle AS s USING (ts)
WHERE c.instrument_id = %(instrument_id)s AND c.interval = %(interval)s
  AND ts >= %(begin)s AND ts < least(%(end)s::timestamptz, %(compared_to)s::timestamptz);

-- name: insert_adjustment
INSERT INTO {adjustments}
    (instrument_id, interval, factor, found_at, compared_from, compared_to, scaled_before)
SELECT %(instrument_id)s, %(interval)s, %(factor)s, %(found_at)s, %(compared_from)s,
       %(compared_to)s,
       (SELECT coalesce((SELECT min(ts) FROM pg_temp.stock_ingestion_candle
                         WHERE ts > max(u.ts)), max(u.ts) + INTERVAL '1 microsecond')
        FROM pg_temp.stock_ingestion_unreached AS u);

-- name: was_adjusted
SELECT EXISTS (SELECT FROM {adjustments}
               WHERE instrument_id = %s AND interval = %s AND found_at = %s);
