//! Looks, now and again, whether what is stored is still what was written, and names what is not.

use std::time::Duration;

use super::tasks::Leader;
use crate::{
    once::Once,
    store::{Damage, Damaged, Fence, Store, StoreError},
    transport::KeyRing,
};

/// Compares the ledger's sums with its rows, at once and then now and again.
pub(super) async fn check_ledger(mut leader: Leader, every: Duration) {
    while let Some(fence) = leader.lead().await {
        match leader.store.check_ledger(&fence).await {
            Ok(buckets) if buckets.is_empty() => {}
            Ok(buckets) => {
                metrics::counter!("global_sync_ledger_damaged_total").increment(buckets.len() as u64);
                tracing::error!(
                    ?buckets,
                    "rows of ledger_facts are not what was put there: the digest shows what is there now"
                );
            }
            Err(error) => {
                if leader.after(fence, "the ledger is not checked", &error).await {
                    continue;
                }
                return;
            }
        }
        if !leader.pause(every).await {
            return;
        }
    }
}

/// Entries of a log looked at before others get their turn at the database.
const LOOKED_AT: i64 = 2_000;
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// Looks through every log for entries that are not what was stored, once round, then again after a while. `ring` holds the
/// keys that are known already.
pub(super) async fn check_logs(mut leader: Leader, ring: KeyRing, every: Duration) {
    let once = Once::default();
    while let Some(fence) = leader.lead().await {
        let looked = match look_through_logs(&mut leader, fence, ring.clone(), &once).await {
            Ok(Some(found)) => leader.store.save_damage(&fence, &found).await.map(|()| true),
            Ok(None) => Ok(false),
            Err(error) => Err(error),
        };
        match looked {
            Ok(true) => {
                metrics::counter!("global_sync_log_checks_total").increment(1);
                leader.pause_leading(fence, every).await;
            }
            Ok(false) => {}
            Err(error) => {
                leader.after(fence, "the logs are not checked", &error).await;
            }
        }
        if leader.stop.is_cancelled() {
            return;
        }
    }
}

/// What of all logs is damaged, of the certificates of keys that signed them, and of drafts; none if the lease was lost or the end came
/// before all were looked at.
pub(super) async fn look_through_logs(
    leader: &mut Leader,
    fence: Fence,
    mut ring: KeyRing,
    once: &Once,
) -> Result<Option<Damaged>, StoreError> {
    let mut found = Damaged::default();
    for named in look_at_certificates(&leader.store, &mut ring).await? {
        if once.is_new(&named) {
            tracing::error!("{named}");
        }
        found.add(named, None);
    }
    let cluster_id = ring.cluster_id().to_owned();
    for log in leader.store.logs().await?.into_keys() {
        let mut from = Some(1);
        while let Some(at) = from {
            if !leader.pause_leading(fence, BETWEEN_LOOKS).await {
                return Ok(None);
            }
            let looked = leader.store.verify_log(&cluster_id, &log, at, LOOKED_AT, &mut ring).await?;
            for Damage { log, seq, what, row } in looked.damage {
                let named = format!("entry {seq} of {log} is damaged: {what}");
                if once.is_new(&named) {
                    tracing::error!(%log, seq, "{named}");
                }
                found.add(format!("{log}/{seq}: {what}"), row);
            }
            from = looked.next;
        }
    }
    let mut after = Some(String::new());
    while let Some(tenant) = after {
        if !leader.pause_leading(fence, BETWEEN_LOOKS).await {
            return Ok(None);
        }
        let (damaged, next) = leader.store.damaged_drafts(&tenant).await?;
        for (tenant, what) in damaged {
            let named = format!("draft {tenant} is damaged: {what}");
            if once.is_new(&named) {
                tracing::error!(tenant, "{named}");
            }
            found.add(format!("draft {tenant}: {what}"), None);
        }
        after = next;
    }
    Ok(Some(found))
}

