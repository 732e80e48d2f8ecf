-- What another merge may have left in a pooled session.
DROP TABLE IF EXISTS "pg_temp"."stock_ingestion_stage", "pg_temp"."stock_ingestion_delta";

-- The rows of the run, gone when the transaction ends.
CREATE TEMPORARY TABLE "pg_temp"."stock_ingestion_stage" ("token" bigint, "begins_at" timestamptz, "close" numeric CHECK ("close" IS NULL OR coalesce(min_scale("close") <= 2, false)), "volume" bigint) ON COMMIT DROP;

-- Filled from the client, as text.
COPY "pg_temp"."stock_ingestion_stage" ("token", "begins_at", "close", "volume") FROM STDIN WITH (FORMAT text, NULL '');

-- What the run changes.
CREATE TEMPORARY TABLE "pg_temp"."stock_ingestion_delta" ON COMMIT DROP AS
SELECT "s"."token" AS "new_token", "s"."begins_at" AS "new_begins_at", "s"."close" AS "new_close", "s"."volume" AS "new_volume", "t"."token" AS "old_token", "t"."begins_at" AS "old_begins_at", "t"."close" AS "old_close", "t"."volume" AS "old_volume", "t"."token" IS NOT NULL AS was_current, false AS was_touched
FROM "pg_temp"."stock_ingestion_stage" AS s LEFT JOIN "public"."candle" AS t ON "t"."token" OPERATOR(pg_catalog.=) "s"."token" AND "t"."begins_at" OPERATOR(pg_catalog.=) "s"."begins_at"
WHERE "t"."token" IS NULL OR ("s"."close", "s"."volume") IS DISTINCT FROM ("t"."close", "t"."volume");

-- So that the planner knows how much that is.
ANALYZE "pg_temp"."stock_ingestion_delta";

-- How many keys are new, and how many rows get other values.
SELECT count(*) FILTER (WHERE "d"."old_token" IS NULL),
       count(*) FILTER (WHERE "d"."old_token" IS NOT NULL AND "d"."new_token" IS NOT NULL
                        AND ("d"."new_close", "d"."new_volume") IS DISTINCT FROM ("d"."old_close", "d"."old_volume"))
FROM "pg_temp"."stock_ingestion_delta" AS d;

-- Keys that are there, with something new.
UPDATE "public"."candle" AS t SET "close" = "d"."new_close", "volume" = "d"."new_volume"
FROM "pg_temp"."stock_ingestion_delta" AS d WHERE "d"."old_token" IS NOT NULL AND "t"."token" OPERATOR(pg_catalog.=) "d"."new_token" AND "t"."begins_at" OPERATOR(pg_catalog.=) "d"."new_begins_at";

-- Keys that are new.
INSERT INTO "public"."candle" ("token", "begins_at", "close", "volume")
SELECT "d"."new_token", "d"."new_begins_at", "d"."new_close", "d"."new_volume" FROM "pg_temp"."stock_ingestion_delta" AS d
WHERE "d"."old_token" IS NULL;

-- How many rows the run has, and how many of its changes are off.
SELECT count("t"."token"), 0,
       count(*) FILTER (WHERE "t"."token" IS NULL OR ("s"."close", "s"."volume") IS DISTINCT FROM ("t"."close", "t"."volume"))
FROM "pg_temp"."stock_ingestion_stage" AS s LEFT JOIN "public"."candle" AS t ON "t"."token" OPERATOR(pg_catalog.=) "s"."token" AND "t"."begins_at" OPERATOR(pg_catalog.=) "s"."begins_at";

-- Where something may change rows on their way: all that are there.
SELECT "t"."token"::text, "t"."begins_at"::text, "t"."close"::text, "t"."volume"::text FROM "pg_temp"."stock_ingestion_stage" AS s JOIN "public"."candle" AS t ON "t"."token" OPERATOR(pg_catalog.=) "s"."token" AND "t"."begins_at" OPERATOR(pg_catalog.=) "s"."begins_at";
