//! One connection to a peer, as the core sees it.

use std::collections::{BTreeMap, BTreeSet};

use shared::ids::RegionName;

use super::{
    log::{KeyId, LogId, Millis, Origin},
    message::{Inspect, LogState},
};

/// What is known of a peer once it has said hello.
#[derive(Clone, Debug)]
pub(super) struct Greeting {
    pub(super) origin: Origin,
    pub(super) instance: u128,
    pub(super) features: u64,
}

/// A connection whose certificate named `region`.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) region: RegionName,
    /// Whether we opened it.
    pub(super) dialed: bool,
    pub(super) greeting: Option<Greeting>,
    /// What the peer has, by its last word; empty before its first advert.
    pub(super) logs: BTreeMap<LogId, LogState>,
    pub(super) adverted: bool,
    /// Whether the instance at the other end leads its region.
    pub(super) leading: bool,
    pub(super) heard_at: Millis,
    pub(super) subscriptions: BTreeMap<LogId, Subscription>,
    /// What we asked of its rows and it has not answered.
    pub(super) inspecting: BTreeSet<Inspect>,
    /// Answers being written for it.
    pub(super) answering: usize,
}

/// A pull of the peer's that we serve for as long as it has credit.
#[derive(Clone, Debug)]
pub(super) struct Subscription {
    pub(super) pull: u64,
    pub(super) next: u64,
    /// Bytes that may be sent; below zero after a group that had to be finished, and paid off by what is granted next.
    pub(super) credit: i64,
    pub(super) known_keys: Vec<KeyId>,
    /// Entries are being read and sent; at most once at a time.
    pub(super) serving: bool,
    /// After a read that found nothing: not before.
    pub(super) retry_at: Millis,
}

impl Session {
    pub(super) fn new(region: RegionName, dialed: bool, now: Millis) -> Self {
        Self {
            region,
            dialed,
            greeting: None,
            logs: BTreeMap::new(),
            adverted: false,
            leading: false,
            heard_at: now,
            subscriptions: BTreeMap::new(),
            inspecting: BTreeSet::new(),
            answering: 0,
        }
    }

    /// Whether the peer may be asked for things.
    pub(super) fn is_ready(&self) -> bool {
        self.greeting.is_some() && self.adverted
    }

    /// The last entry of a log the peer says it has.
    pub(super) fn stored(&self, log: &LogId) -> u64 {
        self.logs.get(log).map_or(0, |state| state.head.seq)
    }

    /// The last entry of a log the peer says it has dropped.
    pub(super) fn truncated(&self, log: &LogId) -> u64 {
        self.logs.get(log).map_or(0, |state| state.truncated)
    }

    /// Whether the peer can do something the first version cannot.
    pub(super) fn can(&self, feature: u64) -> bool {
        self.greeting.as_ref().is_some_and(|greeting| greeting.features & feature != 0)
    }
}
