-- name: select_quotas
-- The limits that hold for users, in order of user id, and what counts against them.
SELECT asked.user_id,
    coalesce(own.follows_default, true) AND asked.user_id <> 'default' AS is_default,
    coalesce(own.running_jobs, everybody.running_jobs) AS running_jobs,
    coalesce(own.queued_jobs, everybody.queued_jobs) AS queued_jobs,
    coalesce(own.device_hours_per_day, everybody.device_hours_per_day) AS device_hours_per_day,
    coalesce(own.storage_bytes, everybody.storage_bytes) AS storage_bytes,
    coalesce(own.revision, 0) AS revision,
    own.update_time,
    (
        SELECT count(*) FROM jobs
        WHERE jobs.owner_id = asked.user_id AND jobs.state IN ('STARTING', 'RUNNING', 'STOPPING')
    ) AS running_now,
    (SELECT count(*) FROM jobs WHERE jobs.owner_id = asked.user_id AND jobs.state = 'QUEUED') AS queued_now,
    device_hours(asked.user_id) AS device_hours_now,
    coalesce((SELECT size_bytes FROM owner_storage WHERE owner_id = asked.user_id), 0) AS stored_now,
    clock_timestamp() AS now
FROM unnest($1::text[]) AS asked (user_id)
LEFT JOIN quotas AS own ON own.user_id = asked.user_id
LEFT JOIN quotas AS everybody ON everybody.user_id = 'default' AND coalesce(own.follows_default, true)
ORDER BY asked.user_id

-- name: list_quota_users
-- A page of users whose quota was set, by id, after the position $1.
SELECT user_id FROM quotas WHERE NOT follows_default AND ($1::text IS NULL OR user_id > $1) ORDER BY user_id LIMIT $2

-- name: list_device_time
-- The attempts that count against the device hours of owners.
SELECT owner_id, start_time, end_time, device_count
FROM device_usage
WHERE owner_id = ANY ($1::text[]) AND (end_time IS NULL OR end_time > clock_timestamp() - interval '24 h')

-- name: take_quota_turn
-- Changes of quotas are made one after the other.
SELECT pg_advisory_xact_lock(hashtext('scheduler.quotas'))

-- name: upsert_quota
-- Sets a user's limits.
INSERT INTO quotas (user_id, running_jobs, queued_jobs, device_hours_per_day, storage_bytes, update_time)
VALUES ($1, $2, $3, $4, $5, clock_timestamp())
ON CONFLICT (user_id) DO UPDATE SET
    running_jobs = excluded.running_jobs, queued_jobs = excluded.queued_jobs,
    device_hours_per_day = excluded.device_hours_per_day, storage_bytes = excluded.storage_bytes,
    follows_default = false, revision = quotas.revision + 1, update_time = excluded.update_time
RETURNING *

-- name: take_quota_away
-- Takes a user's own limits away, if there are any.
UPDATE quotas SET
    running_jobs = NULL, queued_jobs = NULL, device_hours_per_day = NULL, storage_bytes = NULL,
    follows_default = true, revision = revision + 1, update_time = clock_timestamp()
WHERE user_id = $1 AND NOT follows_default

-- name: select_submission_limits
-- What those of some users may have waiting and stored who have a limit of these, and what is stored.
SELECT asked.user_id,
    coalesce(own.queued_jobs, everybody.queued_jobs) AS queued_jobs,
    coalesce(own.storage_bytes, everybody.storage_bytes) AS storage_bytes,
    coalesce((SELECT size_bytes FROM owner_storage WHERE owner_id = asked.user_id), 0) AS stored_now
FROM (SELECT DISTINCT unnest($1::text[]) AS user_id) AS asked
LEFT JOIN quotas AS own ON own.user_id = asked.user_id
LEFT JOIN quotas AS everybody ON everybody.user_id = 'default' AND coalesce(own.follows_default, true)
WHERE num_nonnulls(own.queued_jobs, everybody.queued_jobs, own.storage_bytes, everybody.storage_bytes) > 0

-- name: take_submission_turns
-- Jobs of users with a limit are added one after the other, on whatever replica; turns are taken in one order, so that nobody waits in a circle.
SELECT set_config('idle_in_transaction_session_timeout', '3s', true), pg_advisory_xact_lock(hashtext('scheduler.submit'), turn)
FROM (SELECT DISTINCT hashtext(user_id) AS turn FROM unnest($1::text[]) AS user_id ORDER BY turn) AS turns

-- name: count_queued
-- Counts what users have waiting.
SELECT asked.user_id, (SELECT count(*) FROM jobs WHERE owner_id = asked.user_id AND state = 'QUEUED') AS queued_now
FROM unnest($1::text[]) AS asked (user_id)

-- name: delete_old_device_usage
-- Forgets attempts that count against nothing any more and say little about the next ones.
DELETE FROM device_usage
WHERE (job_id, attempt) IN (
    SELECT job_id, attempt FROM device_usage WHERE end_time < clock_timestamp() - $1::interval LIMIT 10000
)
