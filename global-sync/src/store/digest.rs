//! One short text that is equal in two regions exactly when they hold the same facts.

use sha2::{Digest as _, Sha256};

use super::{Store, StoreError};

impl Store {
    /// Covers every log by its head, which vouches for all before it, and what was derived from them: the ledger by its
    /// sums, drafts by their heads and content, published versions, where they run, homes and regions. Nothing in it
    /// depends on the order of arrival. Of each table only a hash leaves the database.
    pub async fn digest(&self) -> Result<String, StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut *tx).await?;
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
                (SELECT sha256(convert_to(string_agg(concat_ws(' ', tenant_id, version, home_term, home_n, config_md5),
                                                     E'\n'
                        ORDER BY tenant_id COLLATE "C", version), 'UTF8'))
                 FROM tenant_config_versions) AS versions,
                (SELECT sha256(string_agg(config_rollout_hash(r), ''
                        ORDER BY tenant_id COLLATE "C", region COLLATE "C"))
                 FROM tenant_config_rollouts r) AS rollouts,
                (SELECT sha256(convert_to(string_agg(concat_ws(' ', tenant_id, region, term, n, md5(name)), E'\n'
                        ORDER BY tenant_id COLLATE "C"), 'UTF8'))
                 FROM tenant_homes) AS homes,
                (SELECT sha256(convert_to(string_agg(concat_ws(' ', name, md5(base_url), md5(quic_addr),
                                                               md5(jwks::text), state, state_incarnation), E'\n'
                        ORDER BY name COLLATE "C"), 'UTF8'))
                 FROM regions) AS regions"#
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.rollback().await?;
        let mut digest = Sha256::new();
        for part in [row.logs, row.ledger, row.documents, row.versions, row.rollouts, row.homes, row.regions] {
            let part = part.unwrap_or_default();
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        Ok(hex::encode(digest.finalize()))
    }
}
