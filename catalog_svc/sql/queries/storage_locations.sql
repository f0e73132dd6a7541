-- name: lock_locations
-- Has others who add a location of this owner wait until the transaction ends.
SELECT pg_advisory_xact_lock(hashtextextended('locations:' || $1, 0));

-- name: count_locations
-- Counts a user's locations.
SELECT count(*) FROM storage_locations WHERE owner_id = $1;

-- name: insert_location
-- Adds a location.
INSERT INTO storage_locations (id, owner_id, name, endpoint, region, bucket, access_key_id, secret)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
RETURNING *;

-- name: get_location
-- Gets a location of this owner.
SELECT * FROM storage_locations WHERE id = $1 AND owner_id = $2;

-- name: list_locations
-- Lists an owner's locations by name.
SELECT * FROM storage_locations WHERE owner_id = $1 ORDER BY name;

-- name: update_location_secret
-- Replaces the credentials of a location.
UPDATE storage_locations SET access_key_id = $3, secret = $4, update_time = now()
WHERE id = $1 AND owner_id = $2
RETURNING *;

-- name: lock_location
-- Keeps a location of this owner from being used for the first time until the transaction ends.
SELECT id FROM storage_locations WHERE id = $1 AND owner_id = $2 FOR UPDATE;

-- name: is_location_read
-- Tells whether an import still reads from a location.
SELECT EXISTS (SELECT FROM imports WHERE location_id = $1 AND state = 'RUNNING');

-- name: get_any_location
-- Gets a location, for those who read a file that refers to it.
SELECT * FROM storage_locations WHERE id = $1;

-- name: is_location_referred_to
-- Tells whether a file refers to a location.
SELECT EXISTS (SELECT FROM files WHERE location_id = $1);

-- name: forget_location_of_imports
-- Takes a location out of imports that have ended.
UPDATE imports SET location_id = NULL WHERE location_id = $1;

-- name: delete_location
-- Deletes a location.
DELETE FROM storage_locations WHERE id = $1;
