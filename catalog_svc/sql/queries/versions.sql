-- name: find_lineage
-- Finds the lineage of an entry of this owner.
SELECT lineage_id FROM entries WHERE id = $1 AND kind = $2 AND owner_id = $3;

-- name: lock_lineage
-- Has those who number versions, or name them, take turns until the transaction ends.
SELECT pg_advisory_xact_lock(hashtextextended('lineage:' || $1, 0));

-- name: lock_name
-- Has those who give an owner's entries a name take turns until the transaction ends.
SELECT pg_advisory_xact_lock(hashtextextended('name:' || $1 || ':' || $2 || ':' || $3, 0));

-- name: is_name_taken
-- Tells whether an owner has given a name to something else.
SELECT EXISTS (
    SELECT FROM entries WHERE owner_id = $1 AND kind = $2 AND name = $3 AND lineage_id <> $4 AND delete_time IS NULL
);

-- name: rename_lineage
-- Gives all other versions, deleted ones included, the name of this one.
UPDATE entries SET name = $3, revision = revision + 1, update_time = now()
WHERE lineage_id = $1 AND id <> $2 AND name <> $3;

-- name: insert_version
-- Adds the next version of a lineage, made from one of its entries.
INSERT INTO entries (id, kind, owner_id, name, description, visibility, file_count, size_bytes, version, lineage_id, base_id)
SELECT $1, kind, owner_id, name, description, visibility, file_count, size_bytes,
       (SELECT max(version) + 1 FROM entries v WHERE v.lineage_id = e.lineage_id), lineage_id, id
FROM entries e
WHERE id = $2;

-- name: copy_files
-- Gives a new version the files of its base: the rows, whatever columns they have, and not the bytes.
INSERT INTO files
SELECT copy.* FROM files f, LATERAL jsonb_populate_record(f, jsonb_build_object('entry_id', $1::text)) AS copy
WHERE f.entry_id = $2;

-- name: copy_probes
-- Gives a new version what decoding found of its base's clips.
INSERT INTO clip_probes
SELECT copy.* FROM clip_probes p, LATERAL jsonb_populate_record(p, jsonb_build_object('dataset_id', $1::text)) AS copy
WHERE p.dataset_id = $2;

-- name: copy_quarantine
-- Gives a new version what its base goes without.
INSERT INTO quarantine
SELECT copy.* FROM quarantine q, LATERAL jsonb_populate_record(q, jsonb_build_object('dataset_id', $1::text)) AS copy
WHERE q.dataset_id = $2;

-- name: list_versions
-- Lists the versions that the viewer may see of the lineage of an entry, newest first, below a number.
SELECT v.* FROM entry_details v
WHERE v.lineage_id = (SELECT lineage_id FROM entries WHERE id = $1) AND v.version < $3 AND v.delete_time IS NULL
  AND (v.owner_id = $2 OR v.visibility = 'SHARED')
ORDER BY v.version DESC
LIMIT $4;

-- name: put_quarantine
-- Adds to what a dataset goes without.
INSERT INTO quarantine (dataset_id, file, row, sha256, reason, message)
SELECT $1, * FROM unnest($2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[])
ON CONFLICT (dataset_id, file, row) DO UPDATE
SET sha256 = EXCLUDED.sha256, reason = EXCLUDED.reason, message = EXCLUDED.message;

-- name: drop_stale_quarantine
-- Forgets what was quarantined in bytes that are no longer there.
DELETE FROM quarantine q
WHERE q.dataset_id = $1
  AND NOT EXISTS (SELECT FROM files f WHERE f.entry_id = q.dataset_id AND f.path = q.file AND f.sha256 = q.sha256);

-- name: list_quarantine
-- Lists what a dataset of this owner goes without, by file and row, from a position on.
SELECT q.* FROM quarantine q JOIN entries e ON e.id = q.dataset_id
WHERE q.dataset_id = $1 AND e.owner_id = $2 AND (q.file, q.row) > ($3, $4)
ORDER BY q.file, q.row
LIMIT $5;

-- name: list_whole_quarantine
-- Lists all that a dataset goes without, for those who validate it.
SELECT * FROM quarantine WHERE dataset_id = $1;
