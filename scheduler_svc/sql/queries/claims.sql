-- name: knock
-- Marks a worker as heard of and says whether it may take jobs and any waits that it could hold; nothing when it is not registered.
UPDATE workers SET heartbeat_time = clock_timestamp()
WHERE id = $1
RETURNING drain_time IS NULL AND EXISTS (
    SELECT FROM jobs
    WHERE jobs.state = 'QUEUED' AND NOT jobs.is_paused AND jobs.not_before <= clock_timestamp() AND can_hold(workers, jobs)
) AS has_work

-- name: take_claim_turn
-- Claims are made one after the other, on whatever replica; one that stands still in the middle of it loses its turn.
SELECT set_config('idle_in_transaction_session_timeout', '3s', true), pg_advisory_xact_lock(hashtext('scheduler.claim'))

-- name: choose_next_job
-- The job that worker $1 gets: that of the owner with the fewest running jobs, then of the one served longest ago; their first by priority
-- and age. $2 is how long a worker lives unheard, $3 names jobs to pass by.
WITH RECURSIVE waiting AS (
    -- The owners of queued jobs, at the price of an index probe each.
    (SELECT owner_id FROM jobs WHERE state = 'QUEUED' ORDER BY owner_id LIMIT 1)
    UNION ALL
    SELECT (
        SELECT jobs.owner_id FROM jobs
        WHERE jobs.state = 'QUEUED' AND jobs.owner_id > waiting.owner_id ORDER BY jobs.owner_id LIMIT 1
    )
    FROM waiting WHERE waiting.owner_id IS NOT NULL
), running AS (
    SELECT owner_id, count(*) AS jobs FROM jobs WHERE state IN ('STARTING', 'RUNNING', 'STOPPING') GROUP BY owner_id
), served AS (
    SELECT owners.id, owners.served_time, owners.create_time, coalesce(running.jobs, 0) AS running,
        coalesce(own.running_jobs, everybody.running_jobs) AS running_limit,
        coalesce(own.device_hours_per_day, everybody.device_hours_per_day) AS hours_limit
    FROM waiting
    JOIN owners ON owners.id = waiting.owner_id
    LEFT JOIN running ON running.owner_id = waiting.owner_id
    LEFT JOIN quotas AS own ON own.user_id = waiting.owner_id
    LEFT JOIN quotas AS everybody ON everybody.user_id = 'default' AND coalesce(own.follows_default, true)
    ORDER BY running, owners.served_time NULLS FIRST, owners.create_time, owners.id
    -- Keeps what follows out of this part: it is asked of one owner after the other, until one has a job to give.
    OFFSET 0
)
SELECT chosen.id
FROM served
JOIN workers AS worker ON worker.id = $1 AND worker.drain_time IS NULL
CROSS JOIN LATERAL (
    SELECT job.id FROM jobs AS job LEFT JOIN attempts AS last ON last.job_id = job.id AND last.attempt = job.attempt
    WHERE job.state = 'QUEUED' AND job.owner_id = served.id
        AND NOT job.is_paused
        AND job.not_before <= clock_timestamp()
        AND can_hold(worker, job)
        AND job.id <> ALL ($3::text[])
        AND NOT EXISTS (
            SELECT FROM attempts AS tried
            WHERE tried.job_id = job.id AND tried.worker_id = worker.id AND tried.outcome = 'DEVICE_UNFIT'
        )
        -- Where its last attempt failed it goes again only when no other idle worker can take it.
        AND NOT (
            last.worker_id IS NOT DISTINCT FROM worker.id
            AND last.outcome NOT IN ('PREEMPTED', 'STOPPED', 'STOP_GRACE_SPENT')
            AND EXISTS (
                SELECT FROM workers AS other
                WHERE other.id <> worker.id
                    AND other.drain_time IS NULL
                    AND other.heartbeat_time > clock_timestamp() - $2::interval
                    AND can_hold(other, job)
                    AND NOT EXISTS (
                        SELECT FROM jobs AS held
                        WHERE held.worker_id = other.id AND held.state IN ('STARTING', 'RUNNING', 'STOPPING')
                    )
                    AND NOT EXISTS (
                        SELECT FROM attempts AS tried
                        WHERE tried.job_id = job.id AND tried.worker_id = other.id AND tried.outcome = 'DEVICE_UNFIT'
                    )
            )
        )
    ORDER BY job.priority DESC, job.create_time, job.id
    LIMIT 1
) AS chosen
WHERE (served.running_limit IS NULL OR served.running < served.running_limit)
    AND (served.hours_limit IS NULL OR served.hours_limit > device_hours(served.id))
ORDER BY served.running, served.served_time NULLS FIRST, served.create_time, served.id
LIMIT 1

-- name: lock_chosen_job
-- Locks the chosen job; nothing when somebody else changes it at this moment or has just taken it out of the queue.
SELECT *, false AS lease_expired, false AS grace_spent
FROM jobs WHERE id = $1 AND state = 'QUEUED' AND NOT is_paused AND not_before <= clock_timestamp()
FOR UPDATE SKIP LOCKED

-- name: mark_served
-- Puts an owner behind those who have waited longer.
INSERT INTO owners (id, create_time, served_time) VALUES ($1, clock_timestamp(), clock_timestamp())
ON CONFLICT (id) DO UPDATE SET served_time = excluded.served_time
