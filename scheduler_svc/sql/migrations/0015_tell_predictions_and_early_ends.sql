-- Answers to held-out rows are events of a job, and a job may be completed before its last step.
ALTER TABLE job_events
    DROP CONSTRAINT job_events_kind_check,
    ADD CONSTRAINT job_events_kind_check CHECK (
        kind IN ('state_change', 'progress', 'metrics', 'log', 'checkpoint', 'predictions')
    );

ALTER TABLE jobs
    DROP CONSTRAINT jobs_reason_known,
    ADD CONSTRAINT jobs_reason_known CHECK (
        reason IN (
            'UNSPECIFIED', 'LEASE_LOST', 'PREEMPTED', 'CRASHED', 'STALLED', 'STORAGE_UNAVAILABLE',
            'OUT_OF_MEMORY', 'BAD_DATA', 'NON_FINITE_LOSS', 'MODEL_UNSUPPORTED', 'QUARANTINED',
            'RETRIES_SPENT', 'STOP_REQUESTED', 'STOP_GRACE_SPENT', 'DEVICE_UNFIT', 'INTERNAL',
            'PAUSED', 'RESUMED', 'RETRY_REQUESTED', 'EARLY_STOPPED'
        )
    );
