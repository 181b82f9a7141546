//! A rider: sees the price, asks for the ride, follows it, pays and rates it.

use std::time::Duration;

use rand::{RngExt, rngs::StdRng};
use shared::ids::TripId;
use tokio::time::{Instant, timeout};

use super::{World, accounts};
use crate::{
    api::{ApiError, Client, Journey, Patience, Payment, PaymentStatus, Ride, RideStatus},
    cities::PlannedRide,
    socket::{Event, LiveEvent, LiveSocket},
};

const ROLE: u64 = 2;
const CHANGES_HIS_MIND: f64 = 0.05;
const RATES: f64 = 0.7;
/// Without a word for this long a rider looks for himself.
const LOOKS_AFTER: Duration = Duration::from_secs(15);
/// A payment whose outcome is not known by then is looked at no more.
const PAYMENT_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) struct SimRider {
    world: World,
    client: Client,
    number: usize,
    rng: StdRng,
    signed_in: bool,
}

impl SimRider {
    pub(super) fn new(world: &World, number: usize) -> Self {
        let client = world.client.for_tenant(world.city.tenant);
        Self { client, number, rng: world.rng(ROLE, number), signed_in: false, world: world.clone() }
    }

    /// Takes a ride, or does not get one.
    pub(super) async fn ride(mut self, planned: PlannedRide) -> Self {
        if let Err(error) = self.try_ride(planned).await {
            tracing::debug!("rider {} stays where he is: {error}", self.number);
        }
        self
    }

    async fn try_ride(&mut self, planned: PlannedRide) -> Result<(), ApiError> {
        self.sign_in().await?;
        let journey =
            Journey { pickup: planned.pickup, dropoff: planned.dropoff, vehicle_class: "standard".to_owned() };
        let quote = self.client.estimate(&journey).await?;
        let socket = LiveSocket::open(&self.client, &self.world.tasks);
        let asked = Instant::now();
        let ride = match self.client.request_ride(&journey, Some(&quote.quote_id)).await {
            Err(error) if error.code() == Some("quote_expired") => self.client.request_ride(&journey, None).await?,
            requested => requested?,
        };
        self.world.tally.requested(ride.id, asked);
        let open = OpenRide::count(&self.world);
        let ended = self.follow(ride, socket).await?;
        drop(open);
        if let (RideStatus::Completed, Some(trip)) = (ended.status, ended.trip_id) {
            self.world.tally.ride_completed();
            self.pay(trip).await?;
            if self.rng.random_bool(RATES) {
                self.client.rate(trip, self.rng.random_range(3..=5)).await?;
            }
        }
        Ok(())
    }

    async fn sign_in(&mut self) -> Result<(), ApiError> {
        if !self.signed_in {
            let turn = self.world.signing_in.acquire().await;
            accounts::rider(&self.client, self.world.options.seed, self.number).await?;
            drop(turn);
            self.signed_in = true;
            self.give_up_leftovers().await?;
        }
        Ok(())
    }

    /// Cancels what an earlier life of this rider still waits for.
    async fn give_up_leftovers(&self) -> Result<(), ApiError> {
        for status in ["requested", "offered", "accepted", "arrived"] {
            for ride in self.client.rides(&format!("status={status}&limit=10")).await?.items {
                match self.client.cancel_ride(ride.id, "the app was closed").await {
                    Err(error) if error.code() == Some("invalid_transition") => {}
                    other => drop(other?),
                }
            }
        }
        Ok(())
    }

    /// Follows a ride to its end; now and then the rider calls it off.
    async fn follow(&mut self, mut ride: Ride, mut socket: LiveSocket) -> Result<Ride, ApiError> {
        let id = ride.id;
        let mut cancels_at = self
            .rng
            .random_bool(CHANGES_HIS_MIND)
            .then(|| Instant::now() + Duration::from_secs_f64(self.rng.random_range(1.0..20.0)));
        while ride.status.is_open() {
            let waits_until = cancels_at.unwrap_or_else(|| Instant::now() + LOOKS_AFTER);
            match tokio::time::timeout_at(waits_until, socket.next()).await {
                Ok(LiveEvent::Message(Event { name, payload })) if name == "ride:update" => {
                    if let Some(update) = serde_json::from_value::<Ride>(payload).ok().filter(|update| update.id == id)
                    {
                        ride = update;
                    }
                }
                Ok(LiveEvent::Connected) => ride = self.client.ride(id).await?,
                Ok(_) => {}
                Err(_) => match cancels_at.take() {
                    Some(_) => ride = self.cancel(ride).await?,
                    None => ride = self.client.ride(id).await?,
                },
            }
        }
        Ok(ride)
    }

    async fn cancel(&self, ride: Ride) -> Result<Ride, ApiError> {
        match self.client.cancel_ride(ride.id, "changed my mind").await {
            // On the way already: then so be it.
            Err(error) if error.code() == Some("invalid_transition") => self.client.ride(ride.id).await,
            cancelled => cancelled,
        }
    }

    async fn pay(&self, trip: TripId) -> Result<(), ApiError> {
        let payment = match self.client.pay(trip).await {
            Err(error) if error.code() == Some("already_paid") => return Ok(()),
            paid => paid?,
        };
        // What is not settled at once is looked at again until it is.
        let settled = timeout(PAYMENT_TIMEOUT, self.await_settlement(payment)).await;
        settled.unwrap_or(Ok(()))
    }

    async fn await_settlement(&self, mut payment: Payment) -> Result<(), ApiError> {
        while matches!(payment.status, PaymentStatus::Pending | PaymentStatus::Authorized | PaymentStatus::Unknown) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            payment = self.client.with_patience(Patience::PATIENT).payment(payment.id).await?;
        }
        Ok(())
    }
}

/// Counts a ride as open for as long as it lives.
struct OpenRide(World);

impl OpenRide {
    fn count(world: &World) -> Self {
        world.tally.ride_opened();
        Self(world.clone())
    }
}

impl Drop for OpenRide {
    fn drop(&mut self) {
        self.0.tally.ride_closed();
    }
}
