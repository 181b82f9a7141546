//! When tenants are looked at: as soon as a ride is due, which its area's window decides, and everything nobody told of by
//! polling. A tenant is looked at by one task of this node at a time; what comes due meanwhile is matched together next.
//!
//! Most of what a look costs it costs for one ride as for many. So after each a tenant is left alone for as long as that took:
//! whoever comes alone is still answered at once, and where many come, or the machine is busy, more of them share a look.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
};

use futures::FutureExt;
use shared::ids::TenantId;
use time::{Duration, OffsetDateTime};
use tokio::{sync::Notify, task::JoinSet};

use super::{Windows, run, store};
use crate::{app::App, http::Problem};

/// No tenant is left alone for longer, however long the look before took.
const LONGEST_REST: Duration = Duration::milliseconds(50);

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
    /// Since when it is looked at.
    looked_at_since: Option<OffsetDateTime>,
    /// Until when it is left alone.
    rests_until: Option<OffsetDateTime>,
    is_due: bool,
    /// When it will be: the ends of windows, which are the same moments for all areas, so there are few.
    later: BTreeSet<OffsetDateTime>,
}

impl Slot {
    /// Moves what has come due by `now`; whether a look begins.
    fn begins(&mut self, now: OffsetDateTime) -> bool {
        let later = self.later.split_off(&(now + Duration::NANOSECOND));
        self.is_due |= !mem::replace(&mut self.later, later).is_empty();
        let rests = self.rests_until.is_some_and(|until| now < until);
        let begins = self.is_due && self.looked_at_since.is_none() && !rests;
        if begins {
            (self.looked_at_since, self.is_due) = (Some(now), false);
        }
        begins
    }

    /// A look has ended; one that left something undone is followed by the next at once.
    fn ends(&mut self, now: OffsetDateTime, there_is_more: bool) {
        let took = self.looked_at_since.take().map_or(Duration::ZERO, |since| now - since);
        // A clock that was set back must not make anybody wait.
        let rest = took.clamp(Duration::ZERO, LONGEST_REST);
        self.rests_until = (!there_is_more).then_some(now + rest);
        self.is_due |= there_is_more;
    }

    /// When a look can begin next, as far as is known now; in the past if it can at once.
    fn next(&self) -> Option<OffsetDateTime> {
        let due = if self.is_due { self.rests_until } else { self.later.first().copied() };
        due.filter(|_| self.looked_at_since.is_none()).map(|due| self.rests_until.map_or(due, |until| due.max(until)))
    }
}

/// Looks at tenants until the node stops.
pub(super) async fn work(app: App) {
    let mut slots: BTreeMap<TenantId, Slot> = BTreeMap::new();
    let mut running: JoinSet<(TenantId, bool)> = JoinSet::new();
    let mut polls = tokio::time::interval(app.config.dispatch.poll_every);
    polls.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let next = slots.values().filter_map(Slot::next).min();
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
            // No look is aborted, and one that panics says so itself.
            Some(Ok((tenant, there_is_more))) = running.join_next() => {
                slots.entry(tenant).or_default().ends(app.clock.now(), there_is_more);
            }
            () = asleep => {}
        }
        let now = app.clock.now();
        for (tenant, slot) in &mut slots {
            if slot.begins(now) {
                let (app, tenant) = (app.clone(), tenant.clone());
                running.spawn(async move { look(&tenant, Box::pin(run::run(&app, &tenant))).await });
            }
        }
    }
}

/// One look at a tenant, and whether it left something undone. It ends whatever becomes of it: a tenant whose look never ended
/// would not be looked at again.
async fn look(tenant: &TenantId, round: impl Future<Output = Result<bool, Problem>>) -> (TenantId, bool) {
    // What a round keeps it keeps in Postgres, where nothing is left half done.
    let there_is_more = match AssertUnwindSafe(round).catch_unwind().await {
        Ok(Ok(there_is_more)) => there_is_more,
        Ok(Err(problem)) => {
            tracing::warn!(%problem, %tenant, "dispatch failed and will be tried again");
            false
        }
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            tracing::error!(panic = said.unwrap_or("?"), %tenant, "dispatch panicked and will be tried again");
            false
        }
    };
    (tenant.clone(), there_is_more)
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
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00:00 UTC);

    fn after_ms(ms: i64) -> OffsetDateTime {
        NOW + Duration::milliseconds(ms)
    }

    #[test]
    fn a_tenant_is_looked_at_when_something_is_due_once_at_a_time_and_nothing_is_forgotten() {
        let mut slot = Slot::default();
        assert!(!slot.begins(NOW));
        assert_eq!(slot.next(), None);
        slot.later.extend([NOW, after_ms(1_000)]);
        assert_eq!(slot.next(), Some(NOW));
        assert!(slot.begins(NOW));
        // What comes due while a look goes on waits for its end.
        assert!(!slot.begins(after_ms(1_000)));
        assert_eq!(slot.next(), None);
        slot.ends(after_ms(1_000), true);
        assert!(slot.begins(after_ms(1_000)));
        slot.ends(after_ms(1_001), false);
        assert!(!slot.begins(after_ms(60_000)));
    }

    #[test]
    fn a_tenant_is_left_alone_for_as_long_as_the_look_took_and_whoever_comes_later_is_looked_at_at_once() {
        let mut slot = Slot::default();
        slot.later.extend([NOW, after_ms(11)]);
        assert!(slot.begins(NOW));
        slot.ends(after_ms(10), false);
        assert_eq!(slot.next(), Some(after_ms(20)));
        assert!(!slot.begins(after_ms(19)));
        // It has come due, and still the rest is waited for.
        assert_eq!(slot.next(), Some(after_ms(20)));
        assert!(slot.begins(after_ms(20)));
        slot.ends(after_ms(30), false);
        slot.later.insert(after_ms(100));
        assert_eq!(slot.next(), Some(after_ms(100)));
        assert!(slot.begins(after_ms(100)));
    }

    #[tokio::test]
    async fn a_tenant_whose_look_fails_or_panics_is_looked_at_again() {
        let tenant: TenantId = "cabs".parse().unwrap();
        let mut slot = Slot::default();
        let looks = [
            look(&tenant, async { Err(Problem::not_found("a table")) }).await,
            look(&tenant, async { panic!("a bug") }).await,
            look(&tenant, async { Ok(true) }).await,
        ];
        for (n, (of, there_is_more)) in (0..).zip(looks) {
            slot.later.insert(after_ms(n * 1_000));
            assert!(slot.begins(after_ms(n * 1_000)), "look {n}");
            assert_eq!((&of, there_is_more), (&tenant, n == 2));
            slot.ends(after_ms(n * 1_000 + 1), there_is_more);
        }
    }

    #[test]
    fn a_slow_look_or_a_clock_set_back_makes_nobody_wait_for_long() {
        let mut slot = Slot { is_due: true, ..Slot::default() };
        assert!(slot.begins(NOW));
        slot.ends(after_ms(5_000), false);
        assert_eq!(slot.rests_until, Some(after_ms(5_000) + LONGEST_REST));
        let mut slot = Slot { is_due: true, ..Slot::default() };
        assert!(slot.begins(NOW));
        slot.ends(after_ms(-5_000), false);
        assert_eq!(slot.rests_until, Some(after_ms(-5_000)));
    }
}
