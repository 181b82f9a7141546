-- Money. A payment is a recoverable sequence: the intent is recorded, the PSP asked (never inside a transaction), the
-- answer recorded, then settlement, ledger and outbox commit together. What a crash leaves half done the reconciler ends.

CREATE TABLE payments (
    id               uuid PRIMARY KEY,
    tenant_id        text NOT NULL,
    -- What is paid for. A cancellation costs only after a driver accepted, so a fee has its (cancelled) trip too. A top-up of the
    -- rider's wallet has neither.
    ride_id          uuid REFERENCES rides (id),
    trip_id          uuid REFERENCES trips (id),
    rider_id         uuid NOT NULL REFERENCES riders (id),
    driver_id        uuid REFERENCES drivers (id),
    -- The share of the fare that is paid; null: what the ride's rider has not shared with others.
    share_id         uuid REFERENCES fare_shares (id),
    kind             text NOT NULL DEFAULT 'fare' CHECK (kind IN
        ('fare', 'cancellation_fee', 'no_show_fee', 'tip', 'top_up')),
    status           text NOT NULL CHECK (status IN
        ('pending', 'authorized', 'settled', 'failed', 'unknown', 'refunded', 'partially_refunded')),
    method           jsonb NOT NULL,
    amount           bigint NOT NULL CHECK (amount >= 0),
    refunded_amount  bigint NOT NULL DEFAULT 0 CHECK (refunded_amount BETWEEN 0 AND amount),
    currency         text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    -- How the amount, and what the tenant adds to it for a promotion, is divided, fixed when the payment begins; the rest is
    -- the driver's.
    tax_amount       bigint NOT NULL CHECK (tax_amount >= 0),
    commission_amount bigint NOT NULL CHECK (commission_amount >= 0),
    promotion_amount bigint NOT NULL DEFAULT 0 CHECK (promotion_amount >= 0),
    provider         text NOT NULL,
    provider_ref     text,
    failure_code     text,
    -- Begun so many times. Any node goes on with it at next_attempt_at; until then somebody holds it or waits. Null while
    -- it is not ended: given up after too many attempts, an operator must look.
    attempts         int NOT NULL,
    next_attempt_at  timestamptz,
    -- Why the last attempt came to nothing, and who of the back office had it tried again last.
    last_error       text,
    retried_by       text,
    retried_at       timestamptz,
    -- Who asked, and under which idempotency key: the same request again goes on with this payment.
    requested_by     text,
    idempotency_key  text,
    request_hash     bytea,
    created_at       timestamptz NOT NULL,
    settled_at       timestamptz,
    updated_at       timestamptz NOT NULL,
    CONSTRAINT payment_is_divided CHECK (tax_amount + commission_amount <= amount + promotion_amount),
    CONSTRAINT fares_are_shared CHECK (share_id IS NULL OR kind = 'fare'),
    CONSTRAINT top_ups_have_no_trip CHECK (num_nulls(ride_id, trip_id) = CASE kind WHEN 'top_up' THEN 2 ELSE 0 END)
);
-- A trip, and each share of its fare, is charged and settled once: a second payment may not even be begun unless the first
-- one failed for good.
CREATE UNIQUE INDEX one_live_payment_per_share ON payments (tenant_id, trip_id, coalesce(share_id, trip_id))
    WHERE status <> 'failed' AND kind NOT IN ('tip', 'top_up');
-- And tipped once, which is a payment of its own.
CREATE UNIQUE INDEX one_live_tip_per_trip ON payments (tenant_id, trip_id) WHERE status <> 'failed' AND kind = 'tip';
CREATE INDEX payments_to_resume ON payments (next_attempt_at) WHERE status IN ('pending', 'authorized', 'unknown');
CREATE INDEX payments_given_up ON payments (tenant_id, id)
    WHERE status IN ('pending', 'authorized', 'unknown') AND next_attempt_at IS NULL;
CREATE INDEX payments_unknown ON payments (tenant_id) WHERE status = 'unknown';
CREATE INDEX payments_by_provider_ref ON payments (tenant_id, provider_ref) WHERE provider_ref IS NOT NULL;
CREATE INDEX payments_of_trip ON payments (tenant_id, trip_id, id DESC);
CREATE INDEX payments_top_ups ON payments (tenant_id, rider_id) WHERE kind = 'top_up';
CREATE INDEX payments_by_key ON payments (tenant_id, requested_by, idempotency_key) WHERE idempotency_key IS NOT NULL;
CALL fence_by_tenant('payments');

