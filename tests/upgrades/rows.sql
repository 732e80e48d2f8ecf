-- 300 rows, of which the last list had the first 30; some as another program may have left them.
INSERT INTO kite_instrument_master
SELECT 256 * n, CASE WHEN n % 3 = 0 THEN 'NSE' ELSE 'NFO' END, 'OLD' || n || 'CE', n::text, 'CE',
       CASE WHEN n % 7 = 0 THEN NULL ELSE 'L''Oréal & Söhne ' || n END, 'NFO-OPT',
       DATE '2026-08-27' + n, n + 0.25, 0.05, 75,
       CASE WHEN n <= 30 THEN TIMESTAMP '2026-08-03 08:31:02.000003'
            WHEN n < 300 THEN TIMESTAMP '2026-07-01 08:30' + n * INTERVAL '1.000007 s' END,
       CASE WHEN n < 300 THEN TIMESTAMP '2026-06-01 08:30:00.000001' + n * INTERVAL '1 s' END
FROM generate_series(1, 300) AS n;
