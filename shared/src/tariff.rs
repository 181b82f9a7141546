//! What a ride costs, as a tenant publishes it.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize, Serializer};
use time::{OffsetDateTime, Time, Weekday};

use crate::{geo::Point, local_time, zone::Zone};

/// No single price in a tariff is larger, so that no fare can overflow.
pub const MAX_TARIFF_AMOUNT: i64 = 100_000_000;
/// The most night rules, and the most zone rules, of a tariff.
pub const MAX_RULES: usize = 20;
const NOT_AN_AMOUNT: &str = "must be 0 to 100000000 minor units";

/// What a ride costs; minor units of the tenant's currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Tariff {
    /// For getting in.
    pub base: i64,
    /// For each kilometre.
    pub per_km: i64,
    /// For each minute driven.
    pub per_minute: i64,
    /// For each minute waited, at the pick-up or paused on the way.
    pub waiting_per_minute: i64,
    /// Of a trip's waiting, the first minutes that cost nothing.
    pub free_waiting_minutes: u32,
    /// The least a ride costs, before extras, booking fee and tax.
    pub minimum: i64,
    /// Added to each ride; not subject to surge.
    pub booking_fee: i64,
    /// Tax on the whole but tolls, percent, to the thousandth.
    pub tax_percent: Percent,
    /// Whether the prices here contain the tax already; otherwise it is added.
    pub tax_included: bool,
    /// The tenant's share of a fare before tax and tolls, percent; null: as for the tenant.
    pub commission_percent: Option<u8>,
    /// The most a driver may declare for tolls at the end of a trip; 0: none.
    pub max_declared_tolls: i64,
    /// What costs more at which hours; where two overlap, the first counts.
    pub night: Vec<NightRule>,
    /// What begins or ends in a zone and costs more, or costs the same however long the way is.
    pub zones: Vec<ZoneRule>,
}

/// A percentage of 0 to 100 in whole thousandths: 8.875 in JSON, 8875 inside, so that no amount is ever made of a float.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "f64")]
pub struct Percent(u32);

impl Percent {
    /// All of it, in thousandths.
    pub const WHOLE: i64 = 100_000;

    /// `thousandths` / 1000 percent, at most 100.
    pub fn from_thousandths(thousandths: u32) -> Self {
        Self(thousandths.min(100_000))
    }

    /// 8875 for 8.875 %.
    pub fn thousandths(self) -> i64 {
        self.0.into()
    }
}

impl From<u8> for Percent {
    fn from(percent: u8) -> Self {
        Self::from_thousandths(u32::from(percent) * 1_000)
    }
}

impl TryFrom<f64> for Percent {
    type Error = &'static str;

    fn try_from(percent: f64) -> Result<Self, Self::Error> {
        let thousandths = percent * 1_000.0;
        let is_exact = (thousandths - thousandths.round()).abs() < 1e-6;
        if !(0.0..=100.0).contains(&percent) || !is_exact {
            return Err("must be 0 to 100 percent, to the thousandth");
        }
        Ok(Self(thousandths.round() as u32))
    }
}

impl Serialize for Percent {
    /// A whole number as one: earlier releases read no other.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 % 1_000 {
            0 => serializer.serialize_u32(self.0 / 1_000),
            _ => serializer.serialize_f64(f64::from(*self)),
        }
    }
}

impl From<Percent> for f64 {
    fn from(percent: Percent) -> Self {
        f64::from(percent.0) / 1_000.0
    }
}

impl fmt::Display for Percent {
    /// `8 %`, `8.875 %`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", f64::from(*self))
    }
}

impl utoipa::PartialSchema for Percent {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::Number)
            .minimum(Some(0.0))
            .maximum(Some(100.0))
            .examples([8.875])
            .into()
    }
}
impl utoipa::ToSchema for Percent {}

/// Hours at which a ride costs more, by the clocks of the tenant's time zone, at the time of pick-up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NightRule {
    /// From this time of day on, `HH:MM`.
    #[schema(value_type = String)]
    pub from: TimeOfDay,
    /// Until just before this one; at or before `from` it is the next day's.
    #[schema(value_type = String)]
    pub to: TimeOfDay,
    /// Days on which it begins; none named: every day.
    #[serde(default)]
    pub days: BTreeSet<Day>,
    /// Raises base, distance and time, or the flat fare, by so much, percent.
    #[serde(default)]
    pub raise_percent: u32,
    /// And adds this.
    #[serde(default)]
    pub extra: i64,
}

/// A time of day, to the minute: `22:30`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay(Time);

