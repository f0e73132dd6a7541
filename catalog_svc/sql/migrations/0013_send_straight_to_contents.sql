-- Uploads whose bytes go straight to where they will lie; the object store verifies them. One of either way may be open for a file.
ALTER TABLE uploads ADD COLUMN is_direct boolean NOT NULL DEFAULT false;
DROP INDEX uploads_resumable;
CREATE UNIQUE INDEX uploads_resumable ON uploads (entry_id, path, sha256, size_bytes, is_direct)
    WHERE is_resumable AND complete_time IS NULL;
