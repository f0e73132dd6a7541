-- Services ask every few seconds which sessions have ended lately.
CREATE INDEX sessions_ended ON sessions (end_time) WHERE end_time IS NOT NULL;
