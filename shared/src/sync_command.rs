//! What an operator can tell a region's replication to do.
//!
//! region-node takes a command from an operator and stores it with who gave it and why; the region's global-sync carries it
//! out, in the order they came, and stores what came of it beside it. The row is the audit.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    fact::FactStream,
    ids::{RegionName, TenantId},
};

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

/// A row that was made of the logs, by the key that differences between regions and damage are shown by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RowKey {
    /// A fact of the ledger, as `fact 0198f3…`.
    Fact(Uuid),
    /// A published version of a tenant's config, as `version porto-taxis 12`.
    Version {
        /// The tenant.
        tenant: TenantId,
        /// Its number.
        version: u64,
    },
    /// Where a tenant is at home, as `home porto-taxis`.
    Home(TenantId),
    /// What whoever took a tenant by force had heard of by then, as `takeover porto-taxis 2`.
    Takeover {
        /// The tenant.
        tenant: TenantId,
        /// The term that began.
        term: u64,
    },
    /// A tenant's draft, as `draft porto-taxis`.
    Draft(TenantId),
    /// Which version runs where, as `rollout porto-taxis` for all regions, `rollout porto-taxis eu-west` for one.
    Rollout {
        /// The tenant.
        tenant: TenantId,
        /// The region that decided for itself.
        region: Option<RegionName>,
    },
    /// An entry of the region directory, as `region eu-west`.
    Region(RegionName),
}

/// A text that names no row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must name a row, as \"fact 0198f3a2-…\", \"version porto-taxis 12\" or \"home porto-taxis\"")]
pub struct NoRowKey;

impl FromStr for RowKey {
    type Err = NoRowKey;

    fn from_str(text: &str) -> Result<Self, NoRowKey> {
        fn part<T: FromStr>(text: &str) -> Result<T, NoRowKey> {
            text.parse().map_err(|_| NoRowKey)
        }
        match *text.split(' ').collect::<Vec<_>>() {
            ["fact", id] => Ok(Self::Fact(part(id)?)),
            ["version", tenant, version] => Ok(Self::Version { tenant: part(tenant)?, version: part(version)? }),
            ["home", tenant] => Ok(Self::Home(part(tenant)?)),
            ["takeover", tenant, term] => Ok(Self::Takeover { tenant: part(tenant)?, term: part(term)? }),
            ["draft", tenant] => Ok(Self::Draft(part(tenant)?)),
            ["rollout", tenant] => Ok(Self::Rollout { tenant: part(tenant)?, region: None }),
            ["rollout", tenant, region] => Ok(Self::Rollout { tenant: part(tenant)?, region: Some(part(region)?) }),
            ["region", region] => Ok(Self::Region(part(region)?)),
            _ => Err(NoRowKey),
        }
    }
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fact(id) => write!(f, "fact {id}"),
            Self::Version { tenant, version } => write!(f, "version {tenant} {version}"),
            Self::Home(tenant) => write!(f, "home {tenant}"),
            Self::Takeover { tenant, term } => write!(f, "takeover {tenant} {term}"),
            Self::Draft(tenant) => write!(f, "draft {tenant}"),
            Self::Rollout { tenant, region: None } => write!(f, "rollout {tenant}"),
            Self::Rollout { tenant, region: Some(region) } => write!(f, "rollout {tenant} {region}"),
            Self::Region(region) => write!(f, "region {region}"),
        }
    }
}

impl TryFrom<String> for RowKey {
    type Error = NoRowKey;

    fn try_from(text: String) -> Result<Self, NoRowKey> {
        text.parse()
    }
}

impl From<RowKey> for String {
    fn from(key: RowKey) -> Self {
        key.to_string()
    }
}

/// A row to make anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DerivedRow {
    /// Its key, as differences and damage are shown by.
    #[schema(value_type = String)]
    pub key: RowKey,
}

/// A tenant that another region took from this one by force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LostTenant {
    /// The tenant.
    #[schema(value_type = String)]
    pub tenant: TenantId,
    /// Also where payments or refunds were given up here, whose money somebody has seen to.
    #[serde(default)]
    pub and_given_up: bool,
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
    /// Make a row anew of the entries it was made of, if they are here.
    Mend(DerivedRow),
    /// Make every row anew that is known to be damaged, or to differ from another region's.
    MendAll,
    /// Erase what a tenant left here that is at home in another region, once that has all its facts: then it can move here again.
    EraseLost(LostTenant),
    /// Begin to leave: no tenant gets this region as its home any more.
    Drain,
    /// Leave, once no tenant is at home here and every other region has all that this one wrote, and what it had of theirs.
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
            | Self::Mend(_)
            | Self::MendAll
            | Self::EraseLost(_)
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
            Self::Mend(_) => "mend",
            Self::MendAll => "mend_all",
            Self::EraseLost(_) => "erase_lost",
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

    #[test]
    fn a_row_is_named_as_differences_are_shown_and_nothing_else_names_one() {
        for key in [
            "fact 00000000-0000-0000-0000-000000000003",
            "version porto-taxis 12",
            "home porto-taxis",
            "takeover porto-taxis 2",
            "draft porto-taxis",
            "rollout porto-taxis",
            "rollout porto-taxis eu-west",
            "region eu-west",
        ] {
            assert_eq!(key.parse::<RowKey>().unwrap().to_string(), key);
        }
        for text in [
            "",
            "fact",
            "fact 7",
            "version porto-taxis",
            "version porto-taxis -1",
            "home P",
            "home a b",
            "takeover porto-taxis",
            "money 7",
        ] {
            assert_eq!(text.parse::<RowKey>(), Err(NoRowKey), "{text}");
        }
        let written = json!({"mend": {"key": "home porto-taxis"}});
        let command = serde_json::from_value::<SyncCommand>(written.clone()).unwrap();
        assert_eq!(serde_json::to_value(command).unwrap(), written);
    }
}
