-- What began with a job, newest first: asked over and over by whoever looks at its evaluations and merges.
CREATE INDEX jobs_by_source ON jobs (owner_id, source_job_id, create_time DESC, id DESC) WHERE source_job_id IS NOT NULL;
