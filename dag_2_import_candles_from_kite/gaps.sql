-- What the views of gaps say.

-- name: list_gaps
SELECT instrument_id, exchange::text, tradingsymbol::text, interval::text, from_day, to_day, days
FROM kite_candle_gap;

-- name: read_known
-- The exchanges of which candles were asked for; whether there are any, and days of trading.
SELECT s.exchange::text, pg_catalog.bool_or(s.first_day IS NOT NULL),
       s.exchange::text = ANY (ARRAY(SELECT exchange FROM kite_trading_day))
FROM kite_candle_span AS s GROUP BY s.exchange ORDER BY s.exchange;

-- name: count_states
-- Of the wanted pairs: how many there are; of those with candles how many have no gap, have gaps (of
-- so many days), cannot be told; how many have no candle; and were not asked for. Of those without a
-- gap: how many were not asked for up to the last day of trading, or the last one that is wanted.
WITH calendar AS MATERIALIZED (
    SELECT exchange, pg_catalog.max(day) AS last_day FROM kite_trading_day GROUP BY exchange
),
span AS MATERIALIZED (
    SELECT instrument_id, interval::text AS interval,
           pg_catalog.bool_or(first_day IS NOT NULL) AS has_candles,
           pg_catalog.bool_and(
               exchange::text = ANY (ARRAY(SELECT exchange FROM calendar))) AS has_calendar,
           pg_catalog.max(to_day) < least(
               %(until)s::date,
               (SELECT last_day FROM calendar AS c
                WHERE c.exchange = pg_catalog.min(kite_candle_span.exchange::text))) AS is_behind
    FROM kite_candle_span GROUP BY instrument_id, interval
),
gap AS MATERIALIZED (
    SELECT instrument_id, interval::text AS interval, pg_catalog.sum(days) AS days
    FROM kite_candle_gap GROUP BY instrument_id, interval
)
SELECT pg_catalog.count(*),
       pg_catalog.count(*) FILTER (WHERE has_candles AND has_calendar AND gap.days IS NULL),
       pg_catalog.count(gap.days),
       coalesce(pg_catalog.sum(gap.days), 0)::bigint,
       pg_catalog.count(*) FILTER (WHERE has_candles AND NOT has_calendar AND gap.days IS NULL),
       pg_catalog.count(*) FILTER (WHERE has_candles IS NOT TRUE),
       pg_catalog.count(*) FILTER (WHERE has_candles IS NULL),
       pg_catalog.count(*) FILTER (
           WHERE has_candles AND has_calendar AND gap.days IS NULL AND is_behind)
FROM (
    SELECT DISTINCT instrument_id, interval
    FROM ROWS FROM (
        pg_catalog.unnest(%(instrument_ids)s::bigint[]), pg_catalog.unnest(%(intervals)s::text[]))
        AS pair (instrument_id, interval)) AS wanted
LEFT JOIN span USING (instrument_id, interval)
LEFT JOIN gap USING (instrument_id, interval);
