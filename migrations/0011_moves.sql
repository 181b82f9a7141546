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

-- Rows of these tables are never deleted at their home, so that a move need not look for those that are gone: moving/tables.rs says
-- so, too.
REVOKE DELETE ON riders, drivers, rides, trips, fare_shares, ratings, payments, refunds, payout_runs, disputes,
    stray_disputes, sandbox_psp_operations, reconciliations, reconciliation_differences FROM gocomet_app, gocomet_system;

-- ---------------------------------------------------------------------------------------------------------------
-- Leases of homes, for tenants that would rather be refused than have two homes
-- ---------------------------------------------------------------------------------------------------------------

-- For how long a region's word holds. Whoever takes a home by force waits for longer: global-sync's moving/lease.rs says why.
CREATE FUNCTION home_lease() RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT interval '15 s' $$;

-- What other regions last said of the homes in this one, and when, by this region's clock, they were asked. `promised` has the
-- tenants they know or have agreed to another home of, each with that one and its term, unless this region knows of that term.
CREATE TABLE home_grants (
    region   text PRIMARY KEY,
    asked_at timestamptz NOT NULL,
    promised jsonb NOT NULL
);
GRANT SELECT ON home_grants TO gocomet_app, gocomet_system;
GRANT SELECT, INSERT, UPDATE, DELETE ON home_grants TO gocomet_sync;

-- What this region has agreed to itself is part of that.
CREATE POLICY repl_promise_tenant ON repl_promise FOR SELECT USING (tenant_id = current_setting('app.tenant_id', true));
GRANT SELECT ON repl_promise TO gocomet_app, gocomet_system;

-- Regions with a voice: neither those that only join nor those that are gone for good.
CREATE VIEW home_voters AS SELECT region FROM repl_membership WHERE state IN ('active', 'draining');
GRANT SELECT ON home_voters TO gocomet_app, gocomet_system, gocomet_sync;

-- Whether a majority of regions holds this one for the tenant's home of that term. What one of them has agreed to another for
-- does not count while that other one says that it has come to nothing there. A word from the future is from before the clock
-- was put back.
CREATE FUNCTION home_is_confirmed(tenant text, home_term bigint) RETURNS boolean LANGUAGE sql VOLATILE AS $$
    WITH words AS (
        SELECT region, (promised -> tenant ->> 'term')::bigint AS term, promised -> tenant ->> 'target' AS target
        FROM home_grants WHERE asked_at <= clock_timestamp() AND clock_timestamp() < asked_at + home_lease()
        UNION ALL
        SELECT s.region, p.term, p.target
        FROM repl_self s LEFT JOIN LATERAL (SELECT p.term, p.target FROM repl_promise p
                                            WHERE p.tenant_id = tenant AND p.target <> s.region
                                            ORDER BY p.term DESC LIMIT 1) p ON true
    ), agreeing AS (
        SELECT region FROM words WHERE COALESCE(term, 0) <= home_term
    )
    SELECT 2 * (SELECT count(*) FROM words JOIN home_voters USING (region)
                WHERE COALESCE(term, 0) <= home_term OR target IN (SELECT region FROM agreeing))
           > (SELECT count(*) FROM home_voters)
$$;

-- The last thing a command of a leased tenant does before it commits: its home may have been taken since it began.
CREATE FUNCTION must_be_confirmed(tenant text, home_term bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM tenant_homes h JOIN repl_self s USING (region)
                   WHERE h.tenant_id = tenant AND h.term = home_term AND (NOT h.is_leased OR home_is_confirmed(tenant, home_term)))
    THEN
        RAISE EXCEPTION 'the home of % is not confirmed any more', tenant
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'home_is_confirmed';
    END IF;
END $$;

-- The newest version that is known says whether a tenant wants that.
CREATE FUNCTION wants_lease(tenant text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT COALESCE((SELECT v.config #> '{home,lease}' = 'true' FROM tenant_config_versions v
                     WHERE v.tenant_id = tenant ORDER BY v.version DESC LIMIT 1), false)
$$;
CREATE FUNCTION lease_new_home() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.is_leased := wants_lease(NEW.tenant_id);
    RETURN NEW;
END $$;
CREATE TRIGGER lease_new_home BEFORE INSERT ON tenant_homes FOR EACH ROW EXECUTE FUNCTION lease_new_home();
CREATE FUNCTION lease_home() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE tenant_homes SET is_leased = NOT is_leased
    WHERE tenant_id = NEW.tenant_id AND is_leased <> wants_lease(NEW.tenant_id);
    RETURN NULL;
END $$;
CREATE TRIGGER lease_home AFTER INSERT OR UPDATE ON tenant_config_versions FOR EACH ROW EXECUTE FUNCTION lease_home();
