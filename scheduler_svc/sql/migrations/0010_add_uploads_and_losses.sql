-- Large files that attempts are storing in parts. Whoever collects what an ended attempt left asks the object store itself which
-- uploads there are: a row says which one to go on with, and goes with its attempt.
CREATE TABLE uploads (
    job_id      text NOT NULL REFERENCES jobs ON DELETE CASCADE,
    attempt     integer NOT NULL,
    object_name text NOT NULL,
    upload_id   text NOT NULL,
    size_bytes  bigint NOT NULL,
    sha256      text NOT NULL,
    part_bytes  bigint NOT NULL CHECK (part_bytes > 0),
    create_time timestamptz NOT NULL,
    PRIMARY KEY (job_id, attempt, object_name)
);

-- Loss on the held-out rows at the checkpoint's step; null when it was not measured.
ALTER TABLE checkpoints ADD COLUMN eval_loss double precision;
