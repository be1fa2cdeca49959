-- The latest time by which leases were told: one row.
CREATE TABLE clock (seen INTEGER NOT NULL);
INSERT INTO clock (seen) VALUES (0);
