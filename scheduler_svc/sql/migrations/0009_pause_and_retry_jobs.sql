-- Owners pause, resume and retry: changes that are legal for these reasons only, and reasons that no other change may give.
CREATE OR REPLACE FUNCTION refuse_illegal_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.state, NEW.state) NOT IN (
        ('QUEUED', 'STARTING'), ('QUEUED', 'STOPPED'), ('QUEUED', 'QUEUED'),
        ('STARTING', 'RUNNING'), ('STARTING', 'QUEUED'), ('STARTING', 'STOPPING'), ('STARTING', 'FAILED'),
        ('RUNNING', 'QUEUED'), ('RUNNING', 'STOPPING'), ('RUNNING', 'COMPLETED'), ('RUNNING', 'FAILED'),
        ('STOPPING', 'STOPPED'), ('STOPPING', 'FAILED'),
        ('STOPPED', 'QUEUED'), ('FAILED', 'QUEUED')
    ) THEN
        RAISE EXCEPTION 'job % cannot go from % to %', OLD.id, OLD.state, NEW.state USING ERRCODE = 'check_violation';
    END IF;
    IF (OLD.state, NEW.state) = ('QUEUED', 'QUEUED') IS DISTINCT FROM (NEW.reason IN ('PAUSED', 'RESUMED'))
        OR (OLD.state IN ('STOPPED', 'FAILED')) IS DISTINCT FROM (NEW.reason = 'RETRY_REQUESTED')
    THEN
        RAISE EXCEPTION 'job % cannot go from % to % because of %', OLD.id, OLD.state, NEW.state, NEW.reason
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END;
$$;
