//! Sightings as bytes, for Redis: small, versioned, and read with care, since another version may have written them.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, TryGetError};
use shared::{
    geo::Point,
    ids::{DriverId, RideId, RiderId, TenantId},
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    position::Position,
    record::Record,
    standing::{Duty, Standing},
    table::Sighting,
    terms::Terms,
};

const VERSION: u8 = 1;
/// Of a batch, which since then says from when on its positions were heard.
const BATCH_VERSION: u8 = 2;
/// Longer names of classes and of kinds of documents are not valid config.
const MAX_CLASS: usize = 30;
const NO_HEADING: f32 = -1.0;

const ONLINE: u8 = 1;
const HAS_POSITION: u8 = 2;
const IS_IDLE: u8 = 4;
const OFFERED: u8 = 8;
const ON_TRIP: u8 = 16;
const HAS_RECORD: u8 = 32;
const HAS_TERMS: u8 = 64;

/// What cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// Written by a version this one cannot read.
    #[error("version {0} is not understood here")]
    Version(u8),
    /// Ends too early.
    #[error("the message is cut short")]
    Short(#[from] TryGetError),
    /// Says something that cannot be.
    #[error("the message has a {0} that cannot be")]
    Nonsense(&'static str),
}

/// What one node tells the others about one tenant's drivers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Batch {
    /// Who tells.
    pub(super) node: Uuid,
    /// Whose drivers.
    pub(super) tenant: TenantId,
    /// All of it was heard after this.
    pub(super) since: OffsetDateTime,
    /// The drivers.
    pub(super) sightings: Vec<Sighting>,
}

impl Batch {
    /// As sent.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.sightings.len() * 100);
        out.put_u8(BATCH_VERSION);
        out.put_slice(self.node.as_bytes());
        put_text(&mut out, self.tenant.as_str());
        put_time(&mut out, self.since);
        for sighting in &self.sightings {
            put_sighting(&mut out, sighting);
        }
        out
    }

    /// As received.
    pub(super) fn decode(mut bytes: &[u8]) -> Result<Self, WireError> {
        check_version(&mut bytes, BATCH_VERSION)?;
        let node = take_uuid(&mut bytes)?;
        let tenant = take_text(&mut bytes, 40)?.parse().map_err(|_| WireError::Nonsense("tenant"))?;
        let since = take_time(&mut bytes)?;
        let mut sightings = Vec::new();
        while !bytes.is_empty() {
            sightings.push(take_sighting(&mut bytes)?);
        }
        Ok(Self { node, tenant, since, sightings })
    }
}

/// One sighting as stored under its key.
pub(super) fn encode(sighting: &Sighting) -> Vec<u8> {
    let mut out = Vec::with_capacity(100);
    out.put_u8(VERSION);
    put_sighting(&mut out, sighting);
    out
}

/// One sighting as read from its key.
pub(super) fn decode(mut bytes: &[u8]) -> Result<Sighting, WireError> {
    check_version(&mut bytes, VERSION)?;
    take_sighting(&mut bytes)
}

fn put_sighting(out: &mut Vec<u8>, sighting: &Sighting) {
    let Sighting { driver_id, standing, position } = sighting;
    let duty = match standing.duty {
        Duty::Free => 0,
        Duty::Offered { .. } => OFFERED,
        Duty::OnTrip { .. } => ON_TRIP,
    };
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let flags = flag(standing.online, ONLINE)
        | flag(position.is_some(), HAS_POSITION)
        | flag(standing.idle_since.is_some(), IS_IDLE)
        | flag(standing.record != Record::NONE, HAS_RECORD)
        | flag(standing.terms != Terms::default(), HAS_TERMS)
        | duty;
    out.put_slice(driver_id.0.as_bytes());
    out.put_u8(flags);
    put_text(out, &standing.vehicle_class);
    put_time(out, standing.as_of);
    put_time(out, standing.duty_as_of);
    if let Some(idle_since) = standing.idle_since {
        put_time(out, idle_since);
    }
    match standing.duty {
        Duty::Free => {}
        Duty::Offered { until } => put_time(out, until),
        Duty::OnTrip { ride_id, rider_id } => {
            out.put_slice(ride_id.0.as_bytes());
            out.put_slice(rider_id.0.as_bytes());
        }
    }
    if standing.record != Record::NONE {
        let Record { accepted, refused, earned, as_of } = standing.record;
        [accepted, refused, earned].into_iter().for_each(|sum| out.put_f64(sum));
        put_time(out, as_of);
    }
    if standing.terms != Terms::default() {
        put_terms(out, &standing.terms);
    }
    if let Some(position) = position {
        out.put_f64(position.point.lat);
        out.put_f64(position.point.lng);
        out.put_f32(position.heading.unwrap_or(NO_HEADING));
        put_time(out, position.recorded_at);
    }
}

