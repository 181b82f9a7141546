//! When tenants are looked at: as soon as a ride is due, which its area's window decides, and everything nobody told of by
//! polling. A tenant is looked at by one task of this node at a time; what comes due meanwhile is matched together next.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use shared::ids::TenantId;
use time::OffsetDateTime;
use tokio::{sync::Notify, task::JoinSet};

use super::{Windows, run, store};
use crate::{app::App, http::Problem};

/// Tenants with something due, from whoever knows; cheap to clone.
#[derive(Clone, Default)]
pub struct Due {
    /// How long rides that come in wait for each other.
    pub windows: Windows,
    tenants: Arc<Mutex<BTreeSet<(TenantId, OffsetDateTime)>>>,
    woken: Arc<Notify>,
}

impl Due {
    /// Something of `tenant` is due at `at`.
    pub fn tell(&self, tenant: TenantId, at: OffsetDateTime) {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner).insert((tenant, at));
        self.woken.notify_one();
    }

    fn take(&self) -> BTreeSet<(TenantId, OffsetDateTime)> {
        mem::take(&mut *self.tenants.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A tenant's place in the schedule.
#[derive(Default)]
struct Slot {
    is_running: bool,
    is_due: bool,
    /// When it will be: the ends of windows, which are the same moments for all areas, so there are few.
    later: BTreeSet<OffsetDateTime>,
}

impl Slot {
    /// Moves what has come due by `now`; whether a look begins.
    fn begins(&mut self, now: OffsetDateTime) -> bool {
        let later = self.later.split_off(&(now + time::Duration::NANOSECOND));
        self.is_due |= !mem::replace(&mut self.later, later).is_empty();
        let begins = self.is_due && !self.is_running;
        if begins {
            (self.is_running, self.is_due) = (true, false);
        }
        begins
    }
}

/// Looks at tenants until the node stops.
pub(super) async fn work(app: App) {
    let mut slots: BTreeMap<TenantId, Slot> = BTreeMap::new();
    let mut running: JoinSet<(TenantId, bool)> = JoinSet::new();
    let mut polls = tokio::time::interval(app.config.dispatch.poll_every);
    polls.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let next = slots.values().filter(|slot| !slot.is_running).filter_map(|slot| slot.later.first()).min().copied();
        let asleep = async {
            match next {
                // In the past it is due at once.
                Some(due) => tokio::time::sleep((due - app.clock.now()).try_into().unwrap_or_default()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = app.dispatch_due.woken.notified() => {
                for (tenant, at) in app.dispatch_due.take() {
                    slots.entry(tenant).or_default().later.insert(at);
                }
            }
            _ = polls.tick() => match due_here(&app).await {
                Ok(tenants) => {
                    for tenant in tenants {
                        slots.entry(tenant).or_default().is_due = true;
                    }
                }
                Err(problem) => tracing::warn!(%problem, "what is due could not be read and will be read again"),
            },
            Some(ended) = running.join_next() => {
                if let Ok((tenant, there_is_more)) = ended {
                    let slot = slots.entry(tenant).or_default();
                    slot.is_running = false;
                    slot.is_due |= there_is_more;
                }
            }
            () = asleep => {}
        }
        let now = app.clock.now();
        for (tenant, slot) in &mut slots {
            if slot.begins(now) {
                running.spawn(look(app.clone(), tenant.clone()));
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use time::{Duration, macros::datetime};

    use super::*;

    #[test]
    fn a_tenant_is_looked_at_when_something_is_due_once_at_a_time_and_nothing_is_forgotten() {
        const NOW: OffsetDateTime = datetime!(2026-03-01 12:00:00 UTC);
        let mut slot = Slot::default();
        assert!(!slot.begins(NOW));
        slot.later.extend([NOW, NOW + Duration::SECOND]);
        assert!(slot.begins(NOW));
        // What comes due while a look goes on waits for its end.
        assert!(!slot.begins(NOW + Duration::SECOND));
        slot.is_running = false;
        assert!(slot.begins(NOW + Duration::SECOND));
        slot.is_running = false;
        assert!(!slot.begins(NOW + Duration::MINUTE));
    }
}
