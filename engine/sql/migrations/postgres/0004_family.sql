-- The task that enqueued a task, and the first of their chain; NULL where no task did, and for older ones.
ALTER TABLE tasks ADD COLUMN parent TEXT COLLATE "C", ADD COLUMN root TEXT COLLATE "C";