fn take_sighting(bytes: &mut &[u8]) -> Result<Sighting, WireError> {
    let driver_id = DriverId(take_uuid(bytes)?);
    let flags = bytes.try_get_u8()?;
    let has = |flag: u8| flags & flag != 0;
    let vehicle_class = take_text(bytes, MAX_CLASS)?.into();
    let as_of = take_time(bytes)?;
    let duty_as_of = take_time(bytes)?;
    let idle_since = if has(IS_IDLE) { Some(take_time(bytes)?) } else { None };
    let duty = if has(OFFERED) {
        Duty::Offered { until: take_time(bytes)? }
    } else if has(ON_TRIP) {
        Duty::OnTrip { ride_id: RideId(take_uuid(bytes)?), rider_id: RiderId(take_uuid(bytes)?) }
    } else {
        Duty::Free
    };
    let record = match has(HAS_RECORD) {
        true => take_record(bytes)?,
        false => Record::NONE,
    };
    let terms = match has(HAS_TERMS) {
        true => take_terms(bytes)?,
        false => Terms::default(),
    };
    let position = if has(HAS_POSITION) {
        let point = Point::new(bytes.try_get_f64()?, bytes.try_get_f64()?);
        let heading = Some(bytes.try_get_f32()?).filter(|heading| *heading >= 0.0);
        if !point.is_valid() {
            return Err(WireError::Nonsense("place"));
        }
        Some(Position { point, heading, recorded_at: take_time(bytes)? })
    } else {
        None
    };
    let standing = Standing { online: has(ONLINE), vehicle_class, idle_since, duty, terms, record, as_of, duty_as_of };
    Ok(Sighting { driver_id, standing, position })
}

fn take_record(bytes: &mut &[u8]) -> Result<Record, WireError> {
    let mut sum = || match bytes.try_get_f64()? {
        sum if sum.is_finite() && sum >= 0.0 => Ok(sum),
        _ => Err(WireError::Nonsense("record")),
    };
    let (accepted, refused, earned) = (sum()?, sum()?, sum()?);
    Ok(Record { accepted, refused, earned, as_of: take_time(bytes)? })
}

/// The driver's limit, 0 for none, and the documents by kind.
fn put_terms(out: &mut Vec<u8>, terms: &Terms) {
    out.put_u32(terms.max_pickup_m.unwrap_or(0));
    let documents = terms.documents.as_deref();
    out.put_u8(documents.map_or(0, |documents| u8::try_from(documents.len()).expect("at most 10 kinds")));
    for (kind, until) in documents.into_iter().flatten() {
        put_text(out, kind);
        put_time(out, *until);
    }
}

fn take_terms(bytes: &mut &[u8]) -> Result<Terms, WireError> {
    let max_pickup_m = Some(bytes.try_get_u32()?).filter(|metres| *metres > 0);
    let mut documents = BTreeMap::new();
    for _ in 0..bytes.try_get_u8()? {
        let kind = take_text(bytes, MAX_CLASS)?.to_owned();
        documents.insert(kind, take_time(bytes)?);
    }
    Ok(Terms::new(documents, max_pickup_m))
}

fn check_version(bytes: &mut &[u8], understood: u8) -> Result<(), WireError> {
    match bytes.try_get_u8()? {
        version if version == understood => Ok(()),
        other => Err(WireError::Version(other)),
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.put_u8(u8::try_from(text.len()).expect("tenants and vehicle classes have at most 40 bytes"));
    out.put_slice(text.as_bytes());
}

fn take_text<'a>(bytes: &mut &'a [u8], longest: usize) -> Result<&'a str, WireError> {
    let length = usize::from(bytes.try_get_u8()?);
    if length > longest {
        return Err(WireError::Nonsense("name"));
    }
    let (text, rest) =
        bytes.split_at_checked(length).ok_or(TryGetError { requested: length, available: bytes.len() })?;
    *bytes = rest;
    std::str::from_utf8(text).map_err(|_| WireError::Nonsense("name"))
}