CREATE TABLE refunds (
    id               uuid PRIMARY KEY,
    tenant_id        text NOT NULL,
    payment_id       uuid NOT NULL REFERENCES payments (id),
    status           text NOT NULL CHECK (status IN ('pending', 'authorized', 'settled', 'failed', 'unknown')),
    amount           bigint NOT NULL CHECK (amount > 0),
    currency         text NOT NULL,
    -- What of it, and of what the tenant has back of a promotion, the tax office and the tenant give; the rest the driver does.
    tax_amount       bigint NOT NULL CHECK (tax_amount >= 0),
    commission_amount bigint NOT NULL CHECK (commission_amount >= 0),
    promotion_amount bigint NOT NULL DEFAULT 0 CHECK (promotion_amount >= 0),
    reason           text NOT NULL,
    -- Back to where it came from, or into the rider's wallet, of which no PSP knows.
    goes_to          text NOT NULL DEFAULT 'source' CHECK (goes_to IN ('source', 'wallet')),
    provider_ref     text,
    failure_code     text,
    attempts         int NOT NULL,
    next_attempt_at  timestamptz,
    last_error       text,
    retried_by       text,
    retried_at       timestamptz,
    requested_by     text,
    idempotency_key  text,
    request_hash     bytea,
    created_at       timestamptz NOT NULL,
    -- Stays when its bank sends it back: it has failed then, though it was settled.
    settled_at       timestamptz,
    -- Who of the back office has seen to one that was sent back.
    attended_by      text,
    attended_at      timestamptz,
    updated_at       timestamptz NOT NULL,
    CONSTRAINT refund_is_divided CHECK (tax_amount + commission_amount <= amount + promotion_amount)
);
CREATE INDEX refunds_of_payment ON refunds (payment_id, id);
CREATE INDEX refunds_to_resume ON refunds (next_attempt_at) WHERE status IN ('pending', 'authorized', 'unknown');
CREATE INDEX refunds_given_up ON refunds (tenant_id, id)
    WHERE status IN ('pending', 'authorized', 'unknown') AND next_attempt_at IS NULL;
CREATE INDEX refunds_sent_back ON refunds (tenant_id, id)
    WHERE status = 'failed' AND settled_at IS NOT NULL AND attended_at IS NULL;
CREATE INDEX refunds_by_key ON refunds (tenant_id, requested_by, idempotency_key) WHERE idempotency_key IS NOT NULL;
CALL fence_by_tenant('refunds');

-- What drivers were paid of their balances. Whoever makes one holds the driver's row, so that they are made one at a time and
-- each knows what the one before left.
CREATE TABLE payouts (
    id             uuid PRIMARY KEY,
    tenant_id      text NOT NULL,
    driver_id      uuid NOT NULL REFERENCES drivers (id),
    amount         bigint NOT NULL CHECK (amount > 0),
    currency       text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    -- The day a daily one is of, in the tenant's city; none if somebody asked for it.
    day            date,
    -- Who asked for it: a role and a client, or 'schedule'.
    made_by        text NOT NULL,
    created_at     timestamptz NOT NULL
);
CREATE UNIQUE INDEX one_daily_payout_per_driver ON payouts (driver_id, currency, day) WHERE day IS NOT NULL;
CREATE INDEX payouts_in_order ON payouts (tenant_id, id DESC);
CREATE INDEX payouts_of_driver ON payouts (tenant_id, driver_id, id DESC);
CALL fence_by_tenant('payouts');
REVOKE UPDATE, DELETE ON payouts FROM gocomet_app, gocomet_system;

-- A tenant's daily payouts: whichever node is first begins the day's, and any goes on with what another left.
CREATE TABLE payout_runs (
    tenant_id      text NOT NULL,
    day            date NOT NULL,
    -- Drivers are taken in the order of their ids; up to this one they are done.
    after_driver   uuid,
    held_until     timestamptz NOT NULL,
    finished_at    timestamptz,
    CONSTRAINT one_payout_run_per_day PRIMARY KEY (tenant_id, day)
);
CALL fence_by_tenant('payout_runs');

