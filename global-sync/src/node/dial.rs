//! Calls the other regions.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use shared::ids::RegionName;
use sqlx::postgres::PgListener;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::targets;
use crate::{config::Config, store::Store, transport::Mesh};

/// Calls every region that is known and not connected, less and less often when it does not answer.
pub(super) async fn dial(
    config: Config,
    store: Store,
    mesh: Mesh,
    connected: watch::Receiver<BTreeSet<RegionName>>,
    stop: CancellationToken,
) {
    let calls = TaskTracker::new();
    let waits: Arc<Mutex<BTreeMap<RegionName, Wait>>> = Arc::default();
    let mut listener = None;
    let mut known = targets(&config, Vec::new());
    let mut looked_at: Option<Instant> = None;
    while !stop.is_cancelled() {
        if looked_at.is_none_or(|at| at.elapsed() > Duration::from_secs(5)) {
            match store.directory().await {
                Ok(directory) => known = targets(&config, directory),
                Err(error) => tracing::debug!("the directory cannot be read: {error}"),
            }
            looked_at = Some(Instant::now());
        }
        for (region, address) in &known {
            let due = {
                let mut waits = waits.lock().expect("nobody panics while holding it");
                let wait = waits.entry(region.clone()).or_default();
                let due = !wait.calling && wait.until.is_none_or(|until| Instant::now() >= until);
                let due = due && !connected.borrow().contains(region);
                wait.calling |= due;
                due
            };
            if due {
                let (mesh, region, address) = (mesh.clone(), region.clone(), address.clone());
                let (waits, stop) = (waits.clone(), stop.clone());
                calls.spawn(async move {
                    let begun = Instant::now();
                    let result = tokio::select! {
                        result = mesh.dial(&region, &address) => result,
                        () = stop.cancelled() => return,
                    };
                    let mut waits = waits.lock().expect("nobody panics while holding it");
                    waits.entry(region.clone()).or_default().finished(&region, &address, begun, result);
                });
            }
        }
        directory_changed(&store, &mut listener, &mut looked_at, &stop).await;
    }
    calls.close();
    calls.wait().await;
}

/// Waits a quarter of a second, or less when the directory changes.
async fn directory_changed(
    store: &Store,
    listener: &mut Option<PgListener>,
    looked_at: &mut Option<Instant>,
    stop: &CancellationToken,
) {
    if listener.is_none()
        && let Ok(mut fresh) = PgListener::connect_with(store.pool()).await
        && fresh.listen("directory_changed").await.is_ok()
    {
        *listener = Some(fresh);
    }
    let heard = async {
        match listener.as_mut() {
            Some(listener) => listener.try_recv().await.is_ok_and(|notification| notification.is_some()),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        heard = heard => {
            *looked_at = None;
            if !heard {
                *listener = None;
                sleep(Duration::from_millis(250)).await;
            }
        }
        () = sleep(Duration::from_millis(250)) => {}
        () = stop.cancelled() => {}
    }
}

/// When to call a region again.
#[derive(Default)]
struct Wait {
    calling: bool,
    failures: u32,
    until: Option<Instant>,
}

impl Wait {
    fn finished(&mut self, region: &RegionName, address: &str, begun: Instant, result: anyhow::Result<()>) {
        self.calling = false;
        // A connection that held for a while was a good one, however it ended.
        if begun.elapsed() > Duration::from_secs(10) {
            self.failures = 0;
        }
        if let Err(error) = result {
            if self.failures == 0 {
                tracing::warn!(peer = %region, "{region} cannot be reached at {address}: {error:#}");
            }
            metrics::counter!("global_sync_failed_calls_total", "peer" => region.to_string()).increment(1);
        }
        let wait_ms = 250 * 2_u64.pow(self.failures.min(5));
        self.failures += 1;
        let jittered = Duration::from_millis(wait_ms).mul_f64(rand::random_range(0.7..1.3));
        self.until = Some(Instant::now() + jittered);
    }
}
