-- A version is an entry of its own. All versions of a dataset have one lineage, which is the id of the first, and one name.
ALTER TABLE entries
    ADD COLUMN version integer NOT NULL DEFAULT 1 CHECK (version >= 1),
    ADD COLUMN lineage_id text COLLATE "C",
    ADD COLUMN base_id text,
    -- Deleted entries stay for a while, hidden from all.
    ADD COLUMN delete_time timestamptz;
UPDATE entries SET lineage_id = id;
ALTER TABLE entries ALTER COLUMN lineage_id SET NOT NULL, DROP CONSTRAINT entries_name_key;
CREATE UNIQUE INDEX entries_name_key ON entries (owner_id, kind, name, version) WHERE delete_time IS NULL;
CREATE UNIQUE INDEX entries_by_lineage ON entries (lineage_id, version);
CREATE INDEX entries_deleted ON entries (delete_time) WHERE delete_time IS NOT NULL;

-- Rows and clips that a dataset goes on without, as long as their file has these bytes. Row 0: the whole file.
CREATE TABLE quarantine (
    dataset_id text NOT NULL REFERENCES entries (id) ON DELETE CASCADE,
    file       text COLLATE "C" NOT NULL,
    row        bigint NOT NULL,
    sha256     text NOT NULL,
    reason     text NOT NULL,
    message    text NOT NULL,
    PRIMARY KEY (dataset_id, file, row)
);
ALTER TABLE dataset_findings
    ADD COLUMN quarantined_rows bigint NOT NULL DEFAULT 0,
    ADD COLUMN quarantined_clips bigint NOT NULL DEFAULT 0;

DROP VIEW entry_details;
CREATE VIEW entry_details AS
SELECT e.*, d.clips, d.clips_checked, d.duration_seconds, d.rows, d.train_rows, d.eval_rows, d.errors, d.warnings,
       d.annotation_format, d.fingerprint, d.quarantined_rows, d.quarantined_clips,
       m.model_type, m.architecture, m.parameter_count, m.weight_bytes, m.content_bytes, m.context_length, m.max_frames,
       m.has_video_processor, m.model_fingerprint, m.issues
FROM entries e
LEFT JOIN dataset_findings d ON d.dataset_id = e.id
LEFT JOIN model_findings m ON m.model_id = e.id;
