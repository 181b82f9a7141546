//! How fast the simulation runs.

use std::time::Duration;

use tokio::time::Instant;

/// The simulation's clock: `speed` of its seconds pass in one of ours.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    begun: Instant,
    speed: f64,
}

impl Pace {
    /// Begins now; a speed below a hundredth is no movement.
    pub fn starting_now(speed: f64) -> Self {
        Self { begun: Instant::now(), speed: if speed.is_finite() { speed.clamp(0.01, 1_000.0) } else { 1.0 } }
    }

    /// When, on our clock, the simulation is `seconds` old.
    pub fn moment(self, seconds: f64) -> Instant {
        self.begun + self.real(seconds)
    }

    /// How long `seconds` of the simulation take.
    pub fn real(self, seconds: f64) -> Duration {
        Duration::from_secs_f64((seconds / self.speed).clamp(0.0, 1e9))
    }

    /// How many seconds of the simulation have passed since a moment of ours.
    pub fn since(self, moment: Instant) -> f64 {
        moment.elapsed().as_secs_f64() * self.speed
    }

    pub fn speed(self) -> f64 {
        self.speed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn at_ten_times_the_speed_a_minute_takes_six_seconds() {
        let pace = Pace::starting_now(10.0);
        assert_eq!(pace.real(60.0), Duration::from_secs(6));
        let begun = Instant::now();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert!((pace.since(begun) - 30.0).abs() < 1e-6);
    }
}
