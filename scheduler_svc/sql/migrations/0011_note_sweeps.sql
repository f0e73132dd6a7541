-- When the scheduler was last at work, any replica of it: after a silence the leases say nothing about the trainers.
CREATE TABLE sweeps (
    is_only     boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    sweep_time  timestamptz NOT NULL
);

INSERT INTO sweeps (sweep_time) VALUES (now());
