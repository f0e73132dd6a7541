-- An entry is a dataset or a model: what both have in common.
CREATE TABLE entries (
    id                text COLLATE "C" PRIMARY KEY,
    kind              text NOT NULL CHECK (kind IN ('DATASET', 'MODEL')),
    owner_id          text NOT NULL,
    name              text NOT NULL,
    description       text NOT NULL,
    visibility        text NOT NULL CHECK (visibility IN ('PRIVATE', 'SHARED')),
    state             text NOT NULL DEFAULT 'PENDING' CHECK (state IN ('PENDING', 'PROCESSING', 'READY', 'ERROR')),
    revision          bigint NOT NULL DEFAULT 1,
    file_count        bigint NOT NULL DEFAULT 0 CHECK (file_count >= 0),
    size_bytes        bigint NOT NULL DEFAULT 0 CHECK (size_bytes >= 0),
    create_time       timestamptz NOT NULL DEFAULT now(),
    update_time       timestamptz NOT NULL DEFAULT now(),
    -- Who validates it at the moment, until when, by the database's clock.
    lease_token       text,
    lease_expire_time timestamptz,
    CONSTRAINT entries_name_key UNIQUE (owner_id, kind, name)
);
CREATE INDEX entries_owned ON entries (owner_id, kind, create_time DESC, id DESC);
CREATE INDEX entries_shared ON entries (kind, create_time DESC, id DESC) WHERE visibility = 'SHARED';
CREATE INDEX entries_processing ON entries (update_time) WHERE state = 'PROCESSING';

-- What makes a create safe to repeat: written in the transaction of its effect.
CREATE TABLE requests (
    owner_id    text NOT NULL,
    request_id  uuid NOT NULL,
    digest      text NOT NULL,
    entry_id    text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (owner_id, request_id)
);
CREATE INDEX requests_by_time ON requests (create_time);

-- Files in place: verified, under datasets/{id}/clips/{sha256} or models/{id}/{sha256}.
CREATE TABLE files (
    entry_id    text NOT NULL REFERENCES entries (id) ON DELETE CASCADE,
    path        text COLLATE "C" NOT NULL,
    sha256      text NOT NULL,
    size_bytes  bigint NOT NULL CHECK (size_bytes >= 0),
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (entry_id, path)
);
CREATE INDEX files_by_content ON files (entry_id, sha256);

-- Files on their way, under uploads/{id}. No foreign key: deleting an entry turns its uploads into garbage.
CREATE TABLE uploads (
    id            text COLLATE "C" PRIMARY KEY,
    entry_id      text NOT NULL,
    path          text NOT NULL,
    sha256        text NOT NULL,
    size_bytes    bigint NOT NULL,
    multipart_id  text,
    is_resumable  boolean NOT NULL,
    create_time   timestamptz NOT NULL DEFAULT now(),
    touch_time    timestamptz NOT NULL DEFAULT now(),
    complete_time timestamptz
);
CREATE UNIQUE INDEX uploads_resumable ON uploads (entry_id, path, sha256, size_bytes)
    WHERE is_resumable AND complete_time IS NULL;
CREATE INDEX uploads_by_entry ON uploads (entry_id, sha256);
CREATE INDEX uploads_by_touch ON uploads (touch_time);

-- Objects that nothing points to any more, or soon will not; a background task deletes them.
CREATE TABLE garbage (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text NOT NULL CHECK (kind IN ('UPLOAD', 'CONTENT', 'ENTRY')),
    entry_id     text NOT NULL,
    sha256       text NOT NULL DEFAULT '',
    upload_id    text NOT NULL DEFAULT '',
    multipart_id text,
    due_time     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX garbage_due ON garbage (due_time);

-- What the running or last validation of a dataset found, as far as it got.
CREATE TABLE dataset_findings (
    dataset_id        text PRIMARY KEY REFERENCES entries (id) ON DELETE CASCADE,
    clips             bigint NOT NULL DEFAULT 0,
    clips_checked     bigint NOT NULL DEFAULT 0,
    duration_seconds  double precision NOT NULL DEFAULT 0,
    rows              bigint NOT NULL DEFAULT 0,
    train_rows        bigint NOT NULL DEFAULT 0,
    eval_rows         bigint NOT NULL DEFAULT 0,
    errors            bigint NOT NULL DEFAULT 0,
    warnings          bigint NOT NULL DEFAULT 0,
    annotation_format text,
    fingerprint       text NOT NULL DEFAULT ''
);

-- What decoding found, by content: a restart or a second validation does not decode the same bytes again.
CREATE TABLE clip_probes (
    dataset_id       text NOT NULL REFERENCES entries (id) ON DELETE CASCADE,
    sha256           text NOT NULL,
    fault            text,
    detail           text NOT NULL DEFAULT '',
    frame_count      bigint NOT NULL DEFAULT 0,
    duration_seconds double precision NOT NULL DEFAULT 0,
    fps              double precision NOT NULL DEFAULT 0,
    width            integer NOT NULL DEFAULT 0,
    height           integer NOT NULL DEFAULT 0,
    codec            text NOT NULL DEFAULT '',
    damaged_frames   bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (dataset_id, sha256)
);

CREATE TABLE dataset_issues (
    dataset_id text NOT NULL REFERENCES entries (id) ON DELETE CASCADE,
    position   integer NOT NULL,
    severity   text NOT NULL,
    reason     text NOT NULL,
    file       text NOT NULL,
    row        bigint NOT NULL,
    field      text NOT NULL,
    message    text NOT NULL,
    remedy     text NOT NULL,
    PRIMARY KEY (dataset_id, position)
);

CREATE TABLE samples (
    dataset_id text NOT NULL REFERENCES entries (id) ON DELETE CASCADE,
    position   integer NOT NULL,
    sample_id  text NOT NULL,
    split      text NOT NULL,
    messages   jsonb NOT NULL,
    PRIMARY KEY (dataset_id, position)
);
CREATE INDEX samples_by_split ON samples (dataset_id, split, position);

-- What the last validation of a model found: facts, or issues.
CREATE TABLE model_findings (
    model_id            text PRIMARY KEY REFERENCES entries (id) ON DELETE CASCADE,
    model_type          text,
    architecture        text,
    parameter_count     bigint,
    weight_bytes        bigint,
    content_bytes       bigint,
    context_length      bigint,
    max_frames          integer,
    has_video_processor boolean,
    model_fingerprint   text,
    issues              jsonb NOT NULL DEFAULT '[]'
);

CREATE VIEW entry_details AS
SELECT e.*, d.clips, d.clips_checked, d.duration_seconds, d.rows, d.train_rows, d.eval_rows, d.errors, d.warnings,
       d.annotation_format, d.fingerprint,
       m.model_type, m.architecture, m.parameter_count, m.weight_bytes, m.content_bytes, m.context_length, m.max_frames,
       m.has_video_processor, m.model_fingerprint, m.issues
FROM entries e
LEFT JOIN dataset_findings d ON d.dataset_id = e.id
LEFT JOIN model_findings m ON m.model_id = e.id;

-- Watchers listen: every change of an entry or of its progress is announced when it commits.
CREATE FUNCTION announce_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('catalog_entry_changed', COALESCE(NEW.id, OLD.id));
    RETURN NULL;
END
$$;
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON entries
    FOR EACH ROW EXECUTE FUNCTION announce_entry();

CREATE FUNCTION announce_findings() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('catalog_entry_changed', NEW.dataset_id);
    RETURN NULL;
END
$$;
CREATE TRIGGER announce AFTER UPDATE ON dataset_findings
    FOR EACH ROW EXECUTE FUNCTION announce_findings();
