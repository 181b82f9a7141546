//! Where a driver says to be, made sane: no place off the globe. [`super::device_clock`] sees to it that no time is from the
//! future.

use std::fmt;

use garde::Validate;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use shared::geo::Point;
use time::{Duration, OffsetDateTime};

/// The most positions one message may carry.
pub const MAX_POSITIONS: usize = 100;

/// A driver's place at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    /// Where.
    pub point: Point,
    /// Course over ground, degrees clockwise from north.
    pub heading: Option<f32>,
    /// When the device was there; in the live table never later than when it was received.
    pub recorded_at: OffsetDateTime,
}

/// One position as a device sends it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, Validate, utoipa::ToSchema)]
pub struct PositionInput {
    /// Degrees north.
    #[garde(range(min = -90.0, max = 90.0))]
    pub lat: f64,
    /// Degrees east.
    #[garde(range(min = -180.0, max = 180.0))]
    pub lng: f64,
    /// Course over ground, degrees clockwise from north.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(inner(range(min = 0.0, max = 360.0)))]
    pub heading: Option<f32>,
    /// Metres per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(inner(range(min = 0.0, max = 150.0)))]
    pub speed: Option<f32>,
    /// Radius in metres the device is sure of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(inner(range(min = 0.0, max = 100_000.0)))]
    pub accuracy: Option<f32>,
    /// When the device was there; now if missing.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[garde(skip)]
    pub recorded_at: Option<OffsetDateTime>,
}

/// One position, or an array of 1 to 100 of them.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum PositionsInput {
    /// Several, oldest first or not.
    Many(Vec<PositionInput>),
    /// One.
    One(PositionInput),
}

// By hand, because `untagged` would buffer and reread each message of the busiest path there is, and name no field.
impl<'de> Deserialize<'de> for PositionsInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = PositionsInput;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a position or an array of positions")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                PositionInput::deserialize(MapAccessDeserializer::new(map)).map(PositionsInput::One)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut positions = Vec::new();
                while let Some(position) = seq.next_element()? {
                    positions.push(position);
                }
                Ok(PositionsInput::Many(positions))
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
}

impl Validate for PositionsInput {
    type Context = ();

    fn validate_into(&self, (): &(), mut parent: &mut dyn FnMut() -> garde::Path, report: &mut garde::Report) {
        match self {
            Self::One(position) => position.validate_into(&(), &mut parent, report),
            Self::Many(positions) if (1..=MAX_POSITIONS).contains(&positions.len()) => {
                for (index, position) in positions.iter().enumerate() {
                    let mut path = || parent().join(index);
                    position.validate_into(&(), &mut path, report);
                }
            }
            Self::Many(positions) => {
                let message = format!("must have 1 to {MAX_POSITIONS} positions, not {}", positions.len());
                report.append(parent(), garde::Error::new(message));
            }
        }
    }
}

impl PositionsInput {
    /// The positions, oldest first, by the device's clock. One without a time is of `now`; several of them keep their order
    /// a microsecond apart.
    pub fn received_at(self, now: OffsetDateTime) -> Vec<Position> {
        let inputs = match self {
            Self::One(position) => vec![position],
            Self::Many(positions) => positions,
        };
        let last = inputs.len();
        let place = |(index, input): (usize, PositionInput)| {
            let behind = Duration::microseconds(i64::try_from(last - index - 1).expect("at most 100 positions"));
            Position {
                point: Point::new(input.lat, input.lng),
                heading: input.heading,
                recorded_at: input.recorded_at.unwrap_or(now - behind),
            }
        };
        let mut positions: Vec<_> = inputs.into_iter().enumerate().map(place).collect();
        positions.sort_by_key(|position| position.recorded_at);
        positions
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00:00 UTC);

    fn input(json: serde_json::Value) -> PositionsInput {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn positions_are_ordered_by_time_and_those_without_one_are_of_now() {
        let positions = input(serde_json::json!([
            {"lat": 3.0, "lng": 2.0},
            {"lat": 4.0, "lng": 2.0},
            {"lat": 1.0, "lng": 2.0, "recorded_at": "2026-03-01T11:59:00Z"},
        ]))
        .received_at(NOW);
        let lats: Vec<_> = positions.iter().map(|position| position.point.lat).collect();
        assert_eq!(lats, [1.0, 3.0, 4.0]);
        assert!(positions[1].recorded_at < positions[2].recorded_at);
    }

    #[test]
    fn every_bad_item_is_named_by_its_index() {
        let report = input(serde_json::json!([{"lat": 1.0, "lng": 2.0}, {"lat": 91.0, "lng": -181.0}])).validate();
        let fields: Vec<_> = report.unwrap_err().iter().map(|(path, _)| path.to_string()).collect();
        assert_eq!(fields, ["[1].lat", "[1].lng"]);
        assert!(input(serde_json::json!([])).validate().is_err());
        let many = vec![serde_json::json!({"lat": 1.0, "lng": 2.0}); 101];
        assert!(input(many.into()).validate().is_err());
        assert!(input(serde_json::json!({"lat": 1.0, "lng": 2.0})).validate().is_ok());
    }
}
