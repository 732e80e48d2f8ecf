-- The rows of the run, gone when the transaction ends.
CREATE TEMPORARY TABLE "stock_ingestion_stage" ("instrument_token" bigint, "exchange" varchar(10), "tradingsymbol" varchar(50), "exchange_token" varchar(50), "instrument_type" varchar(10), "name" varchar(255), "segment" varchar(20), "expiry" date, "strike" numeric CHECK ("strike" IS NULL OR coalesce(min_scale("strike") <= 4, false)), "tick_size" numeric CHECK ("tick_size" IS NULL OR coalesce(min_scale("tick_size") <= 4, false)), "lot_size" integer);

-- Filled from the client, as text.
COPY "stock_ingestion_stage" ("instrument_token", "exchange", "tradingsymbol", "exchange_token", "instrument_type", "name", "segment", "expiry", "strike", "tick_size", "lot_size") FROM STDIN WITH (FORMAT text, NULL '');

-- The newest moment in the table, and the run's own, which is later.
SELECT max("last_updated"),
       greatest(clock_timestamp()::timestamp, max("last_updated") + interval '1 microsecond')
FROM "kite_instrument_master" WHERE isfinite("last_updated");

-- What the run changes.
CREATE TEMPORARY TABLE "stock_ingestion_delta" AS
SELECT "s"."instrument_token" AS "new_instrument_token", "s"."exchange" AS "new_exchange", "s"."tradingsymbol" AS "new_tradingsymbol", "s"."exchange_token" AS "new_exchange_token", "s"."instrument_type" AS "new_instrument_type", "s"."name" AS "new_name", "s"."segment" AS "new_segment", "s"."expiry" AS "new_expiry", "s"."strike" AS "new_strike", "s"."tick_size" AS "new_tick_size", "s"."lot_size" AS "new_lot_size", "t"."instrument_token" AS "old_instrument_token", "t"."exchange" AS "old_exchange", "t"."tradingsymbol" AS "old_tradingsymbol", "t"."exchange_token" AS "old_exchange_token", "t"."instrument_type" AS "old_instrument_type", "t"."name" AS "old_name", "t"."segment" AS "old_segment", "t"."expiry" AS "old_expiry", "t"."strike" AS "old_strike", "t"."tick_size" AS "old_tick_size", "t"."lot_size" AS "old_lot_size", t."last_updated" IS NOT DISTINCT FROM %(previous)s AS was_current
FROM "stock_ingestion_stage" AS s FULL JOIN "kite_instrument_master" AS t ON "t"."instrument_token" = "s"."instrument_token" AND "t"."exchange" = "s"."exchange"
WHERE "t"."instrument_token" IS NULL
   OR ("s"."instrument_token" IS NULL AND t."last_updated" = %(previous)s)
   OR ("s"."instrument_token" IS NOT NULL
       AND (t."last_updated" IS DISTINCT FROM %(previous)s
            OR ("s"."tradingsymbol", "s"."exchange_token", "s"."instrument_type", "s"."name", "s"."segment", "s"."expiry", "s"."strike", "s"."tick_size", "s"."lot_size") IS DISTINCT FROM ("t"."tradingsymbol", "t"."exchange_token", "t"."instrument_type", "t"."name", "t"."segment", "t"."expiry", "t"."strike", "t"."tick_size", "t"."lot_size")));

-- So that the planner knows how much that is.
ANALYZE "stock_ingestion_delta";

-- Stored rows let go of a symbol that the run gives to another key.
WITH holder AS (
    SELECT "t"."instrument_token", "t"."exchange", EXISTS (SELECT FROM "stock_ingestion_delta" AS d WHERE "t"."instrument_token" = "d"."new_instrument_token" AND "t"."exchange" = "d"."new_exchange") AS is_staged
    FROM "kite_instrument_master" AS t JOIN "stock_ingestion_delta" AS d ON "t"."tradingsymbol" = "d"."new_tradingsymbol" AND "t"."exchange" = "d"."new_exchange"
    WHERE NOT ("t"."instrument_token" = "d"."new_instrument_token" AND "t"."exchange" = "d"."new_exchange")
), removed AS (
    DELETE FROM "kite_instrument_master" AS t USING holder AS s
    WHERE "t"."instrument_token" = "s"."instrument_token" AND "t"."exchange" = "s"."exchange" AND NOT s.is_staged
    RETURNING 1
), renamed AS (
    UPDATE "kite_instrument_master" AS t SET "tradingsymbol" = chr(1) || left(md5(random()::text), 16) || t.ctid::text
    FROM holder AS s
    WHERE "t"."instrument_token" = "s"."instrument_token" AND "t"."exchange" = "s"."exchange" AND s.is_staged
    RETURNING 1
)
SELECT (SELECT count(*) FROM removed), (SELECT count(*) FROM renamed);

-- Keys that are there, with nothing new about them but the moment.
UPDATE "kite_instrument_master" AS t SET "last_updated" = %(moment)s
WHERE t."last_updated" = %(previous)s
  AND ("t"."instrument_token", "t"."exchange") NOT IN (SELECT "d"."old_instrument_token", "d"."old_exchange" FROM "stock_ingestion_delta" AS d WHERE "d"."old_instrument_token" IS NOT NULL);

-- Keys that are there, with something new.
UPDATE "kite_instrument_master" AS t SET "tradingsymbol" = "d"."new_tradingsymbol", "exchange_token" = "d"."new_exchange_token", "instrument_type" = "d"."new_instrument_type", "name" = "d"."new_name", "segment" = "d"."new_segment", "expiry" = "d"."new_expiry", "strike" = "d"."new_strike", "tick_size" = "d"."new_tick_size", "lot_size" = "d"."new_lot_size", "last_updated" = %(moment)s
FROM "stock_ingestion_delta" AS d WHERE "t"."instrument_token" = "d"."new_instrument_token" AND "t"."exchange" = "d"."new_exchange";

-- Keys that are new.
INSERT INTO "kite_instrument_master" ("instrument_token", "exchange", "tradingsymbol", "exchange_token", "instrument_type", "name", "segment", "expiry", "strike", "tick_size", "lot_size", "last_updated", "created_at")
SELECT "d"."new_instrument_token", "d"."new_exchange", "d"."new_tradingsymbol", "d"."new_exchange_token", "d"."new_instrument_type", "d"."new_name", "d"."new_segment", "d"."new_expiry", "d"."new_strike", "d"."new_tick_size", "d"."new_lot_size", %(moment)s, %(moment)s FROM "stock_ingestion_delta" AS d
WHERE "d"."old_instrument_token" IS NULL;

-- The transaction may merge again.
DROP TABLE "stock_ingestion_stage", "stock_ingestion_delta";

-- In a dry run, in place of the changes: how many rows are superseded.
SELECT count(*) FROM (SELECT "t"."instrument_token", "t"."exchange" FROM "kite_instrument_master" AS t JOIN "stock_ingestion_delta" AS d ON "t"."tradingsymbol" = "d"."new_tradingsymbol" AND "t"."exchange" = "d"."new_exchange"
WHERE NOT EXISTS (SELECT FROM "stock_ingestion_delta" AS d WHERE "t"."instrument_token" = "d"."new_instrument_token" AND "t"."exchange" = "d"."new_exchange")) AS superseded;

-- And how many are new.
SELECT count(*) FROM "stock_ingestion_delta" AS d WHERE "d"."old_instrument_token" IS NULL;
