-- name: list_files
-- Lists the files of an entry for its owner, by path, from a position on.
SELECT f.* FROM files f JOIN entries e ON e.id = f.entry_id
WHERE f.entry_id = $1 AND e.owner_id = $2 AND f.path > $3
ORDER BY f.path
LIMIT $4;

-- name: list_all_files
-- Lists all files of an entry, for those who validate it.
SELECT * FROM files WHERE entry_id = $1 ORDER BY path;

-- name: list_visible_files
-- Lists all files of an entry that the viewer may see.
SELECT f.* FROM files f JOIN entries e ON e.id = f.entry_id
WHERE f.entry_id = $1
  AND (($2::text IS NOT NULL AND (e.owner_id = $2 OR e.visibility = 'SHARED')) OR e.id = $3)
ORDER BY f.path;

-- name: find_file
-- Finds the file at a path.
SELECT * FROM files WHERE entry_id = $1 AND path = $2;

-- name: find_files
-- Finds the files at some paths.
SELECT * FROM files WHERE entry_id = $1 AND path = ANY ($2::text[]);

-- name: lock_object
-- Keeps an object from being removed, and its removal from overlapping with a new use, until the transaction ends.
SELECT pg_advisory_xact_lock(hashtextextended('object:' || $1, 0));

-- name: lock_objects
-- Does the same for many objects, in one order for all who do it: none waits for another that waits for it.
SELECT pg_advisory_xact_lock(number)
FROM (SELECT DISTINCT hashtextextended('object:' || key, 0) AS number FROM unnest($1::text[]) AS key ORDER BY number) AS numbers;

-- name: is_content_stored
-- Tells whether these bytes are in place already.
SELECT EXISTS (SELECT FROM contents WHERE object_key = $1 AND size_bytes = $2);

-- name: find_contents
-- Finds which of some objects are in place, and how long they are.
SELECT object_key, size_bytes FROM contents WHERE object_key = ANY ($1::text[]);

-- name: put_contents
-- Notes that objects of an owner are in place.
INSERT INTO contents (object_key, owner_id, size_bytes)
SELECT object_key, $3, size_bytes FROM unnest($1::text[], $2::bigint[]) AS columns (object_key, size_bytes) ORDER BY object_key
ON CONFLICT DO NOTHING;

-- name: put_content
-- Notes that an object is in place.
INSERT INTO contents (object_key, owner_id, size_bytes) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- name: find_path_conflict
-- Finds a file whose path goes through this one, or through which this one goes.
SELECT path FROM files
WHERE entry_id = $1 AND (path = ANY ($3::text[]) OR (path > $2 || '/' AND path < $2 || '0'))
LIMIT 1;

-- name: find_path_conflicts
-- Does the same for many paths; the folders of all of them are given together. Each is looked for by itself and in order, which is
-- the index's: as a join, or with a limit only, all files of the entry would be read for each, with its lock held.
SELECT f.path FROM unnest($3::text[]) AS folder (path)
CROSS JOIN LATERAL (
    SELECT path FROM files WHERE entry_id = $1 AND path = folder.path ORDER BY entry_id, path LIMIT 1
) f
UNION ALL
SELECT f.path FROM unnest($2::text[]) AS wanted (path)
CROSS JOIN LATERAL (
    SELECT path FROM files
    WHERE entry_id = $1 AND path > wanted.path || '/' AND path < wanted.path || '0'
    ORDER BY entry_id, path LIMIT 1
) f;

-- name: add_files
-- Puts files in place at paths of an entry where there are none.
INSERT INTO files (entry_id, path, sha256, size_bytes, object_key)
SELECT $1, path, sha256, size_bytes, object_key
FROM unnest($2::text[], $3::text[], $4::bigint[], $5::text[]) AS columns (path, sha256, size_bytes, object_key)
RETURNING *;

-- name: put_file
-- Puts a file in place, instead of one at the same path if there is one.
INSERT INTO files (entry_id, path, sha256, size_bytes, object_key, location_id, object_etag)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (entry_id, path) DO UPDATE
SET sha256 = EXCLUDED.sha256, size_bytes = EXCLUDED.size_bytes, object_key = EXCLUDED.object_key,
    location_id = EXCLUDED.location_id, object_etag = EXCLUDED.object_etag, create_time = now()
RETURNING *;

-- name: delete_file
-- Removes a file from its entry.
DELETE FROM files WHERE entry_id = $1 AND path = $2 RETURNING *;

-- name: change_content
-- Notes that an entry's files have changed.
UPDATE entries
SET state = $2, file_count = file_count + $3, size_bytes = size_bytes + $4, revision = revision + 1, update_time = now()
WHERE id = $1;

-- name: discard_content
-- Has an object removed, if no file uses it when its turn comes.
INSERT INTO garbage (kind, object_key) VALUES ('CONTENT', $1);

-- name: discard_gone
-- Has those of some objects removed, and what was made of them, that are no contents any more, nor made of what lies elsewhere.
INSERT INTO garbage (kind, object_key)
SELECT 'CONTENT', key FROM unnest($1::text[]) AS key
WHERE NOT EXISTS (SELECT FROM contents c WHERE c.object_key = key)
  AND NOT EXISTS (
    SELECT FROM files f
    WHERE f.location_id IS NOT NULL AND f.sha256 = right(key, 64) AND key = 'pictures/' || f.location_id || '/' || f.sha256
  );
