-- Classify the differences between the dump and the rows of the last good run, and keep them.
-- The merge has put the differences into stock_ingestion_delta: new_* is the dump's row, old_* the
-- table's; was_current says that the old row was of the newest list. docs/changes.md has the rules
-- with an example of each.
WITH came AS (      -- a token that the last list did not have
    SELECT * FROM stock_ingestion_delta
    WHERE new_instrument_token IS NOT NULL
      AND (old_instrument_token IS NULL OR NOT was_current)
), went AS (        -- a token that the dump does not have any more
    SELECT * FROM stock_ingestion_delta
    WHERE new_instrument_token IS NULL
), stayed AS (      -- a token that both have, with something different about it
    SELECT * FROM stock_ingestion_delta
    WHERE new_instrument_token IS NOT NULL AND old_instrument_token IS NOT NULL AND was_current
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
), series_moved AS (
    SELECT DISTINCT ON (a.exchange, a.symbol)
           a.exchange, v.symbol AS old_symbol, a.symbol AS new_symbol, a.token AS new_token
    FROM appeared AS a JOIN vanished AS v USING (exchange, base)
    WHERE a.token <> v.token AND a.type = 'EQ' AND v.type = 'EQ'
    ORDER BY a.exchange, a.symbol, v.symbol
), listed AS (
    SELECT came.* FROM came
    JOIN appeared AS a ON a.exchange = new_exchange AND a.symbol = new_tradingsymbol
    LEFT JOIN series_moved AS s ON s.exchange = new_exchange AND s.new_symbol = new_tradingsymbol
    WHERE s.new_symbol IS NULL
), gone AS (
    SELECT went.* FROM went
    JOIN vanished AS v ON v.exchange = old_exchange AND v.symbol = old_tradingsymbol
    LEFT JOIN series_moved AS s ON s.exchange = old_exchange AND s.old_symbol = old_tradingsymbol
    WHERE s.old_symbol IS NULL
), relabelled AS (
    SELECT stayed.*,
           (new_expiry, new_instrument_type, new_segment)
               IS DISTINCT FROM (old_expiry, old_instrument_type, old_segment)
           OR (new_expiry IS NOT NULL AND new_name IS DISTINCT FROM old_name)
           OR b.symbol IS NOT NULL     -- the symbol was another token's
           OR source.old_symbol IS NOT NULL OR target.new_symbol IS NOT NULL AS is_another
    FROM stayed
    LEFT JOIN symbol_before AS b ON b.exchange = new_exchange AND b.symbol = new_tradingsymbol
    LEFT JOIN series_moved AS source
      ON source.exchange = old_exchange AND source.old_symbol = old_tradingsymbol
    LEFT JOIN series_moved AS target
      ON target.exchange = new_exchange AND target.new_symbol = new_tradingsymbol
    WHERE new_tradingsymbol <> old_tradingsymbol
), first_expiry AS (
    SELECT exchange, min(expiry) AS expiry FROM stock_ingestion_stage GROUP BY exchange
), change (exchange, instrument_token, tradingsymbol, kind, field, old, new) AS (
    SELECT new_exchange, new_instrument_token, new_tradingsymbol, 'listed', NULL, NULL, NULL
    FROM listed
    UNION ALL
    SELECT old_exchange, old_instrument_token, old_tradingsymbol,
           -- The dump's own first expiry, since a replayed dump has another today than the clock.
           CASE WHEN old_expiry < (now() AT TIME ZONE 'Asia/Kolkata')::date
                 AND old_expiry <= coalesce(f.expiry, old_expiry)
                THEN 'expired' ELSE 'gone' END,
           NULL, NULL, NULL
    FROM gone LEFT JOIN first_expiry AS f ON f.exchange = old_exchange
    UNION ALL
    SELECT exchange, new_token, symbol, 'token moved', 'instrument_token',
           old_token::text, new_token::text
    FROM token_moved
    UNION ALL
    SELECT exchange, new_token, new_symbol, 'series moved', 'tradingsymbol', old_symbol, new_symbol
    FROM series_moved
    UNION ALL
    SELECT new_exchange, new_instrument_token, new_tradingsymbol,
           CASE WHEN is_another THEN 'token reused' ELSE 'renamed' END,
           'tradingsymbol', old_tradingsymbol, new_tradingsymbol
    FROM relabelled
    UNION ALL
    SELECT new_exchange, new_instrument_token, new_tradingsymbol, 'terms changed',
           term.field, term.old, term.new
    FROM stayed
    CROSS JOIN LATERAL (VALUES
        ('lot_size', old_lot_size::text, new_lot_size::text),
        ('tick_size', trim_scale(old_tick_size)::text, trim_scale(new_tick_size)::text),
        ('strike', trim_scale(old_strike)::text, trim_scale(new_strike)::text),
        ('expiry', old_expiry::text, new_expiry::text),
        ('name', old_name, new_name),
        ('segment', old_segment, new_segment),
        ('instrument_type', old_instrument_type, new_instrument_type),
        ('exchange_token', old_exchange_token, new_exchange_token)
    ) AS term (field, old, new)
    WHERE term.old IS DISTINCT FROM term.new
      AND NOT EXISTS (
          SELECT FROM relabelled AS r
          WHERE r.is_another AND r.new_instrument_token = stayed.new_instrument_token
            AND r.new_exchange = stayed.new_exchange)
)
INSERT INTO stock_ingestion_change
SELECT * FROM change
