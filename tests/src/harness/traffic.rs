//! Rides that go on while things break, and a book of all that was acknowledged, to be held against the platform afterwards.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use shared::{
    ids::{PaymentId, RideId, TripId},
    money::Money,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, interval},
};
use tokio_util::task::TaskTracker;

use super::{Driver, Rider, Spot, TestCity, TestCluster, eventually, eventually_within};
use crate::api::{ApiError, Patience, PaymentStatus, RideStatus, TripStatus};

/// How long a driver waits to be asked before rider and driver give up and start anew.
const OFFER_WAIT: Duration = Duration::from_secs(40);
/// How long it may take, after the storm, until everything is in every ledger.
const CONVERGENCE: Duration = Duration::from_secs(90);

/// Pairs of a rider and a driver, each taking ride after ride.
pub struct Traffic {
    book: Arc<Book>,
    stop: Arc<AtomicBool>,
    /// Rides that are due and not begun, where they come at a pace.
    due: Option<Arc<Semaphore>>,
    workers: TaskTracker,
}

/// What the platform has acknowledged to its clients.
#[derive(Default)]
pub struct Book {
    entries: Mutex<Vec<Entry>>,
    failures: Mutex<Vec<String>>,
}

#[derive(Clone)]
struct Entry {
    city: TestCity,
    rider: Rider,
    ride: RideId,
    /// The trip, and what it cost.
    ended: Option<(TripId, Money)>,
    settled: Option<PaymentId>,
    begun: Instant,
    /// From the request until it was paid.
    took: Option<Duration>,
}

impl Traffic {
    /// Lets `pairs` pairs ride in each of these cities, ride after ride.
    pub async fn start(cities: &[TestCity], pairs: usize) -> Self {
        Self::start_as(cities, pairs, None).await
    }

    /// The same, but so many rides a second are asked for, however long they take, as long as a pair is free. Those that are due
    /// while none is follow as soon as one is.
    pub async fn start_paced(cities: &[TestCity], pairs: usize, rides_per_s: f64) -> Self {
        let traffic = Self::start_as(cities, pairs, Some(Arc::new(Semaphore::new(0)))).await;
        let (due, stop) = (traffic.due.clone(), traffic.stop.clone());
        traffic.workers.spawn(async move {
            let mut ticks = interval(Duration::from_secs_f64(rides_per_s.recip()));
            while !stop.load(Ordering::Relaxed) {
                ticks.tick().await;
                due.iter().for_each(|due| due.add_permits(1));
            }
            due.iter().for_each(|due| due.close());
        });
        traffic
    }

    async fn start_as(cities: &[TestCity], pairs: usize, due: Option<Arc<Semaphore>>) -> Self {
        let traffic = Self { book: Arc::default(), stop: Arc::default(), due, workers: TaskTracker::new() };
        for city in cities {
            let city = TestCity { client: city.client.with_patience(Patience::PATIENT), ..city.clone() };
            for _ in 0..pairs {
                let (rider, driver) = (city.rider().await, city.driver().await);
                let (book, stop, city) = (traffic.book.clone(), traffic.stop.clone(), city.clone());
                let due = traffic.due.clone();
                traffic.workers.spawn(async move {
                    let spot = Spot::new();
                    while !stop.load(Ordering::Relaxed) {
                        if let Some(due) = &due {
                            // Closed when the traffic ends.
                            let Ok(ride) = due.acquire().await else { break };
                            ride.forget();
                        }
                        // What fails is not acknowledged; the next ride begins afresh.
                        if let Err(error) = book.one_ride(&city, &rider, &driver, &spot).await {
                            tracing::info!("a ride came to nothing: {error}");
                            book.failures.lock().unwrap_or_else(PoisonError::into_inner).push(error.to_string());
                        }
                    }
                });
            }
        }
        traffic
    }

    /// Waits until so many more rides have been paid: the service works.
    pub async fn rides_go_on(&self, more: usize) {
        let before = self.book.settled();
        eventually_within(CONVERGENCE, "rides go on", async || {
            let now = self.book.settled();
            if now >= before + more { Ok(()) } else { Err(format!("{} of {more} more rides", now - before)) }
        })
        .await;
    }

    /// Paid rides so far.
    pub fn settled(&self) -> usize {
        self.book.settled()
    }

    /// Rides that should have begun and have not, since all pairs are busy.
    pub fn waiting(&self) -> usize {
        self.due.as_ref().map_or(0, |due| due.available_permits())
    }

    /// Ends the traffic, every pair after its ride, and gives the book.
    pub async fn stop(self) -> Arc<Book> {
        self.stop.store(true, Ordering::Relaxed);
        self.workers.close();
        self.workers.wait().await;
        self.book
    }
}

impl Book {
    /// Paid rides so far.
    pub fn settled(&self) -> usize {
        self.entries().iter().filter(|entry| entry.settled.is_some()).count()
    }

    /// How long paid rides took, from the request until they were paid.
    pub fn took(&self) -> Vec<Duration> {
        self.entries().iter().filter_map(|entry| entry.took).collect()
    }

