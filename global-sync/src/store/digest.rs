//! One short text that is equal in two regions exactly when they hold the same facts.

use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;

use super::{Store, StoreError};

impl Store {
    /// Covers every log by its head, which vouches for all before it, and what was derived from them: the ledger by its
    /// sums, drafts by their heads and content, the newest published version of each tenant, where they run, homes, what whoever
    /// took them by force had heard of, and regions. Nothing in it depends on the order of arrival. Of each table only a hash
    /// leaves the database, and of the versions that were ever published no more is read than one a tenant: those before are in
    /// the logs, and compared one by one with those of other regions ([`Store::derived_rows`]).
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
            (WITH RECURSIVE newest AS (
                 (SELECT tenant_id, version, home_term, home_n, config_md5 FROM tenant_config_versions
                  ORDER BY tenant_id DESC, version DESC LIMIT 1)
                 UNION ALL
                 SELECT next.* FROM newest, LATERAL (
                     SELECT tenant_id, version, home_term, home_n, config_md5 FROM tenant_config_versions v
                     WHERE v.tenant_id < newest.tenant_id ORDER BY tenant_id DESC, version DESC LIMIT 1) next)
             SELECT sha256(convert_to(string_agg(concat_ws(' ', tenant_id, version, home_term, home_n, config_md5),
                                                 E'\n'
                    ORDER BY tenant_id COLLATE "C"), 'UTF8'))
             FROM newest) AS versions,
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
    async fn of_each_tenant_one_version_is_read_however_many_were_published(pool: PgPool) {
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
        assert_eq!(reads, 20, "of 20,000");
        tx.rollback().await.unwrap();
        for tenant in ["tenant-1", "tenant-12", "tenant-20"] {
            let sound = store.digest().await.unwrap();
            sqlx::query("UPDATE tenant_config_versions SET config = '{}' WHERE tenant_id = $1 AND version = 1000")
                .bind(tenant)
                .execute(&superuser)
                .await
                .unwrap();
            assert_ne!(store.digest().await.unwrap(), sound, "{tenant}");
        }
        assert_ne!(store.digest().await.unwrap(), before);
        superuser.close().await;
        store.pool.close().await;
    }
}
