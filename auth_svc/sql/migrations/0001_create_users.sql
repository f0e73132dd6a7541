CREATE TABLE users (
    id            text PRIMARY KEY,
    username      text NOT NULL,
    email         text NOT NULL,
    password_hash text NOT NULL,
    roles         text[] NOT NULL DEFAULT '{user}' CHECK (roles <@ '{user,admin}' AND cardinality(roles) > 0),
    disabled      boolean NOT NULL DEFAULT false,
    revision      bigint NOT NULL DEFAULT 1,
    create_time   timestamptz NOT NULL DEFAULT now(),
    update_time   timestamptz NOT NULL DEFAULT now()
);

CREATE UNIQUE INDEX users_username_key ON users (lower(username));
CREATE UNIQUE INDEX users_email_key ON users (lower(email));
CREATE INDEX users_create_time_idx ON users (create_time DESC, id DESC);

CREATE TABLE sessions (
    id                 text PRIMARY KEY,
    user_id            text NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    client_address     text NOT NULL,
    newest_generation  integer NOT NULL DEFAULT 1,
    create_time        timestamptz NOT NULL DEFAULT now(),
    refresh_time       timestamptz NOT NULL DEFAULT now(),
    expire_time        timestamptz NOT NULL,
    end_time           timestamptz,
    end_reason         text,
    CHECK ((end_time IS NULL) = (end_reason IS NULL))
);

CREATE INDEX sessions_user_id_idx ON sessions (user_id) WHERE end_time IS NULL;
CREATE INDEX sessions_expire_time_idx ON sessions (expire_time);

-- Spent tokens stay as long as their session: only so can a re-used one be told from a made-up one.
CREATE TABLE refresh_tokens (
    token_sha256 bytea PRIMARY KEY CHECK (length(token_sha256) = 32),
    session_id   text NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    generation   integer NOT NULL,
    create_time  timestamptz NOT NULL DEFAULT now(),
    expire_time  timestamptz NOT NULL,
    spent_time   timestamptz,
    replay_time  timestamptz,
    UNIQUE (session_id, generation)
);

-- By the digest of what was typed as username: people type passwords there, too.
CREATE TABLE login_failures (
    account_sha256 bytea PRIMARY KEY CHECK (length(account_sha256) = 32),
    failures       integer NOT NULL,
    last_time      timestamptz NOT NULL
);

CREATE INDEX login_failures_last_time_idx ON login_failures (last_time);
