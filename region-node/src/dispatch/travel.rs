//! How long a driver needs to a pick-up. The port is asynchronous, since an engine may live elsewhere; what every region
//! has is the great circle with a detour and a speed.

use shared::geo::Point;

/// Estimates travel times.
pub(super) trait TravelTimes: Send + Sync {
    /// Seconds from each of `from` to `to`.
    fn to_pickup(&self, from: &[Point], to: Point) -> impl Future<Output = Vec<u32>> + Send;
}

/// The way as the crow flies, lengthened as streets do, at a city's speed.
#[derive(Clone, Copy, Debug)]
pub(super) struct GreatCircle {
    /// Streets are so many times longer than the great circle.
    pub detour: f64,
    /// Metres per second.
    pub speed_mps: f64,
}

impl GreatCircle {
    /// What fits most cities: 30 % longer, 25 km/h.
    pub(super) const CITY: Self = Self { detour: 1.3, speed_mps: 7.0 };

    /// Seconds from one place to another.
    pub(super) fn eta_s(self, from: Point, to: Point) -> u32 {
        // Half the globe at walking speed still fits; a cast from a float saturates anyway.
        (from.distance_m(to) * self.detour / self.speed_mps).round() as u32
    }
}

impl TravelTimes for GreatCircle {
    async fn to_pickup(&self, from: &[Point], to: Point) -> Vec<u32> {
        from.iter().map(|from| self.eta_s(*from, to)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kilometre_takes_about_three_minutes() {
        let from = Point::new(40.758, -73.9855);
        let to = Point::new(40.767, -73.9855);
        assert_eq!(GreatCircle::CITY.eta_s(from, to), 186);
        assert_eq!(GreatCircle::CITY.eta_s(from, from), 0);
    }
}
