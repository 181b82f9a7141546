//! A fact is what a region tells all others: immutable once written, small, free of personal data.
//!
//! This module is the allow-list. What has no field here cannot leave a region: [`Fact::check`] refuses a body with
//! any other field before it is numbered. Reading ([`Fact::from_body`]) is lenient instead, since a newer region may
//! say more than this version knows; a kind it does not know at all is [`FactError::UnknownKind`] and waits.
//!
//! Nothing here knows about logs, numbers or signatures.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

/// The largest JSON body a fact may have; a config version with every label a tenant can dream of fits.
pub const MAX_BODY_BYTES: usize = 256 * 1024;

/// What an entry's body begins with: random bytes, so that nobody can guess a body from its hash.
pub const SALT_BYTES: usize = 16;

/// Which of an origin's three logs a fact belongs to. Each has numbers of its own, so that none delays another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FactStream {
    /// Regions and the homes of tenants.
    Control,
    /// Tenant config: edits of drafts and published versions.
    Config,
    /// Money that moved.
    Ledger,
}

impl FactStream {
    /// Every stream, in the order of their urgency.
    pub const ALL: [Self; 3] = [Self::Control, Self::Config, Self::Ledger];

    /// The name used in SQL, JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Config => "config",
            Self::Ledger => "ledger",
        }
    }

    /// The stream of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| stream.as_str() == name)
    }
}

impl fmt::Display for FactStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a region stands in its life as a member of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// Loading what others have; not everybody counts on it yet.
    Joining,
    /// A full member.
    Active,
    /// Leaving: it takes no new tenant and finishes sending what it has.
    Draining,
    /// Gone for good; its logs are complete.
    Retired,
}

impl MemberState {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 4] = [Self::Joining, Self::Active, Self::Draining, Self::Retired];

    /// The name used in SQL, on the wire and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Retired => "retired",
        }
    }

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// Where a region stands. It says so itself, except that any region may say, by an operator's command, that one that is gone
/// has retired. What is said of a later life overrules an earlier one; of one life, what comes later in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionState {
    /// The region.
    pub region: String,
    /// Which life of the region.
    pub incarnation: u64,
    /// Where it stands.
    pub state: MemberState,
}

/// A region says where it is reached and with which keys its tokens verify.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionAnnounced {
    /// The region, always the origin of the fact itself.
    pub region: String,
    /// Where clients and other edges reach it.
    pub base_url: String,
    /// Where its global-sync listens.
    pub quic_addr: String,
    /// The JWK set its tokens verify with.
    pub jwks: Value,
    /// Which life of the region this is.
    pub incarnation: u64,
}

/// A tenant exists and has a home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantCreated {
    /// The tenant's slug.
    pub tenant: String,
    /// What people call it.
    pub name: String,
    /// The region its riders and drivers live in.
    pub home_region: String,
    /// First half of the epoch: raised by a forced move.
    pub term: u64,
    /// Second half of the epoch: raised by a planned move.
    pub n: u64,
}

/// A tenant's home is another region from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantMoved {
    /// The tenant's slug.
    pub tenant: String,
    /// What people call it.
    pub name: String,
    /// The region its riders and drivers live in now.
    pub home_region: String,
    /// First half of the epoch that begins.
    pub term: u64,
    /// Second half of the epoch that begins.
    pub n: u64,
    /// What whoever took it by force had heard of by then; none where the home before has handed it over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<HeardLedger>,
}

/// How much of each region's ledger is stored somewhere: the last number, by region and incarnation. What is written in an
/// earlier term and lies beyond is late, in every region, whatever reaches it first.
pub type HeardLedger = BTreeMap<String, BTreeMap<u64, u64>>;

/// Somebody edited a tenant's draft.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigChanged {
    /// The tenant.
    pub tenant: String,
    /// Which generation of the document was edited.
    pub generation: u32,
    /// The automerge changes, see [`crate::tenant_document`].
    #[serde(with = "base64_list")]
    pub changes: Vec<Vec<u8>>,
}

/// The home region replaced a tenant's grown draft by one that says the same without its history: the next generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigCompacted {
    /// The tenant.
    pub tenant: String,
    /// The new generation.
    pub generation: u32,
    /// The heads of the generation before, which it takes up.
    pub base: Vec<String>,
    /// What the draft said there.
    pub draft: Value,
}

