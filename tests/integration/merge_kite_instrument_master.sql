-- What another merge may have left in a pooled session.
DROP TABLE IF EXISTS "pg_temp"."stock_ingestion_stage", "pg_temp"."stock_ingestion_delta";

-- The rows of the run, gone when the transaction ends.
CREATE TEMPORARY TABLE "pg_temp"."stock_ingestion_stage" ("instrument_token" bigint, "exchange" varchar(10), "tradingsymbol" varchar(50), "exchange_token" varchar(50), "instrument_type" varchar(10), "name" varchar(255), "segment" varchar(20), "expiry" date, "strike" numeric CHECK ("strike" IS NULL OR coalesce(min_scale("strike") <= 4, false)), "tick_size" numeric CHECK ("tick_size" IS NULL OR coalesce(min_scale("tick_size") <= 4, false)), "lot_size" integer) ON COMMIT DROP;

-- Filled from the client, as text.
COPY "pg_temp"."stock_ingestion_stage" ("instrument_token", "exchange", "tradingsymbol", "exchange_token", "instrument_type", "name", "segment", "expiry", "strike", "tick_size", "lot_size") FROM STDIN WITH (FORMAT text, NULL '');

-- From here on nobody else writes, and everybody reads.
LOCK TABLE "public"."kite_instrument_master" IN SHARE ROW EXCLUSIVE MODE;

-- Where no history tells it: the moment of the last list.
SELECT max("last_updated") FROM "public"."kite_instrument_master"
WHERE "last_updated" BETWEEN '0001-01-02' AND '9999-12-30';

-- What the run changes.
CREATE TEMPORARY TABLE "pg_temp"."stock_ingestion_delta" ON COMMIT DROP AS
SELECT "s"."instrument_token" AS "new_instrument_token", "s"."exchange" AS "new_exchange", "s"."tradingsymbol" AS "new_tradingsymbol", "s"."exchange_token" AS "new_exchange_token", "s"."instrument_type" AS "new_instrument_type", "s"."name" AS "new_name", "s"."segment" AS "new_segment", "s"."expiry" AS "new_expiry", "s"."strike" AS "new_strike", "s"."tick_size" AS "new_tick_size", "s"."lot_size" AS "new_lot_size", "t"."instrument_token" AS "old_instrument_token", "t"."exchange" AS "old_exchange", "t"."tradingsymbol" AS "old_tradingsymbol", "t"."exchange_token" AS "old_exchange_token", "t"."instrument_type" AS "old_instrument_type", "t"."name" AS "old_name", "t"."segment" AS "old_segment", "t"."expiry" AS "old_expiry", "t"."strike" AS "old_strike", "t"."tick_size" AS "old_tick_size", "t"."lot_size" AS "old_lot_size",
       (t."last_updated" OPERATOR(pg_catalog.=) %(previous)s) IS TRUE AS was_current,
       (t."last_updated" > %(previous)s AND t."created_at" <= %(previous)s) IS TRUE AS was_touched
FROM "pg_temp"."stock_ingestion_stage" AS s FULL JOIN "public"."kite_instrument_master" AS t ON "t"."instrument_token" OPERATOR(pg_catalog.=) "s"."instrument_token" AND "t"."exchange" OPERATOR(pg_catalog.=) "s"."exchange"
WHERE "t"."instrument_token" IS NULL
   OR ("s"."instrument_token" IS NULL
       AND (t."last_updated" OPERATOR(pg_catalog.=) %(previous)s
            OR (t."last_updated" > %(previous)s AND t."created_at" <= %(previous)s) IS TRUE))
   OR ("s"."instrument_token" IS NOT NULL
       AND ((t."last_updated" OPERATOR(pg_catalog.=) %(previous)s) IS NOT TRUE
            OR ("s"."tradingsymbol", "s"."exchange_token", "s"."instrument_type", "s"."name", "s"."segment", "s"."expiry", "s"."strike", "s"."tick_size", "s"."lot_size") IS DISTINCT FROM ("t"."tradingsymbol", "t"."exchange_token", "t"."instrument_type", "t"."name", "t"."segment", "t"."expiry", "t"."strike", "t"."tick_size", "t"."lot_size")));

