-- Replication: what leaves a region, what it has received, and what it derived from both.
--
-- region-node appends to repl_outbox inside its business transactions. global-sync numbers those rows afterwards
-- (repl_log), exchanges them with other regions and derives the tables region-node reads: regions, tenant_homes,
-- tenant_documents, tenant_config_versions, ledger_facts.

-- ---------------------------------------------------------------------------------------------------------------
-- The way out
-- ---------------------------------------------------------------------------------------------------------------

-- Facts that are committed but not numbered yet. `position` follows the order of inserts: two edits of one document
-- are made under its row lock, so their order here is their causal order.
CREATE TABLE repl_outbox (
    id          uuid PRIMARY KEY,
    position    bigint GENERATED ALWAYS AS IDENTITY,
    stream      text NOT NULL CHECK (stream IN ('control', 'config', 'ledger')),
    kind        text NOT NULL,
    tenant_id   text,
    home_term   bigint,
    home_n      bigint,
    body        bytea NOT NULL,
    traceparent text,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX repl_outbox_position ON repl_outbox (position);
ALTER TABLE repl_outbox ENABLE ROW LEVEL SECURITY;
ALTER TABLE repl_outbox FORCE ROW LEVEL SECURITY;
CREATE POLICY repl_outbox_tenant ON repl_outbox USING (tenant_id = current_setting('app.tenant_id', true));
CREATE POLICY repl_outbox_of_no_tenant ON repl_outbox FOR INSERT TO gocomet_app
    WITH CHECK (tenant_id IS NULL AND stream = 'control');
CREATE POLICY repl_outbox_system ON repl_outbox TO gocomet_system USING (true);
CREATE POLICY repl_outbox_sync ON repl_outbox TO gocomet_sync USING (true);
GRANT INSERT ON repl_outbox TO gocomet_app, gocomet_system;
GRANT SELECT, INSERT, UPDATE, DELETE ON repl_outbox TO gocomet_sync;

-- Outbox rows that may not leave: a field outside the allow-list, a body that does not parse or is too large. They stay until
-- an operator has them looked at once more, as they were, or dismisses them.
CREATE TABLE repl_rejected (
    id          uuid PRIMARY KEY,
    stream      text NOT NULL CHECK (stream IN ('control', 'config', 'ledger')),
    kind        text NOT NULL,
    tenant_id   text,
    home_term   bigint,
    home_n      bigint,
    body        bytea NOT NULL,
    traceparent text,
    created_at  timestamptz NOT NULL,
    reason      text NOT NULL,
    rejected_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE repl_rejected ENABLE ROW LEVEL SECURITY;
ALTER TABLE repl_rejected FORCE ROW LEVEL SECURITY;
CREATE POLICY repl_rejected_system ON repl_rejected TO gocomet_system USING (true);
CREATE POLICY repl_rejected_sync ON repl_rejected TO gocomet_sync USING (true);
GRANT SELECT ON repl_rejected TO gocomet_system;
GRANT SELECT, INSERT, DELETE ON repl_rejected TO gocomet_sync;

-- ---------------------------------------------------------------------------------------------------------------
-- The log
-- ---------------------------------------------------------------------------------------------------------------

-- Who this region is. A region restored from a backup starts a new incarnation, so that it never reuses a number.
-- `database` names the Postgres and its timeline that the incarnation began on: another one means a restore or a promoted
-- replica. `doubted`: nobody had led the region for so long that an old copy may have been put in its place meanwhile.
-- `snapshot_of`: who gave the snapshot that is loaded here, until another region is found to have the same rows. Until
-- `abstains_until` this region has no voice in who takes a home: an older copy forgets what was promised (`repl_promise`).
CREATE TABLE repl_self (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    cluster_id  text NOT NULL,
    region      text NOT NULL,
    incarnation bigint NOT NULL CHECK (incarnation > 0),
    database    text NOT NULL DEFAULT '',
    doubted     boolean NOT NULL DEFAULT false,
    snapshot_of text,
    changed_at  timestamptz NOT NULL DEFAULT now(),
    abstains_until timestamptz NOT NULL DEFAULT '-infinity'
);

-- The Postgres this is and its timeline, which a restore to a point in time and a promotion change: what `database` of
-- `repl_self` and `repl_lease` is compared with.
CREATE FUNCTION repl_database() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT concat_ws(' ', system_identifier, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)) FROM pg_control_system()
$$;

-- The envelope is stored and forwarded byte for byte; its hash chains it to the entry before it. A body may be
-- absent: withheld for residency, or erased. Old log rows are truncated per stream, hence the partitions.
CREATE TABLE repl_log (
    origin_region      text NOT NULL,
    origin_incarnation bigint NOT NULL,
    stream             text NOT NULL CHECK (stream IN ('control', 'config', 'ledger')),
    seq                bigint NOT NULL CHECK (seq > 0),
    hash               bytea NOT NULL CHECK (length(hash) = 32),
    envelope           bytea NOT NULL CHECK (length(envelope) <= 8192),
    body               bytea,
    received_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (origin_region, origin_incarnation, stream, seq)
) PARTITION BY LIST (stream);
CREATE TABLE repl_log_control PARTITION OF repl_log FOR VALUES IN ('control');
CREATE TABLE repl_log_config PARTITION OF repl_log FOR VALUES IN ('config');
CREATE TABLE repl_log_ledger PARTITION OF repl_log FOR VALUES IN ('ledger');

-- The origin's signature over (cluster, origin, stream, seq, hash): it vouches for the whole chain below it.
CREATE TABLE repl_checkpoint (
    origin_region      text NOT NULL,
    origin_incarnation bigint NOT NULL,
    stream             text NOT NULL CHECK (stream IN ('control', 'config', 'ledger')),
    seq                bigint NOT NULL,
    key_id             bytea NOT NULL,
    signature          bytea NOT NULL,
    PRIMARY KEY (origin_region, origin_incarnation, stream, seq)
);

-- Certificates (DER) of the keys origins sign with; key_id is the SHA-256 of the certificate.
CREATE TABLE repl_origin_cert (
    key_id      bytea PRIMARY KEY CHECK (length(key_id) = 32),
    region      text NOT NULL,
    certificate bytea NOT NULL CHECK (length(certificate) <= 8192),
    first_seen  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX repl_origin_cert_region ON repl_origin_cert (region);

-- What is stored: verified, durable, fit to be relayed. `head_hash` is the hash of entry `stored`.
CREATE TABLE repl_cursor (
    origin_region      text NOT NULL,
    origin_incarnation bigint NOT NULL,
    stream             text NOT NULL CHECK (stream IN ('control', 'config', 'ledger')),
    stored             bigint NOT NULL DEFAULT 0,
    head_hash          bytea NOT NULL CHECK (length(head_hash) = 32),
    truncated          bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (origin_region, origin_incarnation, stream)
);

-- What is applied: the low-water mark of each bucket; what it stepped over stands in repl_quarantine.
CREATE TABLE repl_apply (
    origin_region      text NOT NULL,
    origin_incarnation bigint NOT NULL,
    stream             text NOT NULL CHECK (stream IN ('control', 'config', 'ledger')),
    bucket             smallint NOT NULL DEFAULT 0,
    applied            bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (origin_region, origin_incarnation, stream, bucket)
);

-- Entries that are stored but not applied. 'held': a dependency has not arrived; 'parked': a kind this version does
-- not know; 'failed': could not be applied; 'conflict': contradicts a fact that was here first; 'stale': an edit of
-- a document generation that was replaced so long ago that it cannot be carried over any more; 'skipped': an operator
-- said that it is never to be applied.
CREATE TABLE repl_quarantine (
    origin_region      text NOT NULL,
    origin_incarnation bigint NOT NULL,
    stream             text NOT NULL CHECK (stream IN ('control', 'config', 'ledger')),
    seq                bigint NOT NULL,
    position           bigint GENERATED ALWAYS AS IDENTITY,
    tenant_id          text,
    kind               text NOT NULL,
    state              text NOT NULL CHECK (state IN ('held', 'parked', 'failed', 'conflict', 'stale', 'skipped')),
    reason             text NOT NULL,
    attempts           integer NOT NULL DEFAULT 1,
    first_at           timestamptz NOT NULL DEFAULT now(),
    last_at            timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (origin_region, origin_incarnation, stream, seq)
);
CREATE INDEX repl_quarantine_tenant ON repl_quarantine (tenant_id, state);
CREATE UNIQUE INDEX repl_quarantine_position ON repl_quarantine (position);
ALTER TABLE repl_quarantine ENABLE ROW LEVEL SECURITY;
ALTER TABLE repl_quarantine FORCE ROW LEVEL SECURITY;
CREATE POLICY repl_quarantine_system ON repl_quarantine TO gocomet_system USING (true);
CREATE POLICY repl_quarantine_sync ON repl_quarantine TO gocomet_sync USING (true);
GRANT SELECT ON repl_quarantine TO gocomet_system;
GRANT SELECT, INSERT, UPDATE, DELETE ON repl_quarantine TO gocomet_sync;

-- ---------------------------------------------------------------------------------------------------------------
-- Members and leadership
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE repl_member (
    region      text PRIMARY KEY,
    incarnation bigint NOT NULL,
    state       text NOT NULL CHECK (state IN ('joining', 'active', 'draining', 'retired')),
    features    bigint NOT NULL DEFAULT 0,
    kinds       text[] NOT NULL DEFAULT '{}',
    first_seen  timestamptz NOT NULL DEFAULT now(),
    last_seen   timestamptz NOT NULL DEFAULT now()
);

-- How far each peer says it is; `acked_at` by this region's clock.
CREATE TABLE repl_ack (
    peer               text NOT NULL,
    origin_region      text NOT NULL,
    origin_incarnation bigint NOT NULL,
    stream             text NOT NULL CHECK (stream IN ('control', 'config', 'ledger')),
    stored             bigint NOT NULL,
    applied            bigint NOT NULL,
    acked_at           timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (peer, origin_region, origin_incarnation, stream)
);

-- When this region knew, life by life, that another one has stored its ledger entries up to `seq`. A fact of its own is
-- durable elsewhere since the first of these that reaches it: one row for each acknowledgement, none for each fact. Once the
-- entries are dropped from the log the last one of each minute stays.
CREATE TABLE repl_remote_durable (
    origin_region      text NOT NULL,
    origin_incarnation bigint NOT NULL,
    seq                bigint NOT NULL,
    durable_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (origin_region, origin_incarnation, seq)
);

-- Who sequences and applies. Every such transaction holds a share lock on this row and compares `epoch`; renewing
-- touches only the expiry beside it, so a busy leader never waits for itself. A copy of the database has the row too:
-- `database` names the one the lease was taken on, and no other honours it.
CREATE TABLE repl_lease (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch    bigint NOT NULL,
    holder   uuid NOT NULL,
    database text NOT NULL DEFAULT ''
);
CREATE TABLE repl_lease_expiry (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    expires_at timestamptz NOT NULL
);

-- Whether nobody leads by what these rows say: the lease has run out, or lasts longer than any is given for and so is from before
-- the clock was put back, or was taken on another database.
CREATE FUNCTION repl_lease_is_free(expires_at timestamptz, database text, lease_s double precision) RETURNS boolean
LANGUAGE sql VOLATILE AS $$
    SELECT expires_at < clock_timestamp() OR expires_at > clock_timestamp() + make_interval(secs => lease_s)
        OR database <> repl_database()
$$;

-- Whether somebody had led, and nobody has for longer than that since.
CREATE FUNCTION repl_was_unled(expires_at timestamptz, longer_than_s double precision) RETURNS boolean
LANGUAGE sql VOLATILE AS $$
    SELECT isfinite(expires_at) AND expires_at < clock_timestamp() - make_interval(secs => longer_than_s)
$$;

-- What operators have told this region's replication to do (shared::sync_command), by whom and why, and what came of it:
-- the audit, of which nothing is deleted. `key` is the operator's name for the request, `request_hash` what it was.
CREATE TABLE repl_command (
    id           uuid PRIMARY KEY,
    position     bigint GENERATED ALWAYS AS IDENTITY,
    command      jsonb NOT NULL,
    reason       text NOT NULL,
    made_by      text NOT NULL,
    made_at      timestamptz NOT NULL DEFAULT now(),
    key          text,
    request_hash bytea,
    ended_at     timestamptz,
    done         boolean,
    outcome      text,
    CHECK (num_nulls(ended_at, done, outcome) IN (0, 3))
);
CREATE UNIQUE INDEX repl_command_position ON repl_command (position);
CREATE UNIQUE INDEX one_command_per_key ON repl_command (made_by, key);
CREATE INDEX repl_command_open ON repl_command (position) WHERE ended_at IS NULL;

-- Between this region and a peer no entries of this stream pass, by an operator's command.
CREATE TABLE repl_pause (
    peer      text NOT NULL,
    stream    text NOT NULL CHECK (stream IN ('control', 'config', 'ledger')),
    paused_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (peer, stream)
);

-- What leaders of this region have found to be other than it should be, so that every instance says the same whoever leads.
-- First what the last look through all logs has found, of which the first hundred are named; `rows` are the keys of those that
-- can be mended.
CREATE TABLE repl_damage (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    looked_at timestamptz NOT NULL,
    entries   bigint NOT NULL CHECK (entries >= 0),
    named     text[] NOT NULL CHECK (cardinality(named) <= 100),
    rows      text[] NOT NULL CHECK (cardinality(rows) <= 100)
);

-- Then rows that are others at a peer than here, until a comparison finds them equal; at most a hundred of a peer and stream.
CREATE TABLE repl_differing (
    peer     text NOT NULL,
    stream   text NOT NULL CHECK (stream IN ('control', 'config', 'ledger')),
    key      text NOT NULL,
    found_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (peer, stream, key)
);

-- And logs that are others at a peer than here, each with the entry that showed it, until both end in the same one.
CREATE TABLE repl_diverged (
    peer               text NOT NULL,
    origin_region      text NOT NULL,
    origin_incarnation bigint NOT NULL,
    stream             text NOT NULL CHECK (stream IN ('control', 'config', 'ledger')),
    seq                bigint NOT NULL,
    found_at           timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (peer, origin_region, origin_incarnation, stream)
);

-- Which region this one has agreed to as a tenant's home from a term on: it never agrees to another for that term or an
-- earlier one. The durable half of a forced move.
CREATE TABLE repl_promise (
    tenant_id   text NOT NULL,
    term        bigint NOT NULL,
    target      text NOT NULL,
    promised_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, term)
);
ALTER TABLE repl_promise ENABLE ROW LEVEL SECURITY;
ALTER TABLE repl_promise FORCE ROW LEVEL SECURITY;
CREATE POLICY repl_promise_system ON repl_promise TO gocomet_system USING (true);
CREATE POLICY repl_promise_sync ON repl_promise TO gocomet_sync USING (true);

-- Order-independent sums over ledger_facts (wrapping 256-bit, by the first nibble of ledger_fact_hash). Whoever
-- writes ledger_facts locks these rows first, which also makes `ledger_facts.position` follow the order of commits.
-- From time to time they are compared with the rows themselves, and follow them.
CREATE TABLE repl_ledger_digest (
    bucket smallint PRIMARY KEY CHECK (bucket BETWEEN 0 AND 15),
    facts  bigint NOT NULL DEFAULT 0,
    sum    bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex') CHECK (length(sum) = 32)
);
INSERT INTO repl_ledger_digest (bucket) SELECT generate_series(0, 15);

GRANT SELECT ON repl_self, repl_remote_durable TO gocomet_app, gocomet_system;
-- A payout asks whether other regions remember more of this one than it does.
GRANT SELECT ON repl_apply, repl_ack TO gocomet_app;
GRANT SELECT ON repl_cursor, repl_apply, repl_member, repl_ack, repl_lease, repl_lease_expiry TO gocomet_system;
-- An operator sees what is set aside, entry and all; bodies hold what may leave the region, and nothing more.
GRANT SELECT ON repl_log TO gocomet_system;
GRANT SELECT, INSERT ON repl_command TO gocomet_system;
GRANT SELECT, UPDATE ON repl_command TO gocomet_sync;
GRANT SELECT, INSERT, UPDATE, DELETE ON
    repl_self, repl_log, repl_checkpoint, repl_origin_cert, repl_cursor, repl_apply, repl_member, repl_ack,
    repl_remote_durable, repl_pause, repl_damage, repl_differing, repl_diverged,
    repl_lease, repl_lease_expiry, repl_promise, repl_ledger_digest
    TO gocomet_sync;

-- ---------------------------------------------------------------------------------------------------------------
-- Derived: the region directory
-- ---------------------------------------------------------------------------------------------------------------

-- Where each region is reached, as its life `incarnation` has announced it, and where it stands as a member, as was said of
-- its life `state_incarnation`; 0 before anything was.
CREATE TABLE regions (
    name              text PRIMARY KEY,
    base_url          text NOT NULL,
    quic_addr         text NOT NULL,
    jwks              jsonb NOT NULL DEFAULT '{"keys": []}',
    incarnation       bigint NOT NULL DEFAULT 1,
    state             text NOT NULL DEFAULT 'joining' CHECK (state IN ('joining', 'active', 'draining', 'retired')),
    state_incarnation bigint NOT NULL DEFAULT 0,
    announced_at      timestamptz NOT NULL DEFAULT now()
);

-- What is said of one life of a region follows this order.
CREATE FUNCTION member_rank(state text) RETURNS integer LANGUAGE sql IMMUTABLE AS $$
    SELECT array_position(ARRAY['joining', 'active', 'draining', 'retired'], state)
$$;

-- Every region that was ever heard of: where it stands by the directory, or else by its own word.
CREATE VIEW repl_membership AS
    SELECT COALESCE(r.name, m.region) AS region,
           COALESCE(CASE WHEN r.state_incarnation > 0 THEN r.state END, m.state, r.state) AS state
    FROM regions r FULL JOIN repl_member m ON m.region = r.name;
GRANT SELECT ON repl_membership TO gocomet_sync, gocomet_system;
GRANT SELECT, INSERT, UPDATE ON regions TO gocomet_app, gocomet_system, gocomet_sync;

-- A row changes only to a greater (term, n).
CREATE TABLE tenant_homes (
    tenant_id text PRIMARY KEY CHECK (tenant_id ~ '^[a-z0-9-]{2,40}$'),
    name      text NOT NULL,
    region    text NOT NULL,
    term      bigint NOT NULL,
    n         bigint NOT NULL,
    state     text NOT NULL DEFAULT 'active',
    -- The epoch in which this region was the home until another took it by force, or had it already by a hand-over that this
    -- database, put back from a backup, had forgotten: money that was moved then is still booked.
    lost_term bigint,
    lost_n    bigint,
    -- As the tenant's config says: commands are refused here while no majority of regions has confirmed the home lately.
    is_leased boolean NOT NULL DEFAULT false
);
CREATE FUNCTION keep_lost_home() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    own text := (SELECT region FROM repl_self);
BEGIN
    IF NEW.region = own THEN
        NEW.lost_term := NULL;
        NEW.lost_n := NULL;
    -- Whoever hands over has paused the tenant, and nothing of it is under way.
    ELSIF OLD.region = own AND (NEW.term > OLD.term OR OLD.state = 'active') THEN
        NEW.lost_term := OLD.term;
        NEW.lost_n := OLD.n;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER keep_lost_home BEFORE UPDATE ON tenant_homes FOR EACH ROW EXECUTE FUNCTION keep_lost_home();
ALTER TABLE tenant_homes ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant_homes FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_homes_tenant ON tenant_homes USING (tenant_id = current_setting('app.tenant_id', true));
CREATE POLICY tenant_homes_system ON tenant_homes TO gocomet_system USING (true);
CREATE POLICY tenant_homes_sync ON tenant_homes TO gocomet_sync USING (true);
GRANT SELECT, INSERT, UPDATE ON tenant_homes TO gocomet_app, gocomet_system, gocomet_sync;

-- Homes that were taken by force: by whom, and how much of each region's ledger that one had stored by then, by region and
-- incarnation. Of two that are told of one term the one of smaller rank stays.
CREATE TABLE home_takeovers (
    tenant_id text NOT NULL,
    term      bigint NOT NULL,
    region    text NOT NULL,
    heard     jsonb NOT NULL CHECK (NOT jsonb_path_exists(heard, '$.*.* ? (@.type() != "number")')),
    PRIMARY KEY (tenant_id, term)
);
CREATE FUNCTION takeover_rank(taken home_takeovers) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT concat_ws(' ', taken.region, taken.heard) COLLATE "C"
$$;
ALTER TABLE home_takeovers ENABLE ROW LEVEL SECURITY;
ALTER TABLE home_takeovers FORCE ROW LEVEL SECURITY;
CREATE POLICY home_takeovers_tenant ON home_takeovers USING (tenant_id = current_setting('app.tenant_id', true));
CREATE POLICY home_takeovers_system ON home_takeovers FOR SELECT TO gocomet_system USING (true);
CREATE POLICY home_takeovers_sync ON home_takeovers TO gocomet_sync USING (true);
GRANT SELECT ON home_takeovers TO gocomet_app, gocomet_system;
GRANT SELECT, INSERT, UPDATE ON home_takeovers TO gocomet_sync;

-- ---------------------------------------------------------------------------------------------------------------
-- Derived: tenant config
-- ---------------------------------------------------------------------------------------------------------------

-- The draft, an automerge document. `draft` and `conflicts` are what it reads as at `heads`. `previous` is the generation
-- before, with what is known of it, and `base` its heads when this one was made of it, by a home of tenure
-- (`made_term`, `made_n`): what was edited on it beyond them is carried over. `adopted` says which generation each region
-- edits; the next one is made once all edit this one, so that nothing older can still come.
CREATE TABLE tenant_documents (
    tenant_id  text PRIMARY KEY,
    generation integer NOT NULL,
    heads      text[] NOT NULL,
    document   bytea NOT NULL,
    draft      jsonb NOT NULL,
    conflicts  jsonb NOT NULL DEFAULT '[]',
    previous   bytea,
    base       text[] NOT NULL DEFAULT '{}',
    made_term  bigint NOT NULL DEFAULT 0,
    made_n     bigint NOT NULL DEFAULT 0,
    adopted    jsonb NOT NULL DEFAULT '{}'
);
ALTER TABLE tenant_documents ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant_documents FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_documents_tenant ON tenant_documents USING (tenant_id = current_setting('app.tenant_id', true));
CREATE POLICY tenant_documents_system ON tenant_documents TO gocomet_system USING (true);
CREATE POLICY tenant_documents_sync ON tenant_documents TO gocomet_sync USING (true);
GRANT SELECT, INSERT, UPDATE ON tenant_documents TO gocomet_app, gocomet_system, gocomet_sync;

-- What the home region published: numbered, the only config anything reads at run time. Two homes may have published
-- under one number; all regions keep that of the later tenure, and nothing older at or above it. The home writes the
-- row without its tenure, which comes with the number of the fact.
CREATE TABLE tenant_config_versions (
    tenant_id          text NOT NULL,
    version            bigint NOT NULL CHECK (version > 0),
    config             jsonb NOT NULL,
    published_at       timestamptz NOT NULL,
    home_term          bigint NOT NULL DEFAULT -1,
    home_n             bigint NOT NULL DEFAULT -1,
    origin_region      text NOT NULL DEFAULT '',
    origin_incarnation bigint NOT NULL DEFAULT 0,
    config_md5         text NOT NULL GENERATED ALWAYS AS (md5(config::text)) STORED,
    PRIMARY KEY (tenant_id, version)
);
ALTER TABLE tenant_config_versions ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant_config_versions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_config_versions_tenant ON tenant_config_versions
    USING (tenant_id = current_setting('app.tenant_id', true));
CREATE POLICY tenant_config_versions_system ON tenant_config_versions TO gocomet_system USING (true);
CREATE POLICY tenant_config_versions_sync ON tenant_config_versions TO gocomet_sync USING (true);
GRANT SELECT, INSERT ON tenant_config_versions TO gocomet_app, gocomet_system;
GRANT SELECT, INSERT, UPDATE, DELETE ON tenant_config_versions TO gocomet_sync;

-- One hash over all published versions of a tenant: the digest of a region reads one row a tenant, however many there are.
CREATE TABLE tenant_config_sums (
    tenant_id text PRIMARY KEY,
    versions  bytea NOT NULL
);
ALTER TABLE tenant_config_sums ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant_config_sums FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_config_sums_tenant ON tenant_config_sums USING (tenant_id = current_setting('app.tenant_id', true));
CREATE POLICY tenant_config_sums_system ON tenant_config_sums TO gocomet_system USING (true);
CREATE POLICY tenant_config_sums_sync ON tenant_config_sums TO gocomet_sync USING (true);
GRANT SELECT, INSERT, UPDATE ON tenant_config_sums TO gocomet_app, gocomet_system, gocomet_sync;
CREATE FUNCTION sum_config_versions() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    tenant text;
BEGIN
    FOR tenant IN SELECT DISTINCT tenant_id FROM changed ORDER BY 1 LOOP
        INSERT INTO tenant_config_sums (tenant_id, versions) VALUES (tenant, '') ON CONFLICT DO NOTHING;
        -- Who changes versions of one tenant at once waits here, and then sees what the other wrote.
        PERFORM FROM tenant_config_sums WHERE tenant_id = tenant FOR UPDATE;
        UPDATE tenant_config_sums SET versions = (
            SELECT COALESCE(sha256(convert_to(string_agg(concat_ws(' ', v.version, v.home_term, v.home_n, v.config_md5),
                                                         E'\n' ORDER BY v.version), 'UTF8')), '')
            FROM tenant_config_versions v WHERE v.tenant_id = tenant)
        WHERE tenant_id = tenant;
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER sum_inserted AFTER INSERT ON tenant_config_versions
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION sum_config_versions();
CREATE TRIGGER sum_updated AFTER UPDATE ON tenant_config_versions
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION sum_config_versions();
CREATE TRIGGER sum_deleted AFTER DELETE ON tenant_config_versions
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION sum_config_versions();

-- Which version runs where, as last decided: by the home region for all regions (`region` is empty), by a region for
-- itself. Of two decisions the one of the later tenure stays, then the one of the greater number.
CREATE TABLE tenant_config_rollouts (
    tenant_id      text NOT NULL,
    region         text NOT NULL,
    number         bigint NOT NULL,
    home_term      bigint NOT NULL,
    home_n         bigint NOT NULL,
    pinned         bigint,
    stable         bigint,
    canary_region  text,
    canary_version bigint,
    decided_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, region),
    CHECK ((canary_region IS NULL) = (canary_version IS NULL))
);
ALTER TABLE tenant_config_rollouts ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant_config_rollouts FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_config_rollouts_tenant ON tenant_config_rollouts
    USING (tenant_id = current_setting('app.tenant_id', true));
