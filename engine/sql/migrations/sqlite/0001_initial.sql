-- Times are milliseconds since 1970. A file is recognised by PRAGMA application_id, its version by PRAGMA user_version.

-- Broker: what is on its way. An acknowledged delivery leaves nothing in these tables.

-- The wire form, apart from the row that changes with every lease, so that a renewal never rewrites a payload.
-- `seq` is the order of enqueueing; a task keeps it through retries, releases, the dead letters and replays.
CREATE TABLE envelopes (
    seq  INTEGER PRIMARY KEY,
    wire BLOB NOT NULL
);

CREATE TABLE deliveries (
    seq         INTEGER PRIMARY KEY,
    task        TEXT NOT NULL UNIQUE,
    queue       TEXT NOT NULL,
    name        TEXT NOT NULL,
    phase       INTEGER NOT NULL,            -- 0 ready, 1 delayed, 2 leased
    priority    INTEGER NOT NULL,
    at          INTEGER NOT NULL,            -- ready since, delayed until, leased until
    token       INTEGER NOT NULL DEFAULT 0,  -- grows with every delivery, through replays too
    owner       TEXT,                        -- the incarnation that holds the lease
    retries     INTEGER NOT NULL DEFAULT 0,  -- attempts that ended in a retry
    deliveries  INTEGER NOT NULL DEFAULT 0,
    losses      INTEGER NOT NULL DEFAULT 0,
    unique_key  TEXT
);
-- The claim walks this one: for each name a worker knows, the first so many of a queue.
CREATE INDEX deliveries_ready ON deliveries (queue, name, priority DESC, seq) WHERE phase = 0;
-- What falls due next; `queue` is there so that counting a queue needs no row.
CREATE INDEX deliveries_delayed ON deliveries (at, queue) WHERE phase = 1;
CREATE INDEX deliveries_leased ON deliveries (at, queue) WHERE phase = 2;
-- A key is held exactly as long as the delivery exists.
CREATE UNIQUE INDEX deliveries_unique_key ON deliveries (unique_key) WHERE unique_key IS NOT NULL;

CREATE TABLE queues (
    name         TEXT PRIMARY KEY,
    paused_since INTEGER,
    pause_reason TEXT
) WITHOUT ROWID;

CREATE TABLE dead_letters (
    seq        INTEGER PRIMARY KEY,
    task       TEXT NOT NULL UNIQUE,
    queue      TEXT NOT NULL,
    name       TEXT NOT NULL,
    priority   INTEGER NOT NULL,
    token      INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    unique_key TEXT,
    reason     TEXT NOT NULL,
    failure    TEXT NOT NULL,
    dead_at    INTEGER NOT NULL
);
CREATE INDEX dead_letters_order ON dead_letters (dead_at, seq);

-- Failed attempts of what is on its way or dead, newest last, pruned to the newest 20 of a task.
CREATE TABLE delivery_failures (
    id     INTEGER PRIMARY KEY,
    task   TEXT NOT NULL,
    failed TEXT NOT NULL
);
CREATE INDEX delivery_failures_task ON delivery_failures (task, id);

-- Result backend: what became of tasks.

CREATE TABLE tasks (
    number         INTEGER PRIMARY KEY,         -- the order in which records came
    id             TEXT NOT NULL UNIQUE,
    name           TEXT NOT NULL,
    queue          TEXT NOT NULL,
    state          TEXT NOT NULL,
    attempt        INTEGER NOT NULL DEFAULT 0,
    max_retries    INTEGER NOT NULL,
    delivery_count INTEGER NOT NULL DEFAULT 0,
    token          INTEGER NOT NULL DEFAULT 0,  -- the newest that is known; fences every write
    owner          TEXT,                        -- the incarnation of that token
    settled        INTEGER,                     -- the token of the newest settlement
    enqueued_at    INTEGER NOT NULL,
    not_before     INTEGER,
    started_at     INTEGER,
    finished_at    INTEGER,
    worker         TEXT,
    progress       TEXT,
    failure        TEXT,
    revocation     TEXT,
    module         TEXT,
    usage          TEXT,
    result_type    TEXT,
    result         BLOB                         -- last, so that a list never reads it
);
CREATE INDEX tasks_finished ON tasks (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE task_failures (
    id     INTEGER PRIMARY KEY,
    task   TEXT NOT NULL,
    failed TEXT NOT NULL
);
CREATE INDEX task_failures_task ON task_failures (task, id);

CREATE TABLE checkpoints (
    task  TEXT PRIMARY KEY,
    state BLOB NOT NULL
);

-- Revocations. One sequence for a namespace, never reused; an undo leaves its trace in the row.

CREATE TABLE revoke_versions (
    namespace TEXT PRIMARY KEY,
    version   INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE revocations (
    namespace  TEXT NOT NULL,
    task       TEXT NOT NULL,
    version    INTEGER NOT NULL,
    issued_at  INTEGER NOT NULL,
    expires_at INTEGER,
    undone_at  INTEGER,
    request    TEXT,                            -- NULL when it was taken back
    PRIMARY KEY (namespace, task)
);
CREATE UNIQUE INDEX revocations_version ON revocations (namespace, version);

-- Control. AUTOINCREMENT, because a position must never be given out twice.

CREATE TABLE commands (
    position   INTEGER PRIMARY KEY AUTOINCREMENT,
    namespace  TEXT NOT NULL,
    request_id TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    command    TEXT NOT NULL,
    UNIQUE (namespace, request_id)
);
CREATE INDEX commands_log ON commands (namespace, position);

CREATE TABLE replies (
    position   INTEGER PRIMARY KEY AUTOINCREMENT,
    namespace  TEXT NOT NULL,
    request_id TEXT NOT NULL,
    worker     TEXT NOT NULL,
    kept_until INTEGER NOT NULL,
    reply      TEXT NOT NULL,
    UNIQUE (namespace, request_id, worker)
);

-- Presence.

CREATE TABLE workers (
    namespace TEXT NOT NULL,
    worker    TEXT NOT NULL,
    boot_id   TEXT NOT NULL,
    seen_at   INTEGER NOT NULL,
    heartbeat TEXT NOT NULL,
    PRIMARY KEY (namespace, worker)
) WITHOUT ROWID;
