-- Prefixes of objects that nobody needs any more. Each is looked through at once and, for uploads that were still under way,
-- once more after `final_time`.
CREATE TABLE garbage (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id       text NOT NULL,
    prefix       text NOT NULL UNIQUE,
    collect_time timestamptz NOT NULL,
    final_time   timestamptz NOT NULL
);
CREATE INDEX garbage_due ON garbage (collect_time);
