-- Accounts, credentials and the tenant fence of a region's database.
--
-- Every table with a tenant_id forces row-level security: a transaction names its tenant with
-- set_config('app.tenant_id', …, true), and one that forgets sees and writes nothing. Three login roles exist
-- (deploy/sql/roles.sql), none of them a superuser and none with BYPASSRLS:
--   gocomet_app     serves requests, sees one tenant at a time
--   gocomet_system  background work over all tenants of the region
--   gocomet_sync    replication; sees only what may cross regions
--   gocomet_move    what replication becomes to move a tenant to another region; sees one tenant at a time, too

CREATE FUNCTION current_tenant() RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('app.tenant_id', true), '');

-- Fences a table by tenant for everybody, its owner included; background work sees all tenants.
CREATE PROCEDURE fence_by_tenant(tbl regclass) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', tbl);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', tbl);
    EXECUTE format('CREATE POLICY one_tenant ON %s USING (tenant_id = current_tenant())', tbl);
    EXECUTE format('CREATE POLICY all_tenants ON %s TO gocomet_system USING (true)', tbl);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO gocomet_app, gocomet_system, gocomet_move', tbl);
END $$;

GRANT USAGE ON SCHEMA public TO gocomet_app, gocomet_system, gocomet_sync, gocomet_move;

-- The keys with which this region signs tokens; the private half is sealed with the region's master key.
CREATE TABLE signing_keys (
    kid            text PRIMARY KEY,
    public_key     bytea NOT NULL,
    sealed_private bytea NOT NULL,
    created_at     timestamptz NOT NULL,
    retired_at     timestamptz
);
GRANT SELECT, INSERT, UPDATE ON signing_keys TO gocomet_app, gocomet_system;

-- The key that the personal data of a tenant is sealed with, where it has come from another region: wrapped for this one. A
-- tenant that was made here has none, since its key comes from the master key.
CREATE TABLE tenant_keys (
    tenant_id      text PRIMARY KEY,
    wrapped        bytea NOT NULL
);
CALL fence_by_tenant('tenant_keys');
REVOKE INSERT, UPDATE, DELETE ON tenant_keys FROM gocomet_app, gocomet_system;

CREATE TABLE riders (
    id             uuid PRIMARY KEY,
    tenant_id      text NOT NULL,
    -- Personal data is sealed (AEAD, the tenant's key); the phone is found by a keyed hash. Erasure empties all four.
    sealed_name    bytea,
    sealed_phone   bytea,
    phone_hash     bytea,
    password_hash  text,
    rating_sum     bigint NOT NULL DEFAULT 0,
    rating_count   bigint NOT NULL DEFAULT 0,
    created_at     timestamptz NOT NULL,
    erased_at      timestamptz,
    CONSTRAINT one_rider_per_phone UNIQUE (tenant_id, phone_hash)
);
CALL fence_by_tenant('riders');

CREATE TABLE drivers (
    id             uuid PRIMARY KEY,
    tenant_id      text NOT NULL,
    sealed_name    bytea,
    sealed_phone   bytea,
    phone_hash     bytea,
    password_hash  text,
    vehicle_class  text NOT NULL,
    vehicle_plate  text NOT NULL,
    vehicle_model  text NOT NULL,
    vehicle_seats  smallint NOT NULL CHECK (vehicle_seats BETWEEN 1 AND 60),
    status         text NOT NULL DEFAULT 'offline' CHECK (status IN ('online', 'offline')),
    -- Until when each kind of document is good: {"licence": "2027-03-01T00:00:00Z"}; set by the tenant.
    documents      jsonb NOT NULL DEFAULT '{}',
    -- The driver's own limit to how far off a pick-up may be, as the crow flies.
    max_pickup_m   int CHECK (max_pickup_m > 0),
    rating_sum     bigint NOT NULL DEFAULT 0,
    rating_count   bigint NOT NULL DEFAULT 0,
    created_at     timestamptz NOT NULL,
    erased_at      timestamptz,
    CONSTRAINT one_driver_per_phone UNIQUE (tenant_id, phone_hash)
);
CREATE INDEX drivers_online ON drivers (tenant_id) WHERE status = 'online';
CALL fence_by_tenant('drivers');

-- How a driver answers offers and what he earned, as it counted at as_of: what is long ago fades (region-node's
-- drivers/record.rs). And since when an online one is without work. Not in the driver's row: who answers or ends a trip holds
-- a ride, and a driver who goes offline holds that row and then the ride.
CREATE TABLE driver_records (
    driver_id      uuid PRIMARY KEY REFERENCES drivers (id),
    tenant_id      text NOT NULL,
    accepted       double precision NOT NULL,
    refused        double precision NOT NULL,
    earned         double precision NOT NULL,
    as_of          timestamptz NOT NULL,
    idle_since     timestamptz
);
CALL fence_by_tenant('driver_records');

-- Last known places, written far slower than they are received, for a node that starts; the live table is the truth while one
-- lives. Narrow, and with room for the next version of each row beside it: nothing is written as often.
CREATE TABLE driver_places (
    driver_id      uuid PRIMARY KEY REFERENCES drivers,
    tenant_id      text NOT NULL,
    lat            double precision NOT NULL,
    lng            double precision NOT NULL,
    located_at     timestamptz NOT NULL
) WITH (fillfactor = 50);
CALL fence_by_tenant('driver_places');

-- A refresh token is used once; using it again revokes its whole family (the thief's and the owner's).
CREATE TABLE refresh_tokens (
    token_hash     bytea PRIMARY KEY,
    family_id      uuid NOT NULL,
    -- An operator belongs to no tenant: '-', which no tenant can be named.
    tenant_id      text NOT NULL,
    subject        text NOT NULL,
    role           text NOT NULL CHECK (role IN ('rider', 'driver', 'tenant_admin', 'operator')),
    expires_at     timestamptz NOT NULL,
    used_at        timestamptz,
    revoked_at     timestamptz,
    created_at     timestamptz NOT NULL
);
CREATE INDEX refresh_tokens_family ON refresh_tokens (family_id);
CREATE INDEX refresh_tokens_subject ON refresh_tokens (tenant_id, subject);
CREATE INDEX refresh_tokens_expiry ON refresh_tokens (expires_at);
CALL fence_by_tenant('refresh_tokens');

-- The stored answer of a command, committed with its effect; valid for 24 hours.
CREATE TABLE idempotency_keys (
    -- An operator's keys belong to no tenant: '-', which no tenant can be named.
    tenant_id      text NOT NULL,
    caller         text NOT NULL,
    key            text NOT NULL,
    -- Whose personal data the answer holds, where that is not the caller's: a registration's.
    person         uuid,
    -- A keyed hash, since requests carry passwords; the answer is sealed, since it carries names, phones and secrets.
    request_hash   bytea NOT NULL,
    status         smallint NOT NULL,
    sealed_body    bytea NOT NULL,
    created_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, caller, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);
CREATE INDEX idempotency_keys_person ON idempotency_keys (tenant_id, person) WHERE person IS NOT NULL;
CALL fence_by_tenant('idempotency_keys');
