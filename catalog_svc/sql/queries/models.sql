-- name: reset_model_findings
-- Forgets what the validation before found.
DELETE FROM model_findings WHERE model_id = $1;

-- name: insert_model_facts
-- Keeps what a sound model's files say of it.
INSERT INTO model_findings (model_id, model_type, architecture, parameter_count, weight_bytes, content_bytes, context_length,
                            max_frames, has_video_processor, model_fingerprint, model_details, forward_state, forward_message)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13);

-- name: insert_model_issues
-- Keeps what is wrong with a model's files.
INSERT INTO model_findings (model_id, issues, forward_state, forward_message) VALUES ($1, $2, $3, $4);
