//! The names of rooms. Every user has one, in which all their sockets on all nodes are; what concerns a ride goes to the
//! rooms of its rider and its driver, because each sees another side of it.

use shared::ids::{DriverId, RiderId, TenantId};

use crate::identity::{Caller, Subject};

/// Where a rider hears.
pub(super) fn rider(tenant: &TenantId, id: RiderId) -> String {
    format!("t:{tenant}:rider:{id}")
}

/// Where a driver hears.
pub(super) fn driver(tenant: &TenantId, id: DriverId) -> String {
    format!("t:{tenant}:driver:{id}")
}

/// Where a caller hears; a back office has nobody's room.
pub(super) fn of(caller: &Caller) -> Option<String> {
    match &caller.subject {
        Subject::Rider(id) => Some(rider(caller.tenant(), *id)),
        Subject::Driver(id) => Some(driver(caller.tenant(), *id)),
        Subject::Client(_) => None,
    }
}
