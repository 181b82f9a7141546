//! What it costs to ask a driver, in seconds: the way to the pick-up, and what speaks for one driver rather than another as
//! near. Each of the latter is bounded by the tenant's policy, so that it never outweighs a longer way than that.

use shared::tenant_config::{DispatchMode, DispatchPolicy};
use time::Duration;

use super::acceptance;

/// Who has waited so long for work has the whole bonus for it.
const IDLE_BONUS_AFTER_S: f64 = 1_800.0;
/// As the crow flies through a city, where nobody has asked for the way yet.
const USUAL_MPS: f64 = 4.0;

/// What counts of a driver besides the way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Person {
    /// Without work for so long.
    pub(super) idle: Duration,
    /// Of taking what is offered; more than 0.
    pub(super) acceptance: f64,
    /// Earned lately.
    pub(super) earned: f64,
}

/// What the policy makes of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Costs<'a> {
    pub(super) rules: &'a DispatchPolicy,
    /// What half of the drivers have not earned more than lately.
    pub(super) median_earned: f64,
}

impl Costs<'_> {
    /// Of asking `person`, who is so far away.
    pub(super) fn cost_s(&self, eta_s: u32, person: Person) -> i64 {
        let preference_s =
            self.refusals_s(person.acceptance) - self.idle_bonus_s(person.idle) - self.fairness_bonus_s(person.earned);
        // Bounded by the policy: at most minutes.
        i64::from(eta_s) + preference_s.round() as i64
    }

    /// What decides between drivers of one ride: in a plain nearest policy nothing but the way.
    pub(super) fn rank_s(&self, eta_s: u32, person: Person) -> i64 {
        match self.rules.mode {
            DispatchMode::Batched => self.cost_s(eta_s, person),
            DispatchMode::Nearest => eta_s.into(),
        }
    }

    /// The same of somebody so far away, before anybody has asked how long the way takes.
    pub(super) fn guess_s(&self, distance_m: f64, person: Person) -> i64 {
        // Below half the globe; a cast from a float saturates anyway.
        self.rank_s((distance_m / USUAL_MPS).round() as u32, person)
    }

    fn idle_bonus_s(&self, idle: Duration) -> f64 {
        f64::from(self.rules.idle_bonus_s) * (idle.as_seconds_f64() / IDLE_BONUS_AFTER_S).clamp(0.0, 1.0)
    }

    fn fairness_bonus_s(&self, earned: f64) -> f64 {
        if self.median_earned <= 0.0 {
            return 0.0;
        }
        f64::from(self.rules.fairness_bonus_s) * (1.0 - earned / self.median_earned).clamp(0.0, 1.0)
    }

    fn refusals_s(&self, probability: f64) -> f64 {
        acceptance::expected_wait_s(probability, self.rules.offer_ttl_s).min(self.rules.refusal_cost_cap_s.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn person() -> Person {
        Person { idle: Duration::ZERO, acceptance: 1.0, earned: 1_000.0 }
    }

    fn costs(rules: &DispatchPolicy) -> Costs<'_> {
        Costs { rules, median_earned: 1_000.0 }
    }

    #[test]
    fn who_waits_for_work_who_earned_little_and_who_does_not_refuse_costs_less() {
        let rules = DispatchPolicy { idle_bonus_s: 60, ..DispatchPolicy::default() };
        let costs = costs(&rules);
        assert_eq!(costs.cost_s(300, person()), 300);
        assert_eq!(costs.cost_s(300, Person { idle: Duration::minutes(15), ..person() }), 270);
        assert_eq!(costs.cost_s(300, Person { earned: 500.0, ..person() }), 285);
        assert_eq!(costs.cost_s(300, Person { earned: 9_000.0, ..person() }), 300);
        assert_eq!(costs.cost_s(300, Person { acceptance: 0.5, ..person() }), 315);
        let nobody_earned = Costs { median_earned: 0.0, ..costs };
        assert_eq!(nobody_earned.cost_s(300, Person { earned: 0.0, ..person() }), 300);
    }

    proptest! {
        #[test]
        fn no_preference_is_worth_a_longer_way_than_the_policy_says(
            eta_s in 0..10_000_u32, idle_s in -1_000..1_000_000_i64, acceptance in 0.001..1.0_f64,
            earned in 0.0..1e9_f64, median_earned in 0.0..1e6_f64,
            idle_bonus_s in 0..=900_u32, fairness_bonus_s in 0..=120_u32, refusal_cost_cap_s in 0..=300_u32,
        ) {
            let rules = DispatchPolicy { idle_bonus_s, fairness_bonus_s, refusal_cost_cap_s, ..DispatchPolicy::default() };
            let costs = Costs { rules: &rules, median_earned };
            let cost_s = costs.cost_s(eta_s, Person { idle: Duration::seconds(idle_s), acceptance, earned });
            prop_assert!(cost_s >= i64::from(eta_s) - i64::from(idle_bonus_s + fairness_bonus_s));
            prop_assert!(cost_s <= i64::from(eta_s) + i64::from(refusal_cost_cap_s));
        }
    }
}
