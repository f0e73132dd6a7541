-- name: reset_findings
-- Begins a new set of findings.
INSERT INTO dataset_findings (dataset_id) VALUES ($1)
ON CONFLICT (dataset_id) DO UPDATE
SET clips = 0, clips_checked = 0, duration_seconds = 0, rows = 0, train_rows = 0, eval_rows = 0, errors = 0, warnings = 0,
    annotation_format = NULL, fingerprint = '', quarantined_rows = 0, quarantined_clips = 0;

-- name: delete_transient_probes
-- Forgets the faults that may have been the machine's and not the clip's.
DELETE FROM clip_probes WHERE dataset_id = $1 AND fault = ANY ($2::text[]);

-- name: delete_issues
-- Forgets the issues of the validation before.
DELETE FROM dataset_issues WHERE dataset_id = $1;

-- name: delete_samples
-- Forgets the samples of the validation before.
DELETE FROM samples WHERE dataset_id = $1;

-- name: set_progress
-- Notes how far a validation has come.
UPDATE dataset_findings SET clips = $2, clips_checked = $3, duration_seconds = $4 WHERE dataset_id = $1;

-- name: set_findings
-- Sets what a validation found in the end.
UPDATE dataset_findings
SET clips = $2, clips_checked = $3, duration_seconds = $4, rows = $5, train_rows = $6, eval_rows = $7, errors = $8,
    warnings = $9, annotation_format = $10, fingerprint = $11, quarantined_rows = $12, quarantined_clips = $13
WHERE dataset_id = $1;

-- name: list_probes
-- Lists what decoding has found in a dataset so far, without what an older version found and knew less of.
SELECT * FROM clip_probes WHERE dataset_id = $1 AND (fault IS NOT NULL OR perceptual_hash IS NOT NULL);

-- name: forget_probe
-- Forgets what decoding found in bytes that a dataset holds no more.
DELETE FROM clip_probes
WHERE dataset_id = $1 AND sha256 = $2 AND NOT EXISTS (SELECT FROM files f WHERE f.entry_id = $1 AND f.sha256 = $2);

-- name: forget_probe_of_new_place
-- Forgets what decoding found in bytes of a dataset that get a further place: a bucket of the user's, or an object here. Either place
-- has an index; asked for as one, all files of the dataset would be read.
DELETE FROM clip_probes
WHERE dataset_id = $1 AND sha256 = $2
  AND NOT EXISTS (SELECT FROM files f WHERE f.entry_id = $1 AND f.sha256 = $2 AND f.location_id = $3::text)
  AND NOT EXISTS (
    SELECT FROM files f
    WHERE $3::text IS NULL AND f.location_id IS NULL AND f.entry_id = $1 AND f.sha256 = $2 AND f.object_key = $4
  );

-- name: forget_probes_of_new_places
-- Does the same for many bytes that get places in the own bucket. Each is looked for by itself: as a join, all files would be read.
DELETE FROM clip_probes p USING unnest($2::text[], $3::text[]) AS columns (sha256, object_key)
WHERE p.dataset_id = $1 AND p.sha256 = columns.sha256
  AND (SELECT true FROM files f WHERE f.entry_id = $1 AND f.location_id IS NULL AND f.object_key = columns.object_key LIMIT 1) IS NULL;

-- name: put_probes
-- Keeps what decoding found.
INSERT INTO clip_probes (dataset_id, sha256, fault, detail, frame_count, duration_seconds, fps, width, height, codec, damaged_frames,
                         decoder, is_variable_frame_rate, rotation, has_audio, perceptual_hash, is_browser_playable, has_poster, has_proxy)
SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::float8[], $7::float8[], $8::int[], $9::int[],
                         $10::text[], $11::bigint[], $12::text[], $13::bool[], $14::int[], $15::bool[], $16::bigint[], $17::bool[],
                         $18::bool[], $19::bool[])
