-- name: read_clock
-- The database's clock.
SELECT clock_timestamp() AS now

-- name: list_queue
-- The jobs that wait, the oldest first, with the workers that they did not get on with.
SELECT jobs.id, jobs.owner_id, jobs.sequence, jobs.create_time, jobs.not_before, jobs.priority, jobs.is_paused,
    jobs.device_class, jobs.device_count, jobs.device_memory_bytes, jobs.recipe, jobs.needs_4bit,
    past.failed_on, past.unfit_on
FROM jobs LEFT JOIN LATERAL (
    SELECT
        max(worker_id) FILTER (
            WHERE attempts.attempt = jobs.attempt AND outcome NOT IN ('PREEMPTED', 'STOPPED', 'STOP_GRACE_SPENT')
        ) AS failed_on,
        array_agg(worker_id) FILTER (WHERE outcome = 'DEVICE_UNFIT') AS unfit_on
    FROM attempts WHERE attempts.job_id = jobs.id
) AS past ON jobs.attempt > 0
WHERE jobs.state = 'QUEUED'
ORDER BY jobs.create_time, jobs.id
LIMIT $1

-- name: list_queue_owners
-- How the owners of waiting and running jobs stand, and what limits them.
WITH running AS (
    SELECT owner_id, count(*) AS jobs FROM jobs WHERE state IN ('STARTING', 'RUNNING', 'STOPPING') GROUP BY owner_id
)
SELECT owners.id, owners.create_time, owners.served_time, coalesce(running.jobs, 0) AS running,
    coalesce(own.running_jobs, everybody.running_jobs) AS running_limit,
    coalesce(own.device_hours_per_day, everybody.device_hours_per_day) AS hours_limit
FROM (SELECT owner_id FROM jobs WHERE state = 'QUEUED' UNION SELECT owner_id FROM running) AS present
JOIN owners ON owners.id = present.owner_id
LEFT JOIN running ON running.owner_id = present.owner_id
LEFT JOIN quotas AS own ON own.user_id = present.owner_id
LEFT JOIN quotas AS everybody ON everybody.user_id = 'default' AND coalesce(own.follows_default, true)

-- name: list_running
-- The jobs that workers have, and how far they are.
SELECT jobs.owner_id, jobs.worker_id, jobs.state, jobs.recipe, jobs.start_time, jobs.progress, jobs.stop_deadline,
    attempts.create_time AS attempt_time
FROM jobs JOIN attempts ON attempts.job_id = jobs.id AND attempts.attempt = jobs.attempt
WHERE jobs.state IN ('STARTING', 'RUNNING', 'STOPPING')

-- name: list_live_workers
-- The workers that are there.
SELECT id, name, device_class, device_count, memory_bytes, can_train_4bit, recipes, drain_time IS NOT NULL AS is_draining
FROM workers WHERE heartbeat_time > clock_timestamp() - $1::interval
ORDER BY id

-- name: typical_durations
-- How long the newest attempts of each recipe held their trainers, at the median.
SELECT wanted.recipe, percentile_cont(0.5) WITHIN GROUP (ORDER BY recent.end_time - recent.start_time) AS duration
FROM unnest($1::text[]) AS wanted (recipe), LATERAL (
    SELECT start_time, end_time FROM device_usage
    WHERE device_usage.recipe = wanted.recipe AND device_usage.end_time > clock_timestamp() - interval '7 days'
    ORDER BY device_usage.end_time DESC LIMIT 100
) AS recent
GROUP BY wanted.recipe
