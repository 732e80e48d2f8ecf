-- version 1
-- Functions are named with their schema, and texts cast to text: see the views of DAG 1. A day is
-- one in India. LATERAL stands behind a comma, as what stands behind JOIN is a table's name.

-- Candles by today's symbol; what is not listed any more has its candles in kite_candle alone.
CREATE OR REPLACE VIEW kite_candle_by_symbol AS
SELECT h.exchange, h.tradingsymbol, c.interval, c.ts, c.open, c.high, c.low, c.close, c.volume,
       c.oi, c.instrument_id
FROM kite_candle AS c
JOIN kite_instrument_history AS h ON h.instrument_id = c.instrument_id AND h.valid_to IS NULL;

-- The last candle of each instrument and interval that was asked for, under its newest symbol.
CREATE OR REPLACE VIEW kite_candle_last AS
SELECT v.exchange, v.tradingsymbol, k.interval, c.ts, c.open, c.high, c.low, c.close, c.volume,
       c.oi, k.instrument_id
FROM (SELECT DISTINCT instrument_id, interval FROM kite_candle_coverage) AS k,
LATERAL (
    SELECT exchange, tradingsymbol FROM kite_instrument_history AS h
    WHERE h.instrument_id = k.instrument_id ORDER BY valid_from DESC LIMIT 1) AS v,
LATERAL (
    SELECT ts, open, high, low, close, volume, oi FROM kite_candle AS c
    WHERE c.instrument_id = k.instrument_id AND c.interval::text = k.interval::text
    ORDER BY ts DESC LIMIT 1) AS c;

-- The days that must have candles, of each stretch that was asked for without a break: whole days,
-- from the first candle on. NULL, like first_day, where there is no candle.
CREATE OR REPLACE VIEW kite_candle_span AS
SELECT s.instrument_id, v.exchange, v.tradingsymbol, s.interval, f.first_day,
       CASE WHEN f.first_day IS NOT NULL THEN greatest(
           f.first_day,
           ((pg_catalog.min(s."from") + '1 day'::interval - '1 microsecond'::interval)
            AT TIME ZONE 'Asia/Kolkata'::text)::date) END AS from_day,
       CASE WHEN f.first_day IS NOT NULL THEN
           (pg_catalog.max(s."to") AT TIME ZONE 'Asia/Kolkata'::text)::date - 1 END AS to_day