ON CONFLICT (dataset_id, sha256) DO UPDATE
SET fault = EXCLUDED.fault, detail = EXCLUDED.detail, frame_count = EXCLUDED.frame_count, duration_seconds = EXCLUDED.duration_seconds,
    fps = EXCLUDED.fps, width = EXCLUDED.width, height = EXCLUDED.height, codec = EXCLUDED.codec, damaged_frames = EXCLUDED.damaged_frames,
    decoder = EXCLUDED.decoder, is_variable_frame_rate = EXCLUDED.is_variable_frame_rate, rotation = EXCLUDED.rotation,
    has_audio = EXCLUDED.has_audio, perceptual_hash = EXCLUDED.perceptual_hash, is_browser_playable = EXCLUDED.is_browser_playable,
    has_poster = EXCLUDED.has_poster, has_proxy = EXCLUDED.has_proxy
WHERE clip_probes.fault IS NULL AND clip_probes.perceptual_hash IS NULL;

-- name: insert_issues
-- Adds issues in their order.
INSERT INTO dataset_issues (dataset_id, position, severity, reason, file, row, field, message, remedy)
SELECT $1, * FROM unnest($2::int[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[], $9::text[]);

-- name: insert_samples
-- Adds samples in their order.
-- No tag holds a semicolon.
INSERT INTO samples (dataset_id, position, sample_id, split, messages, tags)
SELECT $1, position, sample_id, split, messages::jsonb, string_to_array(tags, ';')
FROM unnest($2::int[], $3::text[], $4::text[], $5::text[], $6::text[]) AS row (position, sample_id, split, messages, tags);

-- name: list_issues
-- Lists the issues of a dataset that the viewer may see, from a position on.
SELECT i.* FROM dataset_issues i JOIN entries e ON e.id = i.dataset_id
WHERE i.dataset_id = $1 AND i.position > $4
  AND (($2::text IS NOT NULL AND (e.owner_id = $2 OR e.visibility = 'SHARED')) OR e.id = $3)
ORDER BY i.position
LIMIT $5;

-- name: list_samples
-- Lists the samples of a READY dataset that the viewer may see, from a position on.
SELECT s.* FROM samples s JOIN entries e ON e.id = s.dataset_id
WHERE s.dataset_id = $1 AND s.position > $4 AND ($5 = '' OR s.split = $5) AND ($7 = '' OR $7 = ANY (s.tags)) AND e.state = 'READY'
  AND (($2::text IS NOT NULL AND (e.owner_id = $2 OR e.visibility = 'SHARED')) OR e.id = $3)
ORDER BY s.position
LIMIT $6;

-- name: find_sample
-- Finds a sample of a READY dataset that the viewer may see, by its id.
SELECT s.* FROM samples s JOIN entries e ON e.id = s.dataset_id
WHERE s.dataset_id = $1 AND s.sample_id = $4 AND e.state = 'READY'
  AND (($2::text IS NOT NULL AND (e.owner_id = $2 OR e.visibility = 'SHARED')) OR e.id = $3);

-- name: list_clips
-- Lists the clips of a dataset that the viewer may see, by path, from a position on.
SELECT p.*, f.path, f.sha256, f.size_bytes, f.object_key, f.location_id, f.object_etag
FROM files f
JOIN clip_probes p ON p.dataset_id = f.entry_id AND p.sha256 = f.sha256 AND p.fault IS NULL
JOIN entries e ON e.id = f.entry_id
WHERE f.entry_id = $1 AND f.path > $4
  AND (($2::text IS NOT NULL AND (e.owner_id = $2 OR e.visibility = 'SHARED')) OR e.id = $3)
ORDER BY f.path
LIMIT $5;

-- name: find_clips
-- Finds clips of a dataset that the viewer may see, by their paths.
SELECT p.*, f.path, f.sha256, f.size_bytes, f.object_key, f.location_id, f.object_etag
FROM files f
JOIN clip_probes p ON p.dataset_id = f.entry_id AND p.sha256 = f.sha256 AND p.fault IS NULL
JOIN entries e ON e.id = f.entry_id
WHERE f.entry_id = $1 AND f.path = ANY ($4::text[])
  AND (($2::text IS NOT NULL AND (e.owner_id = $2 OR e.visibility = 'SHARED')) OR e.id = $3);
