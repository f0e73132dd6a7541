-- Which version of its dataset a job trains on; 0 for jobs that are older than this column.
ALTER TABLE jobs ADD COLUMN dataset_version integer NOT NULL DEFAULT 0;
