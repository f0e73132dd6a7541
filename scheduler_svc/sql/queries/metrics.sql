-- name: newest_metric_buckets
-- A job's newest bucket of each size.
SELECT newest.size, newest.number, newest.points, newest.summaries
FROM unnest($2::integer[]) AS sizes (size)
CROSS JOIN LATERAL (
    SELECT * FROM metric_buckets
    WHERE metric_buckets.job_id = $1 AND metric_buckets.size = sizes.size
    ORDER BY number DESC LIMIT 1
) AS newest

-- name: upsert_metric_buckets
-- Adds buckets, or brings them up to date; the transaction has locked the job's row.
INSERT INTO metric_buckets (job_id, size, number, points, summaries)
SELECT $1, size, number, points, summaries::jsonb
FROM unnest($2::integer[], $3::bigint[], $4::integer[], $5::text[]) AS changed (size, number, points, summaries)
ON CONFLICT (job_id, size, number) DO UPDATE SET points = excluded.points, summaries = excluded.summaries

-- name: list_metric_buckets
-- All of a job's buckets of a size.
SELECT summaries FROM metric_buckets WHERE job_id = $1 AND size = $2 ORDER BY number