-- What each rider's wallet holds: the sum of what is posted to 'rider:<id>', kept by ledger_postings_are_whole with the postings
-- themselves. Whoever posts to a wallet holds its row until the transaction ends, after all others it holds.
CREATE TABLE wallets (
    rider_id       uuid NOT NULL REFERENCES riders (id),
    tenant_id      text NOT NULL,
    currency       text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    balance        bigint NOT NULL CONSTRAINT wallet_is_never_overdrawn CHECK (balance >= 0),
    CONSTRAINT one_wallet_per_rider_and_currency PRIMARY KEY (rider_id, currency)
);
CREATE INDEX wallets_of_tenant ON wallets (tenant_id);
CALL fence_by_tenant('wallets');
REVOKE DELETE ON wallets FROM gocomet_app, gocomet_system;

-- What the back office gave riders into their wallets, and why.
CREATE TABLE wallet_credits (
    id             uuid PRIMARY KEY,
    tenant_id      text NOT NULL,
    rider_id       uuid NOT NULL REFERENCES riders (id),
    amount         bigint NOT NULL CHECK (amount > 0),
    currency       text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    reason         text NOT NULL,
    -- Who gave it: a role and a client.
    made_by        text NOT NULL,
    created_at     timestamptz NOT NULL
);
CALL fence_by_tenant('wallet_credits');
REVOKE UPDATE, DELETE ON wallet_credits FROM gocomet_app, gocomet_system;

-- The zero-sum ledger: an entry is a balanced set of postings in one currency, never changed, never deleted, never added
-- to. Its id is the id of the fact other regions learn.
CREATE TABLE ledger_entries (
    id             uuid PRIMARY KEY,
    tenant_id      text NOT NULL,
    kind           text NOT NULL CHECK (kind IN
        ('settlement', 'refund', 'cancellation_fee', 'no_show_fee', 'tip', 'top_up', 'withdrawal', 'adjustment', 'payout', 'credit',
         'recovered')),
    payment_id     uuid REFERENCES payments (id),
    refund_id      uuid REFERENCES refunds (id),
    payout_id      uuid REFERENCES payouts (id),
    credit_id      uuid REFERENCES wallet_credits (id),
    currency       text NOT NULL,
    posted_at      timestamptz NOT NULL,
    -- Its postings are made by the transaction that made it.
    made_by        xid8 NOT NULL DEFAULT pg_current_xact_id(),
    CONSTRAINT entry_is_of_one_thing CHECK (CASE kind
        WHEN 'payout' THEN payout_id IS NOT NULL AND num_nonnulls(payment_id, credit_id) = 0
        WHEN 'credit' THEN credit_id IS NOT NULL AND num_nonnulls(payment_id, payout_id) = 0
        WHEN 'recovered' THEN num_nonnulls(payment_id, payout_id, credit_id) = 0
        ELSE payment_id IS NOT NULL AND num_nonnulls(payout_id, credit_id) = 0 END)
);
-- Statements find entries by their time. The table only ever grows in about that order, so an index of blocks does, which
-- costs a settlement nothing; one of rows would cost each a twentieth more of write-ahead log.
CREATE INDEX ledger_entries_by_time ON ledger_entries USING brin (posted_at) WITH (pages_per_range = 32, autosummarize = on);
CREATE UNIQUE INDEX one_settlement_entry_per_payment ON ledger_entries (payment_id)
    WHERE kind IN ('settlement', 'cancellation_fee', 'no_show_fee', 'tip', 'top_up');
-- One of a top-up has two: it is taken out of the wallet, and then given back by the PSP.
CREATE UNIQUE INDEX one_entry_per_refund ON ledger_entries (refund_id, (kind = 'withdrawal')) WHERE refund_id IS NOT NULL;
CALL fence_by_tenant('ledger_entries');

CREATE TABLE ledger_postings (
    entry_id       uuid NOT NULL REFERENCES ledger_entries (id),
    line           smallint NOT NULL,
    tenant_id      text NOT NULL,
    -- payments/ledger.rs names the accounts: 'psp:<provider>', 'driver:<id>', 'rider:<id>', 'tenant:revenue', 'tenant:tax',
    -- 'tenant:cash', 'tenant:disputes', 'tenant:promotions', 'tenant:credits', 'tenant:withdrawals', 'tenant:payouts',
    -- 'tenant:suspense'.
    -- A positive amount is owed to the account's holder, a negative one is held by it.
    account        text NOT NULL,
    amount         bigint NOT NULL,
    PRIMARY KEY (entry_id, line)
);
CREATE INDEX ledger_postings_by_account ON ledger_postings (tenant_id, account);
CALL fence_by_tenant('ledger_postings');
REVOKE UPDATE, DELETE ON ledger_entries, ledger_postings FROM gocomet_app, gocomet_system;

