-- The parts of a model, its chat template and the memory that it takes; and what a forward step of it came to.
ALTER TABLE model_findings
    ADD COLUMN model_details jsonb,
    ADD COLUMN forward_state text NOT NULL DEFAULT 'NOT_RUN' CHECK (forward_state IN ('NOT_RUN', 'PASSED', 'SKIPPED', 'FAILED')),
    ADD COLUMN forward_message text NOT NULL DEFAULT '';

DROP VIEW entry_details;
CREATE VIEW entry_details AS
SELECT e.*, d.clips, d.clips_checked, d.duration_seconds, d.rows, d.train_rows, d.eval_rows, d.errors, d.warnings,
       d.annotation_format, d.fingerprint, d.quarantined_rows, d.quarantined_clips,
       m.model_type, m.architecture, m.parameter_count, m.weight_bytes, m.content_bytes, m.context_length, m.max_frames,
       m.has_video_processor, m.model_fingerprint, m.issues, m.model_details, m.forward_state, m.forward_message
FROM entries e
LEFT JOIN dataset_findings d ON d.dataset_id = e.id
LEFT JOIN model_findings m ON m.model_id = e.id;
