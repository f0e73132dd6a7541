-- Jobs that begin with what another job has made: evaluations and merges.
ALTER TABLE jobs
    -- No reference: the history of such a job outlives its source. While it is live its source is kept, by the row lock that both take.
    ADD COLUMN source_job_id text,
    DROP CONSTRAINT jobs_recipe_check,
    ADD CONSTRAINT jobs_recipe_check CHECK (recipe IN ('QLORA', 'REHEARSAL', 'EVALUATION', 'MERGE')),
    ADD CONSTRAINT jobs_source_by_recipe CHECK ((source_job_id IS NOT NULL) = (recipe IN ('EVALUATION', 'MERGE')));
CREATE INDEX jobs_live_by_source ON jobs (source_job_id)
    WHERE source_job_id IS NOT NULL AND state IN ('QUEUED', 'STARTING', 'RUNNING', 'STOPPING');
