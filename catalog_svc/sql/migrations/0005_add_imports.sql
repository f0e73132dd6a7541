-- Buckets of users' own; the secret is encrypted with a key that is not in the database.
CREATE TABLE storage_locations (
    id            text COLLATE "C" PRIMARY KEY,
    owner_id      text NOT NULL,
    name          text NOT NULL,
    endpoint      text NOT NULL,
    region        text NOT NULL,
    bucket        text NOT NULL,
    access_key_id text NOT NULL,
    secret        bytea,
    create_time   timestamptz NOT NULL DEFAULT now(),
    update_time   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT storage_locations_name_key UNIQUE (owner_id, name)
);

-- Imports: jobs under a lease, by the database's clock.
CREATE TABLE imports (
    id                text COLLATE "C" PRIMARY KEY,
    owner_id          text NOT NULL,
    entry_id          text NOT NULL REFERENCES entries (id) ON DELETE CASCADE,
    source            jsonb NOT NULL,
    location_id       text REFERENCES storage_locations (id),
    request_id        uuid,
    digest            text NOT NULL,
    state             text NOT NULL DEFAULT 'RUNNING' CHECK (state IN ('RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED')),
    is_listed         boolean NOT NULL DEFAULT false,
    files             bigint NOT NULL DEFAULT 0,
    files_done        bigint NOT NULL DEFAULT 0,
    files_failed      bigint NOT NULL DEFAULT 0,
    bytes             bigint NOT NULL DEFAULT 0,
    bytes_done        bigint NOT NULL DEFAULT 0,
    commit_sha        text NOT NULL DEFAULT '',
    error_reason      text NOT NULL DEFAULT '',
    error_message     text NOT NULL DEFAULT '',
    create_time       timestamptz NOT NULL DEFAULT now(),
    end_time          timestamptz,
    lease_token       text,
    lease_expire_time timestamptz,
    CONSTRAINT imports_request_key UNIQUE (owner_id, request_id)
);
CREATE INDEX imports_owned ON imports (owner_id, create_time DESC, id DESC);
CREATE INDEX imports_running ON imports (create_time) WHERE state = 'RUNNING';
CREATE INDEX imports_by_entry ON imports (entry_id);
CREATE INDEX imports_by_location ON imports (location_id) WHERE location_id IS NOT NULL;

-- The files of an import: what is to be fetched, and what came of it.
CREATE TABLE import_files (
    import_id  text NOT NULL REFERENCES imports (id) ON DELETE CASCADE,
    path       text COLLATE "C" NOT NULL,
    position   bigint GENERATED ALWAYS AS IDENTITY,
    location   text NOT NULL,
    size_bytes bigint,
    etag       text NOT NULL,
    state      text NOT NULL DEFAULT 'WAITING' CHECK (state IN ('WAITING', 'DONE', 'FAILED')),
    reason     text NOT NULL DEFAULT '',
    message    text NOT NULL DEFAULT '',
    PRIMARY KEY (import_id, path)
);
CREATE INDEX import_files_waiting ON import_files (import_id, position) WHERE state = 'WAITING';
CREATE INDEX import_files_failed ON import_files (import_id, position) WHERE state = 'FAILED';

CREATE FUNCTION announce_import() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('catalog_entry_changed', NEW.id);
    RETURN NULL;
END
$$;
CREATE TRIGGER announce AFTER UPDATE OF state, files, files_done, files_failed, is_listed ON imports
    FOR EACH ROW EXECUTE FUNCTION announce_import();
