-- Metrics in buckets of 16, 256 and 4,096 points by their place in the job's history, kept up to date in the transaction that records
-- the points. summaries: {name: [first_step, last_step, min, max, last, count, nan_count]}, as in scheduler_svc/domain/metric_buckets.py.
CREATE TABLE metric_buckets (
    job_id    text NOT NULL REFERENCES jobs ON DELETE CASCADE,
    size      integer NOT NULL,
    number    bigint NOT NULL,
    points    integer NOT NULL CHECK (points BETWEEN 1 AND size),
    summaries jsonb NOT NULL,
    PRIMARY KEY (job_id, size, number)
) WITH (fillfactor = 60);

-- What has been recorded before.
INSERT INTO metric_buckets (job_id, size, number, points, summaries)
WITH points AS (
    SELECT job_id, row_number() OVER (PARTITION BY job_id ORDER BY sequence) - 1 AS place, body
    FROM job_events WHERE kind = 'metrics'
), counted AS (
    SELECT job_id, size, place / size AS number, count(*) AS points
    FROM points, (VALUES (16), (256), (4096)) AS sizes (size)
    GROUP BY job_id, size, place / size
), summed AS (
    SELECT job_id, size, place / size AS number, metric.name, jsonb_build_array(
        (array_agg((body ->> 'step')::bigint ORDER BY place))[1],
        (array_agg((body ->> 'step')::bigint ORDER BY place DESC))[1],
        min(metric.value::float8) FILTER (WHERE metric.value <> 'nan'),
        max(metric.value::float8) FILTER (WHERE metric.value <> 'nan'),
        (array_agg(metric.value::float8 ORDER BY place DESC))[1],
        count(*),
        count(*) FILTER (WHERE metric.value = 'nan')
    ) AS summary
    FROM points, jsonb_each_text(body -> 'values') AS metric (name, value), (VALUES (16), (256), (4096)) AS sizes (size)
    GROUP BY job_id, size, place / size, metric.name
)
SELECT job_id, size, number, points, coalesce(
    (
        SELECT jsonb_object_agg(summed.name, summed.summary) FROM summed
        WHERE (summed.job_id, summed.size, summed.number) = (counted.job_id, counted.size, counted.number)
    ),
    '{}'
)
FROM counted;