/// A region edits a generation of a tenant's draft from now on, and none before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigAdopted {
    /// The tenant.
    pub tenant: String,
    /// The generation.
    pub generation: u32,
}

/// The home region published a validated version of a tenant's config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigPublished {
    /// The tenant.
    pub tenant: String,
    /// Its number, counted by the home region.
    pub version: u64,
    /// The whole config, as validated.
    pub config: Value,
    /// When, by the home region's clock. Information, never an order.
    #[serde(with = "time::serde::rfc3339")]
    pub published_at: OffsetDateTime,
}

/// It was decided which published version runs where. A decision replaces the one before it whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigRollout {
    /// The tenant.
    pub tenant: String,
    /// The one region it is about, which is then its origin; none is about all, decided by the home region.
    pub region: Option<String>,
    /// Counts the decisions about this tenant and region.
    pub number: u64,
    /// Runs until it is unpinned, whatever is published.
    pub pinned: Option<u64>,
    /// Runs where nothing is pinned and no canary is; the newest, if none.
    pub stable: Option<u64>,
    /// The region that runs `canary_version` before the others do.
    pub canary_region: Option<String>,
    /// Runs in the canary region.
    pub canary_version: Option<u64>,
    /// When, by the deciding region's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub decided_at: OffsetDateTime,
}

/// Money moved: the part of a payment other regions learn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// Unique for ever; the same id with another body is an alarm.
    pub fact_id: Uuid,
    /// The payment it belongs to.
    pub payment_id: Uuid,
    /// The trip that was paid.
    pub trip_id: Uuid,
    /// The tenant.
    pub tenant: String,
    /// In the currency's minor unit; refunds are positive, their kind says the direction. Adjustments are signed.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
    /// When the money was asked for or given back, by the home region's clock: of the intent, so that whoever ends it, and
    /// however often after an old backup was restored, tells the same fact. Of a dispute's adjustment: when it was opened or decided,
    /// as the payment service dates it.
    #[serde(with = "time::serde::rfc3339")]
    pub settled_at: OffsetDateTime,
}

/// A driver was paid: the part of a payout other regions learn, so that its own region, taken back to an old backup, learns it
/// from them and does not pay again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayoutMade {
    /// Unique for ever; the same id with another body is an alarm.
    pub fact_id: Uuid,
    /// The payout.
    pub payout_id: Uuid,
    /// Who was paid.
    pub driver_id: Uuid,
    /// The tenant.
    pub tenant: String,
    /// In the currency's minor unit.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
    /// When, by the home region's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub paid_at: OffsetDateTime,
}

/// A rider's wallet moved: what its home's ledger posted to it, so that the home, taken back to an old backup, learns it from the
/// others, and nobody spends the same money twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalletMoved {
    /// Unique for ever; the same id with another body is an alarm.
    pub fact_id: Uuid,
    /// The entry of the ledger.
    pub entry_id: Uuid,
    /// The payment it is of, or whose refund; none of a credit.
    pub payment_id: Option<Uuid>,
    /// Whose wallet.
    pub rider_id: Uuid,
    /// The tenant.
    pub tenant: String,
    /// In the currency's minor unit; positive: there is more in it now.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
    /// When that was asked for, by the home region's clock; see [`LedgerEntry::settled_at`].
    #[serde(with = "time::serde::rfc3339")]
    pub moved_at: OffsetDateTime,
}

/// One fact, whatever its kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// `region.announced`
    RegionAnnounced(RegionAnnounced),
    /// `tenant.created`
    TenantCreated(TenantCreated),
    /// `tenant.moved`
    TenantMoved(TenantMoved),
    /// `config.changed`
    ConfigChanged(ConfigChanged),
    /// `config.compacted`
    ConfigCompacted(ConfigCompacted),
    /// `config.adopted`
    ConfigAdopted(ConfigAdopted),
    /// `config.published`
    ConfigPublished(ConfigPublished),
    /// `config.rollout`
    ConfigRollout(ConfigRollout),
    /// `settlement`
    Settlement(LedgerEntry),
    /// `refund`
    Refund(LedgerEntry),
    /// `adjustment`
    Adjustment(LedgerEntry),
    /// `payout`
    Payout(PayoutMade),
    /// `wallet`
    Wallet(WalletMoved),
    /// `region.state`
    RegionState(RegionState),
}

