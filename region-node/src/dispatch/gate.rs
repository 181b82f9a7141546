//! Who cannot be asked at all, and why.

use shared::tenant_config::DispatchPolicy;
use time::OffsetDateTime;

use super::reason::Reason;
use crate::drivers::{DocumentFault, Duty, Standing};

/// Why a driver of this standing, so far from the pick-up as the crow flies, cannot be asked.
pub(super) fn gate(
    standing: &Standing,
    distance_m: f64,
    vehicle_class: &str,
    rules: &DispatchPolicy,
    now: OffsetDateTime,
) -> Option<Reason> {
    if *standing.vehicle_class != *vehicle_class {
        return Some(Reason::WrongVehicleClass);
    }
    match standing.terms.document_fault(&rules.required_documents, now) {
        Some(DocumentFault::Missing(_)) => return Some(Reason::DocumentMissing),
        Some(DocumentFault::Expired(_)) => return Some(Reason::DocumentExpired),
        None => {}
    }
    match standing.duty.at(now) {
        Duty::OnTrip { .. } => return Some(Reason::Busy),
        Duty::Offered { .. } => return Some(Reason::HasOffer),
        Duty::Free => {}
    }
    if distance_m > f64::from(rules.radius_m) {
        return Some(Reason::TooFar);
    }
    let is_beyond = |own_m: u32| distance_m > f64::from(own_m);
    standing.terms.max_pickup_m.is_some_and(is_beyond).then_some(Reason::BeyondOwnLimit)
}

/// Whether a driver may be asked for a ride in such a vehicle.
pub fn may_be_asked(
    standing: &Standing,
    distance_m: f64,
    vehicle_class: &str,
    rules: &DispatchPolicy,
    now: OffsetDateTime,
) -> bool {
    gate(standing, distance_m, vehicle_class, rules, now).is_none()
}

/// Whether the way to the pick-up takes longer than the tenant allows.
pub(super) fn takes_too_long(eta_s: u32, rules: &DispatchPolicy) -> bool {
    rules.max_pickup_s.is_some_and(|most_s| eta_s > most_s)
}

#[cfg(test)]
mod tests {
    use time::{Duration, macros::datetime};

    use super::*;
    use crate::drivers::{Record, Terms};

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00:00 UTC);

    fn standing(terms: Terms) -> Standing {
        Standing {
            online: true,
            vehicle_class: "standard".into(),
            idle_since: None,
            duty: Duty::Free,
            terms,
            record: Record::NONE,
            as_of: NOW,
            duty_as_of: NOW,
        }
    }

    #[test]
    fn each_gate_has_its_reason() {
        let rules = DispatchPolicy { required_documents: ["licence".into()].into(), ..DispatchPolicy::default() };
        let with = |until, max_pickup_m| standing(Terms::new([("licence".to_owned(), until)].into(), max_pickup_m));
        let good = with(NOW + Duration::DAY, None);
        let reason = |standing: &Standing, distance_m| gate(standing, distance_m, "standard", &rules, NOW);
        assert_eq!(reason(&good, 100.0), None);
        assert_eq!(reason(&good, 5_001.0), Some(Reason::TooFar));
        assert_eq!(gate(&good, 100.0, "xl", &rules, NOW), Some(Reason::WrongVehicleClass));
        assert_eq!(reason(&standing(Terms::default()), 100.0), Some(Reason::DocumentMissing));
        assert_eq!(reason(&with(NOW, None), 100.0), Some(Reason::DocumentExpired));
        let homebody = with(NOW + Duration::DAY, Some(1_000));
        assert_eq!(reason(&homebody, 1_000.0), None);
        assert_eq!(reason(&homebody, 1_001.0), Some(Reason::BeyondOwnLimit));
        let asked = Standing { duty: Duty::Offered { until: NOW + Duration::SECOND }, ..good };
        assert_eq!(reason(&asked, 100.0), Some(Reason::HasOffer));
    }

    #[test]
    fn nobody_is_too_slow_unless_the_tenant_says_so() {
        assert!(!takes_too_long(u32::MAX, &DispatchPolicy::default()));
        let rules = DispatchPolicy { max_pickup_s: Some(600), ..DispatchPolicy::default() };
        assert!(!takes_too_long(600, &rules) && takes_too_long(601, &rules));
    }
}
