-- A preview asks for one sample by its id.
CREATE INDEX samples_by_id ON samples (dataset_id, sample_id);
