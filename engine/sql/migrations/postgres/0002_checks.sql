-- What a health check writes, to see that it can: one row.
CREATE TABLE checks (
    id SMALLINT PRIMARY KEY,
    at BIGINT NOT NULL
) WITH (fillfactor = 10);