impl FromStr for TimeOfDay {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "must be a time of day, 00:00 to 23:59";
        let (hours, minutes) = text.split_once(':').ok_or(wrong)?;
        let two = |digits: &str| {
            let is_number = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_digit());
            if is_number { digits.parse::<u8>().ok() } else { None }
        };
        let time = two(hours).zip(two(minutes)).and_then(|(hours, minutes)| Time::from_hms(hours, minutes, 0).ok());
        time.map(Self).ok_or(wrong)
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> String {
        time.to_string()
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0.hour(), self.0.minute())
    }
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "they speak for themselves")]
pub enum Day {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

impl From<Weekday> for Day {
    fn from(day: Weekday) -> Self {
        match day {
            Weekday::Monday => Self::Monday,
            Weekday::Tuesday => Self::Tuesday,
            Weekday::Wednesday => Self::Wednesday,
            Weekday::Thursday => Self::Thursday,
            Weekday::Friday => Self::Friday,
            Weekday::Saturday => Self::Saturday,
            Weekday::Sunday => Self::Sunday,
        }
    }
}

/// What a ride costs because it begins or ends in a zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ZoneRule {
    /// One of the tenant's zones.
    pub zone: String,
    /// Which end of the ride is in it.
    pub at: ZoneEnd,
    /// What the amount is.
    pub kind: ZonePrice,
    /// Minor units.
    pub amount: i64,
    /// On the receipt; the zone's id if empty.
    #[serde(default)]
    pub name: String,
}

/// An end of a ride.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ZoneEnd {
    /// It begins in the zone.
    Pickup,
    /// It ends there.
    Dropoff,
    /// It begins or ends there, or both.
    Either,
}

/// What the amount of a zone rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ZonePrice {
    /// Added to the fare.
    Extra,
    /// In the place of base, distance, time, surge and minimum; of several the first counts.
    Flat,
    /// A toll: added, untaxed, and the driver's without commission.
    Toll,
}

impl Default for Tariff {
    fn default() -> Self {
        Self {
            base: 250,
            per_km: 120,
            per_minute: 35,
            waiting_per_minute: 35,
            free_waiting_minutes: 3,
            minimum: 600,
            booking_fee: 100,
            tax_percent: Percent::default(),
            tax_included: false,
            commission_percent: None,
            max_declared_tolls: 0,
            night: Vec::new(),
            zones: Vec::new(),
        }
    }
}

impl Tariff {
    /// The tariff as it holds for a ride that begins at `at`: of its rules those that apply.
    pub fn of_ride(&self, zones: &[Zone], pickup: Point, dropoff: Point, at: OffsetDateTime, time_zone: &str) -> Self {
        let ends = |rule: &ZoneRule| {
            let area = zones.iter().find(|zone| zone.id == rule.zone).map(|zone| &zone.area);
            area.is_some_and(|area| match rule.at {
                ZoneEnd::Pickup => area.holds(pickup),
                ZoneEnd::Dropoff => area.holds(dropoff),
                ZoneEnd::Either => area.holds(pickup) || area.holds(dropoff),
            })
        };
        Self {
            night: self.night_rule(at, time_zone).into_iter().cloned().collect(),
            zones: self.zones.iter().filter(|rule| ends(rule)).cloned().collect(),
            ..self.clone()
        }
    }

    /// The rule for a pick-up at `at`, if there is one.
    pub fn night_rule(&self, at: OffsetDateTime, time_zone: &str) -> Option<&NightRule> {
        // Nobody asks for the time where it does not matter.
        if self.night.is_empty() {
            return None;
        }
        let local = local_time::local(at, time_zone);
        self.night.iter().find(|rule| rule.holds(local.time(), local.weekday()))
    }

    /// What is wrong with it, by field; `zones` are the tenant's.
    pub fn faults(&self, zones: &[Zone]) -> Vec<(String, &'static str)> {
        let mut faults = Vec::new();
        let mut require = |ok: bool, field: String, message: &'static str| {
            if !ok {
                faults.push((field, message));
            }
        };
        let amounts = [
            ("base", self.base),
            ("per_km", self.per_km),
            ("per_minute", self.per_minute),
            ("waiting_per_minute", self.waiting_per_minute),
            ("minimum", self.minimum),
            ("booking_fee", self.booking_fee),
            ("max_declared_tolls", self.max_declared_tolls),
        ];
        for (field, amount) in amounts {
            require(is_amount(amount), field.into(), NOT_AN_AMOUNT);
        }
        require(self.free_waiting_minutes <= 60, "free_waiting_minutes".into(), "must be at most 60");
        let is_share = self.commission_percent.is_none_or(|percent| percent <= 100);
        require(is_share, "commission_percent".into(), "must be 0 to 100");
        require(self.night.len() <= MAX_RULES, "night".into(), "must be at most 20 rules");
        for (index, rule) in self.night.iter().enumerate() {
            let in_range = rule.raise_percent <= 300 && (rule.raise_percent > 0 || rule.extra > 0);
            require(in_range, format!("night[{index}].raise_percent"), "must be 1 to 300, or 0 with an extra");
            require(is_amount(rule.extra), format!("night[{index}].extra"), NOT_AN_AMOUNT);
        }
        require(self.zones.len() <= MAX_RULES, "zones".into(), "must be at most 20 rules");
        for (index, rule) in self.zones.iter().enumerate() {
            let is_known = zones.iter().any(|zone| zone.id == rule.zone);
            require(is_known, format!("zones[{index}].zone"), "must be the id of one of the zones");
            require(is_amount(rule.amount), format!("zones[{index}].amount"), NOT_AN_AMOUNT);
            let is_short = rule.name.chars().count() <= 40;
            require(is_short, format!("zones[{index}].name"), "must have at most 40 characters");
        }
        faults
    }
}

