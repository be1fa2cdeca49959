-- On whose behalf a delivery is; '-' if its producer named nobody, and for what older processes enqueue. IF NOT EXISTS, so that
-- an operator with millions of waiting tasks can make the index beforehand and at leisure.
ALTER TABLE deliveries ADD COLUMN IF NOT EXISTS tenant TEXT COLLATE "C" NOT NULL DEFAULT '-';
ALTER TABLE dead_letters ADD COLUMN IF NOT EXISTS tenant TEXT COLLATE "C" NOT NULL DEFAULT '-';
-- A claim that goes by tenants walks this one: for each name and tenant, the first so many of a queue.
CREATE INDEX IF NOT EXISTS deliveries_lanes ON deliveries (queue, name, tenant, priority DESC, seq) WHERE phase = 0;
