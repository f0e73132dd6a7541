-- Wake-ups that are still to be published. No reference to jobs: deleting a job must not wait for the relay.
CREATE TABLE outbox (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id       text NOT NULL,
    generation   integer NOT NULL,
    device_class text NOT NULL,
    not_before   timestamptz NOT NULL,
    UNIQUE (job_id, generation)
);
CREATE INDEX outbox_due ON outbox (not_before, id);
