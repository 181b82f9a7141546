//! A driver's working day: stand or cruise, get an offer, drive to the pickup, drive the ride, again.

use std::time::Duration;

use rand::{RngExt, rngs::StdRng};
use serde_json::Value;
use shared::{
    geo::Point,
    ids::{DriverId, RideId, TripId},
};
use tokio::time::{Instant, MissedTickBehavior};

use super::{World, accounts};
use crate::{
    api::{ApiError, Client, Offer, Ride, RideStatus, Trip, TripStatus, Withdrawn, location_update},
    socket::{Event, LiveEvent, LiveSocket},
    streets::{Position, Route},
};

const ROLE: u64 = 1;
/// How often a moving driver says where he is.
const MOVING: Duration = Duration::from_secs(1);
/// How often a standing one does: well within the minute after which a position is gone.
const STANDING_TICKS: u64 = 10;
/// A driver looks whether his ride still stands at least this often, should the socket have missed something.
const RIDE_CHECK_TICKS: u64 = 20;
const DECLINES: f64 = 0.08;
const IGNORES: f64 = 0.03;
const TAKES_A_BREAK: f64 = 0.04;
/// While waiting, so many say to be where more is asked for than where they are.
const CHEATS: f64 = 0.03;

/// Lives until the simulation stops, then goes offline.
pub(super) async fn live(world: World, number: usize) {
    let mut rng = world.rng(ROLE, number);
    let place = world.city.pickup_place(&mut rng);
    let client = world.client.for_tenant(world.city.tenant);
    let signed_in = world.stop.clone().run_until_cancelled_owned(sign_in(&world, client, number)).await;
    let Some((client, id)) = signed_in else { return };
    let stop = world.stop.clone();
    let mut driver = SimDriver {
        socket: LiveSocket::open(&client, &world.tasks),
        client,
        id,
        drive: Route::standing_at(place),
        set_out: Instant::now(),
        says_to_be_at: None,
        rng,
        online: false,
        world,
    };
    stop.run_until_cancelled(driver.work()).await;
    driver.note_offline();
    // One try: the platform notices by itself that a driver is gone.
    let goodbye = driver.client.with_patience(crate::api::Patience::NONE);
    let _ = tokio::time::timeout(Duration::from_secs(2), goodbye.set_online(id, false)).await;
}

async fn sign_in(world: &World, client: Client, number: usize) -> (Client, DriverId) {
    loop {
        let turn = world.signing_in.acquire().await;
        let signed_in = accounts::driver(&client, world.options.seed, number).await;
        drop(turn);
        let id = client.subject().await.and_then(|subject| subject.parse().ok());
        match (signed_in, id) {
            (Ok(()), Some(id)) => return (client, id),
            (result, _) => tracing::debug!("driver {number} is not in: {result:?}"),
        }
        world.despair().await;
    }
}

struct SimDriver {
    world: World,
    client: Client,
    id: DriverId,
    socket: LiveSocket,
    /// Where he drives now, or last drove.
    drive: Route,
    set_out: Instant,
    /// A lie.
    says_to_be_at: Option<Point>,
    rng: StdRng,
    online: bool,
}

/// How a leg of a ride ended.
enum Leg {
    Done,
    RideOver,
}

impl SimDriver {
    async fn work(&mut self) {
        loop {
            if let Err(error) = self.shift().await {
                tracing::debug!(driver.id = %self.id, "a driver starts over: {error}");
                self.note_offline();
                self.world.despair().await;
            }
        }
    }

    /// One ride after the other, until something fails for good.
    async fn shift(&mut self) -> Result<(), ApiError> {
        self.go_online().await?;
        self.finish_leftovers().await?;
        loop {
            if self.rng.random_bool(CHEATS) {
                self.says_to_be_at = Some(self.world.city.pickup_place(&mut self.rng));
            }
            let offer = self.wait_for_offer().await?;
            self.says_to_be_at = None;
            if self.rng.random_bool(IGNORES) {
                continue;
            }
            self.think(&offer).await;
            if self.rng.random_bool(DECLINES) {
                self.decline(offer.ride_id).await?;
                continue;
            }
            if let Some(trip) = self.accept(&offer).await? {
                self.world.tally.matched();
                self.serve(trip.id, trip.ride_id, offer.pickup, offer.dropoff, trip.status).await?;
                if self.rng.random_bool(TAKES_A_BREAK) {
                    self.take_a_break().await?;
                }
            }
        }
    }