/// Why a body is no fact.
#[derive(Debug, thiserror::Error)]
pub enum FactError {
    /// Written by a newer version, perhaps.
    #[error("unknown kind of fact {0:?}")]
    UnknownKind(String),
    /// The body is not what its kind demands.
    #[error("malformed {kind}: {reason}")]
    Malformed {
        /// The kind it claims to be.
        kind: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A field that may not leave the region.
    #[error("a {kind} may not carry more than its listed fields")]
    NotAllowed {
        /// The kind it claims to be.
        kind: String,
    },
    /// The fact is in the wrong log.
    #[error("a {kind} does not belong to stream {stream}")]
    WrongStream {
        /// The kind it claims to be.
        kind: String,
        /// The stream it was put into.
        stream: FactStream,
    },
    /// More than [`MAX_BODY_BYTES`].
    #[error("a body of {0} bytes is too large for a fact")]
    TooLarge(usize),
}

impl Fact {
    /// Every kind this version understands.
    pub const KINDS: [&'static str; 14] = [
        "region.announced",
        "tenant.created",
        "tenant.moved",
        "config.changed",
        "config.compacted",
        "config.adopted",
        "config.published",
        "config.rollout",
        "settlement",
        "refund",
        "adjustment",
        "payout",
        "wallet",
        "region.state",
    ];

