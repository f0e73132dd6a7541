-- Jobs and what belongs to one job. The row in `jobs` is the one lock of its job: every write of a job, its events and its
-- attempts takes it first.
CREATE TABLE jobs (
    id                      text PRIMARY KEY,
    owner_id                text NOT NULL,
    name                    text NOT NULL,
    model_id                text NOT NULL,
    dataset_id              text NOT NULL,
    parameters              jsonb NOT NULL,
    device_class            text NOT NULL CHECK (device_class IN ('ANY', 'CPU', 'CUDA', 'JETSON')),
    needs_4bit              boolean NOT NULL,
    state                   text NOT NULL CONSTRAINT jobs_state_known CHECK (
                                state IN ('QUEUED', 'STARTING', 'RUNNING', 'STOPPING', 'COMPLETED', 'STOPPED', 'FAILED')
                            ),
    reason                  text NOT NULL CONSTRAINT jobs_reason_known CHECK (
                                reason IN (
                                    'UNSPECIFIED', 'LEASE_LOST', 'PREEMPTED', 'CRASHED', 'STALLED', 'STORAGE_UNAVAILABLE',
                                    'OUT_OF_MEMORY', 'BAD_DATA', 'NON_FINITE_LOSS', 'MODEL_UNSUPPORTED', 'QUARANTINED',
                                    'RETRIES_SPENT', 'STOP_REQUESTED', 'STOP_GRACE_SPENT', 'DEVICE_UNFIT', 'INTERNAL'
                                )
                            ),
    message                 text NOT NULL DEFAULT '' CHECK (octet_length(message) <= 1024),
    progress                jsonb NOT NULL DEFAULT '{}',
    generation              integer NOT NULL DEFAULT 1,
    attempt                 integer NOT NULL DEFAULT 0,
    worker_id               text,
    lease_expire_time       timestamptz,
    stop_deadline           timestamptz,
    queue_time              timestamptz NOT NULL,
    not_before              timestamptz NOT NULL,
    republish_time          timestamptz NOT NULL,
    infrastructure_failures integer NOT NULL DEFAULT 0,
    crashes                 integer NOT NULL DEFAULT 0,
    sequence                bigint NOT NULL DEFAULT 0,
    artifact_attempt        integer,
    create_time             timestamptz NOT NULL,
    update_time             timestamptz NOT NULL,
    start_time              timestamptz,
    end_time                timestamptz,
    CONSTRAINT jobs_lease_while_active CHECK (
        (lease_expire_time IS NOT NULL) = (state IN ('STARTING', 'RUNNING', 'STOPPING'))
    ),
    CONSTRAINT jobs_end_when_final CHECK ((end_time IS NOT NULL) = (state IN ('COMPLETED', 'STOPPED', 'FAILED'))),
    CONSTRAINT jobs_completed_has_artifact CHECK (state <> 'COMPLETED' OR artifact_attempt = attempt)
) WITH (fillfactor = 80);

-- The claim.
CREATE INDEX jobs_queued ON jobs (create_time, id) WHERE state = 'QUEUED';
-- The sweeper, and the claim's count of an owner's running jobs. No lease in it: a heartbeat must not touch an index.
CREATE INDEX jobs_active ON jobs (owner_id) WHERE state IN ('STARTING', 'RUNNING', 'STOPPING');
-- A user's list, newest first.
CREATE INDEX jobs_by_owner ON jobs (owner_id, create_time DESC, id DESC);

-- A second lock on the door: whatever a program does, the database takes legal changes only.
CREATE FUNCTION refuse_illegal_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.state, NEW.state) NOT IN (
        ('QUEUED', 'STARTING'), ('QUEUED', 'STOPPED'),
        ('STARTING', 'RUNNING'), ('STARTING', 'QUEUED'), ('STARTING', 'STOPPING'), ('STARTING', 'FAILED'),
        ('RUNNING', 'QUEUED'), ('RUNNING', 'STOPPING'), ('RUNNING', 'COMPLETED'), ('RUNNING', 'FAILED'),
        ('STOPPING', 'STOPPED'), ('STOPPING', 'FAILED')
    ) THEN
        RAISE EXCEPTION 'job % cannot go from % to %', OLD.id, OLD.state, NEW.state USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END;
$$;
CREATE TRIGGER jobs_legal_transition BEFORE UPDATE OF state ON jobs
    FOR EACH ROW EXECUTE FUNCTION refuse_illegal_transition();

CREATE TABLE job_events (
    job_id      text NOT NULL REFERENCES jobs ON DELETE CASCADE,
    sequence    bigint NOT NULL,
    create_time timestamptz NOT NULL,
    attempt     integer NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('state_change', 'progress', 'metrics', 'log', 'checkpoint')),
    level       smallint,
    body        jsonb NOT NULL,
    PRIMARY KEY (job_id, sequence)
);
CREATE INDEX job_events_logs ON job_events (job_id, sequence) INCLUDE (level) WHERE kind = 'log';
CREATE INDEX job_events_metrics ON job_events (job_id, sequence) WHERE kind = 'metrics';

CREATE TABLE attempts (
    job_id          text NOT NULL REFERENCES jobs ON DELETE CASCADE,
    attempt         integer NOT NULL,
    worker_id       text NOT NULL,
    recorded_report bigint NOT NULL DEFAULT 0,
    create_time     timestamptz NOT NULL,
    end_time        timestamptz,
    outcome         text,
    ended_by        text CHECK (ended_by IN ('trainer', 'sweeper')),
    PRIMARY KEY (job_id, attempt),
    CHECK ((end_time IS NULL) = (outcome IS NULL) AND (end_time IS NULL) = (ended_by IS NULL))
);

CREATE TABLE checkpoints (
    job_id      text NOT NULL REFERENCES jobs ON DELETE CASCADE,
    attempt     integer NOT NULL,
    step        bigint NOT NULL,
    files       jsonb NOT NULL,
    size_bytes  bigint NOT NULL,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (job_id, attempt, step)
);

CREATE TABLE artifacts (
    job_id      text PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    attempt     integer NOT NULL,
    files       jsonb NOT NULL,
    digest      text NOT NULL,
    create_time timestamptz NOT NULL
);

-- No reference to jobs: a repeated request must be known even when its job has been deleted.
CREATE TABLE request_ids (
    owner_id    text NOT NULL,
    request_id  uuid NOT NULL,
    body_sha256 text NOT NULL,
    job_id      text NOT NULL,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (owner_id, request_id)
);
CREATE INDEX request_ids_by_age ON request_ids (create_time);
