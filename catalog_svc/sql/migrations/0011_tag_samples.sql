-- What the owner of a row calls the kind of thing that it asks.
ALTER TABLE samples ADD COLUMN tags text[] NOT NULL DEFAULT '{}';
