-- name: take_sequences
-- Numbers new events of an attempt, moves its progress on and renews its lease; nothing when the attempt is fenced.
UPDATE jobs SET
    sequence = sequence + $3,
    progress = coalesce($4, progress),
    lease_expire_time = clock_timestamp() + $5::interval,
    update_time = CASE WHEN $3 > 0 THEN clock_timestamp() ELSE update_time END
WHERE id = $1 AND attempt = $2 AND state IN ('STARTING', 'RUNNING', 'STOPPING')
RETURNING sequence, state

-- name: set_progress
-- Sets the progress of a job whose row the transaction has locked.
UPDATE jobs SET progress = $2 WHERE id = $1

-- name: insert_events
-- Records events under consecutive numbers from $2.
INSERT INTO job_events (job_id, sequence, create_time, attempt, kind, level, body)
SELECT $1, $2 + position - 1, clock_timestamp(), $3, kind, level, body::jsonb
FROM unnest($4::text[], $5::smallint[], $6::text[]) WITH ORDINALITY AS new (kind, level, body, position)

-- name: list_events
-- Events of every kind after a sequence.
SELECT * FROM job_events WHERE job_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3

-- name: list_logs
-- Log lines of at least a level after a sequence.
SELECT * FROM job_events
WHERE job_id = $1 AND kind = 'log' AND sequence > $2 AND level >= $4
ORDER BY sequence LIMIT $3

-- name: list_metrics
-- Metrics after a sequence.
SELECT * FROM job_events WHERE job_id = $1 AND kind = 'metrics' AND sequence > $2 ORDER BY sequence LIMIT $3
