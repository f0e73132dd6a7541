-- name: upsert_worker
-- Registers a worker, or brings a known one up to date.
INSERT INTO workers (
    id, name, device_class, can_train_4bit, device, version, device_count, memory_bytes, recipes, create_time, heartbeat_time
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, clock_timestamp(), clock_timestamp())
ON CONFLICT (id) DO UPDATE SET
    name = excluded.name, device_class = excluded.device_class, can_train_4bit = excluded.can_train_4bit,
    device = excluded.device, version = excluded.version, device_count = excluded.device_count,
    memory_bytes = excluded.memory_bytes, recipes = excluded.recipes, heartbeat_time = excluded.heartbeat_time

-- name: list_workers
-- A page of workers by name, after the position ($1, $2), with the jobs that they train.
SELECT workers.*,
    heartbeat_time < clock_timestamp() - $4::interval AS is_lost,
    ARRAY(
        SELECT jobs.id FROM jobs
        WHERE jobs.worker_id = workers.id AND jobs.state IN ('STARTING', 'RUNNING', 'STOPPING') ORDER BY jobs.id
    ) AS job_ids
FROM workers
WHERE $1::text IS NULL OR (name, id) > ($1, $2)
ORDER BY name, id
LIMIT $3

-- name: select_worker
-- A worker, with the jobs that it trains.
SELECT workers.*,
    heartbeat_time < clock_timestamp() - $2::interval AS is_lost,
    ARRAY(
        SELECT jobs.id FROM jobs
        WHERE jobs.worker_id = workers.id AND jobs.state IN ('STARTING', 'RUNNING', 'STOPPING') ORDER BY jobs.id
    ) AS job_ids
FROM workers WHERE id = $1

-- name: drain_worker
-- Takes a worker out of service, if it is not already; returns the jobs that it has, nothing when it is not known.
UPDATE workers SET drain_time = coalesce(drain_time, clock_timestamp()) WHERE id = $1
RETURNING ARRAY(
    SELECT jobs.id FROM jobs WHERE jobs.worker_id = workers.id AND jobs.state IN ('STARTING', 'RUNNING', 'STOPPING')
) AS job_ids

-- name: resume_worker
-- Puts a worker back into service; nothing when it is not known.
UPDATE workers SET drain_time = NULL WHERE id = $1 RETURNING id

-- name: is_recipe_offered
-- Whether a known worker offers a recipe; one that is not heard of may be back in a moment.
SELECT EXISTS (SELECT FROM workers WHERE $1 = ANY (recipes))

-- name: four_bit_problem
-- A known worker's 4-bit problem, if there are workers of the class and all of them have one; null else.
SELECT CASE WHEN bool_and(NOT can_train_4bit) THEN min(device ->> 'four_bit_problem') END AS problem,
    coalesce(bool_and(NOT can_train_4bit), false) AS all_unfit
FROM workers WHERE $1 = 'ANY' OR device_class = $1

-- name: list_devices
-- The devices of all known workers that train, be they lost for the moment; a worker of each kind and size once.
SELECT device_class, memory_bytes, can_train_4bit, device_count,
    max((device ->> 'matmul_flops')::double precision) AS matmul_flops,
    max((device ->> 'decode_pixels_per_second')::double precision) AS decode_pixels,
    coalesce(device ->> 'profile', '') AS profile, (array_agg(name ORDER BY name))[1:16] AS names
FROM workers WHERE 'QLORA' = ANY (recipes)
GROUP BY device_class, memory_bytes, can_train_4bit, device_count, coalesce(device ->> 'profile', '')
ORDER BY device_class, memory_bytes DESC, device_count

-- name: delete_lost_workers
-- Forgets workers that have not been heard of for long.
DELETE FROM workers WHERE heartbeat_time < clock_timestamp() - $1::interval
