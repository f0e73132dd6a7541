-- Every change that a user asks for can be repeated safely, not only the submission of a job: what was answered is kept.
-- No answer is ever committed as null: the row is taken first and completed in the same transaction.
ALTER TABLE request_ids ADD COLUMN rpc text NOT NULL DEFAULT 'CreateTrainingJob', ADD COLUMN answer jsonb;
UPDATE request_ids SET answer = jsonb_build_object('job_id', job_id);
ALTER TABLE request_ids ALTER COLUMN rpc DROP DEFAULT, DROP COLUMN job_id;
