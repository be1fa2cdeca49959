-- Runs with the schema of Stem's tables as the only one in the search path. Times are milliseconds since 1970.
-- Text is compared byte by byte (COLLATE "C"): names are sorted as Stem sorts them, and it is fast.

-- The server's clock, unless a time is given. Constant within a statement, so that an index can be asked for it.
CREATE FUNCTION stem_now(given BIGINT) RETURNS BIGINT LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT coalesce(given, floor(extract(epoch FROM statement_timestamp()) * 1000)::bigint)
$$;

-- Broker: what is on its way. An acknowledged delivery leaves nothing in these tables.

-- The order of enqueueing; a task keeps its number through retries, releases, the dead letters and replays.
CREATE SEQUENCE numbers;

-- The wire form, apart from the row that changes with every lease. Short-lived, so it is not worth compressing.
CREATE TABLE envelopes (
    seq  BIGINT PRIMARY KEY,
    wire BYTEA NOT NULL
) WITH (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_threshold = 1000,
    toast.autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE envelopes ALTER COLUMN wire SET STORAGE EXTERNAL;

-- Every move changes `phase` and `at`, which the partial indexes need, so few updates stay on their page. What can be
-- done instead is to have few indexes, and to vacuum early.
CREATE TABLE deliveries (
    seq        BIGINT NOT NULL,
    at         BIGINT NOT NULL,            -- ready since, delayed until, leased until
    token      BIGINT NOT NULL DEFAULT 0,  -- grows with every delivery, through replays too
    retries    BIGINT NOT NULL DEFAULT 0,  -- attempts that ended in a retry
    deliveries BIGINT NOT NULL DEFAULT 0,
    losses     BIGINT NOT NULL DEFAULT 0,
    phase      SMALLINT NOT NULL,          -- 0 ready, 1 delayed, 2 leased
    priority   SMALLINT NOT NULL,
    task       TEXT COLLATE "C" PRIMARY KEY,
    queue      TEXT COLLATE "C" NOT NULL,
    name       TEXT COLLATE "C" NOT NULL,
    owner      TEXT COLLATE "C",           -- the incarnation that holds the lease
    unique_key TEXT COLLATE "C"
) WITH (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0
);
-- The claim walks this one: for each name a worker knows, the first so many of a queue.
CREATE INDEX deliveries_ready ON deliveries (queue, name, priority DESC, seq) WHERE phase = 0;
-- What falls due next; `queue` is there so that counting a queue needs no row.
CREATE INDEX deliveries_delayed ON deliveries (at, queue) WHERE phase = 1;
CREATE INDEX deliveries_leased ON deliveries (at, queue) WHERE phase = 2;
-- A key is held exactly as long as the delivery exists.
CREATE UNIQUE INDEX deliveries_unique_key ON deliveries (unique_key) WHERE unique_key IS NOT NULL;

CREATE TABLE queues (
    name         TEXT COLLATE "C" PRIMARY KEY,
    paused_since BIGINT,
    pause_reason TEXT                      -- JSON text, in which nothing is forbidden
);

CREATE TABLE dead_letters (
    seq        BIGINT NOT NULL,
    task       TEXT COLLATE "C" PRIMARY KEY,
    queue      TEXT COLLATE "C" NOT NULL,
    name       TEXT COLLATE "C" NOT NULL,
    priority   SMALLINT NOT NULL,
    token      BIGINT NOT NULL,
    deliveries BIGINT NOT NULL,
    unique_key TEXT COLLATE "C",
    reason     TEXT NOT NULL,
    failure    TEXT NOT NULL,
    dead_at    BIGINT NOT NULL
);
CREATE INDEX dead_letters_order ON dead_letters (dead_at, seq);

-- Failed attempts of what is on its way or dead, newest last, pruned to the newest 20 of a task.
CREATE TABLE delivery_failures (
    id     BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task   TEXT COLLATE "C" NOT NULL,
    failed TEXT NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX delivery_failures_task ON delivery_failures (task, id);

-- Result backend: what became of tasks.

-- A start, a progress and a retry change no indexed column, so they stay on their page where it has room.
CREATE TABLE tasks (
    number         BIGINT PRIMARY KEY DEFAULT nextval('numbers'), -- the order in which records came
    attempt        BIGINT NOT NULL DEFAULT 0,
    max_retries    BIGINT NOT NULL,
    delivery_count BIGINT NOT NULL DEFAULT 0,
    token          BIGINT NOT NULL DEFAULT 0,                     -- the newest that is known; fences every write
    settled        BIGINT,                                        -- the token of the newest settlement
    enqueued_at    BIGINT NOT NULL,
    not_before     BIGINT,
    started_at     BIGINT,
    finished_at    BIGINT,
    id             TEXT COLLATE "C" NOT NULL UNIQUE,
    name           TEXT COLLATE "C" NOT NULL,
    queue          TEXT COLLATE "C" NOT NULL,
    state          TEXT COLLATE "C" NOT NULL,
    owner          TEXT COLLATE "C",                              -- the incarnation of that token
    worker         TEXT COLLATE "C",
    progress       TEXT,
    failure        TEXT,
    revocation     TEXT,
    module         TEXT,
    usage          TEXT,
    result_type    TEXT,
    result         BYTEA
) WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX tasks_finished ON tasks (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE task_failures (
    id     BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task   TEXT COLLATE "C" NOT NULL,
    failed TEXT NOT NULL
);
CREATE INDEX task_failures_task ON task_failures (task, id);

CREATE TABLE checkpoints (
    task  TEXT COLLATE "C" PRIMARY KEY,
    state BYTEA NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_vacuum_scale_factor = 0.05);

-- Logs that followers read with "after this number". A sequence hands out numbers in an order that commits need not
-- follow, and a follower would miss what commits late. A row of this table stays locked from the draw to the commit,
-- so the order of numbers is the order of commits.
CREATE TABLE counters (
    namespace TEXT COLLATE "C" NOT NULL,
    log       TEXT COLLATE "C" NOT NULL,   -- revocations, commands, replies
    last      BIGINT NOT NULL,
    PRIMARY KEY (namespace, log)
) WITH (fillfactor = 10);

-- Revocations. Numbers are never reused; an undo leaves its trace in the row.
CREATE TABLE revocations (
    namespace  TEXT COLLATE "C" NOT NULL,
    task       TEXT COLLATE "C" NOT NULL,
    version    BIGINT NOT NULL,
    issued_at  BIGINT NOT NULL,
    gone_at    BIGINT,                     -- when it has expired, or the trace of its undoing is old enough; NULL: never
    request    TEXT,                       -- NULL when it was taken back
    PRIMARY KEY (namespace, task)
);
CREATE UNIQUE INDEX revocations_version ON revocations (namespace, version);
CREATE INDEX revocations_gone ON revocations (namespace, gone_at) WHERE gone_at IS NOT NULL;

-- Control.
CREATE TABLE commands (
    namespace  TEXT COLLATE "C" NOT NULL,
    position   BIGINT NOT NULL,
    request_id TEXT COLLATE "C" NOT NULL,
    expires_at BIGINT NOT NULL,
    command    TEXT NOT NULL,
    PRIMARY KEY (namespace, position),
    UNIQUE (namespace, request_id)
);

CREATE TABLE replies (
    namespace  TEXT COLLATE "C" NOT NULL,
    request_id TEXT COLLATE "C" NOT NULL,
    position   BIGINT NOT NULL,
    worker     TEXT COLLATE "C" NOT NULL,
    kept_until BIGINT NOT NULL,
    reply      TEXT NOT NULL,
    PRIMARY KEY (namespace, request_id, position),
    UNIQUE (namespace, request_id, worker)
);

-- Presence. A heartbeat changes no indexed column.
CREATE TABLE workers (
    namespace TEXT COLLATE "C" NOT NULL,
    worker    TEXT COLLATE "C" NOT NULL,
    boot_id   TEXT COLLATE "C" NOT NULL,
    seen_at   BIGINT NOT NULL,
    heartbeat TEXT NOT NULL,
    PRIMARY KEY (namespace, worker)
) WITH (fillfactor = 50);
