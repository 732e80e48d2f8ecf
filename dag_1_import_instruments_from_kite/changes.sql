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

-- name: classify
-- Classify the differences between the dump and the rows of the last good run, and keep them.
-- docs/changes.md has the rules with an example of each.
WITH came AS (      -- a token that the last list did not have
    SELECT * FROM stock_ingestion_delta
    WHERE new_instrument_token IS NOT NULL
      AND (old_instrument_token IS NULL OR NOT was_current)
), went AS (        -- a token that the dump does not have any more; what is left out is not gone
    SELECT * FROM stock_ingestion_delta
    WHERE new_instrument_token IS NULL AND was_current
      AND (%(exchanges)s::text[] = '{}' OR old_exchange = ANY(%(exchanges)s::text[]))
), symbol_before AS (   -- the symbols that a token had in the last list, and has no more
    SELECT old_exchange AS exchange, old_tradingsymbol AS symbol, old_instrument_token AS token,
           old_instrument_type AS type, regexp_replace(old_tradingsymbol, %(series)s, '') AS base
    FROM stock_ingestion_delta
    WHERE was_current AND new_tradingsymbol IS DISTINCT FROM old_tradingsymbol
), symbol_now AS (      -- the symbols that a token has in the dump, and had not in the last list
    SELECT new_exchange AS exchange, new_tradingsymbol AS symbol, new_instrument_token AS token,
           new_instrument_type AS type, regexp_replace(new_tradingsymbol, %(series)s, '') AS base
    FROM stock_ingestion_delta
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
), series_moved AS (    -- the n-th that vanished of a base became the n-th that appeared of it
    SELECT a.exchange, v.symbol AS old_symbol, a.symbol AS new_symbol, a.token AS new_token
    FROM (SELECT *, row_number() OVER (PARTITION BY exchange, base ORDER BY symbol COLLATE "C") AS n
          FROM appeared WHERE type = 'EQ') AS a
    JOIN (SELECT *, row_number() OVER (PARTITION BY exchange, base ORDER BY symbol COLLATE "C") AS n
          FROM vanished WHERE type = 'EQ') AS v USING (exchange, base, n)
    WHERE a.token <> v.token
), listed AS (
    SELECT came.* FROM came
    JOIN appeared AS a ON a.exchange = new_exchange AND a.symbol = new_tradingsymbol
    LEFT JOIN series_moved AS s ON s.exchange = new_exchange AND s.new_symbol = new_tradingsymbol
    WHERE s.new_symbol IS NULL
), gone AS (
    SELECT went.*, EXISTS (     -- a row that could not be stored may have been it
               SELECT FROM unnest(%(unclear_tokens)s::text[], %(unclear_exchanges)s::text[])
                           AS u (token, exchange)
               WHERE u.token = old_instrument_token::text AND u.exchange = old_exchange
           ) AS is_unclear
    FROM went
    JOIN vanished AS v ON v.exchange = old_exchange AND v.symbol = old_tradingsymbol
    LEFT JOIN series_moved AS s ON s.exchange = old_exchange AND s.old_symbol = old_tradingsymbol
    WHERE s.old_symbol IS NULL
), stayed AS (      -- a token that both have, with something different about it
    SELECT d.*, new_tradingsymbol <> old_tradingsymbol AS is_relabelled,
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
                   AND (n.bond IS DISTINCT FROM o.bond OR n.bond !~ '^[0-9]'))
               OR b.symbol IS NOT NULL     -- the symbol was another token's
               OR source.old_symbol IS NOT NULL OR target.new_symbol IS NOT NULL) AS is_another
    FROM stock_ingestion_delta AS d
    CROSS JOIN LATERAL (SELECT      -- the digits of a symbol, and its series
        regexp_replace(regexp_replace(new_tradingsymbol, '-..$', ''), '[^0-9]', '', 'g')
        || coalesce(substring(new_tradingsymbol FROM '-..$'), '') AS bond) AS n
    CROSS JOIN LATERAL (SELECT
        regexp_replace(regexp_replace(old_tradingsymbol, '-..$', ''), '[^0-9]', '', 'g')
        || coalesce(substring(old_tradingsymbol FROM '-..$'), '') AS bond) AS o
    LEFT JOIN symbol_before AS b ON b.exchange = new_exchange AND b.symbol = new_tradingsymbol
    LEFT JOIN series_moved AS source
      ON source.exchange = old_exchange AND source.old_symbol = old_tradingsymbol
    LEFT JOIN series_moved AS target
      ON target.exchange = new_exchange AND target.new_symbol = new_tradingsymbol
    WHERE new_instrument_token IS NOT NULL AND old_instrument_token IS NOT NULL AND was_current
), same (exchange, old_symbol, new_symbol) AS (     -- one instrument, before and now
    SELECT new_exchange, old_tradingsymbol, new_tradingsymbol FROM stayed WHERE NOT is_another
    UNION ALL
    SELECT exchange, symbol, symbol FROM token_moved
    UNION ALL
    SELECT exchange, old_symbol, new_symbol FROM series_moved
), first_expiry AS (
    SELECT exchange, min(expiry) AS expiry FROM stock_ingestion_stage GROUP BY exchange
), change (exchange, instrument_token, tradingsymbol, kind, field, old, new) AS (
    SELECT new_exchange, new_instrument_token, new_tradingsymbol, 'listed', NULL, NULL, NULL
    FROM listed
    UNION ALL
    SELECT old_exchange, old_instrument_token, old_tradingsymbol,
           -- A replayed dump has another today than the clock: its first expiry is what tells.
           CASE WHEN is_unclear THEN 'unclear'
                WHEN old_expiry < (now() AT TIME ZONE 'Asia/Kolkata')::date
                 AND (NOT %(is_replay)s OR old_expiry <= coalesce(f.expiry, old_expiry))
                THEN 'expired' ELSE 'gone' END,
           NULL, NULL, NULL
    FROM gone LEFT JOIN first_expiry AS f ON f.exchange = old_exchange
    UNION ALL
    SELECT exchange, new_token, symbol, 'token moved', 'instrument_token',
           old_token::bigint::text, new_token::bigint::text
    FROM token_moved
    UNION ALL
    SELECT exchange, new_token, new_symbol, 'series moved', 'tradingsymbol', old_symbol, new_symbol
    FROM series_moved
    UNION ALL
    SELECT new_exchange, new_instrument_token, new_tradingsymbol,
           CASE WHEN is_another THEN 'token reused' ELSE 'renamed' END,
           'tradingsymbol', old_tradingsymbol, new_tradingsymbol
    FROM stayed WHERE is_relabelled
    UNION ALL
    SELECT n.new_exchange, n.new_instrument_token, n.new_tradingsymbol, 'terms changed',
           term.field, term.old, term.new
    FROM same
    JOIN stock_ingestion_delta AS n
      ON n.new_exchange = same.exchange AND n.new_tradingsymbol = same.new_symbol
    JOIN stock_ingestion_delta AS o
      ON o.old_exchange = same.exchange AND o.old_tradingsymbol = same.old_symbol
     AND o.was_current
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
    WHERE term.old IS DISTINCT FROM term.new
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
