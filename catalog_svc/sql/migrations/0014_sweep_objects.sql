-- How far the search has come for objects that nothing refers to; it begins again from the start.
CREATE TABLE sweeps (
    prefix    text COLLATE "C" PRIMARY KEY,
    after_key text COLLATE "C" NOT NULL DEFAULT '',
    due_time  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO sweeps (prefix) VALUES ('contents/'), ('uploads/');