    /// The fact's kind, as it stands in outbox and envelope.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RegionAnnounced(_) => "region.announced",
            Self::TenantCreated(_) => "tenant.created",
            Self::TenantMoved(_) => "tenant.moved",
            Self::ConfigChanged(_) => "config.changed",
            Self::ConfigCompacted(_) => "config.compacted",
            Self::ConfigAdopted(_) => "config.adopted",
            Self::ConfigPublished(_) => "config.published",
            Self::ConfigRollout(_) => "config.rollout",
            Self::Settlement(_) => "settlement",
            Self::Refund(_) => "refund",
            Self::Adjustment(_) => "adjustment",
            Self::Payout(_) => "payout",
            Self::Wallet(_) => "wallet",
            Self::RegionState(_) => "region.state",
        }
    }

    /// The log the fact belongs to.
    pub fn stream(&self) -> FactStream {
        match self {
            Self::RegionAnnounced(_) | Self::RegionState(_) | Self::TenantCreated(_) | Self::TenantMoved(_) => {
                FactStream::Control
            }
            Self::ConfigChanged(_)
            | Self::ConfigCompacted(_)
            | Self::ConfigAdopted(_)
            | Self::ConfigPublished(_)
            | Self::ConfigRollout(_) => FactStream::Config,
            Self::Settlement(_) | Self::Refund(_) | Self::Adjustment(_) | Self::Payout(_) | Self::Wallet(_) => {
                FactStream::Ledger
            }
        }
    }

    /// The tenant it is about, if it is about one.
    pub fn tenant(&self) -> Option<&str> {
        match self {
            Self::RegionAnnounced(_) | Self::RegionState(_) => None,
            Self::TenantCreated(fact) => Some(&fact.tenant),
            Self::TenantMoved(fact) => Some(&fact.tenant),
            Self::ConfigChanged(fact) => Some(&fact.tenant),
            Self::ConfigCompacted(fact) => Some(&fact.tenant),
            Self::ConfigAdopted(fact) => Some(&fact.tenant),
            Self::ConfigPublished(fact) => Some(&fact.tenant),
            Self::ConfigRollout(fact) => Some(&fact.tenant),
            Self::Settlement(fact) | Self::Refund(fact) | Self::Adjustment(fact) => Some(&fact.tenant),
            Self::Payout(fact) => Some(&fact.tenant),
            Self::Wallet(fact) => Some(&fact.tenant),
        }
    }

    /// The JSON that goes into the outbox.
    pub fn to_body(&self) -> Vec<u8> {
        self.to_value().to_string().into_bytes()
    }

    /// Reads a body of a kind; fields this version does not know are ignored.
    pub fn from_body(kind: &str, body: &[u8]) -> Result<Self, FactError> {
        if body.len() > MAX_BODY_BYTES {
            return Err(FactError::TooLarge(body.len()));
        }
        fn read<T: DeserializeOwned>(kind: &str, body: &[u8]) -> Result<T, FactError> {
            serde_json::from_slice(body)
                .map_err(|error| FactError::Malformed { kind: kind.to_owned(), reason: error.to_string() })
        }
        Ok(match kind {
            "region.announced" => Self::RegionAnnounced(read(kind, body)?),
            "tenant.created" => Self::TenantCreated(read(kind, body)?),
            "tenant.moved" => Self::TenantMoved(read(kind, body)?),
            "config.changed" => Self::ConfigChanged(read(kind, body)?),
            "config.compacted" => Self::ConfigCompacted(read(kind, body)?),
            "config.adopted" => Self::ConfigAdopted(read(kind, body)?),
            "config.published" => Self::ConfigPublished(read(kind, body)?),
            "config.rollout" => Self::ConfigRollout(read(kind, body)?),
            "settlement" => Self::Settlement(read(kind, body)?),
            "refund" => Self::Refund(read(kind, body)?),
            "adjustment" => Self::Adjustment(read(kind, body)?),
            "payout" => Self::Payout(read(kind, body)?),
            "wallet" => Self::Wallet(read(kind, body)?),
            "region.state" => Self::RegionState(read(kind, body)?),
            unknown => return Err(FactError::UnknownKind(unknown.to_owned())),
        })
    }

    /// Reads a body that is about to leave this region: it must be in its stream and carry the listed fields only.
    pub fn check(stream: FactStream, kind: &str, body: &[u8]) -> Result<Self, FactError> {
        let fact = Self::from_body(kind, body)?;
        if fact.stream() != stream {
            return Err(FactError::WrongStream { kind: kind.to_owned(), stream });
        }
        let written: Value = serde_json::from_slice(body)
            .map_err(|error| FactError::Malformed { kind: kind.to_owned(), reason: error.to_string() })?;
        let (Value::Object(written), Value::Object(allowed)) = (&written, fact.to_value()) else {
            return Err(FactError::Malformed { kind: kind.to_owned(), reason: "not an object".to_owned() });
        };
        if written.keys().any(|field| !allowed.contains_key(field)) {
            return Err(FactError::NotAllowed { kind: kind.to_owned() });
        }
        fact.check_values().map_err(|reason| FactError::Malformed { kind: kind.to_owned(), reason })?;
        Ok(fact)
    }

    /// What no field's type says and no other region could store.
    fn check_values(&self) -> Result<(), String> {
        let stored = |number: u64| i64::try_from(number).map(|_| ()).map_err(|_| format!("{number} is too great"));
        match self {
            Self::RegionAnnounced(fact) => stored(fact.incarnation),
            Self::RegionState(fact) => stored(fact.incarnation),
            Self::TenantCreated(fact) => stored(fact.term).and_then(|()| stored(fact.n)),
            Self::TenantMoved(fact) => {
                let heard = fact.heard.iter().flat_map(BTreeMap::values).flatten();
                let heard = heard.flat_map(|(incarnation, seq)| [*incarnation, *seq]);
                [fact.term, fact.n].into_iter().chain(heard).try_for_each(stored)
            }
            Self::ConfigChanged(_) => Ok(()),
            Self::ConfigCompacted(ConfigCompacted { generation, .. })
            | Self::ConfigAdopted(ConfigAdopted { generation, .. }) => {
                i32::try_from(*generation).map(|_| ()).map_err(|_| format!("{generation} is too great"))
            }
            Self::ConfigPublished(fact) if fact.version == 0 => Err("versions count from 1".to_owned()),
            Self::ConfigPublished(fact) => stored(fact.version),
            Self::ConfigRollout(fact) if fact.canary_region.is_some() != fact.canary_version.is_some() => {
                Err("a canary is a region and a version".to_owned())
            }
            Self::ConfigRollout(fact) => [fact.pinned, fact.stable, fact.canary_version]
                .into_iter()
                .flatten()
                .chain([fact.number])
                .try_for_each(stored),
            Self::Settlement(LedgerEntry { currency, .. })
            | Self::Refund(LedgerEntry { currency, .. })
            | Self::Adjustment(LedgerEntry { currency, .. })
            | Self::Payout(PayoutMade { currency, .. })
            | Self::Wallet(WalletMoved { currency, .. }) => {
                let letters = currency.len() == 3 && currency.bytes().all(|byte| byte.is_ascii_uppercase());
                if letters { Ok(()) } else { Err(format!("{currency:?} is no currency")) }
            }
        }
    }

    fn to_value(&self) -> Value {
        match self {
            Self::RegionAnnounced(fact) => serde_json::to_value(fact),
            Self::TenantCreated(fact) => serde_json::to_value(fact),
            Self::TenantMoved(fact) => serde_json::to_value(fact),
            Self::ConfigChanged(fact) => serde_json::to_value(fact),
            Self::ConfigCompacted(fact) => serde_json::to_value(fact),
            Self::ConfigAdopted(fact) => serde_json::to_value(fact),
            Self::ConfigPublished(fact) => serde_json::to_value(fact),
            Self::ConfigRollout(fact) => serde_json::to_value(fact),
            Self::Settlement(fact) | Self::Refund(fact) | Self::Adjustment(fact) => serde_json::to_value(fact),
            Self::Payout(fact) => serde_json::to_value(fact),
            Self::Wallet(fact) => serde_json::to_value(fact),
            Self::RegionState(fact) => serde_json::to_value(fact),
        }
        .expect("facts are plain structs of strings, numbers and JSON")
    }
}