/// The certificates that are not what was stored, each by its key, and what is wrong with it; `ring` recalls the others.
async fn look_at_certificates(store: &Store, ring: &mut KeyRing) -> Result<Vec<String>, StoreError> {
    let certificates = store.certificates().await?.into_iter();
    let damaged = certificates.filter_map(|(region, key_id, certificate)| {
        let error = ring.recall(&region, &key_id, &certificate).err()?;
        let key = hex::encode(key_id);
        Some(format!("the certificate of key {key} of {region} is damaged: {error}"))
    });
    Ok(damaged.collect())
}

#[cfg(test)]
mod tests {
    use shared::{
        fact::FactStream,
        tenant_document::{DocumentActor, TenantDocument},
    };
    use sqlx::PgPool;

    use super::*;
    use crate::{
        node::tasks::tests::leading,
        protocol::Head,
        store::{
            Signer as _,
            tests::{CLUSTER, Home, batch, edited, log, settlement},
        },
        transport::tests::Authority,
    };

    /// Flips the eighth bit of a column of every row; done twice it is undone.
    async fn flip(us: &Home, table: &str, column: &str) {
        let sql = match column {
            "region" => format!("UPDATE {table} SET region = translate(region, 'ef', 'fe')"),
            _ => format!("UPDATE {table} SET {column} = set_bit({column}, 7, 1 - get_bit({column}, 7))"),
        };
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&us.superuser).await.unwrap();
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn a_bit_that_flips_in_a_signature_or_a_certificate_is_found_where_it_lies(pool: PgPool) {
        let us = Home::new(&pool, "us-east").await;
        let (signer, roots) = Authority::new().signing_key(CLUSTER, "us-east");
        us.store.save_certificate(&us.origin.region, &signer.key_id(), signer.certificate()).await.unwrap();
        for n in 1..=3 {
            us.commit(&settlement(n)).await;
            us.store.number(&us.fence, CLUSTER, &us.origin, &signer).await.unwrap();
        }
        let (mut leader, _hold) = leading(&us);
        let ring = KeyRing::new(roots, CLUSTER);
        let mut found = async |us: &Home| {
            let found = look_through_logs(&mut leader, us.fence, ring.clone(), &Once::default()).await.unwrap();
            let mut recalled = ring.clone();
            let certificates = look_at_certificates(&us.store, &mut recalled).await.unwrap();
            let ledger = log("us-east", FactStream::Ledger);
            let looked = us.store.verify_log(CLUSTER, &ledger, 1, 100, &mut recalled).await.unwrap();
            let entries: Vec<u64> = looked.damage.iter().map(|damage| damage.seq).collect();
            assert_eq!(found.map(|found| found.entries), Some((certificates.len() + entries.len()) as u64));
            (certificates, entries)
        };
        assert_eq!(found(&us).await, (vec![], vec![]));
        for column in ["signature", "key_id"] {
            flip(&us, "repl_checkpoint", column).await;
            assert_eq!(found(&us).await, (vec![], vec![1, 2, 3]), "{column}");
            flip(&us, "repl_checkpoint", column).await;
        }
        for column in ["certificate", "key_id", "region"] {
            flip(&us, "repl_origin_cert", column).await;
            let key: String = us.scalar("SELECT encode(key_id, 'hex') FROM repl_origin_cert").await;
            let (certificates, _) = found(&us).await;
            assert!(certificates.len() == 1 && certificates[0].contains(&key), "{column}: {certificates:?}");
            flip(&us, "repl_origin_cert", column).await;
        }
        assert_eq!(found(&us).await, (vec![], vec![]));
    }