-- So that the planner knows how much that is.
ANALYZE "pg_temp"."stock_ingestion_delta";

-- How many keys are new, and how many rows get other values.
SELECT count(*) FILTER (WHERE "d"."old_instrument_token" IS NULL),
       count(*) FILTER (WHERE "d"."old_instrument_token" IS NOT NULL AND "d"."new_instrument_token" IS NOT NULL
                        AND ("d"."new_tradingsymbol", "d"."new_exchange_token", "d"."new_instrument_type", "d"."new_name", "d"."new_segment", "d"."new_expiry", "d"."new_strike", "d"."new_tick_size", "d"."new_lot_size") IS DISTINCT FROM ("d"."old_tradingsymbol", "d"."old_exchange_token", "d"."old_instrument_type", "d"."old_name", "d"."old_segment", "d"."old_expiry", "d"."old_strike", "d"."old_tick_size", "d"."old_lot_size"))
FROM "pg_temp"."stock_ingestion_delta" AS d;

-- Stored rows let go of what the run gives to another key: tradingsymbol, exchange.
WITH holder AS (
    SELECT "t"."instrument_token", "t"."exchange", EXISTS (SELECT FROM "pg_temp"."stock_ingestion_delta" AS d WHERE "t"."instrument_token" OPERATOR(pg_catalog.=) "d"."new_instrument_token" AND "t"."exchange" OPERATOR(pg_catalog.=) "d"."new_exchange") AS is_staged
    FROM "public"."kite_instrument_master" AS t JOIN "pg_temp"."stock_ingestion_delta" AS d ON "t"."tradingsymbol" OPERATOR(pg_catalog.=) "d"."new_tradingsymbol" AND "t"."exchange" OPERATOR(pg_catalog.=) "d"."new_exchange"
    WHERE NOT ("t"."instrument_token" OPERATOR(pg_catalog.=) "d"."new_instrument_token" AND "t"."exchange" OPERATOR(pg_catalog.=) "d"."new_exchange")
), removed AS (
    DELETE FROM "public"."kite_instrument_master" AS t USING holder AS s
    WHERE "t"."instrument_token" OPERATOR(pg_catalog.=) "s"."instrument_token" AND "t"."exchange" OPERATOR(pg_catalog.=) "s"."exchange" AND NOT s.is_staged
    RETURNING 1
), renamed AS (
    UPDATE "public"."kite_instrument_master" AS t SET "tradingsymbol" = pg_catalog.concat(
        pg_catalog.chr(1), pg_catalog.left(pg_catalog.md5(pg_catalog.random()::text), 16), t.ctid)
    FROM holder AS s
    WHERE "t"."instrument_token" OPERATOR(pg_catalog.=) "s"."instrument_token" AND "t"."exchange" OPERATOR(pg_catalog.=) "s"."exchange" AND s.is_staged
    RETURNING 1
)
SELECT (SELECT count(*) FROM removed), (SELECT count(*) FROM renamed);

-- Keys that are there, with nothing new about them but the moment.
UPDATE "public"."kite_instrument_master" AS t SET "last_updated" = %(moment)s
WHERE t."last_updated" OPERATOR(pg_catalog.=) %(previous)s
  AND NOT ("t"."instrument_token", "t"."exchange") OPERATOR(pg_catalog.=) ANY (
      SELECT "d"."old_instrument_token", "d"."old_exchange" FROM "pg_temp"."stock_ingestion_delta" AS d WHERE "d"."old_instrument_token" IS NOT NULL);

