//! When tenants are looked at: a ride that comes alone at once, several that come together as one window, and everything
//! nobody told of by polling.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use shared::ids::TenantId;
use tokio::{sync::Notify, task::JoinSet, time::Instant};

use super::{run, store};
use crate::{app::App, http::Problem};

/// Tenants with something due, from whoever knows; cheap to clone.
#[derive(Clone, Default)]
pub struct Due {
    tenants: Arc<Mutex<BTreeSet<TenantId>>>,
    woken: Arc<Notify>,
}

impl Due {
    /// Something of `tenant` is due now.
    pub fn tell(&self, tenant: TenantId) {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner).insert(tenant);
        self.woken.notify_one();
    }

    fn take(&self) -> BTreeSet<TenantId> {
        mem::take(&mut *self.tenants.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A tenant's place in the schedule.
#[derive(Default)]
struct Slot {
    begun: Option<Instant>,
    is_running: bool,
    /// When the next look is due.
    due: Option<Instant>,
}

/// Looks at tenants until the node stops.
pub(super) async fn work(app: App) {
    let mut slots: HashMap<TenantId, Slot> = HashMap::new();
    let mut running: JoinSet<(TenantId, bool)> = JoinSet::new();
    let mut polls = tokio::time::interval(app.config.dispatch.poll_every);
    polls.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let next = slots.values().filter(|slot| !slot.is_running).filter_map(|slot| slot.due).min();
        let asleep = async {
            match next {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = app.dispatch_due.woken.notified() => {
                for tenant in app.dispatch_due.take() {
                    schedule(&app, &mut slots, tenant).await;
                }
            }
            _ = polls.tick() => match due_here(&app).await {
                Ok(tenants) => {
                    for tenant in tenants {
                        schedule(&app, &mut slots, tenant).await;
                    }
                }
                Err(problem) => tracing::warn!(%problem, "what is due could not be read and will be read again"),
            },
            Some(ended) = running.join_next() => {
                if let Ok((tenant, there_is_more)) = ended {
                    let slot = slots.entry(tenant).or_default();
                    slot.is_running = false;
                    if there_is_more {
                        slot.due = Some(Instant::now());
                    }
                }
            }
            () = asleep => {}
        }
        let now = Instant::now();
        for (tenant, slot) in slots.iter_mut().filter(|(_, slot)| !slot.is_running) {
            if slot.due.is_some_and(|due| due <= now) {
                *slot = Slot { begun: Some(now), is_running: true, due: None };
                running.spawn(look(app.clone(), tenant.clone()));
            }
        }
    }
}

/// A tenant not looked at for a window is due at once; another one when its window ends, with all that came meanwhile.
async fn schedule(app: &App, slots: &mut HashMap<TenantId, Slot>, tenant: TenantId) {
    let window_ms = match app.tenants.config(&tenant).await {
        Ok(published) => published.config.dispatch.window_ms,
        Err(problem) => {
            tracing::warn!(%problem, %tenant, "a tenant without config cannot be dispatched");
            return;
        }
    };
    let slot = slots.entry(tenant).or_default();
    let now = Instant::now();
    let due = slot.begun.map_or(now, |begun| (begun + Duration::from_millis(window_ms.into())).max(now));
    slot.due = Some(slot.due.map_or(due, |known| known.min(due)));
}

async fn look(app: App, tenant: TenantId) -> (TenantId, bool) {
    let there_is_more = match run::run(&app, &tenant).await {
        Ok(there_is_more) => there_is_more,
        Err(problem) => {
            tracing::warn!(%problem, %tenant, "dispatch failed and will be tried again");
            false
        }
    };
    (tenant, there_is_more)
}

/// The tenants at home here with something due.
async fn due_here(app: &App) -> Result<Vec<TenantId>, Problem> {
    let directory = app.tenants.directory();
    let is_here = |tenant: &TenantId| directory.homes.get(tenant).is_some_and(|home| home.region == app.region);
    Ok(store::due_tenants(app, app.clock.now()).await?.into_iter().filter(is_here).collect())
}

/// Does once all that is due now, for tests.
#[cfg(test)]
pub(crate) async fn run_due(app: &App) {
    for tenant in due_here(app).await.unwrap() {
        while run::run(app, &tenant).await.unwrap() {}
    }
}
