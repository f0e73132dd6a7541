CREATE TABLE workers (
    id             text PRIMARY KEY,
    name           text NOT NULL,
    device_class   text NOT NULL CHECK (device_class IN ('CPU', 'CUDA', 'JETSON')),
    can_train_4bit boolean NOT NULL,
    device         jsonb NOT NULL,
    version        text NOT NULL,
    create_time    timestamptz NOT NULL,
    heartbeat_time timestamptz NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX workers_by_name ON workers (name, id);