    /// The key's certificate comes in with the first entry it signed, perhaps after all others were read.
    #[sqlx::test(migrations = "../migrations")]
    async fn an_entry_that_comes_in_during_a_look_is_not_damaged_though_its_key_was_not_known_when_that_began(
        pool: PgPool,
    ) {
        let us = Home::new(&pool, "us-east").await;
        let (signer, roots) = Authority::new().signing_key(CLUSTER, "us-east");
        let mut ring = KeyRing::new(roots, CLUSTER);
        assert_eq!(look_at_certificates(&us.store, &mut ring).await.unwrap(), Vec::<String>::new());
        us.store.save_certificate(&us.origin.region, &signer.key_id(), signer.certificate()).await.unwrap();
        us.commit(&settlement(1)).await;
        us.store.number(&us.fence, CLUSTER, &us.origin, &signer).await.unwrap();
        let ledger = log("us-east", FactStream::Ledger);
        let looked = us.store.verify_log(CLUSTER, &ledger, 1, 100, &mut ring).await.unwrap();
        assert_eq!((looked.entries, looked.damage), (1, vec![]));
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn a_draft_that_changed_where_it_lies_is_found_by_its_tenant_whichever_part_it_was(pool: PgPool) {
        let us = Home::new(&pool, "us-east").await;
        let (_, roots) = Authority::new().signing_key(CLUSTER, "us-east");
        let mut author = TenantDocument::create("porto-taxis", 0);
        let patch = serde_json::json!({"labels": {"a": 1.5e20}});
        let change = author.apply_merge_patch(None, &patch, &DocumentActor::of("ap-south", 1)).unwrap().unwrap();
        let arrived = batch(&log("ap-south", FactStream::Config), Head::EMPTY, &[edited(vec![change])]);
        us.store.receive(&arrived).await.unwrap();
        us.apply_all().await;
        let (mut leader, _hold) = leading(&us);
        let ring = KeyRing::new(roots, CLUSTER);
        let mut look = async || {
            let found =
                look_through_logs(&mut leader, us.fence, ring.clone(), &Once::default()).await.unwrap().unwrap();
            let drafts = found.named.into_iter().filter(|named| named.starts_with("draft "));
            drafts.collect::<Vec<_>>()
        };
        assert_eq!(look().await, Vec::<String>::new());
        for alter in [
            "document = set_byte(document, length(document) - 3, 255 - get_byte(document, length(document) - 3))",
            "heads = ARRAY[repeat('0', 64)]",
            r#"draft = '{"labels": {"a": 2}}'"#,
            r#"conflicts = '[{"path": "/labels/a"}]'"#,
            "previous = 'no document'",
            "previous = document, base = ARRAY[repeat('0', 64)]",
            r#"adopted = '{"us-east": "none"}'"#,
        ] {
            let sql = format!("CREATE TABLE sound AS TABLE tenant_documents; UPDATE tenant_documents SET {alter}");
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&us.superuser).await.unwrap();
            let found = look().await;
            assert!(found.len() == 1 && found[0].starts_with("draft porto-taxis: "), "{alter}: {found:?}");
            let mend = "TRUNCATE tenant_documents; INSERT INTO tenant_documents TABLE sound; DROP TABLE sound";
            sqlx::raw_sql(mend).execute(&us.superuser).await.unwrap();
        }
        assert_eq!(look().await, Vec::<String>::new());
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn a_look_through_the_logs_that_is_cut_short_by_a_lost_lease_is_none(pool: PgPool) {
        let us = Home::new(&pool, "us-east").await;
        let (signer, roots) = Authority::new().signing_key(CLUSTER, "us-east");
        us.commit(&settlement(1)).await;
        us.store.number(&us.fence, CLUSTER, &us.origin, &signer).await.unwrap();
        let mut ring = KeyRing::new(roots, CLUSTER);
        ring.learn(&us.origin.region, signer.certificate()).unwrap();
        sqlx::query("UPDATE repl_log SET body = body || 'x'").execute(&pool).await.unwrap();
        let (mut leader, hold) = leading(&us);
        let mut look = async || {
            let found = look_through_logs(&mut leader, us.fence, ring.clone(), &Once::default()).await.unwrap();
            found.map(|found| found.entries)
        };
        assert_eq!(look().await, Some(1));
        hold.send_replace(None);
        assert_eq!(look().await, None);
    }
}
