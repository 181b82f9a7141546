//! One look at what is due of a tenant: end the offers nobody answered, claim the rides that wait, plan for them together,
//! make the offers.
//!
//! Claiming is one statement and offering a short transaction, with the planning between them, outside of any, since travel
//! times may come from elsewhere. A claim is a lease: should this node die in between, the rides are due again when it ends, and
//! should it merely be slow, the transaction finds the lease gone and leaves the ride alone.

use std::collections::{BTreeMap, HashMap, HashSet};

use shared::{
    geo::Point,
    ids::{DriverId, OfferId, RideId, TenantId, TripId},
    tenant_config::DispatchPolicy,
};
use time::{Duration, OffsetDateTime};
use tokio::time::Instant;

use super::{
    OFFERS,
    answer::{release, tell_withdrawn},
    chain,
    line::line_up,
    offer::{OfferStatus, OfferView},
    plan::{self, Ask, Plan, Verdict},
    reason::Reason,
    store::{self, Claimed, Claiming, Ending, NewOffer},
    window::step_after,
};
use crate::{
    app::App,
    db::TenantTx,
    drivers::{self, Addition},
    http::Problem,
    realtime::Event,
    rides::{self, RIDES, Ride, RideStatus},
    zones::{self, Waiting, ZoneMap},
};

/// Does what is due for `tenant`; true if there may be more.
#[tracing::instrument(name = "dispatch.run", skip_all, fields(tenant = %tenant))]
pub(super) async fn run(app: &App, tenant: &TenantId) -> Result<bool, Problem> {
    let begun = Instant::now();
    let published = app.tenants.config(tenant).await?;
    let policy = &published.config.dispatch;
    let map = app.zones.of(tenant, &published);
    let Claim { claimed, ending, queue, lease } = claim(app, tenant, policy, &map).await?;
    if claimed.is_empty() {
        return Ok(false);
    }
    let is_full = claimed.len() == usize::from(app.config.dispatch.batch);
    let now = app.clock.now();
    let (mut lost, mut waiting, mut offered) = (Vec::new(), Vec::new(), Vec::new());
    for ride in claimed {
        if ride.expires_at <= now || (!ride.status_is_offered && ride.wanted.offers_left == 0) {
            lost.push(ride.wanted.ride_id);
        } else if ride.status_is_offered {
            offered.push(ride.wanted.ride_id);
        } else {
            waiting.push(ride);
        }
    }
    let fleet = app.drivers.live.fleet(tenant);
    let wanted: Vec<_> = waiting.iter().map(|ride| ride.wanted.clone()).collect();
    let travel = app.travel.of(tenant);
    let mut lined = line_up(&fleet, &travel, policy, (&*map, queue.as_slice()), wanted, now).await;
    let arriving = chain::arriving(&fleet, &travel, policy, &ending, now).await;
    let mut plans = plan::plan(&fleet, &travel, policy, &lined.others, &arriving, now).await;
    lined.explain(&mut plans);
    let chained = arriving.iter().map(|arriving| (arriving.driver_id, arriving.trip_id)).collect();
    plans.extend(lined.plans);

    let mut tx = app.db.begin(tenant).await?;
    let held = hold(&mut tx, &waiting, &lost, &offered, lease).await?;
    let documents: Vec<String> = policy.required_documents.iter().cloned().collect();
    let ttl = Duration::seconds(policy.offer_ttl_s.into());
    let now = app.clock.now();
    let round = Round { held: &held, chained: &chained, zones: &lined.zones, ttl, required_documents: &documents, now };
    expire(&mut tx, &lost, &round).await?;
    let (waited, is_due_at_once) = offer(app, &mut tx, plans, &round).await?;
    // An offer not yet over keeps its ride; whoever ends it makes the ride due again.
    if !offered.is_empty() {
        store::look_again(&mut tx, &offered, round.now + Duration::SECOND).await?;
    }
    tx.commit().await?;
    metrics::histogram!("region_node_dispatch_round_duration_seconds").record(begun.elapsed());
    let seconds = metrics::histogram!("region_node_dispatch_request_to_offer_seconds", "tenant" => tenant.to_string());
    waited.iter().for_each(|waited| seconds.record(waited.as_seconds_f64()));
    Ok(is_full || is_due_at_once)
}

