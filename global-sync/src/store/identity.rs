//! Who this region is, who else is a member, and whose keys are known.

use std::collections::BTreeMap;

use shared::ids::RegionName;
use sqlx::PgConnection;

use super::{Fence, Store, StoreError, from_sql, hash, log_id, region_name, to_sql};
use crate::protocol::{KeyId, LogId, LogState, MemberState, Origin, Past};

/// A database that nobody has led for longer than this may have been put back from a backup meanwhile.
const LONGEST_RESTART_S: f64 = 10.0;
/// What is promised to whoever takes a home is of use to it for this long at most: until it was answered by all it asked, and has
/// waited for the old home's lease to run out. Who has forgotten its promises gives none for as long.
const PROMISES_LAST_S: f64 = 45.0;

/// Every region of the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Where each stands, by the directory, or by its own word where that says nothing yet.
    pub states: BTreeMap<RegionName, MemberState>,
    /// What each had of every log by its last word.
    pub acks: BTreeMap<RegionName, BTreeMap<LogId, u64>>,
    /// Who gave the snapshot that is loaded here and was not found to hold yet.
    pub unchecked: Option<RegionName>,
}

impl Membership {
    /// What another region lacks of these entries, by its last word; nobody waits for one that has retired.
    pub(super) fn lacking(&self, own: &RegionName, entries: &BTreeMap<LogId, LogState>) -> Option<String> {
        let others = self.states.iter().filter(|(region, state)| *region != own && **state != MemberState::Retired);
        others.map(|(region, _)| region).find_map(|region| {
            let stored = |log| self.acks.get(region).and_then(|logs| logs.get(log)).copied().unwrap_or_default();
            let lacks: u64 = entries.iter().map(|(log, state)| state.head.seq.saturating_sub(stored(log))).sum();
            (lacks > 0).then(|| format!("{region} has not stored {lacks} entries that are here"))
        })
    }
}

/// This region as its database knows it, at the start of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Region and incarnation.
    pub origin: Origin,
    /// Where it stands as a member.
    pub state: MemberState,
    /// What can be seen of what became of the database before.
    pub past: Past,
    /// The Postgres and its timeline.
    database: String,
}

impl Identity {
    /// Whether this is over: another incarnation has begun, another database has taken this one's place, or may have, since
    /// nobody has led the region for longer than a restart takes, or nobody had when another instance looked first.
    pub(super) async fn is_outlived(&self, connection: &mut PgConnection) -> Result<bool, StoreError> {
        let outlived = sqlx::query_scalar!(
            r#"SELECT incarnation <> $1 OR repl_database() <> $2 OR (doubted AND $3)
                   OR EXISTS (SELECT FROM repl_lease_expiry WHERE repl_was_unled(expires_at, $4)) AS "outlived!"
               FROM repl_self"#,
            to_sql(self.origin.incarnation)?,
            self.database,
            self.past == Past::Known,
            LONGEST_RESTART_S
        );
        Ok(outlived.fetch_one(connection).await?)
    }
}

