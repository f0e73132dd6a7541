-- name: list_uploads
-- The uploads that an attempt has under way below a prefix.
SELECT object_name, upload_id, size_bytes, sha256, part_bytes FROM uploads
WHERE job_id = $1 AND attempt = $2 AND starts_with(object_name, $3)

-- name: insert_upload
-- Records an upload, unless another replica was quicker.
INSERT INTO uploads (job_id, attempt, object_name, upload_id, size_bytes, sha256, part_bytes, create_time)
VALUES ($1, $2, $3, $4, $5, $6, $7, clock_timestamp())
ON CONFLICT DO NOTHING

-- name: delete_upload
-- Forgets an upload, if it is still this one.
DELETE FROM uploads WHERE job_id = $1 AND attempt = $2 AND object_name = $3 AND upload_id = $4

-- name: delete_uploads
-- Forgets the uploads of an attempt below a prefix.
DELETE FROM uploads WHERE job_id = $1 AND attempt = $2 AND starts_with(object_name, $3)