/// What the transaction that makes the offers knows.
struct Round<'a> {
    /// The rides still leased by this node, locked.
    held: &'a HashMap<RideId, Ride>,
    /// The trips that drivers on a trip would end first.
    chained: &'a HashMap<DriverId, TripId>,
    /// The zones whose queues rides are offered to.
    zones: &'a HashMap<RideId, String>,
    ttl: Duration,
    required_documents: &'a [String],
    now: OffsetDateTime,
}

/// What was found before anything is planned.
struct Claim {
    claimed: Vec<Claimed>,
    /// Trips that end near where the claimed rides begin.
    ending: Vec<Ending>,
    /// Who waits in zones where some of them begin.
    queue: Vec<Waiting>,
    lease: OffsetDateTime,
}

async fn claim(app: &App, tenant: &TenantId, policy: &DispatchPolicy, map: &ZoneMap) -> Result<Claim, Problem> {
    let now = app.clock.now();
    let lease = now + app.config.dispatch.lease;
    let due = |claiming| store::claim(app, tenant, now, lease, policy.max_offers, claiming);
    let mut claimed = due(Claiming::UnlessSomethingRanOut).await?;
    // Mostly another node was faster, and there is nothing to do.
    if claimed.is_empty() && store::something_ran_out(app, tenant, now).await? {
        let mut tx = app.db.begin(tenant).await?;
        end_what_ran_out(app, &mut tx, now).await?;
        tx.commit().await?;
        claimed = due(Claiming::WhateverRanOut).await?;
    }
    let pickups = claimed.iter().filter(|ride| !ride.status_is_offered).map(|ride| ride.wanted.pickup);
    let pickups: Vec<Point> = pickups.collect();
    let queue = match pickups.iter().any(|pickup| map.queue_at(*pickup).is_some()) {
        true => zones::queue(&mut app.db.read(tenant).await?).await?,
        false => Vec::new(),
    };
    let ending = chain::ending_near(app, tenant, policy, &pickups).await?;
    Ok(Claim { claimed, ending, queue, lease })
}

/// Ends the offers nobody answered in time, and gives back the rides whose drivers' trips run over: those rides are due then.
async fn end_what_ran_out(app: &App, tx: &mut TenantTx, now: OffsetDateTime) -> Result<(), Problem> {
    let ended = store::expire_offers(tx, now).await?;
    for offer in &ended {
        tell_withdrawn(tx, *offer, "expired", now);
    }
    let rides: Vec<_> = ended.iter().map(|offer| offer.ride_id).collect();
    if !rides.is_empty() {
        let drivers: Vec<_> = ended.iter().map(|offer| offer.driver_id).collect();
        drivers::note(tx, &drivers, Addition::REFUSED, now).await?;
        let offers: Vec<_> = ended.iter().map(|offer| offer.offer_id).collect();
        zones::note_refused(app, tx, &offers, now).await?;
        release(tx, &rides, now).await?;
    }
    chain::give_back_overdue(app, tx, now).await
}

/// Locks the claimed rides and leaves out those that are not this node's any more.
async fn hold(
    tx: &mut TenantTx,
    waiting: &[Claimed],
    lost: &[RideId],
    offered: &[RideId],
    lease: OffsetDateTime,
) -> sqlx::Result<HashMap<RideId, Ride>> {
    let ids = waiting.iter().map(|ride| ride.wanted.ride_id).chain(lost.iter().chain(offered).copied());
    let ids: Vec<_> = ids.collect();
    let rides = rides::lock_all(tx, &ids).await?;
    let still_ours = |ride: &Ride| {
        matches!(ride.status, RideStatus::Requested | RideStatus::Offered) && ride.dispatch_at == Some(lease)
    };
    Ok(rides.into_iter().filter(still_ours).map(|ride| (ride.id, ride)).collect())
}

