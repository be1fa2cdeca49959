-- The latest time by which leases were told: one row.
CREATE TABLE clock (seen BIGINT NOT NULL);
INSERT INTO clock (seen) VALUES (0);

-- Notes the time. Where it is more than $2 less than was noted, the clock was set back: every lease that is not over ends as much
-- earlier by it, which is when it would have ended. Answers by how much it was set back. One at a time, by the lock of the row.
CREATE FUNCTION stem_note_time(given BIGINT, slack BIGINT) RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE
    known BIGINT;
    shown BIGINT;
BEGIN
    SELECT seen INTO known FROM clock FOR UPDATE;
    -- The time now, and not when the statement began, which may have waited for that lock.
    shown := coalesce(given, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint);
    IF known - shown > slack THEN
        UPDATE deliveries SET at = at - (known - shown) WHERE phase = 2 AND at > shown;
        UPDATE clock SET seen = shown;
        RETURN known - shown;
    END IF;
    UPDATE clock SET seen = shown WHERE seen < shown;
    RETURN 0;
END
$$;
