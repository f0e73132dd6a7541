-- name: lock_expired_job
-- Locks one job whose lease or stop grace is over; others' locks are passed by.
SELECT *,
    lease_expire_time <= clock_timestamp() AS lease_expired,
    coalesce(stop_deadline <= clock_timestamp(), false) AS grace_spent
FROM jobs
WHERE state IN ('STARTING', 'RUNNING', 'STOPPING')
    AND (lease_expire_time <= clock_timestamp() OR (state = 'STOPPING' AND stop_deadline <= clock_timestamp()))
LIMIT 1
FOR UPDATE SKIP LOCKED

-- name: count_silent_losses
-- How many attempts in a row, up to the present one, lost a trainer that was not heard of again, with no checkpoint after the first.
SELECT $2::int + 1 - greatest(
    1,
    (SELECT max(attempt) + 1 FROM attempts WHERE job_id = $1 AND attempt < $2 AND outcome <> 'LEASE_LOST'),
    (SELECT max(attempt) FROM checkpoints WHERE job_id = $1 AND attempt <= $2)
)

-- name: note_sweep
-- Notes that a sweeper is at work. When none was for longer than $2 nobody could renew a lease either: all begin anew, with $1.
WITH last_sweep AS (
    SELECT sweep_time < clock_timestamp() - $2::interval AS was_silent FROM sweeps FOR UPDATE
), noted AS (
    UPDATE sweeps SET sweep_time = clock_timestamp()
)
UPDATE jobs SET
    lease_expire_time = clock_timestamp() + $1::interval,
    stop_deadline = CASE WHEN state = 'STOPPING' THEN greatest(stop_deadline, clock_timestamp() + $1::interval) ELSE stop_deadline END
FROM last_sweep
WHERE was_silent AND state IN ('STARTING', 'RUNNING', 'STOPPING')
RETURNING jobs.id

-- name: next_deadline
-- Time until the next lease or stop grace is over; null when no trainer has a job.
SELECT min(least(lease_expire_time, CASE WHEN state = 'STOPPING' THEN stop_deadline END)) - clock_timestamp()
FROM jobs
WHERE state IN ('STARTING', 'RUNNING', 'STOPPING')

-- name: republish_waiting
-- Puts wake-ups of jobs that have waited long back into the outbox; the pauses double, up to an hour.
WITH waiting AS (
    SELECT id FROM jobs
    WHERE state = 'QUEUED' AND NOT is_paused AND republish_time <= clock_timestamp()
    LIMIT 500
    FOR UPDATE SKIP LOCKED
), marked AS (
    UPDATE jobs
    SET republish_time = clock_timestamp() + least(greatest(clock_timestamp() - queue_time, interval '30 s'), interval '1 h')
    FROM waiting WHERE jobs.id = waiting.id
    RETURNING jobs.id, jobs.generation, jobs.device_class
)
INSERT INTO outbox (job_id, generation, device_class, not_before)
SELECT id, generation, device_class, clock_timestamp() FROM marked
ON CONFLICT DO NOTHING

-- name: republish_all
-- Puts a wake-up of every queued job into the outbox: the broker may have lost them.
INSERT INTO outbox (job_id, generation, device_class, not_before)
SELECT id, generation, device_class, not_before FROM jobs WHERE state = 'QUEUED' AND NOT is_paused
ON CONFLICT DO NOTHING

-- name: insert_outbox
-- Adds a wake-up.
INSERT INTO outbox (job_id, generation, device_class, not_before)
VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING

-- name: allow_idle
-- Lets the present transaction wait for another server; what it locks are no jobs.
SET LOCAL idle_in_transaction_session_timeout = '60 s'

-- name: lock_due_outbox
-- Locks wake-ups that are due, others' locks are passed by; tells how many workers have no job, and lets the transaction wait for the broker.
-- A worker without a job is heard of only when it asks, which may be less often than a lease lasts: one that seems lost may be there.
WITH idle AS MATERIALIZED (
    SELECT count(*) AS workers, set_config('idle_in_transaction_session_timeout', '60s', true)
    FROM workers
    WHERE drain_time IS NULL
        AND NOT EXISTS (SELECT FROM jobs WHERE worker_id = workers.id AND state IN ('STARTING', 'RUNNING', 'STOPPING'))
)
SELECT id, job_id, generation, device_class, (SELECT workers FROM idle) AS idle_workers FROM outbox
WHERE not_before <= clock_timestamp()
ORDER BY not_before, id
LIMIT $1
FOR UPDATE SKIP LOCKED

-- name: next_outbox
-- Time until the next wake-up is due; null when there is none.
SELECT min(not_before) - clock_timestamp() FROM outbox

-- name: delete_outbox
-- Removes published wake-ups.
DELETE FROM outbox WHERE id = ANY ($1::bigint[])

-- name: delete_stale_outbox
-- Removes wake-ups of jobs that do not wait any more, whether or not the broker ever took them.
DELETE FROM outbox WHERE id IN (
    SELECT id FROM outbox
    WHERE NOT EXISTS (
        SELECT FROM jobs
        WHERE jobs.id = outbox.job_id AND jobs.state = 'QUEUED' AND NOT jobs.is_paused AND jobs.generation = outbox.generation
    )
    LIMIT 1000
    FOR UPDATE SKIP LOCKED
)

-- name: insert_garbage
-- Marks a prefix whose objects nobody needs any more.
INSERT INTO garbage (job_id, prefix, collect_time, final_time)
VALUES ($1, $2, clock_timestamp(), clock_timestamp() + $3::interval)
ON CONFLICT (prefix) DO UPDATE SET collect_time = excluded.collect_time, final_time = excluded.final_time

-- name: lock_due_garbage
-- Locks one prefix that is due; others' locks are passed by.
SELECT id, job_id, prefix, final_time <= clock_timestamp() AS is_final
FROM garbage WHERE collect_time <= clock_timestamp()
ORDER BY collect_time
LIMIT 1
FOR UPDATE SKIP LOCKED

-- name: list_referenced_files
-- The stored files that a job still points to: its artifact's and its checkpoints'.
SELECT attempt, NULL::bigint AS step, files FROM artifacts WHERE job_id = $1
UNION ALL
SELECT attempt, step, files FROM checkpoints WHERE job_id = $1

-- name: postpone_garbage
-- Keeps a prefix for a second look, when no upload can be under way any more.
UPDATE garbage SET collect_time = greatest(final_time, clock_timestamp() + interval '1 s') WHERE id = $1

-- name: delete_garbage
-- Forgets a prefix that has been emptied.
DELETE FROM garbage WHERE id = $1
