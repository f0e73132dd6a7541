-- name: open_upload
-- Opens an upload, or finds the open one of the same file; drops that which would be sent another way, and has its objects removed.
WITH gone AS (
    DELETE FROM uploads
    WHERE entry_id = $3 AND path = $4 AND sha256 = $5 AND size_bytes = $6 AND is_direct <> $9
        AND $8 AND is_resumable AND complete_time IS NULL
    RETURNING *
), discarded AS (
    INSERT INTO garbage (kind, entry_id, upload_id, multipart_id, object_key, due_time, owner_id, late_bytes)
    SELECT 'UPLOAD', entry_id, id, multipart_id, '', now() + wait, NULL, 0
    FROM gone CROSS JOIN (VALUES (interval '0'), ($10::interval)) AS times (wait) WHERE NOT is_direct
    UNION ALL
    -- What may come there late is counted when the content has gone that the new upload leaves.
    SELECT 'CONTENT', '', '', NULL, object_key, now() + $10::interval, owner_id, size_bytes FROM gone WHERE is_direct
)
INSERT INTO uploads (id, owner_id, entry_id, path, sha256, size_bytes, object_key, is_resumable, is_direct)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (entry_id, path, sha256, size_bytes, is_direct) WHERE is_resumable AND complete_time IS NULL
DO UPDATE SET touch_time = now()
RETURNING *, xmax = 0 AS is_new;

-- name: open_uploads
-- Does for many files of one entry what open_upload does for one.
WITH wanted AS (
    SELECT * FROM unnest($3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::boolean[])
        AS columns (id, path, sha256, size_bytes, object_key, is_direct)
), gone AS (
    DELETE FROM uploads u USING wanted w
    WHERE u.entry_id = $2 AND u.path = w.path AND u.sha256 = w.sha256 AND u.size_bytes = w.size_bytes
        AND u.is_direct <> w.is_direct AND u.is_resumable AND u.complete_time IS NULL
    RETURNING u.*
), discarded AS (
    INSERT INTO garbage (kind, entry_id, upload_id, multipart_id, object_key, due_time, owner_id, late_bytes)
    SELECT 'UPLOAD', entry_id, id, multipart_id, '', now() + wait, NULL, 0
    FROM gone CROSS JOIN (VALUES (interval '0'), ($9::interval)) AS times (wait) WHERE NOT is_direct
    UNION ALL
    SELECT 'CONTENT', '', '', NULL, object_key, now() + $9::interval, owner_id, size_bytes FROM gone WHERE is_direct
)
INSERT INTO uploads (id, owner_id, entry_id, path, sha256, size_bytes, object_key, is_resumable, is_direct)
SELECT id, $1, $2, path, sha256, size_bytes, object_key, true, is_direct FROM wanted ORDER BY path, sha256, size_bytes
ON CONFLICT (entry_id, path, sha256, size_bytes, is_direct) WHERE is_resumable AND complete_time IS NULL
DO UPDATE SET touch_time = now()
RETURNING *, xmax = 0 AS is_new;

-- name: insert_complete_upload
-- Records an upload whose bytes were there already.
INSERT INTO uploads (id, owner_id, entry_id, path, sha256, size_bytes, object_key, is_resumable, complete_time)
VALUES ($1, $2, $3, $4, $5, $6, $7, true, now())
RETURNING *;

-- name: insert_complete_uploads
-- Records uploads into one entry whose bytes were there already.
INSERT INTO uploads (id, owner_id, entry_id, path, sha256, size_bytes, object_key, is_resumable, complete_time)
SELECT id, $1, $2, path, sha256, size_bytes, object_key, true, now()
FROM unnest($3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[]) AS columns (id, path, sha256, size_bytes, object_key)
RETURNING *;

-- name: set_multipart
-- Notes S3's name of a multipart upload, unless another call was faster; returns the name that counts.
UPDATE uploads SET multipart_id = COALESCE(multipart_id, $2) WHERE id = $1 RETURNING multipart_id;

-- name: get_upload
-- Gets an upload into an entry of this owner.
SELECT u.* FROM uploads u JOIN entries e ON e.id = u.entry_id WHERE u.id = $1 AND e.owner_id = $2 AND e.delete_time IS NULL;

-- name: get_uploads
-- Gets those of some uploads that go into entries of this owner.
SELECT u.* FROM uploads u JOIN entries e ON e.id = u.entry_id
WHERE u.id = ANY ($1::text[]) AND e.owner_id = $2 AND e.delete_time IS NULL;

-- name: complete_upload
-- Marks an upload as done.
UPDATE uploads SET complete_time = now() WHERE id = $1 AND complete_time IS NULL RETURNING id;

