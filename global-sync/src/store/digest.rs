//! One short text that is equal in two regions exactly when they hold the same facts.

use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;

use super::{Store, StoreError};

impl Store {
    /// Covers every log by its head, which vouches for all before it, and what was derived from them: the ledger by its
    /// sums, drafts by their heads and content, all published versions of each tenant by one hash of them, where they run, homes,
    /// what whoever took them by force had heard of, and regions. Nothing in it depends on the order of arrival. Of each table
    /// only a hash leaves the database, and of the versions that were ever published none is read: the database keeps their hash
    /// as they change.
    pub async fn digest(&self) -> Result<String, StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut *tx).await?;
        let digest = read(&mut tx).await?;
        tx.rollback().await?;
        Ok(digest)
    }
}

async fn read(connection: &mut PgConnection) -> Result<String, StoreError> {
    let row = sqlx::query!(
        r#"SELECT
            (SELECT sha256(convert_to(string_agg(concat_ws(' ', origin_region, origin_incarnation, stream, stored,
                                                           encode(head_hash, 'hex')), E'\n'
                    ORDER BY origin_region COLLATE "C", origin_incarnation, stream COLLATE "C"), 'UTF8'))
             FROM repl_cursor WHERE stored > 0) AS logs,
            (SELECT sha256(convert_to(string_agg(concat_ws(' ', bucket, facts, encode(sum, 'hex')), E'\n'
                    ORDER BY bucket), 'UTF8'))
             FROM repl_ledger_digest) AS ledger,
            (SELECT sha256(convert_to(string_agg(concat_ws(' ', tenant_id, generation, array_to_string(heads, ' '),
                                                           md5(draft::text)), E'\n'
                    ORDER BY tenant_id COLLATE "C"), 'UTF8'))
             FROM tenant_documents) AS documents,
            (SELECT sha256(convert_to(string_agg(concat_ws(' ', tenant_id, encode(versions, 'hex')), E'\n'
                    ORDER BY tenant_id COLLATE "C"), 'UTF8'))
             FROM tenant_config_sums WHERE versions <> '') AS versions,
            (SELECT sha256(string_agg(config_rollout_hash(r), ''
                    ORDER BY tenant_id COLLATE "C", region COLLATE "C"))
             FROM tenant_config_rollouts r) AS rollouts,
            (SELECT sha256(convert_to(string_agg(concat_ws(' ', tenant_id, region, term, n, md5(name)), E'\n'
                    ORDER BY tenant_id COLLATE "C"), 'UTF8'))
             FROM tenant_homes) AS homes,
            (SELECT sha256(convert_to(string_agg(concat_ws(' ', tenant_id, term, takeover_rank(t)), E'\n'
                    ORDER BY tenant_id COLLATE "C", term), 'UTF8'))
             FROM home_takeovers t) AS takeovers,
            (SELECT sha256(convert_to(string_agg(concat_ws(' ', name, md5(base_url), md5(quic_addr),
                                                           md5(jwks::text), state, state_incarnation), E'\n'
                    ORDER BY name COLLATE "C"), 'UTF8'))
             FROM regions) AS regions"#
    )
    .fetch_one(connection)
    .await?;
    let mut digest = Sha256::new();
    let config = [row.documents, row.versions, row.rollouts];
    let directory = [row.homes, row.takeovers, row.regions];
    for part in [row.logs, row.ledger].into_iter().chain(config).chain(directory) {
        let part = part.unwrap_or_default();
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    Ok(hex::encode(digest.finalize()))
}

#[cfg(test)]
mod tests {
    use sqlx::PgPool;

    use super::*;

    #[sqlx::test(migrations = "../migrations")]
    async fn every_published_version_counts_and_none_is_read_for_the_digest_however_many_there_are(pool: PgPool) {
        let superuser = Store::beside(&pool, "postgres").pool;
        let publish = "INSERT INTO tenant_config_versions (tenant_id, version, config, published_at)
                       SELECT 'tenant-' || tenant, version, jsonb_build_object('version', version), now()
                       FROM generate_series(1, 20) tenant, generate_series(1, 1000) version";
        sqlx::query(publish).execute(&superuser).await.unwrap();
        let store = Store::beside(&pool, "gocomet_sync");
        let mut tx = store.pool.begin().await.unwrap();
        let before = read(&mut tx).await.unwrap();
        let reads = "SELECT (seq_tup_read + idx_tup_fetch)::bigint FROM pg_stat_xact_user_tables
                     WHERE relname = 'tenant_config_versions'";
        let reads: i64 = sqlx::query_scalar(reads).fetch_one(&mut *tx).await.unwrap();
        assert_eq!(reads, 0, "of 20,000");
        tx.rollback().await.unwrap();
        for change in [
            "UPDATE tenant_config_versions SET config = '{}' WHERE tenant_id = 'tenant-1' AND version = 1000",
            "UPDATE tenant_config_versions SET config = '{}' WHERE tenant_id = 'tenant-12' AND version = 1",
            "UPDATE tenant_config_versions SET home_term = 7 WHERE tenant_id = 'tenant-20' AND version = 500",
            "DELETE FROM tenant_config_versions WHERE tenant_id = 'tenant-3' AND version = 400",
            "INSERT INTO tenant_config_versions (tenant_id, version, config, published_at) VALUES ('tenant-4', 1001, '{}', now())",
        ] {
            let sound = store.digest().await.unwrap();
            sqlx::query(change).execute(&superuser).await.unwrap();
            assert_ne!(store.digest().await.unwrap(), sound, "{change}");
        }
        assert_ne!(store.digest().await.unwrap(), before);
        superuser.close().await;
        store.pool.close().await;
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn versions_and_rollouts_that_end_alike_have_one_digest_whatever_came_first_or_went_since(pool: PgPool) {
        let superuser = Store::beside(&pool, "postgres").pool;
        let store = Store::beside(&pool, "gocomet_sync");
        let version = "INSERT INTO tenant_config_versions (tenant_id, version, config, published_at)
                       VALUES ('cabs', $1, '{}', now())";
        let (empty, mut digests) = (store.digest().await.unwrap(), Vec::new());
        for order in [[1, 2, 3], [3, 1, 2]] {
            for number in order {
                sqlx::query(version).bind(number).execute(&superuser).await.unwrap();
            }
            digests.push(store.digest().await.unwrap());
            sqlx::query("DELETE FROM tenant_config_versions").execute(&superuser).await.unwrap();
            assert_eq!(store.digest().await.unwrap(), empty);
        }
        assert_eq!(digests[0], digests[1]);
        let decide =
            "INSERT INTO tenant_config_rollouts (tenant_id, region, number, home_term, home_n, stable, decided_at)
                      VALUES ('cabs', '', 1, 1, 0, 2, '2026-01-01Z')";
        sqlx::query(decide).execute(&superuser).await.unwrap();
        for change in [
            "UPDATE tenant_config_rollouts SET stable = 3",
            "UPDATE tenant_config_rollouts SET pinned = 1",
            "UPDATE tenant_config_rollouts SET canary_region = 'eu-west', canary_version = 3",
            "UPDATE tenant_config_rollouts SET region = 'eu-west'",
        ] {
            let before = store.digest().await.unwrap();
            sqlx::query(change).execute(&superuser).await.unwrap();
            assert_ne!(store.digest().await.unwrap(), before, "{change}");
        }
        superuser.close().await;
        store.pool.close().await;
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn two_who_publish_at_once_are_both_in_the_digest(pool: PgPool) {
        let superuser = Store::beside(&pool, "postgres").pool;
        let store = Store::beside(&pool, "gocomet_sync");
        let version = "INSERT INTO tenant_config_versions (tenant_id, version, config, published_at)
                       VALUES ('cabs', $1, '{}', now())";
        let mut first = superuser.begin().await.unwrap();
        sqlx::query(version).bind(1).execute(&mut *first).await.unwrap();
        let other = superuser.clone();
        let second = async move {
            sqlx::query(version).bind(2).execute(&other).await.unwrap();
        };
        let (_, ()) = tokio::join!(second, async {
            let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity
                                         WHERE datname = current_database() AND wait_event_type = 'Lock')";
            while !sqlx::query_scalar::<_, bool>(waits).fetch_one(&superuser).await.unwrap() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            first.commit().await.unwrap();
        });
        let both = store.digest().await.unwrap();
        sqlx::query("UPDATE tenant_config_versions SET published_at = now()").execute(&superuser).await.unwrap();
        assert_eq!(store.digest().await.unwrap(), both, "summed anew it is the same");
        superuser.close().await;
        store.pool.close().await;
    }
}
