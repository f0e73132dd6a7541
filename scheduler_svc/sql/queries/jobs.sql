-- name: insert_job
-- Adds a job without its first event; the caller records that in the same transaction.
INSERT INTO jobs (
    id, owner_id, name, model_id, dataset_id, parameters, device_class, needs_4bit, state, reason,
    queue_time, not_before, republish_time, sequence, create_time, update_time,
    priority, device_count, device_memory_bytes, recipe
)
VALUES (
    $1, $2, $3, $4, $5, $6, $7, $8, 'QUEUED', 'UNSPECIFIED',
    now(), now(), now() + $9::interval, 1, now(), now(),
    $10, $11, $12, $13
)
RETURNING *

-- name: select_job
-- Finds a job of its owner.
SELECT * FROM jobs WHERE id = $1 AND owner_id = $2

-- name: lock_job_of_owner
-- Locks a job of its owner and says what the life cycle's guards ask.
SELECT *,
    coalesce(lease_expire_time <= clock_timestamp(), false) AS lease_expired,
    coalesce(stop_deadline <= clock_timestamp(), false) AS grace_spent
FROM jobs WHERE id = $1 AND owner_id = $2
FOR UPDATE

-- name: lock_job
-- Locks a job and says what the life cycle's guards ask.
SELECT *,
    coalesce(lease_expire_time <= clock_timestamp(), false) AS lease_expired,
    coalesce(stop_deadline <= clock_timestamp(), false) AS grace_spent
FROM jobs WHERE id = $1
FOR UPDATE

-- name: change_state
-- The one statement that changes a job's state: a compare-and-set on state, generation and attempt.
UPDATE jobs SET
    state = $5,
    reason = $6,
    message = $7,
    sequence = sequence + 1,
    update_time = clock_timestamp(),
    generation = generation + CASE WHEN 'NEXT_GENERATION' = ANY ($8::text[]) THEN 1 ELSE 0 END,
    queue_time = CASE WHEN 'NEXT_GENERATION' = ANY ($8::text[]) THEN clock_timestamp() ELSE queue_time END,
    not_before = CASE WHEN 'NEXT_GENERATION' = ANY ($8::text[]) THEN clock_timestamp() + $9::interval ELSE not_before END,
    republish_time = CASE
        WHEN 'NEXT_GENERATION' = ANY ($8::text[]) THEN clock_timestamp() + $9::interval + $10::interval ELSE republish_time
    END,
    attempt = attempt + CASE WHEN 'NEXT_ATTEMPT' = ANY ($8::text[]) THEN 1 ELSE 0 END,
    worker_id = coalesce($11, worker_id),
    lease_expire_time = CASE
        WHEN 'TAKE_LEASE' = ANY ($8::text[]) THEN clock_timestamp() + $12::interval
        WHEN 'DROP_LEASE' = ANY ($8::text[]) THEN NULL
        ELSE lease_expire_time
    END,
    stop_deadline = CASE
        WHEN 'STOP_DEADLINE' = ANY ($8::text[]) THEN clock_timestamp() + $13::interval
        WHEN 'CLEAR_END_TIME' = ANY ($8::text[]) THEN NULL
        ELSE stop_deadline
    END,
    start_time = CASE WHEN 'START_TIME' = ANY ($8::text[]) THEN coalesce(start_time, clock_timestamp()) ELSE start_time END,
    end_time = CASE
        WHEN 'END_TIME' = ANY ($8::text[]) THEN clock_timestamp()
        WHEN 'CLEAR_END_TIME' = ANY ($8::text[]) THEN NULL
        ELSE end_time
    END,
    is_paused = CASE
        WHEN 'PAUSE' = ANY ($8::text[]) THEN true WHEN 'END_PAUSE' = ANY ($8::text[]) THEN false ELSE is_paused
    END,
    artifact_attempt = CASE WHEN $14 THEN attempt ELSE artifact_attempt END,
    infrastructure_failures = $15,
    crashes = $16
WHERE id = $1 AND state = $2 AND generation = $3 AND attempt = $4
RETURNING *

-- name: update_job
-- Changes what an owner may change of a job whose row the transaction has locked; null keeps it.
UPDATE jobs SET
    name = coalesce($2, name),
    priority = coalesce($3, priority),
    revision = revision + 1,
    update_time = clock_timestamp()
WHERE id = $1
RETURNING *

-- name: list_jobs
-- A page of a user's jobs, newest first, after the position ($2, $3).
SELECT * FROM jobs
WHERE owner_id = $1
    AND ($2::timestamptz IS NULL OR (create_time, id) < ($2, $3))
    AND ($4::text[] IS NULL OR state = ANY ($4))
    AND ($5::text IS NULL OR model_id = $5)
    AND ($6::text IS NULL OR dataset_id = $6)
    AND ($7::text IS NULL OR name = $7)
    AND NOT (model_id = ANY ($8::text[]) OR dataset_id = ANY ($9::text[]) OR name = ANY ($10::text[]))
    AND NOT EXISTS (SELECT FROM unnest($11::text[]) AS part WHERE position(lower(part) IN lower(name)) = 0)
ORDER BY create_time DESC, id DESC
LIMIT $12

-- name: delete_job
-- Removes a job and, by cascade, its events, attempts, checkpoints and artifact.
DELETE FROM jobs WHERE id = $1

-- name: notify
-- Wakes the replicas' listeners when the transaction commits.
SELECT pg_notify($1, $2)
