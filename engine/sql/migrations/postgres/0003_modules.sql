-- Modules by their digest, in pieces, so that no statement carries much. The pieces of one storing have a number of
-- their own; a module's row says which of them are its bytes.
CREATE SEQUENCE module_puts;

CREATE TABLE modules (
    digest TEXT COLLATE "C" PRIMARY KEY,
    put    BIGINT NOT NULL,
    pieces BIGINT NOT NULL,
    put_at BIGINT NOT NULL                 -- what no release names goes an hour later
);

CREATE TABLE module_pieces (
    put    BIGINT NOT NULL,
    piece  BIGINT NOT NULL,
    put_at BIGINT NOT NULL,
    bytes  BYTEA NOT NULL,
    PRIMARY KEY (put, piece)
);
ALTER TABLE module_pieces ALTER COLUMN bytes SET STORAGE EXTERNAL;

-- One row for each task name that was ever pushed, so that no version comes twice.
CREATE TABLE module_names (
    name       TEXT COLLATE "C" PRIMARY KEY,
    last       BIGINT NOT NULL,
    version    BIGINT,                     -- NULL while nothing serves
    canary     BIGINT,
    assignment TEXT
);

CREATE TABLE releases (
    name    TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    digest  TEXT COLLATE "C" NOT NULL,
    release TEXT NOT NULL,
    PRIMARY KEY (name, version)
);
CREATE INDEX releases_digest ON releases (digest);

-- One row: the revision of the last change of any of these. Whoever changes one locks it first.
CREATE TABLE module_revision (
    id       SMALLINT PRIMARY KEY CHECK (id = 1),
    revision BIGINT NOT NULL
) WITH (fillfactor = 10);
INSERT INTO module_revision (id, revision) VALUES (1, 0);

-- Values of buckets. Their versions are one sequence, so that a key needs no trace of its old ones.
CREATE SEQUENCE bucket_versions;

CREATE TABLE bucket_values (
    bucket  TEXT COLLATE "C" NOT NULL,
    key     BYTEA NOT NULL,                -- any text, and text columns take no zero bytes
    version BIGINT NOT NULL,
    ends_at BIGINT,
    value   BYTEA NOT NULL,
    PRIMARY KEY (bucket, key)
) WITH (autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX bucket_values_end ON bucket_values (ends_at) WHERE ends_at IS NOT NULL;
