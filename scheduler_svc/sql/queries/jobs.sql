-- name: submit_jobs
-- Adds queued jobs, each with its first event and its wake-up, except those whose request id is taken; returns what it added.
-- Unless it is told ($6) that there is room: adds nothing if one of the owners has a limit, and returns a row of nulls.
WITH asked AS (
    SELECT * FROM jsonb_to_recordset($1::text::jsonb) AS asked (
        id text, owner_id text, name text, model_id text, dataset_id text, dataset_version integer, parameters jsonb,
        device_class text,
        needs_4bit boolean, priority smallint, device_count smallint, device_memory_bytes bigint, recipe text,
        source_job_id text, request_id uuid, rpc text, body_sha256 text, answer jsonb
    )
), is_limited AS MATERIALIZED (
    SELECT NOT $6 AND EXISTS (
        SELECT FROM asked
        LEFT JOIN quotas AS own ON own.user_id = asked.owner_id
        LEFT JOIN quotas AS everybody ON everybody.user_id = 'default' AND coalesce(own.follows_default, true)
        WHERE num_nonnulls(own.queued_jobs, everybody.queued_jobs, own.storage_bytes, everybody.storage_bytes) > 0
    ) AS answer
), fit AS (
    SELECT asked.* FROM asked, is_limited WHERE NOT is_limited.answer
), sources AS (
    -- What a job begins with is there when it is added, and stays while it is live: whoever deletes or retries the source locks its row, too.
    SELECT source.id
    FROM (SELECT DISTINCT source_job_id FROM fit WHERE source_job_id IS NOT NULL ORDER BY source_job_id) AS named
    CROSS JOIN LATERAL (
        SELECT id FROM jobs
        WHERE id = named.source_job_id AND state IN ('COMPLETED', 'STOPPED', 'FAILED') AND artifact_attempt IS NOT NULL
        FOR KEY SHARE
    ) AS source
), able AS (
    SELECT * FROM fit WHERE source_job_id IS NULL OR source_job_id IN (SELECT id FROM sources)
), taken AS (
    -- In one order, whoever takes them: two that take the same ids must not wait for each other.
    INSERT INTO request_ids (owner_id, request_id, rpc, body_sha256, answer, create_time)
    SELECT owner_id, request_id, rpc, body_sha256, answer, now()
    FROM able WHERE request_id IS NOT NULL ORDER BY owner_id, request_id
    ON CONFLICT DO NOTHING
    RETURNING answer ->> 'job_id' AS id
), added AS (
    INSERT INTO jobs (
        id, owner_id, name, model_id, dataset_id, dataset_version, parameters, device_class, needs_4bit, state, reason,
        queue_time, not_before, republish_time, sequence, create_time, update_time,
        priority, device_count, device_memory_bytes, recipe, source_job_id
    )
    SELECT
        id, owner_id, name, model_id, dataset_id, dataset_version, parameters, device_class, needs_4bit, 'QUEUED', 'UNSPECIFIED',
        now(), now(), now() + $2::interval, 1, now(), now(),
        priority, device_count, device_memory_bytes, recipe, source_job_id
    FROM able WHERE request_id IS NULL OR id IN (SELECT id FROM taken)
    -- In one order, too: a trigger makes owners known.
    ORDER BY owner_id, id
    RETURNING id, device_class
), told AS (
    INSERT INTO job_events (job_id, sequence, create_time, attempt, kind, body)
    SELECT id, 1, now(), 0, $3, $4::text::jsonb FROM added
), woken AS (
    INSERT INTO outbox (job_id, generation, device_class, not_before)
    SELECT id, 1, device_class, now() FROM added
)
SELECT id, now() AS create_time, pg_notify($5, '')::text FROM added
UNION ALL
SELECT NULL, NULL, NULL FROM is_limited WHERE answer

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
    AND ($12::text IS NULL OR coalesce(source_job_id, '') = $12)
    AND NOT coalesce(source_job_id, '') = ANY ($13::text[])
ORDER BY create_time DESC, id DESC
LIMIT $14

-- name: list_live_jobs
-- The same of jobs that are not final, of which a user has few: their indexes find them among any number that are.
SELECT * FROM (
    SELECT * FROM jobs WHERE owner_id = $1 AND state = 'QUEUED'
    UNION ALL
    SELECT * FROM jobs WHERE owner_id = $1 AND state IN ('STARTING', 'RUNNING', 'STOPPING')
) AS live
WHERE ($2::timestamptz IS NULL OR (create_time, id) < ($2, $3))
    AND ($4::text[] IS NULL OR state = ANY ($4))
    AND ($5::text IS NULL OR model_id = $5)
    AND ($6::text IS NULL OR dataset_id = $6)
    AND ($7::text IS NULL OR name = $7)
    AND NOT (model_id = ANY ($8::text[]) OR dataset_id = ANY ($9::text[]) OR name = ANY ($10::text[]))
    AND NOT EXISTS (SELECT FROM unnest($11::text[]) AS part WHERE position(lower(part) IN lower(name)) = 0)
    AND ($12::text IS NULL OR coalesce(source_job_id, '') = $12)
    AND NOT coalesce(source_job_id, '') = ANY ($13::text[])
ORDER BY create_time DESC, id DESC
LIMIT $14

-- name: list_followers
-- The same of jobs that began with job $12, which list_jobs would look for among all of its owner's: this has an index of its own.
SELECT * FROM jobs
WHERE owner_id = $1
    AND source_job_id = $12
    AND ($2::timestamptz IS NULL OR (create_time, id) < ($2, $3))
    AND ($4::text[] IS NULL OR state = ANY ($4))
    AND ($5::text IS NULL OR model_id = $5)
    AND ($6::text IS NULL OR dataset_id = $6)
    AND ($7::text IS NULL OR name = $7)
    AND NOT (model_id = ANY ($8::text[]) OR dataset_id = ANY ($9::text[]) OR name = ANY ($10::text[]))
    AND NOT EXISTS (SELECT FROM unnest($11::text[]) AS part WHERE position(lower(part) IN lower(name)) = 0)
    AND NOT source_job_id = ANY ($13::text[])
ORDER BY create_time DESC, id DESC
LIMIT $14

-- name: count_foreign_uses
-- Counts, up to a limit, the live jobs of others that use a dataset or model.
SELECT count(*) FROM (
    SELECT FROM jobs
    WHERE dataset_id = $1 AND owner_id <> $2 AND state IN ('QUEUED', 'STARTING', 'RUNNING', 'STOPPING')
    UNION ALL
    SELECT FROM jobs
    WHERE model_id = $1 AND owner_id <> $2 AND state IN ('QUEUED', 'STARTING', 'RUNNING', 'STOPPING')
    LIMIT $3
) AS uses

-- name: find_live_dependent
-- A live job that begins with what job $1 has made; nothing when there is none.
SELECT id FROM jobs WHERE source_job_id = $1 AND state IN ('QUEUED', 'STARTING', 'RUNNING', 'STOPPING') LIMIT 1

-- name: lock_source
-- Keeps a job that another begins with from being deleted or retried until the transaction ends; nothing when it has nothing to give.
SELECT id FROM jobs
WHERE id = $1 AND owner_id = $2 AND state IN ('COMPLETED', 'STOPPED', 'FAILED') AND artifact_attempt IS NOT NULL
FOR KEY SHARE

-- name: delete_job
-- Removes a job and, by cascade, its events, attempts, checkpoints and artifact.
DELETE FROM jobs WHERE id = $1

-- name: notify
-- Wakes the replicas' listeners when the transaction commits.
SELECT pg_notify($1, $2)
