//! What became of an evening.

/// What happened to everybody who asked in the stretch that counts, and what every driver did then.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Of each ride that was picked up: when it was asked for, seconds into the simulation, and until the car came.
    pub waits: Vec<Wait>,
    /// Riders whose patience or whose ride ended without a car.
    pub unserved: usize,
    /// Offers declined or left to run out.
    pub refused: usize,
    /// Riders who called off a ride that was on its way.
    pub called_off: usize,
    /// By driver.
    pub days: Vec<Day>,
}

/// Whoever has been available for so long without an offer, seconds, is passed over when a ride that begins near him is offered
/// to a newcomer.
pub const PASSED_OVER_AFTER_S: f64 = 1_800.0;
/// Who has been available for less than this is a newcomer, seconds.
pub const NEWCOMER_S: f64 = 900.0;
/// Near is no farther than this, seconds of driving through the traffic of the hour.
pub const NEAR_S: f64 = 300.0;

/// A rider's wait.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wait {
    pub asked_at_s: f64,
    /// From the request until a driver accepted.
    pub accepted_after_s: f64,
    /// From the request until the car stood there.
    pub picked_up_after_s: f64,
}

/// A driver's evening.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Day {
    /// Driven at least in part in the stretch that counts.
    pub rides: usize,
    /// Driven to pick-ups, metres.
    pub empty_m: f64,
    /// Driven with riders, metres.
    pub paid_m: f64,
    /// The same, seconds: what is paid for.
    pub paid_s: f64,
    /// The longest time available without an offer, of those that reached into the stretch.
    pub longest_idle_s: f64,
    /// Was [passed over](PASSED_OVER_AFTER_S) at least once.
    pub is_starved: bool,
}

impl Outcome {
    /// Mean and given shares of the seconds from the request until the car stood there.
    pub fn pickup_wait(&self) -> Spread {
        Spread::of(self.waits.iter().map(|wait| wait.picked_up_after_s).collect())
    }

    /// The same of the drive to the pick-up alone.
    pub fn drive(&self) -> Spread {
        Spread::of(self.waits.iter().map(|wait| wait.picked_up_after_s - wait.accepted_after_s).collect())
    }

    /// Share of asked-for rides nobody came for.
    pub fn unserved_share(&self) -> f64 {
        let asked = self.waits.len() + self.unserved + self.called_off;
        self.unserved as f64 / asked.max(1) as f64
    }

    /// Driven that nobody paid for, by all drivers, kilometres.
    pub fn empty_km(&self) -> f64 {
        self.days.iter().map(|day| day.empty_m).sum::<f64>() / 1_000.0
    }

    /// The share of that in all that was driven.
    pub fn empty_share(&self) -> f64 {
        let paid_km = self.days.iter().map(|day| day.paid_m).sum::<f64>() / 1_000.0;
        self.empty_km() / (self.empty_km() + paid_km).max(f64::MIN_POSITIVE)
    }

    /// The Gini coefficient of what drivers are paid for: 0 when all drive as much as each other, 1 when one drives alone.
    pub fn gini(&self) -> f64 {
        let mut paid: Vec<f64> = self.days.iter().map(|day| day.paid_s).collect();
        paid.sort_by(f64::total_cmp);
        let count = paid.len() as f64;
        let total: f64 = paid.iter().sum();
        let ranked: f64 = paid.iter().zip(1..).map(|(paid, rank)| paid * f64::from(rank)).sum();
        if total > 0.0 { 2.0 * ranked / (count * total) - (count + 1.0) / count } else { 0.0 }
    }

    /// Drivers who drove nobody the whole time, for whatever reason.
    pub fn without_a_ride(&self) -> usize {
        self.days.iter().filter(|day| day.rides == 0).count()
    }

    /// Drivers who stood available for half an hour without an offer, and then saw a ride five minutes away go to somebody who
    /// had come free in the last quarter of an hour.
    pub fn starved(&self) -> usize {
        self.days.iter().filter(|day| day.is_starved).count()
    }

    /// The longest time anybody was available without an offer, seconds.
    pub fn longest_idle_s(&self) -> f64 {
        self.days.iter().map(|day| day.longest_idle_s).fold(0.0, f64::max)
    }
}

/// How values are spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub mean: f64,
    pub median: f64,
    pub p95: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| match values.len().checked_sub(1) {
            Some(last) => values[(last as f64 * share).round() as usize],
            None => f64::NAN,
        };
        Self { mean: values.iter().sum::<f64>() / values.len() as f64, median: at(0.5), p95: at(0.95) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paid(seconds: &[f64]) -> Outcome {
        let day = |paid_s: &f64| Day { paid_s: *paid_s, ..Day::default() };
        Outcome { days: seconds.iter().map(day).collect(), ..Outcome::default() }
    }

    #[test]
    fn gini_is_zero_among_equals_and_near_one_when_one_has_all() {
        assert!(paid(&[5.0; 10]).gini().abs() < 1e-9);
        let mut one = vec![0.0; 99];
        one.push(7.0);
        assert!((paid(&one).gini() - 0.99).abs() < 1e-9);
        assert_eq!(paid(&[]).gini(), 0.0);
    }

    #[test]
    fn empty_driving_is_kilometres_and_their_share() {
        let day = |empty_m, paid_m| Day { empty_m, paid_m, ..Day::default() };
        let outcome = Outcome { days: vec![day(500.0, 1_000.0), day(1_000.0, 3_500.0)], ..Outcome::default() };
        assert_eq!((outcome.empty_km(), outcome.empty_share()), (1.5, 0.25));
        assert_eq!(paid(&[]).empty_share(), 0.0);
    }

    #[test]
    fn spreads_tell_the_middle_and_the_late() {
        let spread = Spread::of((1..=101).rev().map(f64::from).collect());
        assert_eq!((spread.mean, spread.median, spread.p95), (51.0, 51.0, 96.0));
    }
}
