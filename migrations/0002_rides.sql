-- What a rider asks for (ride), its price before (quote), who is asked to drive it (offer), and what a driver drives
-- (trip). The named unique indexes decide every race; the code turns their names into answers.

CREATE TABLE rides (
    id                uuid PRIMARY KEY,
    tenant_id         text NOT NULL,
    rider_id          uuid NOT NULL REFERENCES riders (id),
    driver_id         uuid REFERENCES drivers (id),
    trip_id           uuid,
    status            text NOT NULL CHECK (status IN
        ('requested', 'offered', 'accepted', 'arrived', 'in_progress', 'completed', 'cancelled', 'expired')),
    pickup_lat        double precision NOT NULL,
    pickup_lng        double precision NOT NULL,
    pickup_address    text,
    dropoff_lat       double precision NOT NULL,
    dropoff_lng       double precision NOT NULL,
    dropoff_address   text,
    vehicle_class     text NOT NULL,
    payment_method    jsonb NOT NULL,
    -- The price the rider saw, with the config version and surge it came from (pricing/quote.rs).
    quote             jsonb NOT NULL,
    promotion_code    text GENERATED ALWAYS AS (quote #>> '{promotion,code}') STORED,
    pin               text NOT NULL,
    scheduled_at      timestamptz,
    requested_at      timestamptz NOT NULL,
    -- When the dispatcher looks at this ride next; null once nobody needs to.
    dispatch_at       timestamptz,
    expires_at        timestamptz NOT NULL,
    -- Offers of the present search, against the tenant's limit; a driver who gives the ride up begins a new search.
    offers_made       int NOT NULL DEFAULT 0,
    -- Rounds that ended in offers: the number of the round of dispatch that looks now.
    rounds            int NOT NULL DEFAULT 0,
    -- The driver's way to the pick-up, as the accepted offer said.
    pickup_eta_s      int,
    accepted_at       timestamptz,
    -- The trip its driver ends before he sets out for this one; null once he is under way.
    after_trip_id     uuid,
    ended_at          timestamptz,
    cancelled_by      text CHECK (cancelled_by IN ('rider', 'driver', 'tenant', 'system')),
    cancel_reason     text,
    cancellation_fee  bigint,
    updated_at        timestamptz NOT NULL
);
CREATE INDEX rides_to_dispatch ON rides (dispatch_at) WHERE status IN ('requested', 'offered') AND dispatch_at IS NOT NULL;
CREATE INDEX rides_of_rider ON rides (tenant_id, rider_id, id DESC);
CREATE INDEX rides_of_driver ON rides (tenant_id, driver_id, id DESC) WHERE driver_id IS NOT NULL;
CREATE INDEX rides_of_tenant ON rides (tenant_id, id DESC);
CREATE INDEX rides_by_status ON rides (tenant_id, status, id DESC);
-- A rider has one ride at a time. One booked ahead counts from when a driver takes it; until then it waits its turn
-- (dispatch/store.rs `claim`).
CREATE UNIQUE INDEX one_open_ride_per_rider ON rides (tenant_id, rider_id)
    WHERE status IN ('accepted', 'arrived', 'in_progress')
       OR (status IN ('requested', 'offered') AND scheduled_at IS NULL);
-- Uses of a promotion (rides/promotion.rs).
CREATE INDEX rides_of_promotion ON rides (tenant_id, promotion_code, rider_id)
    WHERE promotion_code IS NOT NULL AND status NOT IN ('cancelled', 'expired');
CREATE INDEX rides_booked ON rides (tenant_id, rider_id, scheduled_at)
    WHERE status IN ('requested', 'offered') AND scheduled_at IS NOT NULL;
-- The ride that waits for its driver's present one to end; trips decide that it is one.
CREATE INDEX rides_to_follow ON rides (tenant_id, driver_id) WHERE status = 'accepted' AND after_trip_id IS NOT NULL;
-- Rides that nobody took: demand that was not served (region-node's surge/).
CREATE INDEX rides_unserved ON rides (tenant_id, ended_at) WHERE status IN ('expired', 'cancelled') AND accepted_at IS NULL;
-- Rides under way by where they end: their drivers may be asked to take the next one from there (dispatch/chain.rs).
CREATE INDEX rides_ending ON rides (tenant_id, dropoff_lat, dropoff_lng) WHERE status = 'in_progress';
CALL fence_by_tenant('rides');

CREATE TABLE offers (
    id             uuid PRIMARY KEY,
    tenant_id      text NOT NULL,
    ride_id        uuid NOT NULL REFERENCES rides (id),
    driver_id      uuid NOT NULL REFERENCES drivers (id),
    status         text NOT NULL CHECK (status IN ('live', 'accepted', 'declined', 'expired', 'withdrawn', 'taken')),
    pickup_eta_s   int NOT NULL,
    -- Made to a driver who is still on this trip, of a ride to follow it.
    after_trip_id  uuid,
    -- Made to the first in this zone's queue.
    zone_id        text,
    offered_at     timestamptz NOT NULL,
    expires_at     timestamptz NOT NULL,
    answered_at    timestamptz
);
-- A ride may have several live offers at once, all of one round: whoever accepts first, under the ride's lock, has it.
CREATE UNIQUE INDEX one_live_offer_per_driver ON offers (tenant_id, driver_id) WHERE status = 'live';
CREATE INDEX offers_of_ride ON offers (ride_id);
CREATE INDEX offers_to_expire ON offers (expires_at) WHERE status = 'live';
CALL fence_by_tenant('offers');

-- Who waits in the queue of which zone (region-node's zones/): written when somebody comes or goes, and read by every node, so
-- that all agree on who is first.
CREATE TABLE zone_queue (
    driver_id      uuid PRIMARY KEY REFERENCES drivers (id),
    tenant_id      text NOT NULL,
    zone_id        text NOT NULL,
    -- Decides the place.
    entered_at     timestamptz NOT NULL,
    -- Since when the driver is too far outside, or out of sight.
    away_since     timestamptz,
    -- Rides of the queue declined, or left to run out, since he entered.
    declines       int NOT NULL DEFAULT 0
);
CREATE INDEX zone_queue_order ON zone_queue (tenant_id, zone_id, entered_at, driver_id);
CALL fence_by_tenant('zone_queue');

-- Every driver considered for a ride and why he was or was not asked (dispatch/reason.rs lists the codes). A round ends with
-- an offer; looking again before that only changes what has changed.
CREATE TABLE dispatch_candidates (
    tenant_id      text NOT NULL,
    -- No foreign key: written with every look at a ride that waits, it would lock the ride's row each time.
    ride_id        uuid NOT NULL,
    round          int NOT NULL,
    -- By driver: {"reason", "pickup_eta_s", "distance_m"}, so that a later look of the same round adds to it.
    candidates     jsonb NOT NULL,
    considered_at  timestamptz NOT NULL,
    PRIMARY KEY (ride_id, round)
);
CALL fence_by_tenant('dispatch_candidates');
-- Old ones go by background work alone.
REVOKE DELETE ON dispatch_candidates FROM gocomet_app;

-- How scarce drivers are, as one node computed it for all of them: by "class/cell", {"demand", "supply", "multiplier"}.
CREATE TABLE surge_maps (
    tenant_id      text PRIMARY KEY,
    computed_at    timestamptz NOT NULL,
    cells          jsonb NOT NULL
);
CALL fence_by_tenant('surge_maps');

CREATE TABLE trips (
    id               uuid PRIMARY KEY,
    tenant_id        text NOT NULL,
    ride_id          uuid NOT NULL REFERENCES rides (id),
    rider_id         uuid NOT NULL REFERENCES riders (id),
    driver_id        uuid NOT NULL REFERENCES drivers (id),
    status           text NOT NULL CHECK (status IN
        ('accepted', 'arrived', 'in_progress', 'paused', 'completed', 'cancelled')),
    accepted_at      timestamptz NOT NULL,
    -- Accepted while the driver was on this trip, and begins in the transaction that ends it; null once begun. If that trip
    -- has not ended by starts_by, somebody else is looked for.
    after_trip_id    uuid REFERENCES trips (id),
    starts_by        timestamptz CHECK ((after_trip_id IS NULL) = (starts_by IS NULL)),
    arrived_at       timestamptz,
    started_at       timestamptz,
    paused_at        timestamptz,
    paused_s         bigint NOT NULL DEFAULT 0,
    ended_at         timestamptz,
    distance_m       bigint,
    duration_s       bigint,
    -- What was measured and declared: with the ride's quote it makes the fare again (pricing/fare.rs).
    travelled        jsonb,
    -- Total in minor units of fare_currency, and its lines (pricing/fare.rs).
    fare_amount      bigint,
    fare_currency    text,
    fare             jsonb,
    updated_at       timestamptz NOT NULL,
    CONSTRAINT next_trip_waits CHECK (after_trip_id IS NULL OR status IN ('accepted', 'cancelled'))
);
CREATE UNIQUE INDEX one_active_trip_per_driver ON trips (tenant_id, driver_id)
    WHERE status IN ('accepted', 'arrived', 'in_progress', 'paused') AND after_trip_id IS NULL;
CREATE UNIQUE INDEX one_next_trip_per_driver ON trips (tenant_id, driver_id)
    WHERE status = 'accepted' AND after_trip_id IS NOT NULL;
CREATE INDEX next_trips_to_start ON trips (starts_by) WHERE status = 'accepted' AND after_trip_id IS NOT NULL;
CREATE UNIQUE INDEX one_active_trip_per_ride ON trips (tenant_id, ride_id) WHERE status <> 'cancelled';
CREATE INDEX trips_of_driver ON trips (tenant_id, driver_id, id DESC);
CALL fence_by_tenant('trips');

-- Parts of a ride's fare that other riders are asked to pay (region-node's fare_shares/). They change under their ride's lock;
-- the transaction that ends the trip fixes what each comes to, and begins its payment.
CREATE TABLE fare_shares (
    id               uuid PRIMARY KEY,
    tenant_id        text NOT NULL,
    ride_id          uuid NOT NULL REFERENCES rides (id),
    -- Who is asked to pay it.
    rider_id         uuid NOT NULL REFERENCES riders (id),
    status           text NOT NULL CHECK (status IN
        ('invited', 'accepted', 'declined', 'withdrawn', 'lapsed', 'fixed', 'fallen_back')),
    -- Minor units of the fare's currency; null: as much as everybody else of whom no amount was asked.
    asked_amount     bigint CHECK (asked_amount > 0),
    -- By what it will be paid; once it is fixed, its payment keeps that.
    method           jsonb,
    -- What it comes to, once the trip has ended.
    amount           bigint CHECK (amount > 0),
    invited_at       timestamptz NOT NULL,
    answered_at      timestamptz,
    updated_at       timestamptz NOT NULL,
    CONSTRAINT accepted_share_has_method CHECK ((status = 'accepted') = (method IS NOT NULL)),
    CONSTRAINT fixed_share_has_amount CHECK ((status IN ('fixed', 'fallen_back')) = (amount IS NOT NULL))
);
CREATE UNIQUE INDEX one_share_per_rider ON fare_shares (tenant_id, ride_id, rider_id)
    WHERE status NOT IN ('declined', 'withdrawn');
CREATE INDEX fare_shares_of_ride ON fare_shares (ride_id, id);
CREATE INDEX fare_shares_of_rider ON fare_shares (tenant_id, rider_id, id DESC);
CALL fence_by_tenant('fare_shares');

-- The travelled trace of a running trip, kept whole because the fare needs it. Deleted day by day once it is old, so its room is
-- made free more often than of tables that only grow.
CREATE TABLE breadcrumbs (
    tenant_id      text NOT NULL,
    trip_id        uuid NOT NULL REFERENCES trips (id),
    recorded_at    timestamptz NOT NULL,
    lat            double precision NOT NULL,
    lng            double precision NOT NULL,
    PRIMARY KEY (trip_id, recorded_at)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CALL fence_by_tenant('breadcrumbs');

CREATE TABLE ratings (
    tenant_id      text NOT NULL,
    trip_id        uuid NOT NULL REFERENCES trips (id),
    rated_by       text NOT NULL CHECK (rated_by IN ('rider', 'driver')),
    stars          smallint NOT NULL CHECK (stars BETWEEN 1 AND 5),
    comment        text,
    created_at     timestamptz NOT NULL,
    CONSTRAINT one_rating_per_party PRIMARY KEY (trip_id, rated_by)
);
CALL fence_by_tenant('ratings');

-- Once a day what is old enough of these tables is deleted (region-node's retention/), a few rides at a time and by whichever node
-- holds the row meanwhile.
CREATE TABLE sweeps (
    swept     text PRIMARY KEY CHECK (swept IN ('dispatch_candidates', 'offers', 'breadcrumbs')),
    begun_at  timestamptz NOT NULL,
    -- The ride or trip that was looked at last; null once all were.
    upto      uuid
);
INSERT INTO sweeps (swept, begun_at) VALUES ('dispatch_candidates', 'epoch'), ('offers', 'epoch'), ('breadcrumbs', 'epoch');
GRANT SELECT, UPDATE ON sweeps TO gocomet_system;
