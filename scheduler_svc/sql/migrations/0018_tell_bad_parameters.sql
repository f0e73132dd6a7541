-- Parameters that cannot be carried out are no fault of the model.
ALTER TABLE jobs
    DROP CONSTRAINT jobs_reason_known,
    ADD CONSTRAINT jobs_reason_known CHECK (
        reason IN (
            'UNSPECIFIED', 'LEASE_LOST', 'PREEMPTED', 'CRASHED', 'STALLED', 'STORAGE_UNAVAILABLE',
            'OUT_OF_MEMORY', 'BAD_DATA', 'NON_FINITE_LOSS', 'MODEL_UNSUPPORTED', 'QUARANTINED',
            'RETRIES_SPENT', 'STOP_REQUESTED', 'STOP_GRACE_SPENT', 'DEVICE_UNFIT', 'INTERNAL',
            'PAUSED', 'RESUMED', 'RETRY_REQUESTED', 'EARLY_STOPPED', 'BAD_PARAMETERS'
        )
    );
