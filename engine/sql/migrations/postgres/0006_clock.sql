-- The latest time by which leases were told: one row.
CREATE TABLE clock (one BOOLEAN PRIMARY KEY DEFAULT true CHECK (one), seen BIGINT NOT NULL);
INSERT INTO clock (seen) VALUES (0);

-- Notes the time, if it is further than `slack` from what was noted: so one process does once in that time, for all of them. Where
-- it is as much less, the clock was set back: every lease that is not over ends as much earlier by it, which is when it would have
-- ended. Answers by how much it was set back. To be called before anything else of a transaction is locked.
CREATE FUNCTION stem_note_time(given BIGINT, slack BIGINT) RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE
    known BIGINT;
    shown BIGINT;
BEGIN
    SELECT seen INTO known FROM clock;
    IF abs(known - stem_now(given)) <= slack THEN
        RETURN 0;
    END IF;
    SELECT seen INTO known FROM clock FOR UPDATE;
    -- The time now, and not when the statement began, which may have waited for that lock.
    shown := coalesce(given, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint);
    IF known - shown > slack THEN
        -- In the order in which everybody locks them.
        UPDATE deliveries SET at = at - (known - shown) WHERE task = ANY(ARRAY(
            SELECT task FROM deliveries WHERE phase = 2 AND at > shown ORDER BY task FOR UPDATE
        ));
        UPDATE clock SET seen = shown;
        RETURN known - shown;
    END IF;
    UPDATE clock SET seen = shown WHERE seen < shown;
    RETURN 0;
END
$$;