mod base64_list {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(list: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(|bytes| STANDARD.encode(bytes)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u8>>, D::Error> {
        let list = Vec::<String>::deserialize(deserializer)?;
        list.iter().map(|text| STANDARD.decode(text).map_err(D::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settlement() -> LedgerEntry {
        LedgerEntry {
            fact_id: Uuid::from_u128(1),
            payment_id: Uuid::from_u128(2),
            trip_id: Uuid::from_u128(3),
            tenant: "porto-taxis".to_owned(),
            amount: 1250,
            currency: "EUR".to_owned(),
            settled_at: OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap(),
        }
    }

    fn payout() -> PayoutMade {
        let LedgerEntry { fact_id, tenant, amount, currency, settled_at, .. } = settlement();
        let (payout_id, driver_id) = (Uuid::from_u128(4), Uuid::from_u128(5));
        PayoutMade { fact_id, payout_id, driver_id, tenant, amount, currency, paid_at: settled_at }
    }

    fn wallet() -> WalletMoved {
        let LedgerEntry { fact_id, tenant, amount, currency, settled_at, .. } = settlement();
        let (entry_id, rider_id) = (Uuid::from_u128(6), Uuid::from_u128(7));
        let payment_id = Some(Uuid::from_u128(2));
        WalletMoved { fact_id, entry_id, payment_id, rider_id, tenant, amount: -amount, currency, moved_at: settled_at }
    }

    fn one_of_each() -> Vec<Fact> {
        vec![
            Fact::RegionAnnounced(RegionAnnounced {
                region: "eu-west".to_owned(),
                base_url: "http://localhost:1".to_owned(),
                quic_addr: "127.0.0.1:2".to_owned(),
                jwks: serde_json::json!({"keys": []}),
                incarnation: 1,
            }),
            Fact::TenantCreated(TenantCreated {
                tenant: "porto-taxis".to_owned(),
                name: "Porto Taxis".to_owned(),
                home_region: "eu-west".to_owned(),
                term: 1,
                n: 0,
            }),
            Fact::TenantMoved(TenantMoved {
                tenant: "porto-taxis".to_owned(),
                name: "Porto Taxis".to_owned(),
                home_region: "us-east".to_owned(),
                term: 2,
                n: 0,
                heard: Some(BTreeMap::from([("eu-west".to_owned(), BTreeMap::from([(1, 70)]))])),
            }),
            Fact::ConfigChanged(ConfigChanged {
                tenant: "porto-taxis".to_owned(),
                generation: 0,
                changes: vec![vec![1, 2, 3]],
            }),
            Fact::ConfigCompacted(ConfigCompacted {
                tenant: "porto-taxis".to_owned(),
                generation: 1,
                base: vec!["00".repeat(32)],
                draft: serde_json::json!({"currency": "EUR"}),
            }),
            Fact::ConfigAdopted(ConfigAdopted { tenant: "porto-taxis".to_owned(), generation: 1 }),
            Fact::ConfigPublished(ConfigPublished {
                tenant: "porto-taxis".to_owned(),
                version: 3,
                config: serde_json::json!({"currency": "EUR"}),
                published_at: settlement().settled_at,
            }),
            Fact::ConfigRollout(ConfigRollout {
                tenant: "porto-taxis".to_owned(),
                region: None,
                number: 4,
                pinned: None,
                stable: Some(2),
                canary_region: Some("eu-west".to_owned()),
                canary_version: Some(3),
                decided_at: settlement().settled_at,
            }),
            Fact::Settlement(settlement()),
            Fact::Refund(settlement()),
            Fact::Adjustment(settlement()),
            Fact::Payout(payout()),
            Fact::Wallet(wallet()),
            Fact::RegionState(RegionState {
                region: "eu-west".to_owned(),
                incarnation: 1,
                state: MemberState::Draining,
            }),
        ]
    }

    #[test]
    fn every_kind_reads_back_what_it_wrote() {
        let facts = one_of_each();
        assert_eq!(facts.iter().map(Fact::kind).collect::<Vec<_>>(), Fact::KINDS);
        for fact in facts {
            let body = fact.to_body();
            assert_eq!(Fact::check(fact.stream(), fact.kind(), &body).unwrap(), fact);
            assert_eq!(Fact::from_body(fact.kind(), &body).unwrap(), fact);
        }
    }

    /// The fields that cross regions, spelled out: adding one must be a decision, taken here.
    #[test]
    fn only_the_listed_fields_leave_a_region() {
        let mut listed = String::new();
        for fact in one_of_each() {
            let Value::Object(fields) = fact.to_value() else { panic!("a fact is an object") };
            let mut fields: Vec<_> = fields.keys().map(String::as_str).collect();
            fields.sort_unstable();
            listed.push_str(&format!("{}: {}\n", fact.kind(), fields.join(" ")));
        }
        insta::assert_snapshot!(listed, @r"
        region.announced: base_url incarnation jwks quic_addr region
        tenant.created: home_region n name tenant term
        tenant.moved: heard home_region n name tenant term
        config.changed: changes generation tenant
        config.compacted: base draft generation tenant
        config.adopted: generation tenant
        config.published: config published_at tenant version
        config.rollout: canary_region canary_version decided_at number pinned region stable tenant
        settlement: amount currency fact_id payment_id settled_at tenant trip_id
        refund: amount currency fact_id payment_id settled_at tenant trip_id
        adjustment: amount currency fact_id payment_id settled_at tenant trip_id
        payout: amount currency driver_id fact_id paid_at payout_id tenant
        wallet: amount currency entry_id fact_id moved_at payment_id rider_id tenant
        region.state: incarnation region state
        ");
    }

    #[test]
    fn a_riders_name_cannot_leave_with_a_settlement() {
        let mut value = Fact::Settlement(settlement()).to_value();
        value["rider_name"] = "Maria".into();
        let body = value.to_string().into_bytes();
        assert!(matches!(Fact::check(FactStream::Ledger, "settlement", &body), Err(FactError::NotAllowed { .. })));
        assert!(Fact::from_body("settlement", &body).is_ok(), "a newer region may say more than we know");
    }

    #[test]
    fn values_no_region_could_store_do_not_leave() {
        let euro = Fact::Settlement(LedgerEntry { currency: "euro".to_owned(), ..settlement() });
        let Fact::ConfigPublished(published) = one_of_each().swap_remove(6) else { panic!("the seventh kind") };
        let unnumbered = Fact::ConfigPublished(ConfigPublished { version: 0, ..published.clone() });
        let beyond = Fact::ConfigPublished(ConfigPublished { version: u64::MAX, ..published });
        let Fact::ConfigRollout(rollout) = one_of_each().swap_remove(7) else { panic!("the eighth kind") };
        let nowhere = Fact::ConfigRollout(ConfigRollout { canary_region: None, ..rollout.clone() });
        let beyond_all = Fact::ConfigRollout(ConfigRollout { pinned: Some(u64::MAX), ..rollout });
        for fact in [euro, unnumbered, beyond, nowhere, beyond_all] {
            let refused = Fact::check(fact.stream(), fact.kind(), &fact.to_body());
            assert!(matches!(refused, Err(FactError::Malformed { .. })), "{fact:?}");
        }
    }

    #[test]
    fn kinds_of_the_future_and_wrong_streams_are_told_apart_from_nonsense() {
        assert!(matches!(Fact::from_body("tenant.merged", b"{}"), Err(FactError::UnknownKind(_))));
        assert!(matches!(Fact::from_body("settlement", b"{}"), Err(FactError::Malformed { .. })));
        let body = Fact::Settlement(settlement()).to_body();
        assert!(matches!(Fact::check(FactStream::Config, "settlement", &body), Err(FactError::WrongStream { .. })));
        let large = vec![b' '; MAX_BODY_BYTES + 1];
        assert!(matches!(Fact::from_body("settlement", &large), Err(FactError::TooLarge(_))));
    }
}
