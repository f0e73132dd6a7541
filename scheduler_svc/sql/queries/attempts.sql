-- name: insert_attempt
-- Opens an attempt; from now on it uses devices.
WITH opened AS (
    INSERT INTO attempts (job_id, attempt, worker_id, create_time) VALUES ($1, $2, $3, clock_timestamp())
    RETURNING job_id, attempt, create_time
)
INSERT INTO device_usage (job_id, attempt, owner_id, recipe, device_count, start_time)
SELECT job_id, opened.attempt, jobs.owner_id, jobs.recipe, jobs.device_count, opened.create_time
FROM opened JOIN jobs ON jobs.id = opened.job_id

-- name: end_attempt
-- Closes an attempt; it uses no devices any more.
WITH ended AS (
    UPDATE attempts SET end_time = clock_timestamp(), outcome = $3, ended_by = $4
    WHERE job_id = $1 AND attempt = $2 AND end_time IS NULL
    RETURNING job_id, attempt, end_time
)
UPDATE device_usage SET end_time = ended.end_time
FROM ended WHERE device_usage.job_id = ended.job_id AND device_usage.attempt = ended.attempt

-- name: select_attempt
-- How an attempt stands, its job's present state and attempt included.
SELECT attempts.recorded_report, attempts.outcome, attempts.ended_by, attempts.worker_id,
    EXISTS (SELECT FROM workers WHERE workers.id = attempts.worker_id AND drain_time IS NOT NULL) AS is_draining,
    jobs.attempt AS job_attempt, jobs.state AS job_state, jobs.owner_id, jobs.model_id, jobs.dataset_id
FROM attempts JOIN jobs ON jobs.id = attempts.job_id
WHERE attempts.job_id = $1 AND attempts.attempt = $2

-- name: mark_outlived
-- Takes note that the trainer of an attempt that lost its lease is alive: it was cut off, and did not die of the job.
UPDATE attempts SET outcome = 'OUTLIVED' WHERE job_id = $1 AND attempt = $2 AND outcome = 'LEASE_LOST'

-- name: recorded_report
-- The highest report of an attempt on record.
SELECT recorded_report FROM attempts WHERE job_id = $1 AND attempt = $2

-- name: record_report
-- Marks all reports of an attempt up to a number as recorded.
UPDATE attempts SET recorded_report = $3 WHERE job_id = $1 AND attempt = $2

-- name: renew_lease
-- A heartbeat: renews the lease, says that the worker is alive and whether it is to drain; nothing when the attempt is fenced.
WITH renewed AS (
    UPDATE jobs SET lease_expire_time = clock_timestamp() + $3::interval
    WHERE id = $1 AND attempt = $2 AND state IN ('STARTING', 'RUNNING', 'STOPPING')
    RETURNING state, worker_id
), heard AS (
    UPDATE workers SET heartbeat_time = clock_timestamp() FROM renewed WHERE workers.id = renewed.worker_id
    RETURNING drain_time
)
SELECT renewed.state, EXISTS (SELECT FROM heard WHERE drain_time IS NOT NULL) AS is_draining FROM renewed

-- name: insert_checkpoint
-- Records a checkpoint; returns nothing when it is recorded already.
INSERT INTO checkpoints (job_id, attempt, step, files, size_bytes, eval_loss, create_time)
VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp())
ON CONFLICT DO NOTHING
RETURNING step

-- name: list_checkpoints
-- A job's checkpoints, the newest first.
SELECT attempt, step, files, eval_loss FROM checkpoints WHERE job_id = $1 ORDER BY attempt DESC, step DESC

-- name: list_checkpoint_page
-- A page of a job's checkpoints, the newest first, after the position ($2, $3).
SELECT attempt, step, size_bytes, create_time, eval_loss,
    (attempt, step) = (
        SELECT newest.attempt, newest.step FROM checkpoints AS newest
        WHERE newest.job_id = $1 ORDER BY newest.attempt DESC, newest.step DESC LIMIT 1
    ) AS is_newest
FROM checkpoints
WHERE job_id = $1 AND ($2::integer IS NULL OR (attempt, step) < ($2, $3))
ORDER BY attempt DESC, step DESC
LIMIT $4

-- name: delete_checkpoints
-- Forgets every checkpoint of a job and says which they were.
DELETE FROM checkpoints WHERE job_id = $1 RETURNING attempt, step

-- name: delete_checkpoint
-- Forgets a checkpoint.
DELETE FROM checkpoints WHERE job_id = $1 AND attempt = $2 AND step = $3

-- name: insert_artifact
-- Publishes the artifact of a job in place of the one that it had; returns the attempt of that one, null for the first.
WITH replaced AS (SELECT attempt FROM artifacts WHERE job_id = $1)
INSERT INTO artifacts (job_id, attempt, files, digest, create_time) VALUES ($1, $2, $3, $4, clock_timestamp())
ON CONFLICT (job_id) DO UPDATE SET
    attempt = excluded.attempt, files = excluded.files, digest = excluded.digest, create_time = excluded.create_time
RETURNING (SELECT attempt FROM replaced)

-- name: select_source_artifact
-- The artifact of what an attempt's job begins with, if both are of one owner; nothing when there is none.
SELECT source.id, source.dataset_id, source.dataset_version, artifacts.attempt, artifacts.files, artifacts.create_time
FROM jobs AS job
JOIN jobs AS source ON source.id = job.source_job_id AND source.owner_id = job.owner_id
JOIN artifacts ON artifacts.job_id = source.id
WHERE job.id = $1

-- name: select_artifact
-- The artifact of its owner's job; columns are null while there is none.
SELECT
    jobs.state AS job_state, jobs.dataset_id, jobs.dataset_version, artifacts.attempt, artifacts.files,
    artifacts.create_time
FROM jobs LEFT JOIN artifacts ON artifacts.job_id = jobs.id
WHERE jobs.id = $1 AND jobs.owner_id = $2