-- A tenant's ledger is closed day by day: what is dated before a closing is all there, since nothing more is booked there
-- (ledger_postings_are_whole), and is summed up once and for all. Balances, and what a statement opens with, are read from the last
-- closing on.
CREATE TABLE ledger_closings (
    tenant_id      text NOT NULL,
    closed_until   timestamptz NOT NULL,
    -- Null until ledger_closed_balances says what accounts came to.
    summed_at      timestamptz,
    CONSTRAINT one_closing_per_day PRIMARY KEY (tenant_id, closed_until)
);
CALL fence_by_tenant('ledger_closings');
REVOKE DELETE ON ledger_closings FROM gocomet_app, gocomet_system;

-- What each account had come to by a closing; not riders', whose balances stand in wallets.
CREATE TABLE ledger_closed_balances (
    tenant_id      text NOT NULL,
    closed_until   timestamptz NOT NULL,
    account        text NOT NULL,
    currency       text NOT NULL,
    balance        bigint NOT NULL,
    PRIMARY KEY (tenant_id, closed_until, account, currency),
    FOREIGN KEY (tenant_id, closed_until) REFERENCES ledger_closings
);
CALL fence_by_tenant('ledger_closed_balances');
REVOKE UPDATE, DELETE ON ledger_closed_balances FROM gocomet_app, gocomet_system;

-- What a tenant's accounts, other than riders', come to just before `at`, in parts: what they had come to by a closing, or
-- nothing where there is none, and each posting since.
CREATE FUNCTION ledger_parts(whose text, closed timestamptz, at timestamptz)
    RETURNS TABLE (account text, currency text, amount bigint) LANGUAGE sql STABLE AS $$
    SELECT b.account, b.currency, b.balance FROM ledger_closed_balances b
    WHERE b.tenant_id = whose AND b.closed_until = closed
    UNION ALL
    SELECT p.account, e.currency, p.amount FROM ledger_entries e JOIN ledger_postings p ON p.entry_id = e.id
    WHERE e.tenant_id = whose AND e.posted_at >= closed AND e.posted_at < at AND p.account NOT LIKE 'rider:%'
$$;

-- An entry's postings are made by one statement, the transaction's that made the entry, and sum to zero, and are dated after
-- every closing. What they move on wallets stands there at once.
CREATE FUNCTION ledger_postings_are_whole() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong uuid;
    moved record;
BEGIN
    -- What moves here was made elsewhere, and comes as it is.
    IF current_user = 'gocomet_move' THEN
        RETURN NULL;
    END IF;
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
    -- Either whoever closes a day waits for this transaction to end, or what was closed is seen here.
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('ledger:' || tenant_id, 0))
    FROM (SELECT DISTINCT tenant_id FROM posted) tenants;
    SELECT e.id INTO wrong FROM posted p JOIN ledger_entries e ON e.id = p.entry_id
        JOIN ledger_closings c ON c.tenant_id = p.tenant_id AND c.closed_until > e.posted_at LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'ledger entry % is dated before a closing', wrong
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_day_is_closed';
    END IF;
    FOR moved IN
        SELECT p.tenant_id, substr(p.account, 7)::uuid AS rider_id, e.currency, sum(p.amount)::bigint AS amount
        FROM posted p JOIN ledger_entries e ON e.id = p.entry_id WHERE p.account LIKE 'rider:%'
        GROUP BY 1, 2, 3 ORDER BY 2, 3
    LOOP
        -- A CHECK is looked at before a conflict is, so a wallet that is spent from is changed before one is made.
        UPDATE wallets w SET balance = w.balance + moved.amount
        WHERE w.rider_id = moved.rider_id AND w.currency = moved.currency AND moved.amount < 0;
        IF NOT FOUND THEN
            INSERT INTO wallets AS w (rider_id, tenant_id, currency, balance)
            VALUES (moved.rider_id, moved.tenant_id, moved.currency, moved.amount)
            ON CONFLICT (rider_id, currency) DO UPDATE SET balance = w.balance + excluded.balance;
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER ledger_postings_are_whole AFTER INSERT ON ledger_postings REFERENCING NEW TABLE AS posted
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_postings_are_whole();