fn take_uuid(bytes: &mut &[u8]) -> Result<Uuid, WireError> {
    Ok(Uuid::from_u128(bytes.try_get_u128()?))
}

/// Microseconds since 1970.
fn put_time(out: &mut Vec<u8>, time: OffsetDateTime) {
    let micros = time.unix_timestamp_nanos() / 1_000;
    out.put_i64(i64::try_from(micros).expect("times on the clock are within 290,000 years of 1970"));
}

fn take_time(bytes: &mut &[u8]) -> Result<OffsetDateTime, WireError> {
    let nanos = i128::from(bytes.try_get_i64()?) * 1_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).map_err(|_| WireError::Nonsense("time"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::{Duration, macros::datetime};

    use super::*;

    const AT: OffsetDateTime = datetime!(2026-03-01 12:00:00.000123 UTC);

    fn sightings() -> Vec<Sighting> {
        let standing = |duty| Standing {
            online: true,
            vehicle_class: "standard".into(),
            idle_since: Some(AT - Duration::HOUR),
            duty,
            terms: Terms::default(),
            record: Record::NONE,
            as_of: AT,
            duty_as_of: AT - Duration::SECOND,
        };
        let position = Position { point: Point::new(40.758, -73.9855), heading: Some(271.5), recorded_at: AT };
        vec![
            Sighting { driver_id: DriverId::new(), standing: standing(Duty::Free), position: Some(position) },
            Sighting {
                driver_id: DriverId::new(),
                standing: Standing { online: false, idle_since: None, ..standing(Duty::Offered { until: AT }) },
                position: None,
            },
            Sighting {
                driver_id: DriverId::new(),
                standing: Standing {
                    terms: Terms::new([("licence".to_owned(), AT + Duration::DAY)].into(), Some(3_000)),
                    record: Record { accepted: 3.5, refused: 0.25, earned: 1_234.5, as_of: AT },
                    ..standing(Duty::OnTrip { ride_id: RideId::new(), rider_id: RiderId::new() })
                },
                position: Some(Position { heading: None, ..position }),
            },
        ]
    }

    #[test]
    fn what_was_sent_is_what_is_received() {
        let batch = Batch { node: Uuid::now_v7(), tenant: "cabs".parse().unwrap(), since: AT, sightings: sightings() };
        assert_eq!(Batch::decode(&batch.encode()).unwrap(), batch);
        for sighting in sightings() {
            assert_eq!(decode(&encode(&sighting)).unwrap(), sighting);
        }
    }

    #[test]
    fn another_version_is_refused() {
        assert!(matches!(decode(&[2, 0]), Err(WireError::Version(2))));
    }

    #[test]
    fn the_bytes_of_version_1_stay_what_they_are() {
        let sighting = Sighting {
            driver_id: DriverId(Uuid::from_u128(7)),
            standing: Standing {
                online: true,
                vehicle_class: "xl".into(),
                idle_since: None,
                duty: Duty::Free,
                terms: Terms::default(),
                record: Record::NONE,
                as_of: datetime!(1970-01-01 00:00:01 UTC),
                duty_as_of: datetime!(1970-01-01 00:00:03 UTC),
            },
            position: Some(Position {
                point: Point::new(1.0, 2.0),
                heading: None,
                recorded_at: datetime!(1970-01-01 00:00:02 UTC),
            }),
        };
        let golden = "0100000000000000000000000000000007\
                      0302786c00000000000f424000000000002dc6c03ff00000000000004000000000000000bf80000000000000001e8480";
        assert_eq!(hex::encode(encode(&sighting)), golden);
    }

    proptest! {
        #[test]
        fn no_bytes_can_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Batch::decode(&bytes);
            let _ = decode(&bytes);
        }

        #[test]
        fn a_message_cut_anywhere_is_refused_or_shorter(cut in 0..400_usize) {
            let whole = Batch { node: Uuid::nil(), tenant: "cabs".parse().unwrap(), since: AT, sightings: sightings() };
            let bytes = whole.encode();
            let cut = cut.min(bytes.len());
            if let Ok(part) = Batch::decode(&bytes[..cut]) {
                prop_assert!(part.sightings.len() <= whole.sightings.len());
            }
        }
    }
}
