-- Which live jobs use a dataset or a model: asked before one is deleted.
CREATE INDEX jobs_live_by_dataset ON jobs (dataset_id) WHERE state IN ('QUEUED', 'STARTING', 'RUNNING', 'STOPPING');
CREATE INDEX jobs_live_by_model ON jobs (model_id) WHERE state IN ('QUEUED', 'STARTING', 'RUNNING', 'STOPPING');
