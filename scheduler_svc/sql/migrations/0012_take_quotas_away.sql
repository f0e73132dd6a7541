-- A quota that was taken away stays, without limits, for its revision: an etag that was seen before never comes back.
ALTER TABLE quotas ADD COLUMN follows_default boolean NOT NULL DEFAULT false;