CREATE POLICY tenant_config_rollouts_system ON tenant_config_rollouts TO gocomet_system USING (true);
CREATE POLICY tenant_config_rollouts_sync ON tenant_config_rollouts TO gocomet_sync USING (true);
GRANT SELECT, INSERT, UPDATE ON tenant_config_rollouts TO gocomet_app, gocomet_system, gocomet_sync;

-- What was decided, however it came here: the same in every region.
CREATE FUNCTION config_rollout_hash(decided tenant_config_rollouts) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT sha256(convert_to(concat_ws(' ', decided.tenant_id, decided.region, decided.number, decided.home_term,
                                       decided.home_n, COALESCE(decided.pinned, 0), COALESCE(decided.stable, 0),
                                       COALESCE(decided.canary_region, '-'), COALESCE(decided.canary_version, 0),
                                       extract(epoch FROM decided.decided_at)), 'UTF8'))
$$;

-- No version beyond this one runs in a region: the newest up to it does.
CREATE FUNCTION config_limit(tenant text, in_region text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT COALESCE(
        (SELECT r.pinned FROM tenant_config_rollouts r WHERE r.tenant_id = tenant AND r.region = in_region),
        (SELECT COALESCE(r.pinned, CASE WHEN r.canary_region = in_region THEN r.canary_version ELSE r.stable END)
         FROM tenant_config_rollouts r WHERE r.tenant_id = tenant AND r.region = ''),
        9223372036854775807)
$$;

-- ---------------------------------------------------------------------------------------------------------------
-- Derived: the ledger, one set of immutable facts
-- ---------------------------------------------------------------------------------------------------------------

-- `position` is local and follows the order of commits, so a reader that remembers the last one misses nothing.
-- Since when those of this region are durable elsewhere, repl_remote_durable tells.
CREATE TABLE ledger_facts (
    fact_id            uuid PRIMARY KEY,
    position           bigint GENERATED ALWAYS AS IDENTITY,
    payment_id         uuid,
    trip_id            uuid,
    -- Of a payout instead: which, and who was paid.
    payout_id          uuid,
    driver_id          uuid,
    -- Of a movement of a wallet instead, perhaps by a payment: by which entry of the home's ledger, and whose.
    entry_id           uuid,
    rider_id           uuid,
    tenant_id          text NOT NULL,
    kind               text NOT NULL CHECK (kind IN ('settlement', 'refund', 'adjustment', 'payout', 'wallet')),
    amount             bigint NOT NULL,
    currency           text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    origin_region      text NOT NULL,
    origin_incarnation bigint NOT NULL,
    origin_seq         bigint NOT NULL,
    home_term          bigint NOT NULL,
    home_n             bigint NOT NULL,
    settled_at         timestamptz NOT NULL,
    body_hash          bytea NOT NULL CHECK (length(body_hash) = 32),
    CONSTRAINT fact_is_of_one_thing CHECK (CASE kind
        WHEN 'payout' THEN num_nonnulls(payout_id, driver_id) = 2 AND num_nonnulls(payment_id, trip_id, entry_id, rider_id) = 0
        WHEN 'wallet' THEN num_nonnulls(entry_id, rider_id) = 2 AND num_nonnulls(trip_id, payout_id, driver_id) = 0
        ELSE num_nonnulls(payment_id, trip_id) = 2 AND num_nonnulls(payout_id, driver_id, entry_id, rider_id) = 0 END)
);
CREATE UNIQUE INDEX ledger_facts_origin ON ledger_facts (origin_region, origin_incarnation, origin_seq);
CREATE UNIQUE INDEX ledger_facts_position ON ledger_facts (position);
CREATE INDEX ledger_facts_tenant ON ledger_facts (tenant_id, position);
CREATE INDEX ledger_facts_by_settling ON ledger_facts USING brin (settled_at) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX ledger_facts_payment ON ledger_facts (payment_id);
CREATE INDEX ledger_facts_trip ON ledger_facts (trip_id) WHERE kind = 'settlement';
CREATE INDEX ledger_facts_payout ON ledger_facts (tenant_id, driver_id) WHERE kind = 'payout';
CREATE INDEX ledger_facts_wallet ON ledger_facts (tenant_id, rider_id) WHERE kind = 'wallet';
CREATE INDEX ledger_facts_entry ON ledger_facts (entry_id) WHERE kind = 'wallet';
ALTER TABLE ledger_facts ENABLE ROW LEVEL SECURITY;
ALTER TABLE ledger_facts FORCE ROW LEVEL SECURITY;
CREATE POLICY ledger_facts_tenant ON ledger_facts USING (tenant_id = current_setting('app.tenant_id', true));
CREATE POLICY ledger_facts_system ON ledger_facts FOR SELECT TO gocomet_system USING (true);
CREATE POLICY ledger_facts_sync ON ledger_facts TO gocomet_sync USING (true);
GRANT SELECT ON ledger_facts TO gocomet_app, gocomet_system;
-- A row is altered only to say again what its entry does, by an operator's command.
GRANT SELECT, INSERT, UPDATE ON ledger_facts TO gocomet_sync;

-- What a fact says, whoever told it first and whenever: the same in every region.
CREATE FUNCTION ledger_fact_hash(fact ledger_facts) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT sha256(convert_to(concat_ws(' ', fact.fact_id, fact.payment_id, fact.trip_id, fact.payout_id, fact.driver_id, fact.entry_id, fact.rider_id,
                                       fact.tenant_id, fact.kind,
                                       fact.amount, fact.currency, extract(epoch FROM fact.settled_at),
                                       encode(fact.body_hash, 'hex')), 'UTF8'))
$$;

-- Whether whoever took the tenant's home by force after the term the money was moved in had not heard of it by then: the
-- same in every region, whichever of the two it learns of first.
CREATE FUNCTION is_late(fact ledger_facts) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT COALESCE((SELECT t.region <> fact.origin_region AND fact.origin_seq > COALESCE(
                         (t.heard #> ARRAY[fact.origin_region, fact.origin_incarnation::text])::numeric, 0)
                     FROM home_takeovers t
                     WHERE t.tenant_id = fact.tenant_id AND t.term > fact.home_term
                     ORDER BY t.term LIMIT 1), false)
$$;
