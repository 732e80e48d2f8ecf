-- What changed from one good run to the next. The merge has put the differences into
-- stock_ingestion_delta: new_* is the dump's row, old_* the table's; was_current says that the old
-- row was of the newest list.

-- name: create_kite_instrument_change
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

-- name: add_primary_key
ALTER TABLE kite_instrument_change ADD COLUMN change_id UUID DEFAULT gen_random_uuid() PRIMARY KEY;

-- name: read_day
SELECT coalesce(%s::date, (now() AT TIME ZONE 'Asia/Kolkata')::date);

-- name: pair
-- Which rows of the list before ({delta}: old_*) and of the new one (new_*) belong together:
-- `reused` (one token, another instrument), or one instrument: `stayed` (its token did),
-- `token moved`, `series moved`, `renamed` (as NSE's list of changes says, under another token).
-- `is_same` says which of them keep their identity: each row has one such partner at most.
CREATE TEMPORARY TABLE {pair} ON COMMIT DROP AS
WITH RECURSIVE symbol_before AS (   -- the symbols that a token had in the last list, has no more
    SELECT old_exchange AS exchange, old_tradingsymbol AS symbol, old_instrument_token AS token,
           old_instrument_type AS type, regexp_replace(old_tradingsymbol, %(series)s, '') AS base
    FROM {delta}
    WHERE was_current AND new_tradingsymbol IS DISTINCT FROM old_tradingsymbol
), symbol_now AS (      -- the symbols that a token has in the dump, and had not in the last list
    SELECT new_exchange AS exchange, new_tradingsymbol AS symbol, new_instrument_token AS token,
           new_instrument_type AS type, regexp_replace(new_tradingsymbol, %(series)s, '') AS base
    FROM {delta}
    WHERE new_instrument_token IS NOT NULL
      AND (NOT was_current OR new_tradingsymbol IS DISTINCT FROM old_tradingsymbol)
), token_moved AS (
    SELECT n.exchange, n.symbol, b.token AS old_token, n.token AS new_token
    FROM symbol_before AS b JOIN symbol_now AS n USING (exchange, symbol)
), appeared AS (
    SELECT n.* FROM symbol_now AS n LEFT JOIN token_moved AS m USING (exchange, symbol)
    WHERE m.symbol IS NULL
), vanished AS (
    SELECT b.* FROM symbol_before AS b LEFT JOIN token_moved AS m USING (exchange, symbol)
    WHERE m.symbol IS NULL
), official (old_base, new_base, changed_on, between) AS (  -- what NSE says they became
    SELECT old_symbol::text, new_symbol::text, changed_on, '{{}}'::text[] FROM {official} AS listed
    WHERE changed_on <= %(day)s AND old_symbol <> new_symbol
      AND old_symbol IN (SELECT regexp_replace(symbol, '-..$', '') FROM symbol_before
                         WHERE exchange = 'NSE' UNION ALL
                         SELECT base FROM symbol_before WHERE exchange = 'NSE')
    UNION
    SELECT o.old_base, c.new_symbol, c.changed_on, o.between || o.new_base
    FROM official AS o JOIN {official} AS c
      ON c.old_symbol = o.new_base AND c.changed_on >= o.changed_on
    WHERE c.changed_on <= %(day)s AND c.new_symbol <> c.old_symbol
      AND c.new_symbol <> o.old_base AND c.new_symbol <> ALL (o.between)
      AND cardinality(o.between) < 6    -- no real chain is as long
), share_before AS (
    SELECT * FROM vanished
    WHERE exchange = 'NSE' AND type = 'EQ' AND symbol !~ %(bond)s
), share_now AS (
    SELECT * FROM appeared
    WHERE exchange = 'NSE' AND type = 'EQ' AND symbol !~ %(bond)s
), clear AS (           -- from one base to one other; where there are several it is unclear
    SELECT * FROM (
        SELECT *, count(*) OVER (PARTITION BY old_base) AS ways,
               count(*) OVER (PARTITION BY new_base) AS origins
        FROM (SELECT DISTINCT ON (old_base, new_base) * FROM official
              WHERE old_base IN (SELECT base FROM share_before)
                AND new_base IN (SELECT base FROM share_now)
              ORDER BY old_base, new_base, changed_on DESC, between) AS found) AS counted
    WHERE ways = 1 AND origins = 1
), standing AS MATERIALIZED (   -- of these bases and those between, which the new list has
    SELECT DISTINCT named.base
    FROM (SELECT base, base || suffix AS symbol
          FROM clear CROSS JOIN unnest(between || old_base) AS base
          CROSS JOIN unnest(%(suffixes)s) AS suffix) AS named
    JOIN {list} AS l ON l.tradingsymbol = named.symbol
    WHERE l.exchange = 'NSE' AND l.instrument_type = 'EQ'
), led AS (
    SELECT old_base, new_base FROM clear AS c
    WHERE NOT EXISTS (      -- the old one goes on in another series, or one between is another's
        SELECT FROM standing AS s WHERE s.base = ANY (between || old_base))
      AND (      -- a change counts once: the new one was in a list from its day on
        SELECT count(*) FROM unnest(%(suffixes)s) AS suffix CROSS JOIN LATERAL (
            SELECT h.valid_to FROM {history} AS h
            WHERE h.exchange = 'NSE' AND h.tradingsymbol = new_base || suffix
              AND h.instrument_type = 'EQ' AND h.valid_to IS NULL
            UNION ALL
            SELECT h.valid_to FROM {history} AS h
            WHERE h.exchange = 'NSE' AND h.tradingsymbol = new_base || suffix
              AND h.instrument_type = 'EQ' AND h.valid_to IS NOT NULL
            OFFSET 0) AS v
        WHERE coalesce(v.valid_to, 'infinity'::timestamptz)
              > changed_on::timestamp AT TIME ZONE 'Asia/Kolkata') = 0
), renamed AS (         -- the n-th that vanished of a base became the n-th that appeared of another
    SELECT v.exchange, v.symbol AS old_symbol, v.token AS old_token,
           a.symbol AS new_symbol, a.token AS new_token
    FROM (SELECT b.*, new_base,
                 row_number() OVER (PARTITION BY old_base ORDER BY symbol COLLATE "C") AS n
          FROM share_before AS b JOIN led ON old_base = base
          WHERE NOT EXISTS (SELECT FROM share_now AS s     -- its token tells it
                            WHERE s.token = b.token AND s.base = new_base)) AS v
    JOIN (SELECT s.*,
                 row_number() OVER (PARTITION BY new_base ORDER BY symbol COLLATE "C") AS n
          FROM share_now AS s JOIN led ON new_base = base
          WHERE NOT EXISTS (SELECT FROM share_before AS b
                            WHERE b.token = s.token AND b.base = old_base)) AS a
      ON a.base = v.new_base AND a.n = v.n
), series_moved AS (    -- the n-th that vanished of a base became the n-th that appeared of it
    SELECT a.exchange, v.symbol AS old_symbol, v.token AS old_token,
           a.symbol AS new_symbol, a.token AS new_token
    FROM (SELECT *, row_number() OVER (PARTITION BY exchange, base ORDER BY symbol COLLATE "C") AS n
          FROM appeared WHERE type = 'EQ'
           AND (exchange, symbol) NOT IN (SELECT exchange, new_symbol FROM renamed)) AS a
    JOIN (SELECT *, row_number() OVER (PARTITION BY exchange, base ORDER BY symbol COLLATE "C") AS n
          FROM vanished WHERE type = 'EQ'
           AND (exchange, symbol) NOT IN (SELECT exchange, old_symbol FROM renamed)) AS v
      USING (exchange, base, n)
    WHERE a.token <> v.token
), moved AS (
    SELECT *, 'renamed' AS kind FROM renamed
    UNION ALL
    SELECT *, 'series moved' FROM series_moved
), stayed AS (      -- a token that both have, with something different about it
    SELECT new_exchange AS exchange, new_instrument_token AS token,
           old_tradingsymbol AS old_symbol, new_tradingsymbol AS new_symbol,
           new_tradingsymbol <> old_tradingsymbol AND (
               (new_expiry, new_instrument_type, new_segment)
                   IS DISTINCT FROM (old_expiry, old_instrument_type, old_segment)
               -- A company's new name renames its contracts, a dividend moves their strikes;
               -- with both it is another contract.
               OR (new_expiry IS NOT NULL AND new_name IS DISTINCT FROM old_name
                   AND new_strike IS DISTINCT FROM old_strike)
               -- A bond's symbol states its terms: it is the same bond if only letters differ, in
               -- the same series (its issuer has a new name).
               OR (new_instrument_type IS NOT DISTINCT FROM 'EQ'
                   AND (new_tradingsymbol ~ %(bond)s OR old_tradingsymbol ~ %(bond)s)
                   AND (n.digits || n.series IS DISTINCT FROM o.digits || o.series
                        OR n.digits = '')
                   AND NOT (new_exchange = 'NSE'
                            AND (n.series = o.series OR ARRAY[n.series, o.series] <@ %(suffixes)s)
                            AND (o.base, n.base) IN (SELECT old_base, new_base FROM official)))
               OR b.symbol IS NOT NULL     -- the symbol was another token's
               OR source.old_symbol IS NOT NULL OR target.new_symbol IS NOT NULL) AS is_another
    FROM {delta} AS d
    CROSS JOIN LATERAL (SELECT
        regexp_replace(new_tradingsymbol, '-..$', '') AS base,
        coalesce(substring(new_tradingsymbol FROM '-..$'), '') AS series,
        regexp_replace(regexp_replace(new_tradingsymbol, '-..$', ''), '[^0-9]', '', 'g') AS digits
        ) AS n
    CROSS JOIN LATERAL (SELECT
        regexp_replace(old_tradingsymbol, '-..$', '') AS base,
        coalesce(substring(old_tradingsymbol FROM '-..$'), '') AS series,
        regexp_replace(regexp_replace(old_tradingsymbol, '-..$', ''), '[^0-9]', '', 'g') AS digits
        ) AS o
    LEFT JOIN symbol_before AS b ON b.exchange = new_exchange AND b.symbol = new_tradingsymbol
    LEFT JOIN moved AS source
      ON source.exchange = old_exchange AND source.old_symbol = old_tradingsymbol
    LEFT JOIN moved AS target
      ON target.exchange = new_exchange AND target.new_symbol = new_tradingsymbol
    WHERE new_instrument_token IS NOT NULL AND old_instrument_token IS NOT NULL AND was_current
)
SELECT exchange, token AS old_token, old_symbol, token AS new_token, new_symbol,
       CASE WHEN is_another THEN 'reused' ELSE 'stayed' END AS kind, NOT is_another AS is_same
FROM stayed
UNION ALL
SELECT exchange, old_token, old_symbol, new_token, new_symbol, kind, true FROM moved
UNION ALL
-- A contract goes with its token, a symbol with another one only if that token went on as no one.
SELECT m.exchange, m.old_token, m.symbol, m.new_token, m.symbol, 'token moved',
       (n.new_expiry, n.new_instrument_type, n.new_strike)
           IS NOT DISTINCT FROM (o.old_expiry, o.old_instrument_type, o.old_strike)
       AND NOT EXISTS (SELECT FROM stayed AS s WHERE s.exchange = m.exchange
                       AND s.token = m.old_token AND NOT is_another)
FROM token_moved AS m
JOIN {delta} AS o ON o.old_exchange = m.exchange AND o.old_instrument_token = m.old_token
JOIN {delta} AS n ON n.new_exchange = m.exchange AND n.new_instrument_token = m.new_token;

-- name: classify
-- Classify the differences between the dump and the rows of the last good run, and keep them.
-- docs/changes.md has the rules with an example of each.
WITH gone AS (
    SELECT d.*, EXISTS (     -- a row that could not be stored may have been it
               SELECT FROM unnest(%(unclear_tokens)s::text[], %(unclear_exchanges)s::text[])
                           AS u (token, exchange)
               WHERE u.token = old_instrument_token::text AND u.exchange = old_exchange
           ) AS is_unclear
    FROM stock_ingestion_delta AS d
    LEFT JOIN stock_ingestion_pair AS p
      ON p.exchange = old_exchange AND p.old_symbol = old_tradingsymbol
    WHERE new_instrument_token IS NULL AND was_current AND p.exchange IS NULL
      AND (%(exchanges)s::text[] = '{}' OR old_exchange = ANY(%(exchanges)s::text[]))
), first_expiry AS (
    SELECT exchange, min(expiry) AS expiry FROM stock_ingestion_stage GROUP BY exchange
), change (exchange, instrument_token, tradingsymbol, kind, field, old, new) AS (
    SELECT new_exchange, new_instrument_token, new_tradingsymbol, 'listed', NULL, NULL, NULL
    FROM stock_ingestion_delta
    LEFT JOIN stock_ingestion_pair AS p
      ON p.exchange = new_exchange AND p.new_symbol = new_tradingsymbol
    WHERE new_instrument_token IS NOT NULL AND p.exchange IS NULL
      AND (old_instrument_token IS NULL OR NOT was_current)
    UNION ALL
    SELECT old_exchange, old_instrument_token, old_tradingsymbol,
           -- A replayed dump has another today than the clock: its first expiry is what tells.
           CASE WHEN is_unclear THEN 'unclear'
                WHEN old_expiry < %(day)s
                 AND (NOT %(is_replay)s OR old_expiry <= coalesce(f.expiry, old_expiry))
                THEN 'expired' ELSE 'gone' END,
           NULL, NULL, NULL
    FROM gone LEFT JOIN first_expiry AS f ON f.exchange = old_exchange
    UNION ALL
    SELECT exchange, new_token, new_symbol, kind, 'instrument_token',
           old_token::bigint::text, new_token::bigint::text
    FROM stock_ingestion_pair WHERE kind = 'token moved'
    UNION ALL
    SELECT exchange, new_token, new_symbol,
           CASE kind WHEN 'reused' THEN 'token reused' WHEN 'stayed' THEN 'renamed' ELSE kind END,
           'tradingsymbol', old_symbol, new_symbol
    FROM stock_ingestion_pair WHERE kind <> 'token moved' AND old_symbol <> new_symbol
    UNION ALL
    SELECT n.new_exchange, n.new_instrument_token, n.new_tradingsymbol, 'terms changed',
           term.field, term.old, term.new
    FROM stock_ingestion_pair AS p
    JOIN stock_ingestion_delta AS n
      ON n.new_exchange = p.exchange AND n.new_tradingsymbol = p.new_symbol
    JOIN stock_ingestion_delta AS o
      ON o.old_exchange = p.exchange AND o.old_tradingsymbol = p.old_symbol AND o.was_current
    CROSS JOIN LATERAL (VALUES
        ('lot_size', o.old_lot_size::bigint::text, n.new_lot_size::bigint::text),
        ('tick_size', trim_scale(o.old_tick_size)::text, trim_scale(n.new_tick_size)::text),
        ('strike', trim_scale(o.old_strike)::text, trim_scale(n.new_strike)::text),
        ('expiry', o.old_expiry::text, n.new_expiry::text),
        ('name', o.old_name, n.new_name),
        ('segment', o.old_segment, n.new_segment),
        ('instrument_type', o.old_instrument_type, n.new_instrument_type),
        ('exchange_token', o.old_exchange_token, n.new_exchange_token)
    ) AS term (field, old, new)
    WHERE p.kind <> 'reused' AND term.old IS DISTINCT FROM term.new
      -- With another token goes another exchange_token.
      AND (term.field <> 'exchange_token' OR n.new_instrument_token = o.old_instrument_token)
)
INSERT INTO stock_ingestion_change
SELECT * FROM change;

-- name: carry_on
-- What the last list had without having its moment now: somebody else gave it another one since; or
-- it was unclear whether the list had it (a rejected row may have been it), which this list tells.
UPDATE stock_ingestion_delta AS d SET was_current = true
WHERE NOT was_current AND (
    (old_instrument_token, old_exchange) IN (
        SELECT instrument_token, exchange FROM {changes}
        WHERE run_id = %(last_run)s AND kind = 'unclear')
    OR was_touched AND NOT EXISTS (      -- unless it had left before
        SELECT FROM (SELECT kind FROM {changes}
                     WHERE tradingsymbol = d.old_tradingsymbol AND exchange = d.old_exchange
                       AND instrument_token = d.old_instrument_token
                       AND kind IN ('listed', 'gone', 'expired')
                     ORDER BY run_id DESC LIMIT 1) AS latest
        WHERE kind <> 'listed'));

-- name: carry_on_absent
INSERT INTO stock_ingestion_delta ({old_columns}, was_current, was_touched)
SELECT {columns}, true, false FROM {table} AS t
WHERE (t.instrument_token, t.exchange) IN (
        SELECT instrument_token, exchange FROM {changes}
        WHERE run_id = %(last_run)s AND kind = 'unclear')
  AND NOT EXISTS (SELECT FROM stock_ingestion_stage AS s
                  WHERE s.instrument_token = t.instrument_token AND s.exchange = t.exchange)
  AND NOT EXISTS (SELECT FROM stock_ingestion_delta AS d
                  WHERE d.old_instrument_token = t.instrument_token
                    AND d.old_exchange = t.exchange);

-- name: read_absent
SELECT old_exchange, old_instrument_token::text, old_tradingsymbol FROM stock_ingestion_delta
WHERE new_instrument_token IS NULL AND was_current;
