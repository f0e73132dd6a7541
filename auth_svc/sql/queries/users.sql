-- name: insert_user
-- Adds a user; a taken username or e-mail address violates users_username_key or users_email_key.
INSERT INTO users (id, username, email, password_hash)
VALUES ($1, $2, $3, $4)
RETURNING id, username, email, roles, disabled, revision, create_time, update_time;

-- name: find_taken_names
-- Tells whether a username and an e-mail address are taken.
SELECT EXISTS (SELECT FROM users WHERE lower(username) = lower($1)) AS username_taken,
       EXISTS (SELECT FROM users WHERE lower(email) = lower($2)) AS email_taken;

-- name: get_user
-- Gets a user by id.
SELECT id, username, email, roles, disabled, revision, create_time, update_time
FROM users
WHERE id = $1;

-- name: find_credentials
-- Finds who signs in with this name; usernames hold no @, so that at most one user answers to it.
SELECT id, username, email, roles, disabled, revision, create_time, update_time, password_hash
FROM users
WHERE lower(username) = lower($1) OR lower(email) = lower($1);

-- name: upgrade_password_hash
-- Replaces a hash made with old parameters, unless the password was changed meanwhile.
UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2;

-- name: lock_enabled_user
-- Gets a user who may sign in and keeps others from barring them until the transaction ends.
SELECT id, username, email, roles, disabled, revision, create_time, update_time
FROM users
WHERE id = $1 AND NOT disabled
FOR SHARE;

-- name: lock_user_and_admins
-- Locks, in one order, the user to change and everybody who manages users, so that two admins cannot bar each other at once.
SELECT id, username, email, roles, disabled, revision, create_time, update_time
FROM users
WHERE id = $1 OR ('admin' = ANY (roles) AND NOT disabled)
ORDER BY id
FOR UPDATE;

-- name: update_user
-- Sets what an admin may change.
UPDATE users
SET roles = $2, disabled = $3, revision = revision + 1, update_time = now()
WHERE id = $1
RETURNING id, username, email, roles, disabled, revision, create_time, update_time;

-- name: grant_admin
-- Makes a user an admin, by username; changes nothing for one who is.
UPDATE users
SET roles = roles || '{admin}', revision = revision + 1, update_time = now()
WHERE lower(username) = lower($1) AND NOT 'admin' = ANY (roles)
RETURNING id;

-- name: find_user_id
-- Finds a user's id by username.
SELECT id FROM users WHERE lower(username) = lower($1);

-- name: list_users
-- Lists users, newest first, after a position; each array holds the values of one kind of comparison, all of which must hold.
SELECT id, username, email, roles, disabled, revision, create_time, update_time
FROM users
WHERE ($1::timestamptz IS NULL OR (create_time, id) < ($1, $2::text))
  AND lower(username) LIKE ALL ($3::text[]) AND NOT lower(username) LIKE ANY ($4::text[])
  AND lower(email) LIKE ALL ($5::text[]) AND NOT lower(email) LIKE ANY ($6::text[])
  AND disabled = ALL ($7::boolean[])
ORDER BY create_time DESC, id DESC
LIMIT $8;