/// Ends rides nobody took in time.
async fn expire(tx: &mut TenantTx, lost: &[RideId], round: &Round<'_>) -> Result<(), Problem> {
    let lost: Vec<&Ride> = lost.iter().filter_map(|id| round.held.get(id)).collect();
    if lost.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = lost.iter().map(|ride| ride.id).collect();
    for ride in &lost {
        if ride.status == RideStatus::Offered {
            for offer in store::end_offers(tx, ride.id, OfferStatus::Expired, round.now).await? {
                tell_withdrawn(tx, offer, "expired", round.now);
            }
        }
    }
    store::expire_rides(tx, &ids, round.now).await?;
    for ride in lost {
        let now = round.now;
        let expired = Ride {
            status: RideStatus::Expired,
            dispatch_at: None,
            ended_at: Some(now),
            updated_at: now,
            ..ride.clone()
        };
        rides::announce(tx, expired).await?;
        tx.count(RIDES, "expired");
        tracing::info!(ride.id = %ride.id, "ride {} expired after {} offers", ride.id, ride.offers_made);
    }
    Ok(())
}

/// Makes the planned offers, as far as Postgres lets them, and records every candidate. How long each ride has waited that gets
/// its first offer, and whether a ride is due at once.
async fn offer(
    app: &App,
    tx: &mut TenantTx,
    plans: Vec<Plan>,
    round: &Round<'_>,
) -> Result<(Vec<Duration>, bool), Problem> {
    let tenant = tx.tenant().clone();
    let fleet = app.drivers.live.fleet(&tenant);
    let mut plans: Vec<Plan> = plans.into_iter().filter(|plan| round.held.contains_key(&plan.ride_id)).collect();
    for plan in &mut plans {
        let asked = plan.ask.iter().map(|ask| ask.driver_id);
        let gone = asked.filter_map(|id| plan::is_still_there(&fleet, id, round.now).map(|reason| (id, reason)));
        for (driver_id, reason) in gone.collect::<Vec<_>>() {
            set_reason(plan, driver_id, reason);
        }
    }
    let new_offers = |plan: &Plan| {
        let (ride_id, ends) = (plan.ride_id, (round.now + round.ttl).min(round.held[&plan.ride_id].expires_at));
        let new_offer = move |ask: &Ask| NewOffer {
            offer_id: OfferId::new(),
            ride_id,
            driver_id: ask.driver_id,
            pickup_eta_s: i32::try_from(ask.eta_s).unwrap_or(i32::MAX),
            expires_at: ends,
            after_trip_id: round.chained.get(&ask.driver_id).copied(),
            zone_id: round.zones.get(&ride_id).cloned(),
        };
        plan.ask.iter().map(new_offer).collect::<Vec<_>>()
    };
    let offers: Vec<NewOffer> = plans.iter().flat_map(new_offers).collect();
    let made: HashSet<OfferId> = match offers.is_empty() {
        true => HashSet::new(),
        false => {
            let inserted = store::insert_offers(tx, &offers, round.required_documents, round.now).await?;
            store::mark_offered(tx, &inserted, round.now).await?.into_iter().collect()
        }
    };
    let (made, refused): (Vec<_>, Vec<_>) = offers.into_iter().partition(|offer| made.contains(&offer.offer_id));
    let refused_at_once = correct(app, tx, &mut plans, &refused, round).await?;
    record(tx, &plans, round).await?;
    let mut asked: BTreeMap<RideId, Vec<NewOffer>> = BTreeMap::new();
    made.into_iter().for_each(|offer| asked.entry(offer.ride_id).or_default().push(offer));
    for (ride_id, offers) in &asked {
        let ride = &round.held[ride_id];
        for offer in offers {
            let view = OfferView::of(ride, offer.offer_id, offer.pickup_eta_s, offer.after_trip_id, offer.expires_at);
            let (tenant, driver_id) = (tenant.clone(), offer.driver_id);
            tx.tell(Event::OfferMade { tenant, driver_id, offer: view, at: round.now });
            tx.count(OFFERS, "made");
        }
        let offered = Ride {
            status: RideStatus::Offered,
            offers_made: ride.offers_made + i32::try_from(offers.len()).unwrap_or(i32::MAX),
            dispatch_at: offers.iter().map(|offer| offer.expires_at).max(),
            updated_at: round.now,
            ..ride.clone()
        };
        rides::announce(tx, offered).await?;
    }
    let (at_once, later): (Vec<RideId>, Vec<RideId>) = plans
        .iter()
        .map(|plan| plan.ride_id)
        .filter(|ride| !asked.contains_key(ride))
        .partition(|ride| refused_at_once.contains(ride));
    let is_due_at_once = !at_once.is_empty();
    // Rides without a driver are looked at in step, so that they compete for whoever comes free by what they are worth and
    // not by whose turn it is.
    for (rides, at) in [(at_once, round.now), (later, step_after(round.now, app.config.dispatch.retry_after))] {
        if !rides.is_empty() {
            store::look_again(tx, &rides, at).await?;
        }
    }
    let first = asked.keys().map(|ride| &round.held[ride]).filter(|ride| ride.rounds == 0);
    // A ride booked ahead waits from its time on, as where it is claimed.
    let waited = first.map(|ride| round.now - ride.scheduled_at.unwrap_or(ride.requested_at));
    Ok((waited.filter(|waited| waited.is_positive()).collect(), is_due_at_once))
}

