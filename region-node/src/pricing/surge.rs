//! How scarcity raises prices.

use std::collections::{BTreeMap, BTreeSet};

use h3o::{CellIndex, LatLng, Resolution};
use serde::{Deserialize, Serialize};
use shared::{geo::Point, tenant_config::SurgePolicy};
use time::Duration;

/// A price multiplier in whole hundredths, 1.00 and up: 1.25 in JSON, 125 inside, so that no price is ever a float.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "f64", into = "f64")]
pub struct Surge(u32);

impl Surge {
    /// Prices as in the tariff.
    pub const NONE: Self = Self(100);

    /// `hundredths` / 100; never below 1.00.
    pub fn from_hundredths(hundredths: u32) -> Self {
        Self(hundredths.max(100))
    }

    /// 125 for 1.25.
    pub fn hundredths(self) -> u32 {
        self.0
    }
}

impl From<f64> for Surge {
    fn from(multiplier: f64) -> Self {
        // A float to integer cast saturates; not a number becomes 0.
        Self::from_hundredths((multiplier * 100.0).round() as u32)
    }
}

impl From<Surge> for f64 {
    fn from(surge: Surge) -> Self {
        f64::from(surge.0) / 100.0
    }
}

impl utoipa::PartialSchema for Surge {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::Number)
            .description(Some("What scarcity multiplies prices by, to the hundredth."))
            .minimum(Some(1.0))
            .examples([1.25])
            .into()
    }
}
impl utoipa::ToSchema for Surge {}

/// A vehicle class in a cell of the map: prices rise where such vehicles are scarce.
pub type SurgeKey = (String, CellIndex);

/// What is known of one key, smoothed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SurgeCell {
    /// Rides that look for a driver, or found none lately.
    pub demand: f64,
    /// Drivers who could take one.
    pub supply: f64,
    /// What follows, the cells around taken into account.
    pub multiplier: Surge,
}

/// What was counted of one key at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SurgeCount {
    pub demand: f64,
    pub supply: f64,
}

/// Less demand than this, left over from a while ago, is none.
const NO_DEMAND: f64 = 0.05;

/// The cell of a place, for prices: some 2.5 km across, so that a handful of streets does not count as a market of its own.
pub fn surge_cell(place: Point) -> CellIndex {
    surge_cell_of(LatLng::new(place.lat, place.lng).expect("a validated place is finite").to_cell(Resolution::Eight))
}

/// The same of a smaller cell, such as drivers are found by: a place is in the one that its smaller cells are in, so that those
/// who are counted by these need no geometry.
pub fn surge_cell_of(cell: CellIndex) -> CellIndex {
    cell.parent(Resolution::Seven).expect("the cells of drivers are smaller")
}

