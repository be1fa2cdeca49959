-- On whose behalf a delivery is; '-' if its producer named nobody, and for what older processes enqueue.
-- The index by it, `deliveries_lanes`, is made by the first claim that goes by tenants: writing it costs every task, so whoever
-- sets no quotas does without.
ALTER TABLE deliveries ADD COLUMN tenant TEXT NOT NULL DEFAULT '-';
ALTER TABLE dead_letters ADD COLUMN tenant TEXT NOT NULL DEFAULT '-';
