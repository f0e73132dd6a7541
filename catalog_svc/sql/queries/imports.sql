-- name: count_running_imports
-- Counts a user's imports that have not ended.
SELECT count(*) FROM imports WHERE owner_id = $1 AND state = 'RUNNING';

-- name: find_import_request
-- Finds the import that a request id began.
SELECT * FROM imports WHERE owner_id = $1 AND request_id = $2::uuid;

-- name: insert_import
-- Adds an import; returns nothing if the request id was used before.
INSERT INTO imports (id, owner_id, entry_id, source, location_id, request_id, digest, limit_bytes, used_elsewhere_bytes)
VALUES ($1, $2, $3, $4, $5, $6::uuid, $7, $8, $9)
ON CONFLICT (owner_id, request_id) DO NOTHING
RETURNING *;

-- name: get_import
-- Gets an import of this owner.
SELECT * FROM imports WHERE id = $1 AND owner_id = $2;

-- name: list_imports
-- Lists an owner's imports, newest first, from a position on.
SELECT * FROM imports
WHERE owner_id = $1 AND (create_time, id) < ($2, $3) AND ($4 = '' OR entry_id = $4)
ORDER BY create_time DESC, id DESC
LIMIT $5;

-- name: list_import_failures
-- Lists the files that an import of this owner gave up, from a position on.
SELECT f.* FROM import_files f JOIN imports i ON i.id = f.import_id
WHERE f.import_id = $1 AND i.owner_id = $2 AND f.state = 'FAILED' AND f.position > $3
ORDER BY f.position
LIMIT $4;

-- name: cancel_import
-- Ends a running import of this owner.
UPDATE imports
SET state = 'CANCELLED', end_time = now(), lease_token = NULL, lease_expire_time = NULL
WHERE id = $1 AND owner_id = $2 AND state = 'RUNNING';

-- name: is_import_running
-- Tells whether an import into an entry has not ended.
SELECT EXISTS (SELECT FROM imports WHERE entry_id = $1 AND state = 'RUNNING');

-- name: claim_import
-- Leases the running import that has waited longest, if there is one that nobody else works on. A lease that was not given
-- back is a failure: whoever had it died.
UPDATE imports
SET failures = failures + CASE WHEN lease_token IS NULL THEN 0 ELSE 1 END,
    lease_token = $1, lease_expire_time = now() + $2::interval
WHERE id = (
    SELECT id FROM imports
    WHERE state = 'RUNNING' AND (lease_expire_time IS NULL OR lease_expire_time < now())
    ORDER BY create_time
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
RETURNING *;

-- name: renew_import
-- Extends a lease; returns nothing if it is lost, or the import has ended.
UPDATE imports SET lease_expire_time = now() + $3::interval
WHERE id = $1 AND lease_token = $2 AND state = 'RUNNING'
RETURNING id;

-- name: release_import
-- Gives a lease back, so that another replica goes on at once, or later; counts failures.
UPDATE imports SET lease_token = NULL, lease_expire_time = now() + $3::interval, failures = failures + $4
WHERE id = $1 AND lease_token = $2 AND state = 'RUNNING';

-- name: set_import_commit
-- Notes what a revision stands for, once; returns what counts, or nothing if the lease is lost.
UPDATE imports SET commit_sha = CASE commit_sha WHEN '' THEN $3 ELSE commit_sha END
WHERE id = $1 AND lease_token = $2 AND state = 'RUNNING'
RETURNING commit_sha;

-- name: lock_import
-- Keeps an import from ending, or from being taken over, until the transaction ends.
SELECT id FROM imports WHERE id = $1 AND lease_token = $2 AND state = 'RUNNING' FOR UPDATE;

-- name: add_import_files
-- Adds files of an import that are not known yet, and counts them.
WITH added AS (
    INSERT INTO import_files (import_id, path, location, size_bytes, etag, state, reason, message)
    SELECT $1, path, location, size_bytes, etag, CASE reason WHEN '' THEN 'WAITING' ELSE 'FAILED' END, reason, message
    FROM unnest($2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[])
        AS item (path, location, size_bytes, etag, reason, message)
    ON CONFLICT (import_id, path) DO NOTHING
    RETURNING size_bytes, state
), sums AS (
    SELECT count(*) AS files, count(*) FILTER (WHERE state = 'FAILED') AS failed, COALESCE(sum(size_bytes), 0) AS bytes
    FROM added
)
UPDATE imports SET files = imports.files + sums.files, files_failed = imports.files_failed + sums.failed,
                   bytes = imports.bytes + sums.bytes
FROM sums
WHERE id = $1;

-- name: set_import_listed
-- Notes that all files of an import are known.
UPDATE imports SET is_listed = true WHERE id = $1 AND lease_token = $2 AND state = 'RUNNING' RETURNING id;

-- name: next_import_files
-- Lists files that are still to be fetched, from a position on.
SELECT * FROM import_files
WHERE import_id = $1 AND state = 'WAITING' AND position > $2
ORDER BY position
LIMIT $3;

-- name: end_import_file
-- Notes what came of a file, once, and counts it. A file that is in place is progress: failures count anew.
WITH ended AS (
    UPDATE import_files SET state = $3, reason = $4, message = $5, size_bytes = COALESCE($6, size_bytes)
    WHERE import_id = $1 AND path = $2 AND state = 'WAITING'
    RETURNING state
)
UPDATE imports
SET files_done = files_done + CASE ended.state WHEN 'DONE' THEN 1 ELSE 0 END,
    files_failed = files_failed + CASE ended.state WHEN 'FAILED' THEN 1 ELSE 0 END,
    bytes_done = bytes_done + CASE ended.state WHEN 'DONE' THEN COALESCE($6, 0) ELSE 0 END,
    failures = CASE ended.state WHEN 'DONE' THEN 0 ELSE failures END
FROM ended
WHERE id = $1;

-- name: end_import
-- Sets the state that an import ends with; returns nothing if its lease is lost.
UPDATE imports
SET state = $3, error_reason = $4, error_message = $5, end_time = now(), lease_token = NULL, lease_expire_time = NULL
WHERE id = $1 AND lease_token = $2 AND state = 'RUNNING'
RETURNING id;

-- name: forget_import_files
-- Forgets the files of imports that ended long ago, but those that failed.
DELETE FROM import_files f USING imports i
WHERE i.id = f.import_id AND i.end_time < now() - $1::interval AND f.state <> 'FAILED';
