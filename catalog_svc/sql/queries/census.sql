-- name: count_processing
-- How many datasets and models are being validated or wait for it, and for how long the oldest has.
SELECT kind, count(*) AS entries, extract(epoch FROM now() - min(update_time))::float8 AS oldest_seconds
FROM entries WHERE state = 'PROCESSING' AND delete_time IS NULL
GROUP BY kind;

-- name: count_catalog_backlog
-- How many imports have not ended, how much garbage is due, and for how long the oldest piece has been.
SELECT
    (SELECT count(*) FROM imports WHERE state = 'RUNNING') AS imports,
    (SELECT count(*) FROM garbage WHERE due_time <= now()) AS garbage,
    (SELECT coalesce(extract(epoch FROM now() - min(due_time)), 0)::float8 FROM garbage WHERE due_time <= now()) AS oldest_seconds;
