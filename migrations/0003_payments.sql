-- Money. A payment is a recoverable sequence: the intent is recorded, the PSP asked (never inside a transaction), the
-- answer recorded, then settlement, ledger and outbox commit together. What a crash leaves half done the reconciler ends.

CREATE TABLE payments (
    id               uuid PRIMARY KEY,
    tenant_id        text NOT NULL,
    -- What is paid for. A cancellation costs only after a driver accepted, so a fee has its (cancelled) trip too.
    ride_id          uuid NOT NULL REFERENCES rides (id),
    trip_id          uuid NOT NULL REFERENCES trips (id),
    rider_id         uuid NOT NULL REFERENCES riders (id),
    driver_id        uuid REFERENCES drivers (id),
    kind             text NOT NULL DEFAULT 'fare' CHECK (kind IN ('fare', 'cancellation_fee')),
    status           text NOT NULL CHECK (status IN
        ('pending', 'authorized', 'settled', 'failed', 'unknown', 'refunded', 'partially_refunded')),
    method           jsonb NOT NULL,
    amount           bigint NOT NULL CHECK (amount >= 0),
    refunded_amount  bigint NOT NULL DEFAULT 0 CHECK (refunded_amount BETWEEN 0 AND amount),
    currency         text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    -- How the amount is divided, fixed when the payment begins; the rest is the driver's.
    tax_amount       bigint NOT NULL CHECK (tax_amount >= 0),
    commission_amount bigint NOT NULL CHECK (commission_amount >= 0),
    provider         text NOT NULL,
    provider_ref     text,
    failure_code     text,
    -- Begun so many times. Any node goes on with it at next_attempt_at; until then somebody holds it or waits. Null while
    -- it is not ended: given up after too many attempts, an operator must look.
    attempts         int NOT NULL,
    next_attempt_at  timestamptz,
    -- Who asked, and under which idempotency key: the same request again goes on with this payment.
    requested_by     text,
    idempotency_key  text,
    request_hash     bytea,
    created_at       timestamptz NOT NULL,
    settled_at       timestamptz,
    updated_at       timestamptz NOT NULL,
    CONSTRAINT payment_is_divided CHECK (tax_amount + commission_amount <= amount)
);
-- A trip is charged and settled once: a second payment may not even be begun unless the first one failed for good.
CREATE UNIQUE INDEX one_live_payment_per_trip ON payments (tenant_id, trip_id) WHERE status <> 'failed';
CREATE INDEX payments_to_resume ON payments (next_attempt_at) WHERE status IN ('pending', 'authorized', 'unknown');
CREATE INDEX payments_unknown ON payments (tenant_id) WHERE status = 'unknown';
CREATE INDEX payments_of_trip ON payments (tenant_id, trip_id, id DESC);
CREATE INDEX payments_by_key ON payments (tenant_id, requested_by, idempotency_key) WHERE idempotency_key IS NOT NULL;
CALL fence_by_tenant('payments');

CREATE TABLE refunds (
    id               uuid PRIMARY KEY,
    tenant_id        text NOT NULL,
    payment_id       uuid NOT NULL REFERENCES payments (id),
    status           text NOT NULL CHECK (status IN ('pending', 'authorized', 'settled', 'failed', 'unknown')),
    amount           bigint NOT NULL CHECK (amount > 0),
    currency         text NOT NULL,
    -- What of it the tax office and the tenant give back; the rest the driver does.
    tax_amount       bigint NOT NULL CHECK (tax_amount >= 0),
    commission_amount bigint NOT NULL CHECK (commission_amount >= 0),
    reason           text NOT NULL,
    provider_ref     text,
    failure_code     text,
    attempts         int NOT NULL,
    next_attempt_at  timestamptz,
    requested_by     text,
    idempotency_key  text,
    request_hash     bytea,
    created_at       timestamptz NOT NULL,
    settled_at       timestamptz,
    updated_at       timestamptz NOT NULL,
    CONSTRAINT refund_is_divided CHECK (tax_amount + commission_amount <= amount)
);
CREATE INDEX refunds_of_payment ON refunds (payment_id, id);
CREATE INDEX refunds_to_resume ON refunds (next_attempt_at) WHERE status IN ('pending', 'authorized', 'unknown');
CREATE INDEX refunds_by_key ON refunds (tenant_id, requested_by, idempotency_key) WHERE idempotency_key IS NOT NULL;
CALL fence_by_tenant('refunds');

