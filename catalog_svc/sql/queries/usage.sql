-- name: lock_usage
-- Gets what an owner has stored and announced, and has their other uploads wait until the transaction ends.
SELECT stored_bytes + pending_bytes AS used_bytes FROM storage_usage WHERE owner_id = $1 FOR UPDATE;

-- name: list_usage
-- Lists what owners have stored, by owner, from a position on; or of one owner.
SELECT u.owner_id, u.stored_bytes, u.stored_objects, u.pending_bytes,
       count(e.id) FILTER (WHERE e.kind = 'DATASET') AS datasets,
       COALESCE(sum(e.size_bytes) FILTER (WHERE e.kind = 'DATASET'), 0)::bigint AS dataset_bytes,
       count(e.id) FILTER (WHERE e.kind = 'MODEL') AS models,
       COALESCE(sum(e.size_bytes) FILTER (WHERE e.kind = 'MODEL'), 0)::bigint AS model_bytes
FROM (SELECT * FROM storage_usage WHERE owner_id > $1 AND ($2::text IS NULL OR owner_id = $2) ORDER BY owner_id LIMIT $3) u
LEFT JOIN entries e ON e.owner_id = u.owner_id
GROUP BY u.owner_id, u.stored_bytes, u.stored_objects, u.pending_bytes
ORDER BY u.owner_id;
