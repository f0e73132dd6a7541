-- name: lock_login_failures
-- Reads what counts against an account, and makes parallel attempts wait for each other.
SELECT failures, last_time, clock_timestamp() AS now
FROM login_failures
WHERE account_sha256 = $1
FOR UPDATE;

-- name: count_login_failure
-- Counts a failure; those from before the time to forget no longer count.
INSERT INTO login_failures AS f (account_sha256, failures, last_time)
VALUES ($1, 1, clock_timestamp())
ON CONFLICT (account_sha256) DO UPDATE
SET failures = CASE WHEN f.last_time < clock_timestamp() - $2::interval THEN 1 ELSE least(f.failures + 1, 1000) END,
    last_time = clock_timestamp()
RETURNING failures;

-- name: forget_login_failures
-- Clears an account after a right password.
DELETE FROM login_failures WHERE account_sha256 = $1;

-- name: delete_old_login_failures
-- Deletes what no longer counts.
DELETE FROM login_failures WHERE last_time < now() - $1::interval;
