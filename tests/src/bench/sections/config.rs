//! Tenants whose config is edited again and again: what the thousandth edit costs and leaves behind, and how long it takes to tell
//! a region's config from another's among ten thousand of them.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    api::Client,
    bench::{Options, Stand, Table, median, percentile},
};

const EDITS: usize = 1_000;
const FEW_EDITS: usize = 200;
/// Edits looked at together, the first and the last of them.
const SOME: usize = 100;
/// Labels that change, one an edit.
const LABELS: usize = 40;
const TENANTS: i64 = 10_000;
/// Versions each of them has, step by step.
const VERSIONS: [i64; 3] = [1, 10, 100];
/// A digest is told again for so long.
const DIGEST_AGE: Duration = Duration::from_millis(1_100);

const EDITED: [&str; 6] =
    ["edits of one tenant", "ms p50", "ms p99", "bytes of draft", "generation", "bytes a published version"];
const TOLD: [&str; 4] = ["", "versions", "ms until /status answers", "MiB of versions"];

pub async fn run(options: &Options) -> anyhow::Result<Vec<Table>> {
    let stand = Stand::start(1).await?;
    let edited = edited(&stand, options).await?;
    Ok(vec![edited, told(&stand, options).await?])
}

async fn edited(stand: &Stand, options: &Options) -> anyhow::Result<Table> {
    let mut table = Table::new("Edits of a config, each published", &EDITED);
    let edits = if options.quick { FEW_EDITS } else { EDITS };
    let mut took_ms = Vec::new();
    for edit in 0..edits {
        let value = format!("value {edit}, which nobody has seen before");
        let patch = json!({"labels": {(format!("l{}", edit % LABELS)): value}});
        let begun = Instant::now();
        stand.operator.patch_config(&stand.tenant, &patch).await?;
        took_ms.push(begun.elapsed().as_secs_f64() * 1e3);
        if edit + 1 == SOME || edit + 1 == edits {
            let (bytes, generation, version) = size(stand).await?;
            let some = &mut took_ms[edit + 1 - SOME..];
            let (half, most) = (percentile(some, 0.5), percentile(some, 0.99));
            let row = vec![half, most, Some(bytes as f64), Some(f64::from(generation)), Some(version as f64)];
            table.row(format!("{} to {}", edit + 2 - SOME, edit + 1), &[row]);
        }
    }
    table.notes.push(format!(
        "One after the other, through the API. The draft is its document and what is kept of the generation before; a version is \
         what its row and index take, with {LABELS} labels in the config."
    ));
    Ok(table)
}

/// Bytes of the tenant's draft, its generation, and bytes one version takes.
async fn size(stand: &Stand) -> anyhow::Result<(i64, i32, i64)> {
    let (bytes, generation): (i64, i32) = sqlx::query_as(
        "SELECT (octet_length(document) + COALESCE(octet_length(previous), 0))::bigint, generation
         FROM tenant_documents WHERE tenant_id = $1",
    )
    .bind(&stand.tenant)
    .fetch_one(&stand.database)
    .await?;
    let version = "SELECT pg_total_relation_size('tenant_config_versions') / count(*) FROM tenant_config_versions";
    Ok((bytes, generation, sqlx::query_scalar(version).fetch_one(&stand.database).await?))
}

async fn told(stand: &Stand, options: &Options) -> anyhow::Result<Table> {
    let mut table = Table::new("A region's digest, asked for anew", &TOLD);
    for copy in [
        "INSERT INTO tenant_homes (tenant_id, name, region, term, n)
         SELECT 'copy-' || nr, name, region, term, n FROM tenant_homes, generate_series(1, $2::bigint) nr
         WHERE tenant_id = $1",
        "INSERT INTO tenant_documents (tenant_id, generation, heads, document, draft, conflicts, previous, base, made_term,
                                       made_n, adopted)
         SELECT 'copy-' || nr, generation, heads, document, draft, conflicts, previous, base, made_term, made_n, adopted
         FROM tenant_documents, generate_series(1, $2::bigint) nr WHERE tenant_id = $1",
    ] {
        sqlx::query(copy).bind(&stand.tenant).bind(TENANTS).execute(&stand.database).await?;
    }
    let sync = Client::new(&stand.cluster.status_url(stand.region()));
    let mut there = 0;
    for versions in VERSIONS.into_iter().take(if options.quick { 2 } else { VERSIONS.len() }) {
        sqlx::query(
            "INSERT INTO tenant_config_versions (tenant_id, version, config, published_at, home_term, home_n)
             SELECT 'copy-' || nr, version, config, published_at, home_term, home_n
             FROM (SELECT config, published_at, home_term, home_n FROM tenant_config_versions
                   WHERE tenant_id = $1 ORDER BY version DESC LIMIT 1) newest,
                  generate_series(1, $2::bigint) nr, generate_series($3::bigint + 1, $4::bigint) version",
        )
        .bind(&stand.tenant)
        .bind(TENANTS)
        .bind(there)
        .bind(versions)
        .execute(&stand.database)
        .await?;
        there = versions;
        sqlx::query("VACUUM ANALYZE tenant_config_versions").execute(&stand.database).await?;
        let mut took_ms = Vec::new();
        for _ in 0..options.runs() {
            sleep(DIGEST_AGE).await;
            let begun = Instant::now();
            sync.sync_status().await?;
            took_ms.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        let bytes: i64 = sqlx::query_scalar("SELECT pg_total_relation_size('tenant_config_versions')")
            .fetch_one(&stand.database)
            .await?;
        let row = vec![Some((TENANTS * versions) as f64), Some(median(took_ms)), Some(bytes as f64 / 1024.0 / 1024.0)];
        table.row(format!("{TENANTS} tenants, {versions} versions each"), &[row]);
    }
    table.notes.push(
        "The tenants are copies of the one above, draft and all. Versions are never deleted, since receipts name them; the digest \
         reads one hash of each tenant's."
            .into(),
    );
    Ok(table)
}
