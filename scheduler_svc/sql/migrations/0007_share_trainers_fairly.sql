-- Who shares the trainers: when each owner was last served, how much they may have, and how much they use.

-- Written by the claim alone, which is why nothing else is kept here: no other transaction can hold a claim up.
CREATE TABLE owners (
    id          text PRIMARY KEY,
    create_time timestamptz NOT NULL,
    -- Null for who never had a trainer.
    served_time timestamptz
);
INSERT INTO owners (id, create_time) SELECT owner_id, min(create_time) FROM jobs GROUP BY owner_id;

CREATE FUNCTION know_owner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO owners (id, create_time) VALUES (NEW.owner_id, NEW.create_time) ON CONFLICT DO NOTHING;
    RETURN NULL;
END;
$$;
CREATE TRIGGER jobs_know_owner AFTER INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION know_owner();

-- A null is no limit. The row `default` holds for everybody who has none of their own.
CREATE TABLE quotas (
    user_id              text PRIMARY KEY,
    running_jobs         integer CHECK (running_jobs >= 0),
    queued_jobs          integer CHECK (queued_jobs >= 0),
    device_hours_per_day double precision CHECK (device_hours_per_day >= 0),
    storage_bytes        bigint CHECK (storage_bytes >= 0),
    revision             integer NOT NULL DEFAULT 1,
    update_time          timestamptz NOT NULL
);

-- How long which attempt held how many devices. No reference to jobs: deleting a job gives no device hours back.
CREATE TABLE device_usage (
    job_id       text NOT NULL,
    attempt      integer NOT NULL,
    owner_id     text NOT NULL,
    recipe       text NOT NULL,
    device_count smallint NOT NULL,
    start_time   timestamptz NOT NULL,
    -- Null while it runs.
    end_time     timestamptz,
    PRIMARY KEY (job_id, attempt)
);
CREATE INDEX device_usage_by_owner ON device_usage (owner_id, end_time) INCLUDE (start_time, device_count);
CREATE INDEX device_usage_by_recipe ON device_usage (recipe, end_time);
INSERT INTO device_usage (job_id, attempt, owner_id, recipe, device_count, start_time, end_time)
SELECT attempts.job_id, attempts.attempt, jobs.owner_id, jobs.recipe, jobs.device_count, attempts.create_time, attempts.end_time
FROM attempts JOIN jobs ON jobs.id = attempts.job_id
WHERE attempts.end_time IS NULL OR attempts.end_time > now() - interval '7 days';

-- Device hours of an owner within the last 24 hours, each device counted. `domain/quota.py` says the same.
CREATE FUNCTION device_hours(owner text) RETURNS double precision LANGUAGE sql AS $$
    SELECT coalesce(sum(
        extract(epoch FROM coalesce(end_time, clock_timestamp()) - greatest(start_time, clock_timestamp() - interval '24 h'))
        / 3600 * device_count
    ), 0)
    FROM device_usage
    WHERE owner_id = owner AND (end_time IS NULL OR end_time > clock_timestamp() - interval '24 h')
$$;

-- The claim walks from owner to owner, and down an owner's jobs.
DROP INDEX jobs_queued;
CREATE INDEX jobs_queued ON jobs (owner_id, priority DESC, create_time, id) WHERE state = 'QUEUED';
-- Whether a worker is idle.
CREATE INDEX jobs_active_by_worker ON jobs (worker_id) WHERE state IN ('STARTING', 'RUNNING', 'STOPPING');

-- What "fits" means, once for all queries. `domain/placement.py` says the same; a test holds the two against each other.
CREATE FUNCTION can_hold(worker workers, job jobs) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT job.recipe = ANY (worker.recipes)
        AND job.device_class IN ('ANY', worker.device_class)
        AND job.device_count <= worker.device_count
        AND job.device_memory_bytes <= worker.memory_bytes
        AND (worker.can_train_4bit OR NOT job.needs_4bit)
$$;

-- What each owner stores, counted by the database itself: whoever adds or removes a file, by whatever way, the sum is right.
CREATE TABLE owner_storage (
    owner_id   text PRIMARY KEY,
    size_bytes bigint NOT NULL
) WITH (fillfactor = 50);

ALTER TABLE checkpoints ADD COLUMN owner_id text;
UPDATE checkpoints SET owner_id = jobs.owner_id FROM jobs WHERE jobs.id = checkpoints.job_id;
ALTER TABLE checkpoints ALTER COLUMN owner_id SET NOT NULL;

ALTER TABLE artifacts ADD COLUMN owner_id text, ADD COLUMN size_bytes bigint;
UPDATE artifacts SET
    owner_id = jobs.owner_id,
    size_bytes = (SELECT coalesce(sum((file ->> 'size_bytes')::bigint), 0) FROM jsonb_array_elements(files) AS file)
FROM jobs WHERE jobs.id = artifacts.job_id;
ALTER TABLE artifacts ALTER COLUMN owner_id SET NOT NULL, ALTER COLUMN size_bytes SET NOT NULL;

-- The owner stands in the row because a job that is deleted is gone before what belongs to it.
CREATE FUNCTION know_stored() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.owner_id := (SELECT owner_id FROM jobs WHERE id = NEW.job_id);
    IF TG_TABLE_NAME = 'artifacts' THEN
        NEW.size_bytes := (
            SELECT coalesce(sum((file ->> 'size_bytes')::bigint), 0) FROM jsonb_array_elements(NEW.files) AS file
        );
    END IF;
    RETURN NEW;
END;
$$;
CREATE TRIGGER checkpoints_know_stored BEFORE INSERT OR UPDATE ON checkpoints FOR EACH ROW EXECUTE FUNCTION know_stored();
CREATE TRIGGER artifacts_know_stored BEFORE INSERT OR UPDATE ON artifacts FOR EACH ROW EXECUTE FUNCTION know_stored();

CREATE FUNCTION count_stored() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        UPDATE owner_storage SET size_bytes = size_bytes - OLD.size_bytes WHERE owner_id = OLD.owner_id;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO owner_storage (owner_id, size_bytes) VALUES (NEW.owner_id, NEW.size_bytes)
        ON CONFLICT (owner_id) DO UPDATE SET size_bytes = owner_storage.size_bytes + excluded.size_bytes;
    END IF;
    RETURN NULL;
END;
$$;
INSERT INTO owner_storage (owner_id, size_bytes)
SELECT owner_id, sum(size_bytes)
FROM (SELECT owner_id, size_bytes FROM checkpoints UNION ALL SELECT owner_id, size_bytes FROM artifacts) AS stored
GROUP BY owner_id;
CREATE TRIGGER checkpoints_count_stored AFTER INSERT OR UPDATE OR DELETE ON checkpoints
    FOR EACH ROW EXECUTE FUNCTION count_stored();
CREATE TRIGGER artifacts_count_stored AFTER INSERT OR UPDATE OR DELETE ON artifacts
    FOR EACH ROW EXECUTE FUNCTION count_stored();
