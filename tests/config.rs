//! A tenant's config is edited in every region at once and is one config everywhere in the end.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection as _;
use system_tests::{
    api::{Client, ConfigView},
    harness::{TestCluster, eventually, tell},
    stories,
};

const REGIONS: [&str; 3] = ["us-east", "eu-west", "ap-south"];
const EDITS_PER_REGION: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config() {
    let cluster = TestCluster::start().await;
    let stories = stories!(cluster;
        edits_in_three_regions_at_once_all_stand_and_are_published,
        an_edit_at_the_heads_that_were_read_merges_with_what_came_since,
        an_invalid_draft_is_shown_and_not_published,
        secrets_never_leave,
        a_published_version_is_what_rides_are_priced_by,
    );
    tell(&cluster, 1, stories).await;
    let cut = stories!(cluster;
        both_sides_of_a_cut_edit_and_agree_after_it,
        edits_made_while_the_home_compacts_the_draft_are_carried_over,
    );
    tell(&cluster, 1, cut).await;
}

async fn edits_in_three_regions_at_once_all_stand_and_are_published(cluster: TestCluster) {
    let tenant = "porto-taxis";
    let offices = join_all(REGIONS.map(|region| cluster.office(tenant, region))).await;
    let edits = offices.iter().zip(REGIONS).flat_map(|(office, region)| {
        (0..EDITS_PER_REGION).map(move |n| async move {
            let label = format!("{region}-{n}");
            office.patch_config(tenant, &json!({"labels": {label: n}})).await.unwrap();
        })
    });
    join_all(edits).await;
    let config = agreed(&cluster, tenant, &offices, |config| {
        config["labels"].as_object().is_some_and(|labels| labels.len() == REGIONS.len() * EDITS_PER_REGION)
    })
    .await;
    for region in REGIONS {
        for n in 0..EDITS_PER_REGION {
            assert_eq!(config["labels"][format!("{region}-{n}")], json!(n));
        }
    }
}

/// If-Match says which config the editor had before him: what came since is merged with, never overwritten.
async fn an_edit_at_the_heads_that_were_read_merges_with_what_came_since(cluster: TestCluster) {
    let tenant = "bengaluru-rides";
    let office = cluster.office(tenant, "us-east").await;
    let heads = office.config(tenant).await.unwrap().heads.join(",");
    let path = format!("/v1/tenants/{tenant}/config");
    let patch = |heads: &str, labels: Value| {
        office.call(Method::PATCH, &path).header("if-match", heads).body(&json!({"labels": labels}))
    };
    patch(&heads, json!({"who": "first", "one": 1})).send().await.unwrap();
    let merged = patch(&heads, json!({"who": "second", "two": 2})).send().await.unwrap();
    let view: ConfigView = merged.json().unwrap();
    assert_eq!((&view.config["labels"]["one"], &view.config["labels"]["two"]), (&json!(1), &json!(2)));
    let conflicts = serde_json::to_string(&view.conflicts).unwrap();
    assert!(conflicts.contains("first") && conflicts.contains("second"), "{conflicts}");
    let unknown = patch(&"0".repeat(64), json!({"who": "third"})).send().await.unwrap_err();
    assert_eq!(unknown.code(), Some("precondition_failed"));
    patch(&view.heads.join(","), json!({"who": "settled"})).send().await.unwrap();
    assert_eq!(office.config(tenant).await.unwrap().conflicts, Vec::<Value>::new());
}

async fn an_invalid_draft_is_shown_and_not_published(cluster: TestCluster) {
    let tenant = "bengaluru-rides";
    let office = cluster.office(tenant, "ap-south").await;
    let before = eventually("a first version is published", async || {
        office.config(tenant).await.map_err(|error| error.to_string())?.published.ok_or("none".to_owned())
    })
    .await;
    let patched = office.patch_config(tenant, &json!({"commission_percent": 250})).await;
    let Ok(view) = patched else {
        // Refused at the door is as good, if the draft stands as it was.
        assert_eq!(patched.unwrap_err().code(), Some("validation_failed"));
        assert_ne!(office.config(tenant).await.unwrap().config["commission_percent"], json!(250));
        return;
    };
    assert!(!view.rejected.is_empty(), "{view:?}");
    assert_eq!(office.config(tenant).await.unwrap().published.map(|published| published.version), Some(before.version));
    let mended = office.patch_config(tenant, &json!({"commission_percent": 15})).await.unwrap();
    assert!(mended.rejected.is_empty(), "{mended:?}");
}

async fn secrets_never_leave(cluster: TestCluster) {
    for region in REGIONS {
        let office = cluster.office("porto-taxis", region).await;
        let view: Value = office.get("/v1/tenants/porto-taxis/config").await.unwrap();
        let text = view.to_string();
        assert!(!text.contains("argon2") && !text.contains("secret_hash") && !text.contains("\"auth\""), "{text}");
    }
}

async fn a_published_version_is_what_rides_are_priced_by(cluster: TestCluster) {
    let tenant = "manhattan-cabs";
    let rider = cluster.city(tenant).rider().await;
    // Edited far from home, effective at home.
    let office = cluster.office(tenant, "ap-south").await;
    let config = office.config(tenant).await.unwrap().config;
    let mut tariff = config["tariffs"]["standard"].clone();
    tariff["minimum"] = json!(987_600);
    office.patch_config(tenant, &json!({"tariffs": {"standard": tariff}})).await.unwrap();
    let journey = system_tests::harness::Spot::new().journey();
    eventually("the new minimum is quoted", async || {
        let quote = rider.client.estimate(&journey).await.map_err(|error| error.to_string())?;
        let total = quote.fare["amount"].as_i64().or(quote.fare["total"]["amount"].as_i64()).unwrap_or_default();
        if total >= 987_600 { Ok(()) } else { Err(quote.fare.to_string()) }
    })
    .await;
    office.patch_config(tenant, &json!({"tariffs": {"standard": config["tariffs"]["standard"]}})).await.unwrap();
}

