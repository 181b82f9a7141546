-- Moves of tenants from one region to another, global-sync's moving/: asked for by region-node, at the old home or, where it is
-- gone, at the new one.

CREATE TABLE tenant_moves (
    id              uuid PRIMARY KEY,
    tenant_id       text NOT NULL,
    mode            text NOT NULL CHECK (mode IN ('planned', 'failover')),
    from_region     text NOT NULL,
    to_region       text NOT NULL CHECK (to_region <> from_region),
    -- The home that is handed over, or taken by force; the next one has n + 1, or a greater term.
    from_term       bigint NOT NULL,
    from_n          bigint NOT NULL,
    state           text NOT NULL DEFAULT 'requested' CHECK (state IN
        ('requested', 'copying', 'pausing', 'handed_over', 'erasing', 'voting', 'completed', 'failed', 'cancelled')),
    -- The tenant's key for the new home, until it is there.
    wrapped_key     bytea,
    rows_moved      bigint NOT NULL DEFAULT 0,
    paused_ms       int,
    attempts        int NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    failure         text,
    requested_by    text NOT NULL,
    -- Whoever changed his mind before the hand-over.
    cancelled_by    text,
    requested_at    timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    handed_over_at  timestamptz,
    ended_at        timestamptz,
    CONSTRAINT move_has_ended CHECK ((ended_at IS NULL) = (state NOT IN ('completed', 'failed', 'cancelled')))
);
CREATE UNIQUE INDEX one_open_move_per_tenant ON tenant_moves (tenant_id) WHERE ended_at IS NULL;
CREATE INDEX tenant_moves_newest ON tenant_moves (requested_at DESC);
CALL fence_by_tenant('tenant_moves');
REVOKE UPDATE, DELETE ON tenant_moves FROM gocomet_app, gocomet_system;
GRANT UPDATE (cancelled_by) ON tenant_moves TO gocomet_app;
CREATE POLICY tenant_moves_sync ON tenant_moves TO gocomet_sync USING (true);
GRANT SELECT, UPDATE ON tenant_moves TO gocomet_sync;

-- Tenants whose rows come in and are not at home here yet, at the new home. The attempt that is named alone may write them.
CREATE TABLE tenant_arrivals (
    tenant_id       text PRIMARY KEY,
    move_id         uuid NOT NULL,
    attempt         uuid NOT NULL,
    from_region     text NOT NULL,
    touched_at      timestamptz NOT NULL DEFAULT now()
);
CALL fence_by_tenant('tenant_arrivals');
REVOKE INSERT, UPDATE, DELETE ON tenant_arrivals FROM gocomet_app, gocomet_system;
CREATE POLICY tenant_arrivals_sync ON tenant_arrivals TO gocomet_sync USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON tenant_arrivals TO gocomet_sync;

-- The old home tells everybody that it is so no more.
GRANT INSERT ON repl_outbox TO gocomet_sync;