    /// Why rides came to nothing, for all the patience of their people.
    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn one_ride(&self, city: &TestCity, rider: &Rider, driver: &Driver, spot: &Spot) -> Result<(), ApiError> {
        self.clear_away(rider, driver).await?;
        driver.client.set_online(driver.id, true).await?;
        let begun = Instant::now();
        let ride = rider.client.request_ride(&spot.journey(), None).await?;
        let entry = Entry {
            city: city.clone(),
            rider: rider.clone(),
            ride: ride.id,
            ended: None,
            settled: None,
            begun,
            took: None,
        };
        let number = self.write(entry);
        let waiting = tokio::time::timeout(OFFER_WAIT, async {
            loop {
                driver.try_be_at(spot.pickup).await?;
                if driver.client.offers(driver.id).await?.iter().any(|offer| offer.ride_id == ride.id) {
                    return Ok::<_, ApiError>(());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        waiting.await.unwrap_or(Ok(()))?;
        let trip = driver.client.accept(driver.id, ride.id).await?;
        driver.client.arrive(trip.id).await?;
        driver.client.start(trip.id, None).await?;
        driver.try_be_at(spot.dropoff).await?;
        let trip = driver.client.end(trip.id).await?;
        let fare = trip.fare.map(|fare| fare.total);
        self.amend(number, |entry| entry.ended = fare.map(|fare| (trip.id, fare)));
        let mut payment = rider.client.pay(trip.id).await?;
        while payment.status != PaymentStatus::Settled {
            tokio::time::sleep(Duration::from_millis(200)).await;
            payment = rider.client.payment(payment.id).await?;
        }
        self.amend(number, |entry| {
            entry.settled = Some(payment.id);
            entry.took = Some(entry.begun.elapsed());
        });
        Ok(())
    }

    /// Ends what an earlier, failed ride of this pair left open.
    async fn clear_away(&self, rider: &Rider, driver: &Driver) -> Result<(), ApiError> {
        for ride in rider.client.rides("limit=5").await?.items.into_iter().filter(|ride| ride.status.is_open()) {
            if ride.status != RideStatus::InProgress {
                match rider.client.cancel_ride(ride.id, "starting afresh").await {
                    Err(error) if error.code() == Some("invalid_transition") => {}
                    other => drop(other?),
                }
            } else if let Some(trip) = ride.trip_id {
                driver.client.end(trip).await?;
            }
        }
        Ok(())
    }

    /// Holds the book against the platform.
    ///
    /// # Panics
    /// When anything that was acknowledged is not so, or a ledger has a payment twice.
    pub async fn must_hold(&self, cluster: &TestCluster) {
        self.must_hold_after_moves(cluster, &[]).await;
    }

    /// The same where tenants have also been at home in these regions.
    ///
    /// # Panics
    /// As [`Book::must_hold`].
    pub async fn must_hold_after_moves(&self, cluster: &TestCluster, homes: &[&str]) {
        cluster.converged().await;
        let entries = self.entries().clone();
        for entry in &entries {
            let ride = eventually("the ride is there", async || entry.rider.client.ride(entry.ride).await).await;
            if let Some((trip, fare)) = entry.ended {
                assert_eq!(
                    (ride.status, ride.trip_id),
                    (RideStatus::Completed, Some(trip)),
                    "{} lost its end",
                    entry.ride
                );
                let trip = entry.rider.client.trip(trip).await.expect("a rider sees his trip");
                let priced = trip.fare.map(|fare| fare.total);
                assert_eq!(
                    (trip.status, priced),
                    (TripStatus::Completed, Some(fare)),
                    "{} has another fare",
                    entry.ride
                );
            }
            if let Some(payment) = entry.settled {
                let payment = entry.rider.client.payment(payment).await.expect("a rider sees his payment");
                assert_eq!(payment.status, PaymentStatus::Settled, "{} lost its payment", entry.ride);
                let fare = entry.ended.map(|(_, fare)| fare);
                assert_eq!(Some(payment.amount), fare, "{} was paid with another amount", entry.ride);
            }
        }
        for region in cluster.regions() {
            let operator = cluster.operator_at(&region).await.with_patience(Patience::PATIENT);
            let what = format!("{region} has every acknowledged settlement, once");
            eventually_within(CONVERGENCE, &what, async || {
                let ledger = operator.all_settlements().await.map_err(|error| error.to_string())?;
                let mut by_trip: BTreeMap<TripId, Vec<_>> = BTreeMap::new();
                for fact in &ledger {
                    by_trip.entry(fact.trip_id).or_default().push(fact);
                }
                for entry in &entries {
                    let (Some((trip, fare)), Some(payment)) = (entry.ended, entry.settled) else { continue };
                    let of_trip = by_trip.remove(&trip).unwrap_or_default();
                    assert!(of_trip.len() <= 1, "{region} has trip {trip} in its ledger twice: {of_trip:?}");
                    let Some(fact) = of_trip.first() else {
                        return Err(format!("trip {trip} of {} is missing", entry.city.tenant));
                    };
                    let tenant = entry.city.tenant.as_str();
                    assert_eq!(
                        (fact.kind.as_str(), fact.tenant.as_str()),
                        ("settlement", tenant),
                        "{region}: {fact:?}"
                    );
                    let origin = fact.origin_region.as_str();
                    assert!(origin == entry.city.home || homes.contains(&origin), "{region}: {fact:?}");
                    let paid = Money { amount: fact.amount, ..fare };
                    assert_eq!((fact.payment_id, paid), (payment, fare), "{region} has another amount: {fact:?}");
                    assert_eq!(fact.currency, fare.currency.to_string(), "{region}: {fact:?}");
                }
                Ok(())
            })
            .await;
        }
    }

    fn write(&self, entry: Entry) -> usize {
        let mut entries = self.entries();
        entries.push(entry);
        entries.len() - 1
    }

    fn amend(&self, number: usize, change: impl FnOnce(&mut Entry)) {
        change(&mut self.entries()[number]);
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