impl NightRule {
    /// Whether it holds at this time of this day.
    fn holds(&self, time: Time, day: Weekday) -> bool {
        let is_on = |day: Weekday| self.days.is_empty() || self.days.contains(&day.into());
        match self.from < self.to {
            true => self.from.0 <= time && time < self.to.0 && is_on(day),
            false => (time >= self.from.0 && is_on(day)) || (time < self.to.0 && is_on(day.previous())),
        }
    }
}

fn is_amount(amount: i64) -> bool {
    (0..=MAX_TARIFF_AMOUNT).contains(&amount)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::macros::datetime;

    use super::*;

    fn tariff(rules: serde_json::Value) -> Tariff {
        serde_json::from_value(rules).unwrap()
    }

    #[test]
    fn a_night_rule_holds_by_the_city_s_clocks_past_midnight_and_on_its_days() {
        let fridays =
            tariff(json!({"night": [{"from": "22:00", "to": "06:00", "days": ["friday"], "raise_percent": 25}]}));
        let holds = |at| fridays.night_rule(at, "America/New_York").is_some();
        // The 6th of March 2026 is a Friday; New York is five hours behind.
        assert!(!holds(datetime!(2026-03-07 02:59 UTC)));
        assert!(holds(datetime!(2026-03-07 03:00 UTC)) && holds(datetime!(2026-03-07 10:59 UTC)));
        assert!(!holds(datetime!(2026-03-07 11:00 UTC)) && !holds(datetime!(2026-03-08 04:00 UTC)));
        let noon = tariff(json!({"night": [{"from": "12:00", "to": "13:00", "extra": 50}]}));
        assert!(noon.night_rule(datetime!(2026-03-07 12:30 UTC), "UTC").is_some());
        assert!(noon.night_rule(datetime!(2026-03-07 13:00 UTC), "UTC").is_none());
    }

    #[test]
    fn a_ride_s_tariff_has_the_rules_that_apply_to_it_alone() {
        let zone = json!({"id": "jfk", "area": {"circle": {"center": {"lat": 40.64, "lng": -73.78}, "radius_m": 900}}});
        let zones: Vec<Zone> = vec![serde_json::from_value(zone).unwrap()];
        let rule = |at: &str| json!({"zone": "jfk", "at": at, "kind": "extra", "amount": 300});
        let tariff = tariff(json!({"zones": [rule("pickup"), rule("dropoff"), rule("either")],
            "night": [{"from": "20:00", "to": "06:00", "extra": 100}]}));
        let (airport, city) = (Point::new(40.64, -73.78), Point::new(40.75, -73.98));
        let of = |pickup, dropoff, at| {
            let tariff = tariff.of_ride(&zones, pickup, dropoff, at, "UTC");
            (tariff.zones.iter().map(|rule| rule.at).collect::<Vec<_>>(), tariff.night.len())
        };
        let (noon, night) = (datetime!(2026-03-07 12:00 UTC), datetime!(2026-03-07 23:00 UTC));
        assert_eq!(of(airport, city, noon), (vec![ZoneEnd::Pickup, ZoneEnd::Either], 0));
        assert_eq!(of(city, airport, night), (vec![ZoneEnd::Dropoff, ZoneEnd::Either], 1));
        assert_eq!(of(city, city, noon), (vec![], 0));
    }

    #[test]
    fn a_percentage_is_exact_to_the_thousandth() {
        let read = |text: &str| serde_json::from_str::<Percent>(text);
        assert_eq!(read("8.875").unwrap().thousandths(), 8_875);
        assert_eq!(read("8").unwrap(), Percent::from(8));
        assert_eq!((json!(Percent::from(8)), json!(Percent::from_thousandths(8_875))), (json!(8), json!(8.875)));
        assert_eq!(
            (read("8.875").unwrap().to_string(), Percent::from(8).to_string()),
            ("8.875 %".into(), "8 %".into())
        );
        for bad in ["-1", "100.001", "8.8755", "\"8\""] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_time_of_day_is_read_strictly() {
        assert_eq!("22:05".parse::<TimeOfDay>().unwrap().to_string(), "22:05");
        for bad in ["24:00", "7:00", "+7:00", "07:60", "0700", "07:00:00", ""] {
            assert!(bad.parse::<TimeOfDay>().is_err(), "{bad}");
        }
    }
}
