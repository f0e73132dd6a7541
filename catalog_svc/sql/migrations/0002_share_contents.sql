-- The bytes of an owner, each once: all of an owner's datasets, models and versions share them. A row here means that the object is in place.
CREATE TABLE contents (
    object_key  text COLLATE "C" PRIMARY KEY,
    owner_id    text NOT NULL,
    size_bytes  bigint NOT NULL CHECK (size_bytes >= 0),
    create_time timestamptz NOT NULL DEFAULT now()
);

-- Where a file's bytes are: the key of an object, in this service's bucket or, with a location, in another one.
ALTER TABLE files ADD COLUMN object_key text COLLATE "C", ADD COLUMN location_id text;
UPDATE files
SET object_key = CASE WHEN entry_id LIKE 'ds\_%' THEN 'datasets/' || entry_id || '/clips/' ELSE 'models/' || entry_id || '/' END || sha256;
ALTER TABLE files ALTER COLUMN object_key SET NOT NULL;
CREATE INDEX files_by_object ON files (object_key) WHERE location_id IS NULL;
DROP INDEX files_by_content;

INSERT INTO contents (object_key, owner_id, size_bytes)
SELECT DISTINCT ON (f.object_key) f.object_key, e.owner_id, f.size_bytes FROM files f JOIN entries e ON e.id = f.entry_id;

-- Whose upload it is, and where its bytes will lie.
ALTER TABLE uploads ADD COLUMN owner_id text, ADD COLUMN object_key text COLLATE "C";
DELETE FROM uploads u WHERE NOT EXISTS (SELECT FROM entries e WHERE e.id = u.entry_id);
UPDATE uploads u SET owner_id = e.owner_id, object_key = 'contents/' || e.owner_id || '/' || u.sha256
FROM entries e WHERE e.id = u.entry_id;
ALTER TABLE uploads ALTER COLUMN owner_id SET NOT NULL, ALTER COLUMN object_key SET NOT NULL;
CREATE INDEX uploads_by_object ON uploads (object_key) WHERE complete_time IS NULL;
DROP INDEX uploads_by_entry;
CREATE INDEX uploads_by_entry ON uploads (entry_id);

-- Content is now removed by its key. Rows of the kind ENTRY are those of entries that were deleted before.
ALTER TABLE garbage ADD COLUMN object_key text NOT NULL DEFAULT '', ALTER COLUMN entry_id SET DEFAULT '';
UPDATE garbage
SET object_key = CASE WHEN entry_id LIKE 'ds\_%' THEN 'datasets/' || entry_id || '/clips/' ELSE 'models/' || entry_id || '/' END || sha256
WHERE kind = 'CONTENT';
ALTER TABLE garbage DROP COLUMN sha256;

-- What each owner has stored, and has announced in uploads that are under way. Kept by triggers: quotas are read from one row.
CREATE TABLE storage_usage (
    owner_id       text PRIMARY KEY,
    stored_bytes   bigint NOT NULL DEFAULT 0,
    stored_objects bigint NOT NULL DEFAULT 0,
    pending_bytes  bigint NOT NULL DEFAULT 0
);
INSERT INTO storage_usage (owner_id, stored_bytes, stored_objects)
SELECT owner_id, sum(size_bytes), count(*) FROM contents GROUP BY owner_id;
INSERT INTO storage_usage (owner_id, pending_bytes)
SELECT owner_id, sum(size_bytes) FROM uploads WHERE complete_time IS NULL GROUP BY owner_id
ON CONFLICT (owner_id) DO UPDATE SET pending_bytes = EXCLUDED.pending_bytes;

CREATE FUNCTION count_contents() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    way integer := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END;
BEGIN
    INSERT INTO storage_usage AS u (owner_id, stored_bytes, stored_objects)
    SELECT owner_id, way * sum(size_bytes), way * count(*) FROM changed GROUP BY owner_id ORDER BY owner_id
    ON CONFLICT (owner_id) DO UPDATE
    SET stored_bytes = u.stored_bytes + EXCLUDED.stored_bytes, stored_objects = u.stored_objects + EXCLUDED.stored_objects;
    RETURN NULL;
END
$$;
CREATE TRIGGER count_stored AFTER INSERT ON contents
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_contents();
CREATE TRIGGER count_removed AFTER DELETE ON contents
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_contents();

CREATE FUNCTION count_uploads() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    way integer := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END;
BEGIN
    INSERT INTO storage_usage AS u (owner_id, pending_bytes)
    SELECT owner_id, way * sum(size_bytes) FROM changed WHERE complete_time IS NULL GROUP BY owner_id ORDER BY owner_id
    ON CONFLICT (owner_id) DO UPDATE SET pending_bytes = u.pending_bytes + EXCLUDED.pending_bytes;
    RETURN NULL;
END
$$;
CREATE TRIGGER count_opened AFTER INSERT ON uploads
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_uploads();
CREATE TRIGGER count_dropped AFTER DELETE ON uploads
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_uploads();

CREATE FUNCTION count_completed_upload() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE storage_usage SET pending_bytes = pending_bytes - OLD.size_bytes WHERE owner_id = OLD.owner_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER count_completed AFTER UPDATE OF complete_time ON uploads
    FOR EACH ROW WHEN (OLD.complete_time IS NULL AND NEW.complete_time IS NOT NULL) EXECUTE FUNCTION count_completed_upload();
