-- name: lock_next_job
-- Locks the queued job that a worker should take: of the owner with the fewest running jobs, the oldest; others' locks are passed by.
WITH running AS (
    SELECT owner_id, count(*) AS jobs FROM jobs WHERE state IN ('STARTING', 'RUNNING', 'STOPPING') GROUP BY owner_id
)
SELECT job.*, false AS lease_expired, false AS grace_spent
FROM jobs AS job LEFT JOIN running USING (owner_id)
WHERE job.state = 'QUEUED'
    AND job.not_before <= clock_timestamp()
    AND job.device_class IN ('ANY', $2)
    AND ($3 OR NOT job.needs_4bit)
    AND NOT EXISTS (
        SELECT FROM attempts AS tried
        WHERE tried.job_id = job.id AND tried.worker_id = $1 AND tried.outcome = 'DEVICE_UNFIT'
    )
ORDER BY coalesce(running.jobs, 0), job.create_time, job.id
LIMIT 1
FOR UPDATE OF job SKIP LOCKED

-- name: insert_attempt
-- Opens an attempt.
INSERT INTO attempts (job_id, attempt, worker_id, create_time) VALUES ($1, $2, $3, clock_timestamp())

-- name: end_attempt
-- Closes an attempt.
UPDATE attempts SET end_time = clock_timestamp(), outcome = $3, ended_by = $4
WHERE job_id = $1 AND attempt = $2 AND end_time IS NULL

-- name: select_attempt
-- How an attempt stands, its job's present state and attempt included.
SELECT attempts.recorded_report, attempts.outcome, attempts.ended_by, attempts.worker_id,
    jobs.attempt AS job_attempt, jobs.state AS job_state, jobs.owner_id, jobs.model_id, jobs.dataset_id
FROM attempts JOIN jobs ON jobs.id = attempts.job_id
WHERE attempts.job_id = $1 AND attempts.attempt = $2

-- name: recorded_report
-- The highest report of an attempt on record.
SELECT recorded_report FROM attempts WHERE job_id = $1 AND attempt = $2

-- name: record_report
-- Marks all reports of an attempt up to a number as recorded.
UPDATE attempts SET recorded_report = $3 WHERE job_id = $1 AND attempt = $2

-- name: renew_lease
-- A heartbeat: renews the lease and says that the worker is alive; nothing when the attempt is fenced.
WITH renewed AS (
    UPDATE jobs SET lease_expire_time = clock_timestamp() + $3::interval
    WHERE id = $1 AND attempt = $2 AND state IN ('STARTING', 'RUNNING', 'STOPPING')
    RETURNING state, worker_id
), heard AS (
    UPDATE workers SET heartbeat_time = clock_timestamp() FROM renewed WHERE workers.id = renewed.worker_id
)
SELECT state FROM renewed

-- name: insert_checkpoint
-- Records a checkpoint; returns nothing when it is recorded already.
INSERT INTO checkpoints (job_id, attempt, step, files, size_bytes, create_time)
VALUES ($1, $2, $3, $4, $5, clock_timestamp())
ON CONFLICT DO NOTHING
RETURNING step

-- name: list_checkpoints
-- A job's checkpoints, the newest first.
SELECT attempt, step, files FROM checkpoints WHERE job_id = $1 ORDER BY attempt DESC, step DESC

-- name: delete_checkpoint
-- Forgets a checkpoint.
DELETE FROM checkpoints WHERE job_id = $1 AND attempt = $2 AND step = $3

-- name: insert_artifact
-- Publishes the artifact of a job.
INSERT INTO artifacts (job_id, attempt, files, digest, create_time) VALUES ($1, $2, $3, $4, clock_timestamp())

-- name: select_artifact
-- The artifact of its owner's job; columns are null while there is none.
SELECT jobs.state AS job_state, artifacts.attempt, artifacts.files, artifacts.create_time
FROM jobs LEFT JOIN artifacts ON artifacts.job_id = jobs.id
WHERE jobs.id = $1 AND jobs.owner_id = $2