-- The zero-sum ledger: an entry is a balanced set of postings in one currency, never changed, never deleted, never added
-- to. Its id is the id of the fact other regions learn.
CREATE TABLE ledger_entries (
    id             uuid PRIMARY KEY,
    tenant_id      text NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('settlement', 'refund', 'cancellation_fee', 'adjustment')),
    payment_id     uuid NOT NULL REFERENCES payments (id),
    refund_id      uuid REFERENCES refunds (id),
    currency       text NOT NULL,
    posted_at      timestamptz NOT NULL,
    -- Its postings are made by the transaction that made it.
    made_by        xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE UNIQUE INDEX one_settlement_entry_per_payment ON ledger_entries (payment_id)
    WHERE kind IN ('settlement', 'cancellation_fee');
CREATE UNIQUE INDEX one_entry_per_refund ON ledger_entries (refund_id) WHERE refund_id IS NOT NULL;
CALL fence_by_tenant('ledger_entries');

CREATE TABLE ledger_postings (
    entry_id       uuid NOT NULL REFERENCES ledger_entries (id),
    line           smallint NOT NULL,
    tenant_id      text NOT NULL,
    -- payments/ledger.rs names the accounts: 'psp:<provider>', 'driver:<id>', 'tenant:revenue', 'tenant:tax', 'tenant:cash'.
    -- A positive amount is owed to the account's holder, a negative one is held by it.
    account        text NOT NULL,
    amount         bigint NOT NULL,
    PRIMARY KEY (entry_id, line)
);
CREATE INDEX ledger_postings_by_account ON ledger_postings (tenant_id, account);
CALL fence_by_tenant('ledger_postings');
REVOKE UPDATE, DELETE ON ledger_entries, ledger_postings FROM gocomet_app, gocomet_system;

-- An entry's postings are made by one statement, the transaction's that made the entry, and sum to zero.
CREATE FUNCTION ledger_postings_are_whole() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong uuid;
BEGIN
    SELECT p.entry_id INTO wrong FROM posted p
    WHERE NOT EXISTS (SELECT FROM ledger_entries e WHERE e.id = p.entry_id AND e.made_by = pg_current_xact_id()) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'ledger entry % is not of this transaction', wrong
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_entry_is_closed';
    END IF;
    SELECT entry_id INTO wrong FROM posted GROUP BY entry_id HAVING sum(amount) <> 0 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'ledger entry % is off balance', wrong
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_entry_balances';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER ledger_postings_are_whole AFTER INSERT ON ledger_postings REFERENCING NEW TABLE AS posted
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_postings_are_whole();

CREATE FUNCTION ledger_is_immutable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only' USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_is_immutable';
END $$;
CREATE TRIGGER ledger_is_immutable BEFORE UPDATE OR DELETE ON ledger_entries
    FOR EACH ROW EXECUTE FUNCTION ledger_is_immutable();
CREATE TRIGGER ledger_is_immutable BEFORE UPDATE OR DELETE ON ledger_postings
    FOR EACH ROW EXECUTE FUNCTION ledger_is_immutable();
CREATE TRIGGER ledger_is_not_emptied BEFORE TRUNCATE ON ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_immutable();
CREATE TRIGGER ledger_is_not_emptied BEFORE TRUNCATE ON ledger_postings
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_immutable();

-- A webhook is worked once; a replay finds its event here.
CREATE TABLE psp_webhook_events (
    tenant_id      text NOT NULL,
    provider       text NOT NULL,
    event_id       text NOT NULL,
    received_at    timestamptz NOT NULL,
    CONSTRAINT one_webhook_event PRIMARY KEY (tenant_id, provider, event_id)
);
CALL fence_by_tenant('psp_webhook_events');

-- What the built-in sandbox PSP remembers: its side of the money, by idempotency key, as a real PSP would.
CREATE TABLE sandbox_psp_operations (
    idempotency_key text PRIMARY KEY,
    tenant_id       text NOT NULL,
    provider_ref    text NOT NULL UNIQUE,
    kind            text NOT NULL CHECK (kind IN ('charge', 'refund')),
    -- The charge a refund gives back.
    charge_ref      text,
    token           text NOT NULL,
    amount          bigint NOT NULL,
    currency        text NOT NULL,
    -- 'error': answered with a server error before anything was done.
    outcome         text NOT NULL CHECK (outcome IN ('succeeded', 'declined', 'error')),
    decline_code    text,
    created_at      timestamptz NOT NULL
);
CALL fence_by_tenant('sandbox_psp_operations');
