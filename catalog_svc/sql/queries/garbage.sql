-- name: take_garbage
-- Takes the next piece of garbage that is due; should it not be deleted, it comes again after ten minutes.
UPDATE garbage SET due_time = now() + interval '10 minutes'
WHERE id = (SELECT id FROM garbage WHERE due_time <= now() ORDER BY due_time LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING *;

-- name: lock_entry
-- Keeps an entry's files from changing until the transaction ends.
SELECT id FROM entries WHERE id = $1 FOR UPDATE;

-- name: is_content_wanted
-- Tells whether a file, or an upload that is under way, needs these bytes of an entry.
SELECT EXISTS (SELECT FROM files WHERE entry_id = $1 AND sha256 = $2)
    OR EXISTS (SELECT FROM uploads WHERE entry_id = $1 AND sha256 = $2 AND complete_time IS NULL);

-- name: is_entry_alive
-- Tells whether an entry exists.
SELECT EXISTS (SELECT FROM entries WHERE id = $1);

-- name: delete_garbage
-- Strikes a piece of garbage off the list.
DELETE FROM garbage WHERE id = $1;
