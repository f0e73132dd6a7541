-- name: count_queue
-- How many jobs wait, by device class and recipe: claimable, paused, put off, more than their owner's limits let run; and how long the oldest
-- claimable one has been so. Limits are those of claims.sql; of an owner the first by priority and age count as claimable.
WITH running AS (
    SELECT owner_id, count(*) AS jobs FROM jobs WHERE state IN ('STARTING', 'RUNNING', 'STOPPING') GROUP BY owner_id
), allowed AS MATERIALIZED (
    -- How many more each owner may have; NULL: any number.
    SELECT present.owner_id,
        CASE WHEN coalesce(own.device_hours_per_day, everybody.device_hours_per_day) <= device_hours(present.owner_id) THEN 0
            ELSE coalesce(own.running_jobs, everybody.running_jobs) - coalesce(running.jobs, 0) END AS more
    FROM (SELECT DISTINCT owner_id FROM jobs WHERE state = 'QUEUED') AS present
    LEFT JOIN running ON running.owner_id = present.owner_id
    LEFT JOIN quotas AS own ON own.user_id = present.owner_id
    LEFT JOIN quotas AS everybody ON everybody.user_id = 'default' AND coalesce(own.follows_default, true)
), queued AS MATERIALIZED (
    SELECT id, owner_id, device_class, recipe, priority, create_time, is_paused, greatest(queue_time, not_before) AS due_time,
        NOT is_paused AND not_before <= clock_timestamp() AS is_due
    FROM jobs WHERE state = 'QUEUED'
), placed AS (
    SELECT queued.*, is_due AND coalesce(
        row_number() OVER (PARTITION BY queued.owner_id, is_due ORDER BY priority DESC, create_time, id) > more, false
    ) AS is_limited
    FROM queued JOIN allowed ON allowed.owner_id = queued.owner_id
)
SELECT device_class, recipe,
    count(*) FILTER (WHERE is_paused) AS paused,
    count(*) FILTER (WHERE NOT is_paused AND NOT is_due) AS delayed,
    count(*) FILTER (WHERE is_limited) AS limited,
    count(*) FILTER (WHERE is_due AND NOT is_limited) AS claimable,
    coalesce(extract(epoch FROM clock_timestamp() - min(due_time) FILTER (WHERE is_due AND NOT is_limited)), 0)::float8
        AS oldest_seconds
FROM placed
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
