-- Who this database is: its name in the bucket. Whoever shares a bucket must not search it for what this database does not know.
CREATE TABLE identity (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    id      text NOT NULL
);
INSERT INTO identity (id) VALUES ('cat_' || replace(gen_random_uuid()::text, '-', ''));

-- What the search has found to be nobody's, and since when; it goes if it is found again after days.
CREATE TABLE sweep_finds (
    object_key text COLLATE "C" PRIMARY KEY,
    find_time  timestamptz NOT NULL DEFAULT now()
);
