-- What a job needs of a trainer, its place among its owner's jobs, and what a trainer offers.
ALTER TABLE jobs
    ADD COLUMN priority            smallint NOT NULL DEFAULT 0,
    ADD COLUMN device_count        smallint NOT NULL DEFAULT 1 CHECK (device_count >= 1),
    ADD COLUMN device_memory_bytes bigint NOT NULL DEFAULT 0 CHECK (device_memory_bytes >= 0),
    ADD COLUMN recipe              text NOT NULL DEFAULT 'QLORA' CHECK (recipe IN ('QLORA', 'REHEARSAL')),
    ADD COLUMN is_paused           boolean NOT NULL DEFAULT false,
    -- Counts the changes that the owner makes: the etag.
    ADD COLUMN revision            integer NOT NULL DEFAULT 1,
    ADD CONSTRAINT jobs_paused_in_the_queue CHECK (NOT is_paused OR state = 'QUEUED'),
    DROP CONSTRAINT jobs_reason_known,
    ADD CONSTRAINT jobs_reason_known CHECK (
        reason IN (
            'UNSPECIFIED', 'LEASE_LOST', 'PREEMPTED', 'CRASHED', 'STALLED', 'STORAGE_UNAVAILABLE',
            'OUT_OF_MEMORY', 'BAD_DATA', 'NON_FINITE_LOSS', 'MODEL_UNSUPPORTED', 'QUARANTINED',
            'RETRIES_SPENT', 'STOP_REQUESTED', 'STOP_GRACE_SPENT', 'DEVICE_UNFIT', 'INTERNAL',
            'PAUSED', 'RESUMED', 'RETRY_REQUESTED'
        )
    );

ALTER TABLE workers
    ADD COLUMN device_count smallint NOT NULL DEFAULT 1 CHECK (device_count >= 1),
    ADD COLUMN memory_bytes bigint NOT NULL DEFAULT 0,
    ADD COLUMN recipes      text[] NOT NULL DEFAULT '{QLORA}',
    ADD COLUMN drain_time   timestamptz;