-- name: complete_uploads
-- Marks those of some uploads as done that are not, in the order of their ids: two calls for the same ones wait for each other.
WITH opened AS (SELECT id FROM uploads WHERE id = ANY ($1::text[]) AND complete_time IS NULL ORDER BY id FOR UPDATE)
UPDATE uploads u SET complete_time = now() FROM opened WHERE u.id = opened.id RETURNING u.id;

-- name: discard_upload
-- Deletes an open upload and has its objects removed; returns whether it was open.
WITH gone AS (DELETE FROM uploads WHERE id = $1 AND complete_time IS NULL RETURNING *),
staged AS (
    INSERT INTO garbage (kind, entry_id, upload_id, multipart_id)
    SELECT 'UPLOAD', entry_id, id, multipart_id FROM gone WHERE NOT is_direct
)
SELECT EXISTS (SELECT FROM gone);

-- name: discard_staged
-- Has the staged object of an upload removed: now, and again when no presigned URL can write it any longer.
INSERT INTO garbage (kind, entry_id, upload_id, due_time)
VALUES ('UPLOAD', $1, $2, now()), ('UPLOAD', $1, $2, now() + $3::interval);

-- name: discard_late_content
-- Has an object removed that presigned URLs can write, if nothing uses it when none of them can do so any longer. Where the
-- upload was dropped, these bytes count until then.
INSERT INTO garbage (kind, object_key, due_time, owner_id, late_bytes, held_bytes)
SELECT 'CONTENT', $1, now() + $2::interval, $3, $4::bigint,
       CASE WHEN $5::boolean AND NOT EXISTS (SELECT FROM contents WHERE object_key = $1) THEN $4::bigint ELSE 0 END;

-- name: discard_late_contents
-- Does for many objects of completed uploads what discard_late_content does for one.
INSERT INTO garbage (kind, object_key, due_time, owner_id, late_bytes)
SELECT 'CONTENT', object_key, now() + $3::interval, $4, size_bytes
FROM unnest($1::text[], $2::bigint[]) AS columns (object_key, size_bytes);

-- name: hold_late_content
-- Counts what may still come to a place from which content has just gone.
UPDATE garbage SET held_bytes = late_bytes
WHERE id = (
    SELECT id FROM garbage WHERE object_key = $1 AND late_bytes > 0 AND due_time > now() ORDER BY due_time DESC LIMIT 1
);

-- name: release_late_content
-- Counts no longer what may come to a place, as content or an upload does now.
UPDATE garbage SET held_bytes = 0 WHERE object_key = $1 AND late_bytes > 0 AND held_bytes > 0;

-- name: release_late_contents
-- Does the same for many places.
UPDATE garbage SET held_bytes = 0 WHERE object_key = ANY ($1::text[]) AND late_bytes > 0 AND held_bytes > 0;

-- name: discard_abandoned_uploads
-- Deletes open uploads that nobody has touched for long, and has their objects removed.
WITH gone AS (
    DELETE FROM uploads
    -- Those that somebody is just completing are not abandoned, and to wait for several of them, one by one, could be for ever.
    WHERE id IN (
        SELECT id FROM uploads WHERE complete_time IS NULL AND touch_time < now() - $1::interval LIMIT 1000
        FOR UPDATE SKIP LOCKED
    )
    RETURNING *
)
-- The bytes under their digest as well: a service that dies between storing and recording them leaves them behind, and so does
-- a client that has sent them straight there, for as long as its URL lives.
INSERT INTO garbage (kind, entry_id, upload_id, multipart_id, object_key, due_time, owner_id, late_bytes, held_bytes)
SELECT 'UPLOAD', entry_id, id, multipart_id, '', now(), NULL, 0, 0 FROM gone WHERE NOT is_direct
UNION ALL
SELECT 'UPLOAD', entry_id, id, NULL, '', touch_time + $2::interval, owner_id, size_bytes, size_bytes FROM gone
WHERE NOT is_direct AND multipart_id IS NULL AND touch_time + $2::interval > now()
UNION ALL
SELECT 'CONTENT', '', '', NULL, key, GREATEST(now(), touch_time + $2::interval), owner_id, late_bytes,
       CASE WHEN EXISTS (SELECT FROM contents c WHERE c.object_key = key) THEN 0 ELSE late_bytes END
FROM (
    SELECT object_key AS key, max(owner_id) AS owner_id, max(touch_time) AS touch_time,
           COALESCE(max(size_bytes) FILTER (WHERE is_direct), 0) AS late_bytes
    FROM gone GROUP BY object_key
) AS places;

-- name: forget_complete_uploads
-- Forgets finished uploads after their time.
DELETE FROM uploads WHERE complete_time < now() - $1::interval;