CREATE FUNCTION ledger_is_immutable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- It may move to another region, whole, and then is erased where it was.
    IF current_user = 'gocomet_move' AND TG_OP = 'DELETE' THEN
        RETURN OLD;
    ELSIF current_user = 'gocomet_move' AND TG_OP = 'UPDATE' THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'the ledger is append-only' USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_is_immutable';
END $$;
CREATE TRIGGER ledger_is_immutable BEFORE UPDATE OR DELETE ON ledger_entries
    FOR EACH ROW EXECUTE FUNCTION ledger_is_immutable();
CREATE TRIGGER ledger_is_immutable BEFORE UPDATE OR DELETE ON ledger_postings
    FOR EACH ROW EXECUTE FUNCTION ledger_is_immutable();
CREATE TRIGGER ledger_is_immutable BEFORE UPDATE OR DELETE ON ledger_closed_balances
    FOR EACH ROW EXECUTE FUNCTION ledger_is_immutable();
CREATE TRIGGER ledger_is_not_emptied BEFORE TRUNCATE ON ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_immutable();
CREATE TRIGGER ledger_is_not_emptied BEFORE TRUNCATE ON ledger_postings
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_immutable();

-- What riders' banks take back, as the PSP tells it by webhook: one row per dispute, under an id made of it.
CREATE TABLE disputes (
    id             uuid PRIMARY KEY,
    tenant_id      text NOT NULL,
    payment_id     uuid NOT NULL REFERENCES payments (id),
    -- The PSP's own name for it.
    provider_ref   text NOT NULL,
    status         text NOT NULL CHECK (status IN ('open', 'won', 'lost')),
    amount         bigint NOT NULL CHECK (amount > 0),
    currency       text NOT NULL,
    opened_at      timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL
);
CREATE INDEX disputes_of_payment ON disputes (payment_id, opened_at DESC);
CREATE INDEX disputes_open ON disputes (tenant_id, opened_at) WHERE status = 'open';
CALL fence_by_tenant('disputes');

-- Disputes about charges of ours whose payments are not here: gone with a home that was taken by force, or forgotten with an old
-- backup. Nothing can be booked; they wait for somebody of the back office.
CREATE TABLE stray_disputes (
    id             uuid PRIMARY KEY,
    tenant_id      text NOT NULL,
    -- As the PSP has it.
    payment_id     uuid NOT NULL,
    provider       text NOT NULL,
    provider_ref   text NOT NULL,
    charge_ref     text NOT NULL,
    status         text NOT NULL CHECK (status IN ('open', 'won', 'lost')),
    amount         bigint NOT NULL CHECK (amount > 0),
    currency       text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    opened_at      timestamptz NOT NULL,
    told_at        timestamptz NOT NULL,
    -- Who of the back office has seen to it, as far as it was told by then.
    attended_by    text,
    attended_at    timestamptz,
    CONSTRAINT one_stray_dispute UNIQUE (tenant_id, provider, provider_ref)
);
CREATE INDEX stray_disputes_to_attend ON stray_disputes (tenant_id, id) WHERE attended_at IS NULL;
CALL fence_by_tenant('stray_disputes');

-- A webhook is worked once; a replay finds its event here.
CREATE TABLE psp_webhook_events (
    tenant_id      text NOT NULL,
    provider       text NOT NULL,
    event_id       text NOT NULL,
    received_at    timestamptz NOT NULL,
    CONSTRAINT one_webhook_event PRIMARY KEY (tenant_id, provider, event_id)
);
CREATE INDEX psp_webhook_events_by_time ON psp_webhook_events (received_at);
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
    -- It is done, but every attempt is answered with the server error the first one ended in.
    replays_error   boolean NOT NULL DEFAULT false,
    attempts        int NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL
);
CREATE INDEX sandbox_psp_operations_by_time ON sandbox_psp_operations (tenant_id, kind, created_at, provider_ref);
CALL fence_by_tenant('sandbox_psp_operations');

