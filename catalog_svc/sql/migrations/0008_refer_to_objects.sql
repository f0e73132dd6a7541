-- The version of an object in another bucket that a file is, as that store calls it.
ALTER TABLE files ADD COLUMN object_etag text NOT NULL DEFAULT '';
CREATE INDEX files_by_location ON files (location_id) WHERE location_id IS NOT NULL;

-- What the owner might store when the import began, as the scheduler told them: an import has no token of theirs to ask with.
ALTER TABLE imports ADD COLUMN limit_bytes bigint, ADD COLUMN used_elsewhere_bytes bigint NOT NULL DEFAULT 0;