FROM (
    SELECT instrument_id, interval, "from", "to",
           pg_catalog.sum(is_break) OVER (
               PARTITION BY instrument_id, interval ORDER BY "from") AS stretch
    FROM (
        SELECT instrument_id, interval, "from", "to",
               CASE WHEN "from" <= pg_catalog.max("to") OVER (
                   PARTITION BY instrument_id, interval ORDER BY "from"
                   ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
               THEN 0 ELSE 1 END AS is_break
        FROM kite_candle_coverage) AS marked) AS s,
LATERAL (
    SELECT exchange, tradingsymbol FROM kite_instrument_history AS h
    WHERE h.instrument_id = s.instrument_id ORDER BY valid_from DESC LIMIT 1) AS v,
LATERAL (
    SELECT (pg_catalog.min(ts) AT TIME ZONE 'Asia/Kolkata'::text)::date AS first_day
    FROM kite_candle AS c
    WHERE c.instrument_id = s.instrument_id AND c.interval::text = s.interval::text) AS f
GROUP BY s.instrument_id, v.exchange, v.tradingsymbol, s.interval, f.first_day, s.stretch;

-- The days that must have candles. NSE and NFO: those of the index NIFTY 50. Another exchange: those
-- on which any of its instruments has a candle.
CREATE OR REPLACE VIEW kite_trading_day AS
SELECT e.exchange, d.day
FROM (
    SELECT DISTINCT (c.ts AT TIME ZONE 'Asia/Kolkata'::text)::date AS day
    FROM kite_candle AS c
    JOIN kite_instrument_history AS h ON h.instrument_id = c.instrument_id
    WHERE c.interval::text = 'day'::text
      AND h.exchange::text = 'NSE'::text AND h.tradingsymbol::text = 'NIFTY 50'::text) AS d,
pg_catalog.unnest('{NSE,NFO}'::text[]) AS e (exchange)
UNION
SELECT s.exchange, (c.ts AT TIME ZONE 'Asia/Kolkata'::text)::date
FROM kite_candle_span AS s
JOIN kite_candle AS c ON c.instrument_id = s.instrument_id
WHERE s.interval::text = 'day'::text AND c.interval::text = 'day'::text
  AND s.exchange::text <> ALL ('{NSE,NFO}'::text[])
UNION
SELECT s.exchange, d.day::date
FROM kite_candle_span AS s,
pg_catalog.generate_series(s.from_day::timestamp, s.to_day::timestamp, '1 day'::interval) AS d (day)
WHERE s.interval::text <> 'day'::text AND s.exchange::text <> ALL ('{NSE,NFO}'::text[])
  AND (SELECT true FROM kite_candle AS c
       WHERE c.instrument_id = s.instrument_id AND c.interval::text = s.interval::text
         AND c.ts >= d.day AT TIME ZONE 'Asia/Kolkata'::text
         AND c.ts < (d.day + '1 day'::interval) AT TIME ZONE 'Asia/Kolkata'::text
       LIMIT 1);

-- Days without a candle that must have one; days of trading that follow each other are one row.
-- The index itself must have those on which anything of NSE has a candle. Where the server compiles
-- expressions (jit), SET jit = off first: with many partitions that takes longer than all the rest.
CREATE OR REPLACE VIEW kite_candle_gap AS
WITH calendar AS MATERIALIZED (
    SELECT exchange, pg_catalog.array_agg(
               day::timestamp AT TIME ZONE 'Asia/Kolkata'::text ORDER BY day) AS days
    FROM kite_trading_day GROUP BY exchange
), day_off AS MATERIALIZED (
    -- Where all day candles together are those that are due, nothing is compared one by one.
    -- `number` is that of the day among those of trading, or of the last of them before it.
    SELECT s.instrument_id, s.exchange, s.tradingsymbol, s.interval, x.is_missing,
           (x.ts AT TIME ZONE 'Asia/Kolkata'::text)::date AS day,
           pg_catalog.width_bucket(x.ts, k.days)::bigint AS number
    FROM kite_candle_span AS s
    JOIN calendar AS k ON k.exchange = s.exchange::text,
    LATERAL (
        SELECT s.from_day::timestamp AT TIME ZONE 'Asia/Kolkata'::text AS begins,
               (s.to_day + 1)::timestamp AT TIME ZONE 'Asia/Kolkata'::text AS ends) AS b,
    LATERAL (
        SELECT k.days[
            pg_catalog.width_bucket(b.begins - '1 microsecond'::interval, k.days) + 1
            : pg_catalog.width_bucket(b.ends - '1 microsecond'::interval, k.days)] AS days) AS due,
    LATERAL (
        SELECT coalesce(pg_catalog.array_agg(ts ORDER BY ts), '{}'::timestamptz[]) AS days
        FROM kite_candle AS c
        WHERE c.instrument_id = s.instrument_id AND c.interval::text = 'day'::text
          AND c.ts >= b.begins AND c.ts < b.ends) AS got,
    LATERAL (
        SELECT ts, true AS is_missing FROM (
            SELECT pg_catalog.unnest(due.days) AS ts EXCEPT SELECT pg_catalog.unnest(got.days)) AS m
        UNION ALL
        SELECT ts, false FROM (
            SELECT pg_catalog.unnest(got.days) AS ts EXCEPT SELECT pg_catalog.unnest(due.days)) AS m
    ) AS x
    WHERE s.interval::text = 'day'::text AND due.days <> got.days
)
SELECT instrument_id, exchange, tradingsymbol, interval,
       pg_catalog.min(day) AS from_day, pg_catalog.max(day) AS to_day, pg_catalog.count(*) AS days
FROM (
    SELECT instrument_id, exchange, tradingsymbol, interval, day,
           number - pg_catalog.row_number() OVER (
               PARTITION BY instrument_id, exchange, tradingsymbol, interval ORDER BY number)
           AS stretch
    FROM (
        SELECT instrument_id, exchange, tradingsymbol, interval, day, number
        FROM day_off WHERE is_missing
        UNION ALL
        -- A look for each day: the other candles of it need not be read.
        SELECT s.instrument_id, s.exchange, s.tradingsymbol, s.interval,
               (d.begins AT TIME ZONE 'Asia/Kolkata'::text)::date, d.number
        FROM kite_candle_span AS s
        JOIN calendar AS k ON k.exchange = s.exchange::text,
        pg_catalog.unnest(k.days) WITH ORDINALITY AS d (begins, number)
        WHERE s.interval::text <> 'day'::text
          AND d.begins >= s.from_day::timestamp AT TIME ZONE 'Asia/Kolkata'::text
          AND d.begins <= s.to_day::timestamp AT TIME ZONE 'Asia/Kolkata'::text
          AND (SELECT true FROM kite_candle AS c
               WHERE c.instrument_id = s.instrument_id AND c.interval::text = s.interval::text
                 AND c.ts >= d.begins AND c.ts < d.begins + '24:00'::interval LIMIT 1) IS NULL
    ) AS missing
    UNION ALL
    -- Of the index: what lies between two of its days is one row.
    SELECT s.instrument_id, s.exchange, s.tradingsymbol, s.interval, o.day, -o.number
    FROM kite_candle_span AS s
    JOIN (
        SELECT day, number FROM day_off WHERE NOT is_missing AND exchange::text = 'NSE'::text
        UNION
        -- A look for each stretch without trading, such as a weekend, and then for each day of it.
        SELECT (d.begins AT TIME ZONE 'Asia/Kolkata'::text)::date, off.number
        FROM kite_candle_span AS i
        JOIN (
            SELECT d.number, d.begins + '24:00'::interval AS begins,
                   pg_catalog.lead(d.begins) OVER (ORDER BY d.number) AS ends
            FROM calendar AS k, pg_catalog.unnest(k.days) WITH ORDINALITY AS d (begins, number)
            WHERE k.exchange = 'NSE'::text) AS off
          ON off.begins < (i.to_day + 1)::timestamp AT TIME ZONE 'Asia/Kolkata'::text
         AND coalesce(off.ends > off.begins
                      AND off.ends > i.from_day::timestamp AT TIME ZONE 'Asia/Kolkata'::text, true),
        pg_catalog.generate_series(
            off.begins,
            least(off.ends, (i.to_day + 1)::timestamp AT TIME ZONE 'Asia/Kolkata'::text)
            - '1 microsecond'::interval,
            '24:00'::interval) AS d (begins)
        WHERE i.interval::text <> 'day'::text AND i.exchange::text = 'NSE'::text
          AND (SELECT true FROM kite_candle AS c
               WHERE c.instrument_id = i.instrument_id AND c.interval::text = i.interval::text
                 AND c.ts >= off.begins AND c.ts < coalesce(off.ends, 'infinity'::timestamptz)
               LIMIT 1)
          AND (SELECT true FROM kite_candle AS c
               WHERE c.instrument_id = i.instrument_id AND c.interval::text = i.interval::text
                 AND c.ts >= d.begins AND c.ts < d.begins + '24:00'::interval LIMIT 1)) AS o
      ON o.day >= s.from_day AND o.day <= s.to_day
    WHERE s.interval::text = 'day'::text
      AND s.exchange::text = 'NSE'::text AND s.tradingsymbol::text = 'NIFTY 50'::text
) AS gap
GROUP BY instrument_id, exchange, tradingsymbol, interval, stretch;
