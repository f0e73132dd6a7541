-- name: insert_session
-- Opens a session.
INSERT INTO sessions (id, user_id, client_address, expire_time)
VALUES ($1, $2, $3, now() + $4::interval);

-- name: insert_refresh_token
-- Adds a session's next refresh token; it never outlives the session.
INSERT INTO refresh_tokens (token_sha256, session_id, generation, expire_time)
SELECT $1, sessions.id, $3, least(now() + $4::interval, sessions.expire_time)
FROM sessions
WHERE sessions.id = $2
RETURNING expire_time;

-- name: lock_refresh_token
-- Finds a refresh token and locks it with its session: both rows are read anew after a wait, so that racing calls see each other.
SELECT t.session_id, s.user_id, t.generation, s.newest_generation, t.expire_time, t.spent_time,
       t.replay_time IS NOT NULL AS is_replayed, s.end_time IS NOT NULL AS has_session_ended,
       s.expire_time AS session_expire_time, clock_timestamp() AS now
FROM refresh_tokens t
JOIN sessions s ON s.id = t.session_id
WHERE t.token_sha256 = $1
FOR UPDATE OF s, t;

-- name: spend_refresh_token
-- Marks a refresh token as used.
UPDATE refresh_tokens SET spent_time = clock_timestamp() WHERE token_sha256 = $1;

-- name: mark_replayed
-- Marks a spent refresh token as sent once more.
UPDATE refresh_tokens SET replay_time = clock_timestamp() WHERE token_sha256 = $1;

-- name: advance_session
-- Makes the next generation the session's newest.
UPDATE sessions SET newest_generation = $2, refresh_time = clock_timestamp() WHERE id = $1;

-- name: get_refresh_expiry
-- Gets when a stored refresh token of a session ends.
SELECT expire_time FROM refresh_tokens WHERE token_sha256 = $1 AND session_id = $2;

-- name: end_session
-- Ends a session that has not ended.
UPDATE sessions SET end_time = now(), end_reason = $3
WHERE id = $1 AND user_id = $2 AND end_time IS NULL;

-- name: end_sessions_of_user
-- Ends all of a user's sessions.
UPDATE sessions SET end_time = now(), end_reason = $2
WHERE user_id = $1 AND end_time IS NULL;

-- name: get_live_user
-- Gets the user of a session that has not ended.
SELECT u.id, u.username, u.email, u.roles, u.disabled, u.revision, u.create_time, u.update_time
FROM sessions s
JOIN users u ON u.id = s.user_id
WHERE s.id = $1 AND s.user_id = $2 AND s.end_time IS NULL AND s.expire_time > now() AND NOT u.disabled;

-- name: delete_old_sessions
-- Deletes sessions, with their tokens, that nothing can bring back: expired, or ended long enough ago.
DELETE FROM sessions WHERE expire_time < now() OR end_time < now() - interval '7 days';

-- name: list_ended_sessions
-- Lists the sessions that ended within the interval.
SELECT id FROM sessions WHERE end_time > now() - $1::interval;
