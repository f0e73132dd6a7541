-- How often an import was cut by something nobody had foreseen: an error of our own, or the death of its importer.
ALTER TABLE imports ADD COLUMN failures integer NOT NULL DEFAULT 0;
