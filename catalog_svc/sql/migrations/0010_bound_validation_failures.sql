-- How often in a row a validation was cut, with no clip found meanwhile, by something nobody had foreseen: an error of our
-- own, or the death of its validator.
ALTER TABLE entries ADD COLUMN validation_failures integer NOT NULL DEFAULT 0;
