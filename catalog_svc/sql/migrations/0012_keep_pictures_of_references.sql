-- Pictures of clips in other buckets are kept as long as a file refers to them.
CREATE INDEX files_referred_to ON files (sha256) WHERE location_id IS NOT NULL;