-- Keys that are there, with something new.
UPDATE "public"."kite_instrument_master" AS t SET "tradingsymbol" = "d"."new_tradingsymbol", "exchange_token" = "d"."new_exchange_token", "instrument_type" = "d"."new_instrument_type", "name" = "d"."new_name", "segment" = "d"."new_segment", "expiry" = "d"."new_expiry", "strike" = "d"."new_strike", "tick_size" = "d"."new_tick_size", "lot_size" = "d"."new_lot_size", "last_updated" = %(moment)s
FROM "pg_temp"."stock_ingestion_delta" AS d WHERE "d"."old_instrument_token" IS NOT NULL AND "t"."instrument_token" OPERATOR(pg_catalog.=) "d"."new_instrument_token" AND "t"."exchange" OPERATOR(pg_catalog.=) "d"."new_exchange";

-- Keys that are new.
INSERT INTO "public"."kite_instrument_master" ("instrument_token", "exchange", "tradingsymbol", "exchange_token", "instrument_type", "name", "segment", "expiry", "strike", "tick_size", "lot_size", "last_updated", "created_at")
SELECT "d"."new_instrument_token", "d"."new_exchange", "d"."new_tradingsymbol", "d"."new_exchange_token", "d"."new_instrument_type", "d"."new_name", "d"."new_segment", "d"."new_expiry", "d"."new_strike", "d"."new_tick_size", "d"."new_lot_size", %(moment)s, %(moment)s FROM "pg_temp"."stock_ingestion_delta" AS d
WHERE "d"."old_instrument_token" IS NULL;

-- How many rows the run has, and how many of its changes are off.
SELECT at_moment, later,
       (SELECT count(*) FROM "pg_temp"."stock_ingestion_delta" AS d
        WHERE "d"."new_instrument_token" IS NOT NULL AND NOT EXISTS (
            SELECT FROM "public"."kite_instrument_master" AS t WHERE "t"."instrument_token" OPERATOR(pg_catalog.=) "d"."new_instrument_token" AND "t"."exchange" OPERATOR(pg_catalog.=) "d"."new_exchange" AND t."last_updated" = %(moment)s
            AND ("t"."tradingsymbol", "t"."exchange_token", "t"."instrument_type", "t"."name", "t"."segment", "t"."expiry", "t"."strike", "t"."tick_size", "t"."lot_size") IS NOT DISTINCT FROM ("d"."new_tradingsymbol", "d"."new_exchange_token", "d"."new_instrument_type", "d"."new_name", "d"."new_segment", "d"."new_expiry", "d"."new_strike", "d"."new_tick_size", "d"."new_lot_size")))
FROM (SELECT count(*) FILTER (WHERE t."last_updated" = %(moment)s) AS at_moment,
             count(*) FILTER (WHERE t."last_updated" > %(moment)s) AS later
      FROM "public"."kite_instrument_master" AS t WHERE t."last_updated" >= %(moment)s) AS counted;

-- Where something may change rows on their way: all that are there.
SELECT "t"."instrument_token"::text, "t"."exchange"::text, "t"."tradingsymbol"::text, "t"."exchange_token"::text, "t"."instrument_type"::text, "t"."name"::text, "t"."segment"::text, "t"."expiry"::text, "t"."strike"::text, "t"."tick_size"::text, "t"."lot_size"::text FROM "public"."kite_instrument_master" AS t WHERE t."last_updated" = %(moment)s;

-- After an answer to COMMIT that was lost: is it stored?
SELECT EXISTS (SELECT FROM "public"."kite_instrument_master" AS t WHERE t."last_updated" OPERATOR(pg_catalog.=) %(moment)s);

-- In a dry run: the rows that would be superseded by their tradingsymbol, exchange.
SELECT "t"."instrument_token", "t"."exchange" FROM "public"."kite_instrument_master" AS t JOIN "pg_temp"."stock_ingestion_delta" AS d ON "t"."tradingsymbol" OPERATOR(pg_catalog.=) "d"."new_tradingsymbol" AND "t"."exchange" OPERATOR(pg_catalog.=) "d"."new_exchange"
WHERE NOT EXISTS (SELECT FROM "pg_temp"."stock_ingestion_delta" AS d WHERE "t"."instrument_token" OPERATOR(pg_catalog.=) "d"."new_instrument_token" AND "t"."exchange" OPERATOR(pg_catalog.=) "d"."new_exchange");
