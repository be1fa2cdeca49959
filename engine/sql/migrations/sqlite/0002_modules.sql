-- Modules, by their digest. `put_at` says when they were stored last: what no release names goes an hour later.
CREATE TABLE modules (
    digest TEXT PRIMARY KEY,
    put_at INTEGER NOT NULL,
    bytes  BLOB NOT NULL                         -- last, so that looking for loose ones never reads it
);

-- One row for each task name that was ever pushed, so that no version comes twice.
CREATE TABLE module_names (
    name       TEXT PRIMARY KEY,
    last       INTEGER NOT NULL,
    assignment TEXT                              -- NULL while nothing serves
) WITHOUT ROWID;

CREATE TABLE releases (
    name       TEXT NOT NULL,
    version    INTEGER NOT NULL,
    digest     TEXT NOT NULL,
    release    TEXT NOT NULL,
    PRIMARY KEY (name, version)
);
CREATE INDEX releases_digest ON releases (digest);

-- One row: the revision of the last change of any of these.
CREATE TABLE module_revision (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL
);
INSERT INTO module_revision (id, revision) VALUES (1, 0);

-- Values of buckets. Their versions are one sequence, so that a key needs no trace of its old ones.
CREATE TABLE bucket_values (
    bucket  TEXT NOT NULL,
    key     TEXT NOT NULL,
    version INTEGER NOT NULL,
    ends_at INTEGER,
    value   BLOB NOT NULL,
    PRIMARY KEY (bucket, key)
);
CREATE INDEX bucket_values_end ON bucket_values (ends_at) WHERE ends_at IS NOT NULL;

CREATE TABLE bucket_version (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    version INTEGER NOT NULL
);
INSERT INTO bucket_version (id, version) VALUES (1, 0);
