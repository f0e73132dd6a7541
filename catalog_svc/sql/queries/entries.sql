-- name: remember_request
-- Claims a request id for a new entry; returns nothing if the id was used before.
INSERT INTO requests (owner_id, request_id, digest, entry_id)
VALUES ($1, $2::uuid, $3, $4)
ON CONFLICT DO NOTHING
RETURNING entry_id;

-- name: find_request
-- Finds what an earlier use of a request id did.
SELECT digest, entry_id, create_time FROM requests WHERE owner_id = $1 AND request_id = $2::uuid;

-- name: delete_old_requests
-- Forgets request ids after their time.
DELETE FROM requests WHERE create_time < now() - $1::interval;

-- name: insert_entry
-- Adds an entry.
INSERT INTO entries (id, kind, owner_id, name, description, visibility, lineage_id)
VALUES ($1, $2, $3, $4, $5, $6, $1)
RETURNING *;

-- name: get_entry
-- Gets an entry that the viewer may see: their own, a shared one, or the one of their grant.
SELECT * FROM entry_details
WHERE id = $1 AND kind = $2
  AND (($3::text IS NOT NULL AND delete_time IS NULL AND (owner_id = $3 OR visibility = 'SHARED')) OR id = $4);

-- name: lock_own_entry
-- Gets an entry for its owner and keeps others from changing it until the transaction ends.
SELECT * FROM entries WHERE id = $1 AND kind = $2 AND owner_id = $3 AND delete_time IS NULL FOR UPDATE;

-- name: list_entries
-- Lists what a user may see, newest first, from a position on. Two index scans: their own, and others' shared ones.
SELECT * FROM (
    (SELECT * FROM entry_details
     WHERE owner_id = $2 AND kind = $1 AND (delete_time IS NULL OR $12) AND (create_time, id) < ($3, $4)
       AND lower(name) LIKE ALL ($5::text[]) AND lower(name) NOT LIKE ALL ($6::text[])
       AND state = ANY ($7::text[]) AND visibility = ANY ($8::text[])
       AND owner_id = ALL ($9::text[]) AND owner_id <> ALL ($10::text[])
     ORDER BY create_time DESC, id DESC LIMIT $11)
    UNION ALL
    (SELECT * FROM entry_details
     WHERE visibility = 'SHARED' AND kind = $1 AND owner_id <> $2 AND delete_time IS NULL AND (create_time, id) < ($3, $4)
       AND lower(name) LIKE ALL ($5::text[]) AND lower(name) NOT LIKE ALL ($6::text[])
       AND state = ANY ($7::text[]) AND visibility = ANY ($8::text[])
       AND owner_id = ALL ($9::text[]) AND owner_id <> ALL ($10::text[])
     ORDER BY create_time DESC, id DESC LIMIT $11)
) AS visible
ORDER BY create_time DESC, id DESC
LIMIT $11;

-- name: update_entry
-- Sets what its owner may change; nulls leave the value.
UPDATE entries
SET name = COALESCE($2, name), description = COALESCE($3, description), visibility = COALESCE($4, visibility),
    revision = revision + 1, update_time = now()
WHERE id = $1;

-- name: hide_entry
-- Deletes an entry for all to see, and takes it from whoever validates it. It stays for a while.
UPDATE entries
SET delete_time = now(), revision = revision + 1, update_time = now(), lease_token = NULL, lease_expire_time = NULL
WHERE id = $1;

-- name: lock_hidden_entry
-- Gets a deleted entry of this owner that can still be brought back.
SELECT * FROM entries
WHERE id = $1 AND kind = $2 AND owner_id = $3 AND delete_time > now() - $4::interval
FOR UPDATE;

-- name: show_entry
-- Brings a deleted entry back.
UPDATE entries SET delete_time = NULL, revision = revision + 1, update_time = now() WHERE id = $1;

-- name: lock_expired_entry
-- Gets one of the entries that were deleted so long ago that nobody can bring them back.
SELECT id FROM entries WHERE delete_time <= now() - $1::interval ORDER BY delete_time LIMIT 1 FOR UPDATE SKIP LOCKED;

