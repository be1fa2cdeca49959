-- The task that enqueued a task, and the first of their chain. Not columns of `tasks`: processes of before, which may have the
-- file open, read whole rows of it. A trigger, since they do not know that this goes with a record.
CREATE TABLE families (
    task   TEXT PRIMARY KEY,
    parent TEXT NOT NULL,
    root   TEXT NOT NULL
) WITHOUT ROWID;

CREATE TRIGGER family_goes_with_its_record AFTER DELETE ON tasks BEGIN
    DELETE FROM families WHERE task = OLD.id;
END;