-- Webhooks the sandbox's script sends when their time has come; one that is doubled stands here twice.
CREATE TABLE sandbox_psp_webhooks (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id       text NOT NULL,
    event_id        text NOT NULL,
    idempotency_key text NOT NULL,
    due_at          timestamptz NOT NULL
);
CREATE INDEX sandbox_psp_webhooks_due ON sandbox_psp_webhooks (due_at);
CALL fence_by_tenant('sandbox_psp_webhooks');

-- Comparing what a PSP has done with what stands here, one account and span of time after another.
CREATE TABLE reconciliations (
    id               uuid PRIMARY KEY,
    tenant_id        text NOT NULL,
    provider         text NOT NULL,
    -- The day (UTC) a daily one is of; none if somebody asked for it.
    day              date,
    from_time        timestamptz NOT NULL,
    to_time          timestamptz NOT NULL,
    status           text NOT NULL CHECK (status IN ('running', 'completed', 'failed')),
    -- How far it is: which of the PSP's lists is being read, and from where on.
    phase            text NOT NULL CHECK (phase IN ('charges', 'refunds', 'disputes', 'compare')),
    cursor           text,
    -- The PSP's listing is read from here: what was settled in the span may have been begun before it.
    list_from        timestamptz NOT NULL,
    attempts         int NOT NULL,
    -- When any node may go on with it; until then somebody holds it. Null once it has ended.
    next_attempt_at  timestamptz,
    failure          text,
    -- Operations the PSP listed.
    listed           bigint NOT NULL,
    differences      bigint NOT NULL,
    created_at       timestamptz NOT NULL,
    finished_at      timestamptz,
    CONSTRAINT reconciliation_spans_time CHECK (from_time < to_time)
);
-- Whichever node is first makes the day's.
CREATE UNIQUE INDEX one_daily_reconciliation ON reconciliations (tenant_id, provider, day) WHERE day IS NOT NULL;
CREATE INDEX reconciliations_to_resume ON reconciliations (next_attempt_at) WHERE status = 'running';
CREATE INDEX reconciliations_to_look_at ON reconciliations (finished_at) WHERE differences > 0 OR status = 'failed';
CALL fence_by_tenant('reconciliations');

-- What a PSP has listed for a reconciliation that is under way, by its own names, so that a page read twice counts once.
CREATE TABLE reconciliation_operations (
    reconciliation_id uuid NOT NULL REFERENCES reconciliations (id),
    tenant_id        text NOT NULL,
    kind             text NOT NULL CHECK (kind IN ('charge', 'refund', 'dispute')),
    provider_ref     text NOT NULL,
    -- Our payment or refund it is for; none if we never asked for it.
    ours             uuid,
    -- The fact its settlement is, in every region.
    fact             uuid,
    charge_ref       text,
    amount           bigint NOT NULL,
    currency         text NOT NULL,
    state            text NOT NULL CHECK (state IN ('succeeded', 'failed', 'open')),
    made_at          timestamptz NOT NULL,
    PRIMARY KEY (reconciliation_id, kind, provider_ref)
);
CREATE INDEX reconciliation_operations_ours ON reconciliation_operations (reconciliation_id, ours);
CALL fence_by_tenant('reconciliation_operations');

CREATE TABLE reconciliation_differences (
    id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    reconciliation_id uuid NOT NULL REFERENCES reconciliations (id),
    tenant_id        text NOT NULL,
    class            text NOT NULL CHECK (class IN
        ('missing_here', 'missing_at_psp', 'charged_twice', 'amount_differs', 'status_differs', 'refund_missing_here',
         'refund_missing_at_psp', 'refund_made_twice', 'refund_amount_differs', 'refund_status_differs',
         'dispute_missing_here', 'dispute_status_differs', 'ledger_differs')),
    payment_id       uuid,
    refund_id        uuid,
    provider_ref     text,
    amount_here      bigint,
    currency_here    text,
    status_here      text,
    amount_there     bigint,
    currency_there   text,
    status_there     text
);
CREATE INDEX reconciliation_differences_in_order ON reconciliation_differences (reconciliation_id, id);
CALL fence_by_tenant('reconciliation_differences');
-- Reads payments and refunds by when they were settled.
CREATE INDEX payments_by_settling ON payments (tenant_id, settled_at) WHERE settled_at IS NOT NULL;
CREATE INDEX refunds_by_settling ON refunds (tenant_id, settled_at) WHERE settled_at IS NOT NULL;
