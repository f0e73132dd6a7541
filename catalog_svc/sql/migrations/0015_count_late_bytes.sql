-- What presigned URLs may still write when their upload has ended: `late_bytes`. As long as nothing else counts these bytes, `held_bytes` does.
ALTER TABLE garbage
    ADD COLUMN owner_id text,
    ADD COLUMN late_bytes bigint NOT NULL DEFAULT 0,
    ADD COLUMN held_bytes bigint NOT NULL DEFAULT 0;
CREATE INDEX garbage_late ON garbage (object_key) WHERE late_bytes > 0;

CREATE FUNCTION count_late() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    way integer := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END;
BEGIN
    INSERT INTO storage_usage AS u (owner_id, pending_bytes)
    SELECT owner_id, way * sum(held_bytes) FROM changed WHERE held_bytes > 0 GROUP BY owner_id ORDER BY owner_id
    ON CONFLICT (owner_id) DO UPDATE SET pending_bytes = u.pending_bytes + EXCLUDED.pending_bytes;
    RETURN NULL;
END
$$;
CREATE TRIGGER count_late AFTER INSERT ON garbage
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_late();
CREATE TRIGGER count_looked_at AFTER DELETE ON garbage
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_late();

CREATE FUNCTION count_held() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE storage_usage SET pending_bytes = pending_bytes + NEW.held_bytes - OLD.held_bytes WHERE owner_id = NEW.owner_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER count_held AFTER UPDATE OF held_bytes ON garbage
    FOR EACH ROW WHEN (OLD.held_bytes <> NEW.held_bytes) EXECUTE FUNCTION count_held();
