//! Rooms. Every user has one, in which all their sockets on all nodes are; what concerns a ride goes to the rooms of its
//! rider and its driver, because each sees another side of it.

use std::fmt;

use shared::ids::{DriverId, RiderId, TenantId};

use crate::identity::{Caller, Subject};

/// Where somebody hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Rider(TenantId, RiderId),
    Driver(TenantId, DriverId),
}

impl Room {
    /// Where a caller hears; a back office has nobody's room.
    pub(super) fn of(caller: &Caller) -> Option<Self> {
        match &caller.subject {
            Subject::Rider(id) => Some(Self::Rider(caller.tenant().clone(), *id)),
            Subject::Driver(id) => Some(Self::Driver(caller.tenant().clone(), *id)),
            Subject::Client(_) => None,
        }
    }

    /// Which of `lanes` serves it; always the same one.
    pub(super) fn lane(&self, lanes: usize) -> usize {
        let id = match self {
            Self::Rider(_, id) => id.0,
            Self::Driver(_, id) => id.0,
        };
        // The last bits of an id are random.
        usize::from(id.as_bytes()[15]) % lanes
    }
}

/// The room's name.
impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rider(tenant, id) => write!(f, "t:{tenant}:rider:{id}"),
            Self::Driver(tenant, id) => write!(f, "t:{tenant}:driver:{id}"),
        }
    }
}