impl Store {
    /// This region's identity; the first start writes it. A database of another region or mesh is an error, since its
    /// log would be continued under a wrong name.
    pub async fn identify(&self, cluster_id: &str, region: &RegionName) -> Result<Identity, StoreError> {
        sqlx::query!(
            "INSERT INTO repl_self (cluster_id, region, incarnation, database) VALUES ($1, $2, 1, repl_database())
             ON CONFLICT DO NOTHING",
            cluster_id,
            region.as_str()
        )
        .execute(&self.pool)
        .await?;
        // Whoever leads next is to doubt it too until it is settled, and whoever began before this is outlived until then.
        sqlx::query!(
            "WITH unled AS (UPDATE repl_lease_expiry SET expires_at = clock_timestamp()
                            WHERE repl_was_unled(expires_at, $1) RETURNING expires_at)
             UPDATE repl_self SET doubted = true, abstains_until = clock_timestamp() + make_interval(secs => $2) FROM unled",
            LONGEST_RESTART_S,
            PROMISES_LAST_S
        )
        .execute(&self.pool)
        .await?;
        let row = sqlx::query!(
            r#"SELECT cluster_id, region, incarnation, (SELECT state FROM regions WHERE name = $1) AS state,
                      doubted, database AS began_on, repl_database() AS "database!"
               FROM repl_self"#,
            region.as_str()
        )
        .fetch_one(&self.pool)
        .await?;
        if row.cluster_id != cluster_id || row.region != region.as_str() {
            return Err(StoreError::Damaged(format!(
                "this database belongs to region {} of cluster {}: point database.url at the one of {region}, {cluster_id}",
                row.region, row.cluster_id
            )));
        }
        let past = match (row.began_on == row.database, row.doubted) {
            (false, _) => Past::Copied,
            (true, true) => Past::Doubted,
            (true, false) => Past::Known,
        };
        let origin = Origin { region: region.clone(), incarnation: from_sql(row.incarnation) };
        let state = row.state.as_deref().and_then(MemberState::from_name).unwrap_or(MemberState::Joining);
        Ok(Identity { origin, state, past, database: row.database })
    }

    /// Whether what was promised and handed over here lately may be forgotten, since the database was put back or may have been:
    /// then this region has no voice in who takes a home, and hands none over.
    pub(crate) async fn abstains(&self) -> Result<bool, StoreError> {
        let abstains = sqlx::query_scalar!(
            r#"SELECT abstains_until > clock_timestamp() OR database <> repl_database()
                   OR EXISTS (SELECT FROM repl_lease_expiry WHERE repl_was_unled(expires_at, $1)) AS "abstains!"
               FROM repl_self"#,
            LONGEST_RESTART_S
        );
        Ok(abstains.fetch_one(&self.pool).await?)
    }

    /// Whether what an instance began with is over: then it has to start anew.
    pub async fn is_outlived(&self, identity: &Identity) -> Result<bool, StoreError> {
        identity.is_outlived(&mut *self.pool.acquire().await?).await
    }

    /// Starts a life after `after`, and ends the lease: whoever takes it next leads in that life. When not everybody could be
    /// asked, lives may have been that nobody here knows of, so it is named after the time: no two begin in a second. No life is
    /// begun for want of an answer that another instance has had meanwhile.
    pub async fn begin_incarnation(&self, fence: &Fence, after: u64, alone: bool) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        fence.end(&mut tx).await?;
        sqlx::query!(
            "UPDATE repl_self SET database = repl_database(), doubted = false, changed_at = now(),
                 abstains_until = clock_timestamp() + make_interval(secs => $3), incarnation = GREATEST(
                 incarnation + 1, $1::bigint + 1, CASE WHEN $2 THEN extract(epoch FROM clock_timestamp())::bigint ELSE 0 END)
             WHERE NOT $2 OR doubted OR database <> repl_database()",
            to_sql(after)?,
            alone,
            PROMISES_LAST_S
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Everybody was heard and knows nothing of this region that is not here: there is no doubt any more.
    pub async fn confirm_database(&self, fence: &Fence) -> Result<(), StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        sqlx::query!("UPDATE repl_self SET doubted = false WHERE doubted").execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// What a snapshot brought was found to be the same elsewhere.
    pub async fn confirm_snapshot(&self, fence: &Fence) -> Result<(), StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        sqlx::query!("UPDATE repl_self SET snapshot_of = NULL").execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Remembers a member.
    pub async fn save_member(
        &self,
        origin: &Origin,
        state: MemberState,
        features: u64,
        kinds: &[String],
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO repl_member (region, incarnation, state, features, kinds) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (region) DO UPDATE
             SET incarnation = EXCLUDED.incarnation, state = EXCLUDED.state, features = EXCLUDED.features,
                 kinds = EXCLUDED.kinds, last_seen = now()",
            origin.region.as_str(),
            to_sql(origin.incarnation)?,
            state.as_str(),
            i64::from_ne_bytes(features.to_ne_bytes()),
            kinds
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Regions that have been members and are not gone for good.
    pub async fn members(&self) -> Result<Vec<RegionName>, StoreError> {
        let rows = sqlx::query_scalar!(
            "SELECT region FROM repl_member JOIN repl_membership s USING (region) WHERE s.state <> 'retired' ORDER BY region"
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|region| region_name(region)).collect()
    }

    /// All regions that were ever heard of, and what they have.
    pub async fn membership(&self) -> Result<Membership, StoreError> {
        let unchecked = sqlx::query_scalar!("SELECT snapshot_of FROM repl_self").fetch_optional(&self.pool).await?;
        let unchecked = unchecked.flatten().as_deref().map(region_name).transpose()?;
        let mut membership = Membership { unchecked, ..Membership::default() };
        let states: Vec<(String, String)> =
            sqlx::query_as("SELECT region, state FROM repl_membership").fetch_all(&self.pool).await?;
        for (region, state) in states {
            let state = MemberState::from_name(&state).unwrap_or(MemberState::Active);
            membership.states.insert(region_name(&region)?, state);
        }
        let acks: Vec<(String, String, i64, String, i64)> =
            sqlx::query_as("SELECT peer, origin_region, origin_incarnation, stream, stored FROM repl_ack")
                .fetch_all(&self.pool)
                .await?;
        for (peer, region, incarnation, stream, stored) in acks {
            let log = log_id(&region, incarnation, &stream)?;
            membership.acks.entry(region_name(&peer)?).or_default().insert(log, from_sql(stored));
        }
        Ok(membership)
    }

    /// Where the directory says regions are reached.
    pub async fn directory(&self) -> Result<Vec<(RegionName, String)>, StoreError> {
        let rows = sqlx::query!("SELECT name, quic_addr FROM regions WHERE state <> 'retired' ORDER BY name")
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(|row| Ok((region_name(&row.name)?, row.quic_addr))).collect()
    }

    /// Certificates of signing keys seen so far.
    pub async fn certificates(&self) -> Result<Vec<(RegionName, KeyId, Vec<u8>)>, StoreError> {
        let rows = sqlx::query!("SELECT region, key_id, certificate FROM repl_origin_cert ORDER BY first_seen, key_id")
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(|row| Ok((region_name(&row.region)?, hash(&row.key_id)?, row.certificate))).collect()
    }

    /// Keeps the certificate of a signing key, to be passed on with what it signed.
    pub async fn save_certificate(
        &self,
        region: &RegionName,
        key_id: &KeyId,
        certificate: &[u8],
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO repl_origin_cert (key_id, region, certificate) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            key_id.as_slice(),
            region.as_str(),
            certificate
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
