//! A simulated fleet of one city and the people it drives.
//!
//! Drivers and riders are clients like any others: the public API and Socket.IO, nothing else. They outlast restarts, refusals and
//! lost connections, since that is what real ones do. [`Tally`] is where they note what happened, for the summary.

mod accounts;
mod driver;
mod pace;
mod rider;
mod tally;

use std::{sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use pace::Pace;
pub use tally::{Snapshot, Tally};

use crate::{
    api::{Client, Patience},
    cities::City,
};

/// A driver takes about this many rides an hour: enough to keep most of the fleet busy, few enough to find a car.
const RIDES_PER_DRIVER_HOUR: f64 = 2.5;
/// Password hashes are slow on purpose; so many people sign in at once.
const SIGNING_IN: usize = 4;

/// How large a fleet is, and how fast it lives.
#[derive(Clone, Copy, Debug)]
pub struct FleetOptions {
    pub drivers: usize,
    pub seed: u64,
    pub pace: Pace,
}

/// What all people of one city share.
#[derive(Clone)]
struct World {
    city: Arc<City>,
    /// A caller of this city's tenant who is nobody yet.
    client: Client,
    options: FleetOptions,
    tally: Arc<Tally>,
    tasks: TaskTracker,
    stop: CancellationToken,
    signing_in: Arc<Semaphore>,
}

/// Sets a city in motion: until `stop`, drivers drive and riders ride on `tasks`.
pub fn start(
    city: City,
    client: &Client,
    options: FleetOptions,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Arc<Tally> {
    let tally = Arc::new(Tally::default());
    let world = World {
        client: client.for_tenant(city.tenant).with_patience(Patience::PATIENT),
        city: Arc::new(city),
        options,
        tally: tally.clone(),
        tasks: tasks.clone(),
        stop: stop.clone(),
        signing_in: Arc::new(Semaphore::new(SIGNING_IN)),
    };
    for number in 0..options.drivers {
        tasks.spawn(driver::live(world.clone(), number));
    }
    tasks.spawn(stop.clone().run_until_cancelled_owned(send_riders(world)));
    tally
}

/// Lets each planned ride happen at its time, by somebody who is not on the way already.
async fn send_riders(world: World) {
    let most_riders = world.options.drivers * 2;
    let (come_home, mut at_home) = mpsc::channel(most_riders.max(1));
    let mut known = 0;
    let per_hour = world.options.drivers as f64 * RIDES_PER_DRIVER_HOUR;
    let city = world.city.clone();
    for planned in city.rides(per_hour, world.options.seed) {
        tokio::time::sleep_until(world.options.pace.moment(planned.at_s)).await;
        let rider = match at_home.try_recv() {
            Ok(rider) => rider,
            Err(_) if known < most_riders => {
                known += 1;
                rider::SimRider::new(&world, known)
            }
            // Everybody is on the way: this ride is taken by bus.
            Err(_) => continue,
        };
        let come_home = come_home.clone();
        let ride = async move {
            let rider = rider.ride(planned).await;
            // Room for everybody is certain; only the end of the simulation closes the channel.
            let _ = come_home.send(rider).await;
        };
        world.tasks.spawn(world.stop.clone().run_until_cancelled_owned(ride));
    }
}

impl World {
    /// A source of chance for one person, the same in every run with the same seed.
    fn rng(&self, role: u64, number: usize) -> StdRng {
        StdRng::seed_from_u64(self.options.seed ^ (role << 56) ^ (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// Waits until it works again, after something that patience did not mend.
    async fn despair(&self) {
        let pause_s = rand::rng().random_range(3.0..8.0);
        tokio::time::sleep(Duration::from_secs_f64(pause_s)).await;
    }
}
