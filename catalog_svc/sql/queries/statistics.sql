-- name: count_rows_by_split
-- Counts the samples of a dataset that the viewer may see, by split: those splits that have most. Rows name splits as they like.
SELECT s.split, count(*) AS count
FROM samples s JOIN entries e ON e.id = s.dataset_id
WHERE s.dataset_id = $1 AND (($2::text IS NOT NULL AND (e.owner_id = $2 OR e.visibility = 'SHARED')) OR e.id = $3)
GROUP BY s.split
ORDER BY count(*) DESC, s.split COLLATE "C"
LIMIT $4;

-- name: count_rows_by_tag
-- Counts the samples of a dataset that the viewer may see, by tag: those tags that have most, and how many there are.
-- One with several tags counts for each.
SELECT tag, count(*) AS count, count(*) OVER () AS tag_count
FROM samples s JOIN entries e ON e.id = s.dataset_id CROSS JOIN LATERAL unnest(s.tags) AS tag
WHERE s.dataset_id = $1 AND (($2::text IS NOT NULL AND (e.owner_id = $2 OR e.visibility = 'SHARED')) OR e.id = $3)
GROUP BY tag
ORDER BY count(*) DESC, tag COLLATE "C"
LIMIT $4;

-- name: count_rows_by_answer
-- Counts the samples of a dataset that the viewer may see, by the characters of their answers and of all their words;
-- `used`: those of the splits that a training job trains or evaluates on.
SELECT words.answer AS characters, words.text AS text_characters, count(*) AS count,
    count(*) FILTER (WHERE s.split IN ('train', 'eval', 'validation', 'val')) AS used
FROM samples s JOIN entries e ON e.id = s.dataset_id
CROSS JOIN LATERAL (
    SELECT COALESCE(sum(length(part ->> 'text')) FILTER (WHERE turn ->> 'role' = 'assistant'), 0) AS answer,
        COALESCE(sum(length(part ->> 'text')), 0) AS text
    FROM jsonb_array_elements(s.messages) AS turn, jsonb_array_elements(turn -> 'content') AS part
) AS words
WHERE s.dataset_id = $1 AND (($2::text IS NOT NULL AND (e.owner_id = $2 OR e.visibility = 'SHARED')) OR e.id = $3)
GROUP BY words.answer, words.text;

-- name: count_rows_by_clips
-- Counts the samples of a dataset that the viewer may see, by the clips that they show and what they say of them;
-- `used`, and the sample: of those splits that a training job trains or evaluates on.
SELECT jsonb_path_query_array(s.messages, '$[*].content[*].video') AS videos, count(*) AS count,
    count(*) FILTER (WHERE s.split IN ('train', 'eval', 'validation', 'val')) AS used,
    COALESCE(min(s.sample_id) FILTER (WHERE s.split IN ('train', 'eval', 'validation', 'val')), '') AS sample_id
FROM samples s JOIN entries e ON e.id = s.dataset_id
WHERE s.dataset_id = $1 AND (($2::text IS NOT NULL AND (e.owner_id = $2 OR e.visibility = 'SHARED')) OR e.id = $3)
GROUP BY videos;

-- name: list_clip_sizes
-- Lists the clips of a dataset that the viewer may see, with what is counted of them.
SELECT p.*, f.path
FROM files f
JOIN clip_probes p ON p.dataset_id = f.entry_id AND p.sha256 = f.sha256 AND p.fault IS NULL
JOIN entries e ON e.id = f.entry_id
WHERE f.entry_id = $1 AND (($2::text IS NOT NULL AND (e.owner_id = $2 OR e.visibility = 'SHARED')) OR e.id = $3);
