-- name: count_queue
-- How many jobs wait, by device class and recipe: claimable, paused, put off; and how long the oldest claimable one has been so.
SELECT device_class, recipe,
    count(*) FILTER (WHERE is_paused) AS paused,
    count(*) FILTER (WHERE NOT is_paused AND not_before > clock_timestamp()) AS delayed,
    count(*) FILTER (WHERE NOT is_paused AND not_before <= clock_timestamp()) AS claimable,
    coalesce(extract(epoch FROM clock_timestamp() - min(greatest(queue_time, not_before)) FILTER (
        WHERE NOT is_paused AND not_before <= clock_timestamp()
    )), 0)::float8 AS oldest_seconds
FROM jobs WHERE state = 'QUEUED'
GROUP BY device_class, recipe

-- name: count_held
-- How many jobs trainers have, by state and recipe.
SELECT state, recipe, count(*) AS jobs
FROM jobs WHERE state IN ('STARTING', 'RUNNING', 'STOPPING')
GROUP BY state, recipe

-- name: count_trainers
-- How many trainers are known, by device class and what they do; $1 is how long one lives unheard.
SELECT device_class, doing, count(*) AS trainers
FROM workers, LATERAL (
    SELECT CASE
        WHEN heartbeat_time < clock_timestamp() - $1::interval THEN 'gone'
        WHEN drain_time IS NOT NULL THEN 'draining'
        WHEN EXISTS (
            SELECT FROM jobs WHERE jobs.worker_id = workers.id AND jobs.state IN ('STARTING', 'RUNNING', 'STOPPING')
        ) THEN 'busy'
        ELSE 'ready'
    END AS doing
) AS seen
GROUP BY device_class, doing

-- name: count_backlog
-- What waits for the scheduler itself: wake-ups and garbage that are due; and when a sweeper was last at work.
SELECT
    (SELECT count(*) FROM outbox WHERE not_before <= clock_timestamp()) AS wake_ups,
    (
        SELECT coalesce(extract(epoch FROM clock_timestamp() - min(not_before)), 0)::float8
        FROM outbox WHERE not_before <= clock_timestamp()
    ) AS oldest_seconds,
    (SELECT count(*) FROM garbage WHERE collect_time <= clock_timestamp()) AS garbage,
    (SELECT extract(epoch FROM sweep_time)::float8 FROM sweeps) AS sweep_time
