//! The sandbox's bad days. What goes wrong is decided by the seed, the idempotency key and how often it was asked for, so a
//! run that asks the same repeats.

use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};

/// What goes wrong, and how often; nothing unless it says so.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptConfig {
    pub seed: u64,
    /// Answers come later by up to this.
    #[serde(default, with = "humantime_serde")]
    pub latency: Duration,
    /// Declined, for good.
    #[serde(default)]
    pub declines: Chance,
    /// A server error before anything was done; nothing is kept, and the next attempt may do better.
    #[serde(default)]
    pub errors_before: Chance,
    /// A server error after it was done. As at Stripe it is kept, and every attempt under the key is answered with it.
    #[serde(default)]
    pub errors_after: Chance,
    /// It is done, and no answer comes.
    #[serde(default)]
    pub silences: Chance,
    /// Webhooks that never come.
    #[serde(default)]
    pub webhooks_lost: Chance,
    /// Webhooks that come twice.
    #[serde(default)]
    pub webhooks_doubled: Chance,
    /// Webhooks that come late.
    #[serde(default)]
    pub webhooks_late: Chance,
    /// How late, and how long after the first its double comes.
    #[serde(default, with = "humantime_serde")]
    pub late_by: Duration,
}

/// How often something happens: 0 never, 1 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Chance(f64);

impl TryFrom<f64> for Chance {
    type Error = String;

    fn try_from(chance: f64) -> Result<Self, String> {
        if (0.0..=1.0).contains(&chance) { Ok(Self(chance)) } else { Err("must be from 0 to 1".to_owned()) }
    }
}

/// How an attempt is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    ErrorBefore,
    ErrorAfter,
    Silence,
}

/// What becomes of one attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) is_declined: bool,
    pub(super) fault: Option<Fault>,
    pub(super) latency: Duration,
}

impl ScriptConfig {
    /// What becomes of the `attempt`th order under `key`, the first being 1.
    pub(super) fn verdict(&self, key: &str, attempt: i32) -> Verdict {
        let happens = |what: &str, chance: Chance| self.roll(key, attempt, what) < chance.0;
        let fault = if happens("error before", self.errors_before) {
            Some(Fault::ErrorBefore)
        } else if happens("error after", self.errors_after) {
            Some(Fault::ErrorAfter)
        } else {
            happens("silence", self.silences).then_some(Fault::Silence)
        };
        Verdict {
            is_declined: happens("decline", self.declines),
            fault,
            latency: self.latency.mul_f64(self.roll(key, attempt, "latency")),
        }
    }

    /// How long after the deed its webhook comes, each time it does.
    pub(super) fn webhooks(&self, key: &str) -> Vec<Duration> {
        let happens = |what: &str, chance: Chance| self.roll(key, 0, what) < chance.0;
        if happens("webhook lost", self.webhooks_lost) {
            return Vec::new();
        }
        let first = if happens("webhook late", self.webhooks_late) { self.late_by } else { Duration::ZERO };
        let double = happens("webhook doubled", self.webhooks_doubled).then(|| first + self.late_by);
        std::iter::once(first).chain(double).collect()
    }

    /// From 0 to less than 1.
    fn roll(&self, key: &str, attempt: i32, what: &str) -> f64 {
        let digest = Sha256::digest(format!("{}:{key}:{attempt}:{what}", self.seed));
        let bits = digest.iter().take(4).fold(0_u32, |bits, byte| (bits << 8) | u32::from(*byte));
        f64::from(bits) / 2_f64.powi(32)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: serde_json::Value) -> serde_json::Result<ScriptConfig> {
        serde_json::from_value(text)
    }

    fn script(seed: u64) -> ScriptConfig {
        read(json!({"seed": seed, "latency": "1s", "declines": 0.1, "errors_before": 0.2, "errors_after": 0.1,
            "silences": 0.3, "webhooks_lost": 0.1, "webhooks_doubled": 0.2, "webhooks_late": 0.2, "late_by": "1m"}))
        .unwrap()
    }

    #[test]
    fn a_seed_does_the_same_to_the_same_attempts_and_another_seed_does_not() {
        let run = |seed| {
            let script = script(seed);
            let of = |n: i32| (script.verdict(&format!("payment-{n}"), 1 + n % 3), script.webhooks(&format!("{n}")));
            (0..200).map(of).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn each_thing_goes_wrong_about_as_often_as_it_is_said_to() {
        let (script, keys) = (script(7), (0..10_000).map(|n| format!("payment-{n}")).collect::<Vec<_>>());
        let share = |is: &dyn Fn(&str) -> bool| keys.iter().filter(|key| is(key)).count();
        let about = |count: usize, percent: usize| count.abs_diff(percent * 100) < 150;
        assert!(about(share(&|key| script.verdict(key, 1).is_declined), 10));
        assert!(about(share(&|key| script.verdict(key, 2).fault == Some(Fault::ErrorBefore)), 20));
        assert!(about(share(&|key| script.verdict(key, 1).fault == Some(Fault::ErrorAfter)), 8));
        assert!(about(share(&|key| script.webhooks(key).is_empty()), 10));
        assert!(about(share(&|key| script.webhooks(key).len() == 2), 18));
        assert!(keys.iter().all(|key| script.verdict(key, 1).latency < Duration::from_secs(1)));
    }

    #[test]
    fn a_chance_is_from_0_to_1_and_nothing_goes_wrong_unsaid() {
        for (name, bad) in [("declines", 1.1), ("silences", -0.1), ("misfortune", 1.0)] {
            assert!(read(json!({"seed": 1, name: bad})).is_err(), "{name}");
        }
        let quiet = read(json!({"seed": 1})).unwrap();
        assert!((0..100).all(|n| quiet.verdict(&n.to_string(), 1) == Verdict::default()));
        assert_eq!(quiet.webhooks("payment-1"), [Duration::ZERO]);
    }
}