/// The multipliers after what was counted now, so long `since` those `before` were made: demand and supply follow what is
/// counted by half in each of the policy's half-lives, and a cell's neighbours count with it by their weight. While there is a
/// driver for each ride prices stay as they are; each further ride per driver raises them by the policy's step, up to its cap.
/// Only cells at or beside some demand are in it.
pub fn surge_map(
    policy: &SurgePolicy,
    before: &BTreeMap<SurgeKey, SurgeCell>,
    counts: &BTreeMap<SurgeKey, SurgeCount>,
    since: Duration,
) -> BTreeMap<SurgeKey, SurgeCell> {
    let half_life = Duration::seconds(policy.half_life_s.max(1).into());
    let kept = 0.5_f64.powf(since.max(Duration::ZERO) / half_life);
    let follow = |before: f64, now: f64| before * kept + now * (1.0 - kept);
    let smoothed = |key: &SurgeKey| {
        let count = counts.get(key).copied().unwrap_or_default();
        match before.get(key) {
            Some(known) => {
                SurgeCount { demand: follow(known.demand, count.demand), supply: follow(known.supply, count.supply) }
            }
            // Nothing was asked for here, so nobody noted how many could have come: those who are here now.
            None => SurgeCount { demand: follow(0.0, count.demand), supply: count.supply },
        }
    };
    let asked: BTreeSet<&SurgeKey> =
        before.keys().chain(counts.keys()).filter(|key| smoothed(key).demand >= NO_DEMAND).collect();
    let around = |(class, cell): &SurgeKey| -> Vec<SurgeKey> {
        cell.grid_disk::<Vec<_>>(1).into_iter().map(|cell| (class.clone(), cell)).collect()
    };
    let concerned: BTreeSet<SurgeKey> = asked.into_iter().flat_map(around).collect();
    let weight = f64::from(policy.neighbour_percent) / 100.0;
    let made = concerned.into_iter().map(|key| {
        let own = smoothed(&key);
        let mut market = own;
        for neighbour in around(&key).iter().filter(|neighbour| neighbour.1 != key.1) {
            let SurgeCount { demand, supply } = smoothed(neighbour);
            market.demand += weight * demand;
            market.supply += weight * supply;
        }
        let short = (market.demand - market.supply).max(0.0) / market.supply.max(1.0);
        let raised = Surge::from(1.0 + short * f64::from(policy.step_percent) / 100.0);
        let multiplier = raised.min(Surge::from(policy.cap));
        (key, SurgeCell { demand: own.demand, supply: own.supply, multiplier })
    });
    made.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HERE: Point = Point::new(40.758, -73.9855);
    const LONG: Duration = Duration::hours(1);

    fn policy() -> SurgePolicy {
        SurgePolicy { enabled: true, cap: 2.0, neighbour_percent: 0, ..SurgePolicy::default() }
    }

    fn key() -> SurgeKey {
        ("standard".into(), surge_cell(HERE))
    }

    fn counted(demand: f64, supply: f64) -> BTreeMap<SurgeKey, SurgeCount> {
        [(key(), SurgeCount { demand, supply })].into()
    }

    fn here(map: &BTreeMap<SurgeKey, SurgeCell>) -> u32 {
        map.get(&key()).map_or(100, |cell| cell.multiplier.hundredths())
    }

    #[test]
    fn surge_rises_with_scarcity_up_to_the_cap() {
        let at = |demand, supply| here(&surge_map(&policy(), &BTreeMap::new(), &counted(demand, supply), LONG));
        assert_eq!(
            [at(0.0, 0.0), at(4.0, 4.0), at(5.0, 4.0), at(8.0, 4.0), at(2.0, 0.0), at(60.0, 4.0)],
            [100, 100, 106, 125, 150, 200]
        );
    }

    #[test]
    fn prices_follow_scarcity_by_half_in_each_half_life_up_and_down() {
        let half_life = Duration::seconds(policy().half_life_s.into());
        let mut map = BTreeMap::new();
        let mut seen = Vec::new();
        for demand in [4.0, 4.0, 4.0, 0.0, 0.0] {
            map = surge_map(&policy(), &map, &counted(demand, 0.0), half_life);
            seen.push(here(&map));
        }
        // Demand 2, 3, 3.5, 1.75 and 0.875, and nobody to serve it.
        assert_eq!(seen, [150, 175, 188, 144, 122]);
        // However often it is computed in between.
        let quarter = surge_map(&policy(), &BTreeMap::new(), &counted(4.0, 0.0), half_life / 2);
        assert_eq!(here(&surge_map(&policy(), &quarter, &counted(4.0, 0.0), half_life / 2)), 150);
    }

    #[test]
    fn drivers_next_door_ease_and_riders_next_door_raise_prices() {
        let policy = SurgePolicy { neighbour_percent: 50, ..policy() };
        let next_door = key().1.grid_disk::<Vec<_>>(1).into_iter().find(|cell| *cell != key().1).unwrap();
        let with = |count| {
            let mut counts = counted(4.0, 1.0);
            counts.insert(("standard".into(), next_door), count);
            here(&surge_map(&policy, &BTreeMap::new(), &counts, LONG))
        };
        assert_eq!(with(SurgeCount::default()), 175);
        assert_eq!(with(SurgeCount { demand: 0.0, supply: 6.0 }), 100);
        assert_eq!(with(SurgeCount { demand: 2.0, supply: 0.0 }), 200);
        // And where nothing is asked for, beside the demand, prices are those of the neighbourhood.
        let map = surge_map(&policy, &BTreeMap::new(), &counted(8.0, 0.0), LONG);
        assert_eq!(map[&("standard".to_owned(), next_door)].multiplier, Surge::from(2.0));
    }

    #[test]
    fn one_class_of_vehicle_is_no_other() {
        let map = surge_map(&policy(), &BTreeMap::new(), &counted(4.0, 0.0), LONG);
        assert!(map.keys().all(|(class, _)| class == "standard"));
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let map = surge_map(&policy(), &BTreeMap::new(), &counted(4.0, 0.0), LONG);
        assert!(surge_map(&policy(), &map, &BTreeMap::new(), LONG).is_empty());
    }

    proptest! {
        #[test]
        fn no_count_ever_raises_a_price_past_the_cap_or_lowers_it(
            demand in 0.0..1e6_f64, supply in 0.0..1e6_f64, more in 0.0..1e3_f64, cap in 1.0..10.0_f64, seconds in 0..10_000_i64,
        ) {
            let policy = SurgePolicy { cap, neighbour_percent: 50, ..policy() };
            let at = |demand, supply| {
                here(&surge_map(&policy, &BTreeMap::new(), &counted(demand, supply), Duration::seconds(seconds)))
            };
            let multiplier = at(demand, supply);
            prop_assert!((100..=Surge::from(cap).hundredths()).contains(&multiplier));
            prop_assert!(at(demand + more, supply) >= multiplier);
            prop_assert!(at(demand, supply + more) <= multiplier);
        }
    }

    #[test]
    fn a_multiplier_is_a_plain_number_in_json() {
        let surge = Surge::from_hundredths(125);
        assert_eq!(serde_json::to_string(&surge).unwrap(), "1.25");
        assert_eq!(serde_json::from_str::<Surge>("1.25").unwrap(), surge);
        assert_eq!(serde_json::from_str::<Surge>("0.2").unwrap(), Surge::NONE);
    }
}
