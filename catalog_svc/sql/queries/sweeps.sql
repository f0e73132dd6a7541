-- name: get_identity
-- The name of this database.
SELECT id FROM identity;

-- name: take_sweep
-- Takes the place that was looked at longest ago, if it is due; no other replica gets it for ten minutes.
UPDATE sweeps SET due_time = now() + interval '10 minutes'
WHERE prefix = (SELECT prefix FROM sweeps WHERE due_time <= now() ORDER BY due_time LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING prefix, after_key;

-- name: note_sweep
-- Notes how far a place has been looked at, and when to go on.
UPDATE sweeps SET after_key = $2, due_time = now() + $3::interval WHERE prefix = $1;

-- name: list_unknown_contents
-- Those objects that no content, file or upload under way names, and that are not to be removed anyway.
SELECT key FROM unnest($1::text[]) AS key
WHERE NOT EXISTS (SELECT FROM contents c WHERE c.object_key = key)
  AND NOT EXISTS (SELECT FROM files f WHERE f.object_key = key AND f.location_id IS NULL)
  AND NOT EXISTS (SELECT FROM uploads u WHERE u.object_key = key AND u.complete_time IS NULL)
  AND NOT EXISTS (SELECT FROM garbage g WHERE g.object_key = key);

-- name: list_unknown_uploads
-- Those uploads that are not under way, and that are not to be removed anyway. None ever becomes so again: its row comes first.
SELECT upload_id FROM unnest($1::text[]) AS upload_id
WHERE NOT EXISTS (SELECT FROM uploads u WHERE u.id = upload_id AND u.complete_time IS NULL)
  AND NOT EXISTS (SELECT FROM garbage g WHERE g.upload_id = upload_id);

-- name: note_finds
-- Notes what was found between two keys of a place (an empty $3: to its end), and forgets what was found there before and is no more.
WITH forgotten AS (
    DELETE FROM sweep_finds
    WHERE starts_with(object_key, $1) AND object_key > $2 AND ($3 = '' OR object_key <= $3) AND object_key <> ALL ($4::text[])
)
INSERT INTO sweep_finds (object_key) SELECT unnest($4::text[]) ON CONFLICT DO NOTHING;

-- name: list_old_finds
-- Those that were found as long ago.
SELECT object_key FROM sweep_finds WHERE object_key = ANY ($1::text[]) AND find_time <= now() - $2::interval;

-- name: discard_contents
-- Has objects removed, if still no file or upload under way names them when their turn comes.
INSERT INTO garbage (kind, object_key) SELECT 'CONTENT', unnest($1::text[]);

-- name: discard_uploads
-- Has what is staged of uploads removed.
INSERT INTO garbage (kind, upload_id) SELECT 'UPLOAD', unnest($1::text[]);
