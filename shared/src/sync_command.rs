//! What an operator can tell a region's replication to do.
//!
//! region-node takes a command from an operator and stores it with who gave it and why; the region's global-sync carries it
//! out, in the order they came, and stores what came of it beside it. The row is the audit.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{fact::FactStream, ids::RegionName};

/// One entry of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EntryPlace {
    /// The region that wrote it.
    #[schema(value_type = String)]
    pub origin: RegionName,
    /// Which life of that region, from 1.
    #[schema(minimum = 1)]
    pub incarnation: u64,
    /// Which of its logs.
    #[schema(value_type = String)]
    pub stream: FactStream,
    /// Its number, from 1.
    #[schema(minimum = 1)]
    pub seq: u64,
}

/// What entries of one kind pass between this region and one other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PeerStream {
    /// The other region.
    #[schema(value_type = String)]
    pub peer: RegionName,
    /// The kind of log.
    #[schema(value_type = String)]
    pub stream: FactStream,
}

/// A region of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedRegion {
    /// Its name.
    #[schema(value_type = String)]
    pub region: RegionName,
}

/// A fact of the region's own that was refused a number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RejectedFact {
    /// Its name.
    pub id: Uuid,
}

/// Where a snapshot comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotSource {
    /// The region that gives it.
    #[schema(value_type = String)]
    pub peer: RegionName,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SyncCommand {
    /// Try once more to apply an entry that is set aside.
    Retry(EntryPlace),
    /// Never apply an entry that is set aside: it stays in the log, and is shown as skipped.
    Skip(EntryPlace),
    /// Look once more at a fact that was refused a number, as after an upgrade: if it may leave now, it is numbered.
    Readmit(RejectedFact),
    /// Drop a fact that was refused a number, for good.
    Dismiss(RejectedFact),
    /// Let no entries pass, in either direction, until resumed. They still come by way of other regions.
    Pause(PeerStream),
    /// Let entries pass again.
    Resume(PeerStream),
    /// Forget the entries of another region's log from this one on and fetch them anew. What was applied stays.
    Refetch(EntryPlace),
    /// Load a snapshot of another region: what it has applied, of every log in which it is further.
    LoadSnapshot(SnapshotSource),
    /// Compare chain heads and derived rows with every connected region now.
    Compare,
    /// Look through all logs now for entries that are not what was stored.
    Verify,
    /// Begin to leave: no tenant gets this region as its home any more.
    Drain,
    /// Leave, once no tenant is at home here and every other region has all that this one wrote.
    Leave,
    /// Come back after leaving, as a new life of the region.
    Join,
    /// Say that another region is gone for good: nobody waits for it any more.
    Retire(NamedRegion),
}

impl SyncCommand {
    /// The entry it is about.
    pub fn entry(&self) -> Option<&EntryPlace> {
        match self {
            Self::Retry(entry) | Self::Skip(entry) | Self::Refetch(entry) => Some(entry),
            Self::Readmit(_)
            | Self::Dismiss(_)
            | Self::Pause(_)
            | Self::Resume(_)
            | Self::LoadSnapshot(_)
            | Self::Compare
            | Self::Verify
            | Self::Drain
            | Self::Leave
            | Self::Join
            | Self::Retire(_) => None,
        }
    }

    /// A stable name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Retry(_) => "retry",
            Self::Skip(_) => "skip",
            Self::Readmit(_) => "readmit",
            Self::Dismiss(_) => "dismiss",
            Self::Pause(_) => "pause",
            Self::Resume(_) => "resume",
            Self::Refetch(_) => "refetch",
            Self::LoadSnapshot(_) => "load_snapshot",
            Self::Compare => "compare",
            Self::Verify => "verify",
            Self::Drain => "drain",
            Self::Leave => "leave",
            Self::Join => "join",
            Self::Retire(_) => "retire",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_command_is_written_by_its_name() {
        let entry =
            EntryPlace { origin: "eu-west".parse().unwrap(), incarnation: 1, stream: FactStream::Ledger, seq: 17 };
        let written = json!({"skip": {"origin": "eu-west", "incarnation": 1, "stream": "ledger", "seq": 17}});
        assert_eq!(serde_json::to_value(SyncCommand::Skip(entry.clone())).unwrap(), written);
        assert_eq!(serde_json::from_value::<SyncCommand>(written).unwrap(), SyncCommand::Skip(entry));
        assert_eq!(serde_json::from_value::<SyncCommand>(json!("verify")).unwrap(), SyncCommand::Verify);
        assert!(serde_json::from_value::<SyncCommand>(json!({"skip": {"peer": "eu-west"}})).is_err());
    }
}