    async fn go_online(&mut self) -> Result<(), ApiError> {
        self.client.set_online(self.id, true).await?;
        if !std::mem::replace(&mut self.online, true) {
            self.world.tally.went_online();
        }
        self.report().await;
        Ok(())
    }

    fn note_offline(&mut self) {
        if std::mem::replace(&mut self.online, false) {
            self.world.tally.went_offline();
        }
    }

    async fn take_a_break(&mut self) -> Result<(), ApiError> {
        self.client.set_online(self.id, false).await?;
        self.note_offline();
        let length_s = self.rng.random_range(60.0..300.0);
        tokio::time::sleep(self.world.options.pace.real(length_s)).await;
        self.go_online().await
    }

    /// Drives to its end what an earlier life of this driver left behind.
    async fn finish_leftovers(&mut self) -> Result<(), ApiError> {
        for status in ["accepted", "arrived", "in_progress"] {
            for ride in self.client.rides(&format!("status={status}&limit=10")).await?.items {
                if let Some(trip) = ride.trip_id {
                    let status = self.client.trip(trip).await?.status;
                    self.serve(trip, ride.id, ride.pickup, ride.dropoff, status).await?;
                }
            }
        }
        Ok(())
    }

    /// Stands or cruises, saying where he is, until a ride is offered.
    async fn wait_for_offer(&mut self) -> Result<Offer, ApiError> {
        let mut ticks = ticker();
        let mut tick: u64 = self.rng.random_range(0..STANDING_TICKS);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    tick += 1;
                    if self.is_moving() || tick.is_multiple_of(STANDING_TICKS) {
                        self.report().await;
                    }
                    if !self.is_moving() && self.rng.random_bool(0.02) {
                        self.cruise();
                    }
                }
                event = self.socket.next() => match event {
                    // What was offered while nobody listened is still there to be read.
                    LiveEvent::Connected => {
                        self.report().await;
                        if let Some(offer) = self.client.offers(self.id).await?.pop() {
                            self.world.tally.offered(offer.ride_id);
                            return Ok(offer);
                        }
                    }
                    LiveEvent::Message(Event { name, payload }) if name == "ride:offer" => {
                        if let Some(offer) = read::<Offer>(payload) {
                            self.world.tally.offered(offer.ride_id);
                            return Ok(offer);
                        }
                    }
                    LiveEvent::Message(_) | LiveEvent::Disconnected => {}
                },
            }
        }
    }

    /// Nobody answers in no time.
    async fn think(&mut self, offer: &Offer) {
        let thinks_for = Duration::from_millis(self.rng.random_range(300..2_500));
        let withdrawn = async {
            loop {
                if let LiveEvent::Message(Event { name, payload }) = self.socket.next().await
                    && name == "ride:offer_withdrawn"
                    && read::<Withdrawn>(payload).is_some_and(|withdrawn| withdrawn.ride_id == offer.ride_id)
                {
                    return;
                }
            }
        };
        // A withdrawn offer is answered all the same: that is a race the platform has to decide.
        let _ = tokio::time::timeout(thinks_for, withdrawn).await;
    }

    /// Half of the drivers answer on the socket, half over REST; both when the socket fails.
    async fn accept(&mut self, offer: &Offer) -> Result<Option<Trip>, ApiError> {
        let payload = serde_json::json!({"ride_id": offer.ride_id});
        if self.rng.random_bool(0.5)
            && let Ok(answer) = self.socket.ask("ride:accept", payload).await
        {
            // Anything but a trip is the problem, and the ride somebody else's.
            return Ok(read::<Trip>(answer));
        }
        match self.client.accept(self.id, offer.ride_id).await {
            Ok(trip) => Ok(Some(trip)),
            Err(ApiError::Refused { problem, .. }) if matches!(problem.status, 404 | 409) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn decline(&mut self, ride: RideId) -> Result<(), ApiError> {
        match self.client.decline(self.id, ride).await {
            Err(ApiError::Refused { problem, .. }) if matches!(problem.status, 404 | 409) => Ok(()),
            other => other,
        }
    }

    /// Drives a trip to its end from wherever it stands.
    async fn serve(
        &mut self,
        trip: TripId,
        ride: RideId,
        pickup: Point,
        dropoff: Point,
        mut status: TripStatus,
    ) -> Result<(), ApiError> {
        if status == TripStatus::Accepted {
            if let Leg::RideOver = self.drive_to(pickup, ride).await? {
                return Ok(());
            }
            status = self.step(self.client.arrive(trip).await, trip).await?;
        }
        if status == TripStatus::Arrived {
            let boarding_s = self.rng.random_range(10.0..60.0);
            tokio::time::sleep(self.world.options.pace.real(boarding_s)).await;
            status = self.step(self.client.start(trip, None).await, trip).await?;
        }
        if status == TripStatus::Paused {
            status = self.step(self.client.resume(trip).await, trip).await?;
        }
        if status == TripStatus::InProgress {
            self.drive_to(dropoff, ride).await?;
            self.step(self.client.end(trip).await, trip).await?;
        }
        Ok(())
    }

    /// Where the trip stands after a step; a step that came too late or twice is no failure.
    async fn step(&self, stepped: Result<Trip, ApiError>, trip: TripId) -> Result<TripStatus, ApiError> {
        match stepped {
            Ok(trip) => Ok(trip.status),
            Err(error) if error.code() == Some("invalid_transition") => Ok(self.client.trip(trip).await?.status),
            Err(error) => Err(error),
        }
    }

    /// Drives to a place, saying where he is, unless the ride is over before.
    async fn drive_to(&mut self, place: Point, ride: RideId) -> Result<Leg, ApiError> {
        self.set_out(place);
        let mut ticks = ticker();
        let mut tick: u64 = 0;
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    tick += 1;
                    self.report().await;
                    if !self.is_moving() {
                        return Ok(Leg::Done);
                    }
                    if tick.is_multiple_of(RIDE_CHECK_TICKS) && self.is_over(ride).await? {
                        return Ok(Leg::RideOver);
                    }
                }
                event = self.socket.next() => match event {
                    LiveEvent::Connected if self.is_over(ride).await? => return Ok(Leg::RideOver),
                    LiveEvent::Message(Event { name, payload }) if name == "ride:update" => {
                        let update = read::<Ride>(payload).filter(|update| update.id == ride);
                        if update.is_some_and(|update| !update.status.is_open()) {
                            return Ok(Leg::RideOver);
                        }
                    }
                    _ => {}
                },
            }
        }
    }

    async fn is_over(&self, ride: RideId) -> Result<bool, ApiError> {
        let status = self.client.ride(ride).await?.status;
        Ok(matches!(status, RideStatus::Cancelled | RideStatus::Completed | RideStatus::Expired))
    }

    fn set_out(&mut self, to: Point) {
        let from = self.position_now().point;
        self.drive = self.world.city.route(from, to);
        self.set_out = Instant::now();
    }

    fn cruise(&mut self) {
        let place = self.world.city.pickup_place(&mut self.rng);
        self.set_out(place);
    }

    fn position_now(&self) -> Position {
        self.drive.position_at(self.world.options.pace.since(self.set_out))
    }

    fn is_moving(&self) -> bool {
        self.world.options.pace.since(self.set_out) < self.drive.duration_s()
    }

    async fn report(&self) {
        let mut position = self.position_now();
        position.point = self.says_to_be_at.unwrap_or(position.point);
        // A position not sent is made up for by the next one.
        let _ = self.socket.emit("location:update", location_update(position)).await;
    }
}

/// Every second, from a moment of its own, so that a fleet does not speak in unison.
fn ticker() -> tokio::time::Interval {
    let offset = MOVING.mul_f64(rand::rng().random_range(0.0..1.0));
    let mut ticks = tokio::time::interval_at(Instant::now() + offset, MOVING);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn read<T: serde::de::DeserializeOwned>(payload: Value) -> Option<T> {
    serde_json::from_value(payload).ok()
}
