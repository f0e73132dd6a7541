-- name: take_garbage
-- Takes the next piece of garbage that is due; should it not be deleted, it comes again after ten minutes.
UPDATE garbage SET due_time = now() + interval '10 minutes'
WHERE id = (SELECT id FROM garbage WHERE due_time <= now() ORDER BY due_time LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING *;

-- name: is_object_wanted
-- Tells whether a file, or an upload that is under way, needs an object; a file in another bucket needs its pictures.
SELECT EXISTS (SELECT FROM files WHERE object_key = $1 AND location_id IS NULL)
    OR EXISTS (
        SELECT FROM files f
        WHERE f.location_id IS NOT NULL AND f.sha256 = right($1, 64) AND $1 = 'pictures/' || f.location_id || '/' || f.sha256
    )
    OR EXISTS (SELECT FROM uploads WHERE object_key = $1 AND complete_time IS NULL);

-- name: is_content
-- Tells whether an object is noted as in place.
SELECT EXISTS (SELECT FROM contents WHERE object_key = $1);

-- name: delete_content
-- Notes that an object is gone; returns nothing if it was not noted as in place.
DELETE FROM contents WHERE object_key = $1 RETURNING object_key;

-- name: is_entry_alive
-- Tells whether an entry exists.
SELECT EXISTS (SELECT FROM entries WHERE id = $1);

-- name: lock_usage_of_garbage
-- Has others wait who change what an owner has announced, if this piece counts to it: all take this row before those of garbage.
SELECT FROM storage_usage WHERE owner_id = (SELECT owner_id FROM garbage WHERE id = $1) FOR UPDATE;

-- name: delete_garbage
-- Strikes a piece of garbage off the list.
DELETE FROM garbage WHERE id = $1;
