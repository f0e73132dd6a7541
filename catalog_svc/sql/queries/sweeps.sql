-- name: take_sweep
-- Takes the place that was looked at longest ago, if it is due; no other replica gets it for ten minutes.
UPDATE sweeps SET due_time = now() + interval '10 minutes'
WHERE prefix = (SELECT prefix FROM sweeps WHERE due_time <= now() ORDER BY due_time LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING prefix, after_key;

-- name: note_sweep
-- Notes how far a place has been looked at, and when to go on.
UPDATE sweeps SET after_key = $2, due_time = now() + $3::interval WHERE prefix = $1;

-- name: discard_unknown_contents
-- Has those objects removed that no content, file or upload under way names, if that is still so when their turn comes.
INSERT INTO garbage (kind, object_key)
SELECT 'CONTENT', key FROM unnest($1::text[]) AS key
WHERE NOT EXISTS (SELECT FROM contents c WHERE c.object_key = key)
  AND NOT EXISTS (SELECT FROM files f WHERE f.object_key = key AND f.location_id IS NULL)
  AND NOT EXISTS (SELECT FROM uploads u WHERE u.object_key = key AND u.complete_time IS NULL)
  AND NOT EXISTS (SELECT FROM garbage g WHERE g.object_key = key)
RETURNING object_key;

-- name: discard_unknown_uploads
-- Has what is staged of those uploads removed that are not under way. None ever becomes so again: its row comes first.
INSERT INTO garbage (kind, upload_id)
SELECT 'UPLOAD', upload_id FROM unnest($1::text[]) AS upload_id
WHERE NOT EXISTS (SELECT FROM uploads u WHERE u.id = upload_id AND u.complete_time IS NULL)
  AND NOT EXISTS (SELECT FROM garbage g WHERE g.upload_id = upload_id)
RETURNING upload_id;