/// Learns from drivers Postgres would not have asked: the table believed something else of them. Their rides are due at
/// once, if it does not any more.
async fn correct(
    app: &App,
    tx: &mut TenantTx,
    plans: &mut [Plan],
    refused: &[NewOffer],
    round: &Round<'_>,
) -> Result<HashSet<RideId>, Problem> {
    if refused.is_empty() {
        return Ok(HashSet::new());
    }
    let asked: Vec<_> = refused.iter().map(|offer| offer.driver_id).collect();
    let reasons = store::why_not(tx, &asked, round.required_documents, round.now).await?;
    for offer in refused {
        let reason = reasons.get(&offer.driver_id).copied().unwrap_or(Reason::Offline);
        if let Some(plan) = plans.iter_mut().find(|plan| plan.ride_id == offer.ride_id) {
            set_reason(plan, offer.driver_id, reason);
        }
    }
    drivers::correct(app, tx, &asked, round.now).await?;
    let fleet = app.drivers.live.fleet(tx.tenant());
    // A clock ahead of this one may have told something the table takes to be newer: that ends, but not at once.
    let knows_better = refused.iter().filter(|offer| !fleet.is_believed_free(offer.driver_id));
    Ok(knows_better.map(|offer| offer.ride_id).collect())
}

async fn record(tx: &mut TenantTx, plans: &[Plan], round: &Round<'_>) -> sqlx::Result<()> {
    let candidate = |verdict: &Verdict| {
        let Verdict { driver_id, reason, pickup_eta_s, distance_m } = *verdict;
        (driver_id, store::CandidateRow { reason: reason.as_str().to_owned(), pickup_eta_s, distance_m })
    };
    let of_plan = |plan: &Plan| store::Round {
        ride_id: plan.ride_id,
        number: round.held[&plan.ride_id].rounds,
        candidates: plan.verdicts.iter().map(candidate).collect(),
    };
    let rounds: Vec<_> = plans.iter().filter(|plan| !plan.verdicts.is_empty()).map(of_plan).collect();
    if rounds.is_empty() { Ok(()) } else { store::record(tx, &rounds, round.now).await }
}

fn set_reason(plan: &mut Plan, driver_id: DriverId, reason: Reason) {
    plan.ask.retain(|ask| ask.driver_id != driver_id);
    if let Some(verdict) = plan.verdicts.iter_mut().find(|verdict| verdict.driver_id == driver_id) {
        verdict.reason = reason;
    }
}