async fn both_sides_of_a_cut_edit_and_agree_after_it(cluster: TestCluster) {
    let tenant = "manhattan-cabs";
    let offices = join_all(REGIONS.map(|region| cluster.office(tenant, region))).await;
    let [east, west, south] = &offices[..] else { unreachable!("three regions, three offices") };
    let standard = east.config(tenant).await.unwrap().config["tariffs"]["standard"].clone();
    cluster.all_links().cut().unwrap();

    let (mut dearer, mut longer) = (standard.clone(), standard.clone());
    dearer["base"] = json!(1_111);
    longer["per_km"] = json!(2_222);
    east.patch_config(tenant, &json!({"tariffs": {"standard": dearer}, "labels": {"a": "east"}})).await.unwrap();
    west.patch_config(tenant, &json!({"tariffs": {"standard": longer}, "labels": {"b": "west"}})).await.unwrap();
    south.patch_config(tenant, &json!({"labels": {"a": "south"}})).await.unwrap();
    assert_eq!(west.config(tenant).await.unwrap().config["labels"]["a"], Value::Null, "the cut is a cut");

    cluster.all_links().heal().unwrap();
    let config = agreed(&cluster, tenant, &offices, |config| {
        config["labels"]["b"] == "west" && !config["labels"]["a"].is_null()
    })
    .await;
    // Money is never mixed of two edits: one tariff or the other, whole.
    let tariff = &config["tariffs"]["standard"];
    assert!(*tariff == dearer || *tariff == longer, "{tariff}");
    let view: ConfigView = east.config(tenant).await.unwrap();
    let conflicts = serde_json::to_string(&view.conflicts).unwrap();
    for path in ["tariffs", "labels"] {
        assert!(conflicts.contains(path), "{path} in {conflicts}");
    }
    // Whoever decides ends the conflict, for all.
    west.patch_config(tenant, &json!({"tariffs": {"standard": standard}, "labels": {"a": "settled"}})).await.unwrap();
    agreed(&cluster, tenant, &offices, |config| config["labels"]["a"] == "settled").await;
    eventually("no conflict is left", async || {
        let view = south.config(tenant).await.map_err(|error| error.to_string())?;
        if view.conflicts.is_empty() { Ok(()) } else { Err(format!("{:?}", view.conflicts)) }
    })
    .await;
}

/// A draft that has grown is replaced at home; what others wrote on the old one meanwhile is no less part of the new one.
async fn edits_made_while_the_home_compacts_the_draft_are_carried_over(cluster: TestCluster) {
    let tenant = "manhattan-cabs";
    let offices = join_all(REGIONS.map(|region| cluster.office(tenant, region))).await;
    let [east, west, south] = &offices[..] else { unreachable!("three regions, three offices") };
    let generation = async || {
        let mut home = sqlx::PgConnection::connect(&cluster.postgres_url("us-east")).await.unwrap();
        let sql = "SELECT generation FROM tenant_documents WHERE tenant_id = $1";
        sqlx::query_scalar::<_, i32>(sql).bind(tenant).fetch_one(&mut home).await.unwrap()
    };
    let before = generation().await;
    cluster.all_links().cut().unwrap();
    for n in 0..10 {
        // Text that does not compress, each time another.
        let noise: String = (0..1_000).map(|_| uuid::Uuid::new_v4().simple().to_string()).collect();
        east.patch_config(tenant, &json!({"labels": {"noise": noise, "turn": n}})).await.unwrap();
    }
    assert!(generation().await > before, "the draft has grown");
    west.patch_config(tenant, &json!({"labels": {"late": 1, "west": "first"}})).await.unwrap();
    west.patch_config(tenant, &json!({"labels": {"west": "last"}})).await.unwrap();
    south.patch_config(tenant, &json!({"labels": {"south": true}})).await.unwrap();
    cluster.all_links().heal().unwrap();
    let config = agreed(&cluster, tenant, &offices, |config| {
        config["labels"]["west"] == "last" && config["labels"]["south"] == true && config["labels"]["turn"] == 9
    })
    .await;
    assert_eq!(config["labels"]["late"], 1);
    east.patch_config(tenant, &json!({"labels": {"noise": null}})).await.unwrap();
    agreed(&cluster, tenant, &offices, |config| config["labels"]["noise"].is_null()).await;
}

/// The config, once all regions have the same draft with the same heads, `fits` it, and have published just that.
async fn agreed(cluster: &TestCluster, tenant: &str, offices: &[Client], fits: impl Fn(&Value) -> bool) -> Value {
    cluster.converged().await;
    eventually("every region has and has published the same config", async || {
        let mut views = Vec::new();
        for office in offices {
            let mut view = office.config(tenant).await.map_err(|error| error.to_string())?;
            view.heads.sort_unstable();
            views.push(view);
        }
        let first = &views[0];
        let published = first.published.as_ref().ok_or("nothing is published")?;
        let same = views.iter().all(|view| {
            let theirs = view.published.as_ref();
            view.heads == first.heads
                && view.config == first.config
                && theirs.is_some_and(|theirs| theirs.version == published.version && theirs.config == published.config)
        });
        if same && fits(&first.config) && published.config["labels"] == first.config["labels"] {
            Ok(first.config.clone())
        } else {
            Err(format!("{views:?}"))
        }
    })
    .await
}
