-- name: insert_request_id
-- Takes a request id; returns nothing when it is taken, after waiting for whoever is taking it.
INSERT INTO request_ids (owner_id, request_id, rpc, body_sha256, create_time)
VALUES ($1, $2, $3, $4, now())
ON CONFLICT DO NOTHING
RETURNING request_id

-- name: keep_answer
-- Keeps the answer to the request that took the id in this transaction.
UPDATE request_ids SET answer = $3 WHERE owner_id = $1 AND request_id = $2

-- name: select_request_id
-- Finds what a request id was used for, and what was answered.
SELECT rpc, body_sha256, answer FROM request_ids WHERE owner_id = $1 AND request_id = $2

-- name: select_request_ids
-- Finds what each of many request ids was used for, and what was answered.
SELECT request_ids.* FROM unnest($1::text[], $2::uuid[]) AS asked (owner_id, request_id)
JOIN request_ids USING (owner_id, request_id)

-- name: delete_old_request_ids
-- Forgets some request ids that no client repeats any more; returns how many.
WITH forgotten AS (
    DELETE FROM request_ids
    WHERE (owner_id, request_id) IN (
        SELECT owner_id, request_id FROM request_ids WHERE create_time < clock_timestamp() - $1::interval
        ORDER BY create_time LIMIT 1000 FOR UPDATE SKIP LOCKED
    )
    RETURNING 1
)
SELECT count(*) FROM forgotten