-- name: delete_entry
-- Removes an entry with everything that hangs on it.
DELETE FROM entries WHERE id = $1;

-- name: discard_uploads_of_entry
-- Turns the uploads of an entry into garbage; what they store meanwhile, when they have ended.
-- What their URLs may still write counts until then.
WITH gone AS (DELETE FROM uploads WHERE entry_id = $1 RETURNING *)
INSERT INTO garbage (kind, entry_id, upload_id, multipart_id, object_key, due_time, owner_id, late_bytes, held_bytes)
SELECT 'UPLOAD', $1, id, multipart_id, '', now(), NULL, 0, 0 FROM gone WHERE complete_time IS NULL AND NOT is_direct
UNION ALL
SELECT 'UPLOAD', $1, id, NULL, '', now() + $2::interval, owner_id, size_bytes, size_bytes FROM gone
WHERE complete_time IS NULL AND NOT is_direct AND multipart_id IS NULL
UNION ALL
SELECT 'CONTENT', '', '', NULL, key, now() + CASE WHEN is_direct THEN $2::interval ELSE interval '1 hour' END, owner_id,
       late_bytes, CASE WHEN EXISTS (SELECT FROM contents c WHERE c.object_key = key) THEN 0 ELSE late_bytes END
FROM (
    SELECT object_key AS key, max(owner_id) AS owner_id, bool_and(is_direct) AS is_direct,
           COALESCE(max(size_bytes) FILTER (WHERE is_direct), 0) AS late_bytes
    FROM gone WHERE complete_time IS NULL GROUP BY object_key
) AS places;

-- name: discard_files_of_entry
-- Has the objects of an entry's files removed, and the pictures of those in other buckets, if no other file uses them when
-- their turn comes.
INSERT INTO garbage (kind, object_key)
SELECT DISTINCT 'CONTENT', CASE WHEN location_id IS NULL THEN object_key ELSE 'pictures/' || location_id || '/' || sha256 END
FROM files WHERE entry_id = $1;

-- name: begin_validation
-- Sends an entry to the validators.
UPDATE entries
SET state = 'PROCESSING', revision = revision + 1, update_time = now(), lease_token = NULL, lease_expire_time = NULL,
    validation_failures = 0
WHERE id = $1;

-- name: claim_validation
-- Leases the entry that has waited longest for a validator, if there is one that nobody else works on. A lease that was
-- not given back is a failure: whoever had it died.
UPDATE entries
SET validation_failures = validation_failures + CASE WHEN lease_token IS NULL THEN 0 ELSE 1 END,
    lease_token = $1, lease_expire_time = now() + $2::interval
WHERE id = (
    SELECT id FROM entries
    WHERE state = 'PROCESSING' AND delete_time IS NULL AND (lease_expire_time IS NULL OR lease_expire_time < now())
    ORDER BY update_time
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
RETURNING *;

-- name: renew_validation
-- Extends a lease; returns nothing if it is lost.
UPDATE entries SET lease_expire_time = now() + $3::interval
WHERE id = $1 AND lease_token = $2 AND state = 'PROCESSING' AND delete_time IS NULL
RETURNING id;

-- name: release_validation
-- Gives a lease back, so that another replica goes on at once, or later; counts failures.
UPDATE entries
SET lease_token = NULL, lease_expire_time = now() + $3::interval, validation_failures = validation_failures + $4
WHERE id = $1 AND lease_token = $2 AND state = 'PROCESSING' AND delete_time IS NULL;

-- name: forget_validation_failures
-- Has failures of a validation count anew: it has come further.
UPDATE entries SET validation_failures = 0 WHERE id = $1 AND validation_failures > 0;

-- name: end_validation
-- Sets the state that a validation ends with; returns nothing if its lease is lost.
UPDATE entries
SET state = $3, revision = revision + 1, update_time = now(), lease_token = NULL, lease_expire_time = NULL
WHERE id = $1 AND lease_token = $2 AND state = 'PROCESSING' AND delete_time IS NULL
RETURNING id;
