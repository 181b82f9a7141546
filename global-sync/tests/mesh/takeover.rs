//! Homes that are taken by force, and homes that are leased so that there are never two.

use std::collections::BTreeSet;

use sqlx::PgPool;

use super::cluster::{Cluster, eventually};

const TAKE: [&str; 2] = [
    "INSERT INTO tenant_moves (id, tenant_id, mode, from_region, to_region, from_term, from_n, requested_by)
     VALUES (gen_random_uuid(), 'porto-taxis', 'failover', 'us-east', 'eu-west', 1, 0, 'operator')",
    "INSERT INTO tenant_moves (id, tenant_id, mode, from_region, to_region, from_term, from_n, requested_by)
     VALUES (gen_random_uuid(), 'porto-taxis', 'failover', 'us-east', 'ap-south', 1, 0, 'operator')",
];
const HOME: &str =
    "SELECT concat_ws(' ', region, term, n, lost_term, lost_n) FROM tenant_homes WHERE tenant_id = 'porto-taxis'";
const TAKEN: &str = "SELECT state FROM tenant_moves";

#[sqlx::test(migrations = "../migrations")]
async fn a_home_nobody_hears_is_taken_with_a_majority_and_never_without(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west", "ap-south"]).await;
    cluster.start_all().await;
    cluster.create_tenant("us-east", "porto-taxis").await;
    cluster.settle("us-east", 1).await;
    cluster.converged(1).await;
    // A region that only joins has no voice.
    cluster.all_are_members().await;
    for region in ["us-east", "ap-south"] {
        cluster.stop(region).await;
    }
    cluster.as_system("eu-west", TAKE[0]).await;
    eventually("the first vote has failed", async || {
        cluster
            .count("eu-west", "SELECT count(*) FROM tenant_moves WHERE attempts > 0 AND failure LIKE '%ap-south%'")
            .await
            == 1
    })
    .await;
    assert_eq!(cluster.text("eu-west", HOME).await, "us-east 1 0", "one of three is no majority");
    // Settled where nobody hears it.
    cluster.settle("us-east", 2).await;

    cluster.start("ap-south").await;
    eventually("the home is taken", async || cluster.text("eu-west", TAKEN).await == "completed").await;
    for region in ["eu-west", "ap-south"] {
        eventually("the others hear of it", async || cluster.text(region, HOME).await == "eu-west 2 0").await;
    }
    cluster.start("us-east").await;
    cluster.converged(2).await;
    eventually("the old home knows that it is so no more, and what it was", async || {
        cluster.text("us-east", HOME).await == "eu-west 2 0 1 0"
    })
    .await;
    for region in ["eu-west", "ap-south"] {
        assert_eq!(cluster.count(region, "SELECT count(*) FROM ledger_facts f WHERE is_late(f)").await, 1, "{region}");
    }
    cluster.stop_all().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_home_is_not_taken_while_the_third_region_only_joins_and_is_once_that_has_a_voice(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west", "ap-south"]).await;
    cluster.start_all().await;
    cluster.create_tenant("us-east", "porto-taxis").await;
    eventually("the tenant is known", async || {
        cluster.count("eu-west", "SELECT count(*) FROM tenant_homes WHERE tenant_id = 'porto-taxis'").await == 1
            && cluster.count("ap-south", "SELECT count(*) FROM tenant_homes WHERE tenant_id = 'porto-taxis'").await == 1
    })
    .await;
    cluster.all_are_members().await;
    cluster.stop("us-east").await;
    cluster
        .tamper(
            "eu-west",
            "UPDATE regions SET state = 'joining' WHERE name = 'ap-south';
             UPDATE repl_member SET state = 'joining' WHERE region = 'ap-south'",
        )
        .await;
    cluster.as_system("eu-west", TAKE[0]).await;
    eventually("it is said why nothing comes of it", async || {
        let said =
            "SELECT count(*) FROM tenant_moves WHERE ended_at IS NULL AND failure LIKE '%while ap-south only joins'";
        cluster.count("eu-west", said).await == 1
    })
    .await;
    assert_eq!(cluster.text("eu-west", HOME).await, "us-east 1 0");
    cluster
        .tamper(
            "eu-west",
            "UPDATE regions SET state = 'active' WHERE name = 'ap-south';
             UPDATE repl_member SET state = 'active' WHERE region = 'ap-south'",
        )
        .await;
    eventually("the home is taken", async || cluster.text("eu-west", TAKEN).await == "completed").await;
    assert_eq!(cluster.text("eu-west", HOME).await, "eu-west 2 0");
    cluster.stop_all().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn of_two_regions_that_take_one_tenant_all_agree_on_one_in_the_end(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west", "ap-south"]).await;
    cluster.start_all().await;
    cluster.create_tenant("us-east", "porto-taxis").await;
    for region in ["eu-west", "ap-south"] {
        eventually("the tenant is known", async || {
            cluster.count(region, "SELECT count(*) FROM tenant_homes WHERE tenant_id = 'porto-taxis'").await == 1
        })
        .await;
    }
    cluster.all_are_members().await;
    cluster.stop("us-east").await;
    tokio::join!(cluster.as_system("eu-west", TAKE[0]), cluster.as_system("ap-south", TAKE[1]));
    eventually("both have come to an end", async || {
        let ended = "SELECT count(*) FROM tenant_moves WHERE ended_at IS NOT NULL";
        cluster.count("eu-west", ended).await + cluster.count("ap-south", ended).await == 2
    })
    .await;
    cluster.start("us-east").await;
    eventually("all know one home, which is not the old one", async || {
        let mut homes = BTreeSet::new();
        for region in cluster.regions() {
            let home = cluster.text(&region, HOME).await;
            homes.insert(home.split(' ').take(3).map(str::to_owned).collect::<Vec<_>>());
        }
        homes.len() == 1 && homes.iter().all(|home| home[0] != "us-east")
    })
    .await;
    cluster.stop_all().await;
}

const CONFIRMED: &str = "SELECT count(*) FROM tenant_homes JOIN repl_self USING (region)
                         WHERE tenant_id = 'porto-taxis' AND home_is_confirmed(tenant_id, term)";

/// Three regions, all members, that know a tenant which wants its home leased.
async fn leased_at_home_in_us_east(pool: &PgPool) -> Cluster {
    let mut cluster = Cluster::new(pool, &["us-east", "eu-west", "ap-south"]).await;
    cluster.start_all().await;
    cluster.create_tenant("us-east", "porto-taxis").await;
    cluster.all_are_members().await;
    for region in cluster.regions() {
        eventually("the tenant is known", async || {
            cluster.count(&region, "SELECT count(*) FROM tenant_homes WHERE tenant_id = 'porto-taxis'").await == 1
        })
        .await;
        cluster.tamper(&region, "UPDATE tenant_homes SET is_leased = true").await;
    }
    cluster
}

/// The old home is stopped while others' word for it still holds: whoever takes its place waits until that has run out.
#[sqlx::test(migrations = "../migrations")]
async fn a_leased_home_is_never_two_and_none_without_a_majority(pool: PgPool) {
    let mut cluster = leased_at_home_in_us_east(&pool).await;
    eventually("the others confirm the home", async || {
        cluster.count("us-east", "SELECT count(*) FROM home_grants").await == 2
            && cluster.count("us-east", CONFIRMED).await == 1
    })
    .await;
    for region in ["eu-west", "ap-south"] {
        cluster.stop(region).await;
    }
    eventually("a home that hears of nobody is confirmed no more", async || {
        cluster.count("us-east", CONFIRMED).await == 0
    })
    .await;
    for region in ["eu-west", "ap-south"] {
        cluster.start(region).await;
    }
    eventually("the others confirm it again", async || cluster.count("us-east", CONFIRMED).await == 1).await;

    cluster.stop("us-east").await;
    cluster.as_system("eu-west", TAKE[0]).await;
    eventually("the home is taken once the old one is confirmed no more", async || {
        let taken = cluster.text("eu-west", TAKEN).await == "completed";
        assert!(!taken || cluster.count("us-east", CONFIRMED).await == 0, "two homes");
        taken
    })
    .await;
    let waited = "SELECT count(*) FROM tenant_moves WHERE ended_at - requested_at > 2 * home_lease()";
    assert_eq!(cluster.count("eu-west", waited).await, 1);
    cluster.stop_all().await;
}

/// A home that is cut off from all but one region has no majority once that one has agreed to another home, though it still
/// hears it; and has one again when nobody wants the home any more.
#[sqlx::test(migrations = "../migrations")]
async fn whoever_has_agreed_to_another_home_confirms_the_old_one_no_more_until_that_is_given_up(pool: PgPool) {
    let mut cluster = leased_at_home_in_us_east(&pool).await;
    eventually("the others confirm the home", async || cluster.count("us-east", CONFIRMED).await == 1).await;
    cluster.as_system("eu-west", TAKE[0]).await;
    eventually("nobody else confirms it any more, long before it is taken", async || {
        assert_eq!(cluster.text("eu-west", HOME).await, "us-east 1 0");
        cluster.count("us-east", CONFIRMED).await == 0
    })
    .await;
    cluster.tamper("eu-west", "UPDATE tenant_moves SET state = 'failed', ended_at = now()").await;
    eventually("both confirm it again", async || {
        let confirm = "SELECT count(*) FROM home_grants WHERE asked_at > now() - interval '10 s'";
        cluster.count("us-east", confirm).await == 2 && cluster.count("us-east", CONFIRMED).await == 1
    })
    .await;
    let agreed = "SELECT count(*) FROM home_grants WHERE promised ? 'porto-taxis'";
    assert_eq!(cluster.count("us-east", agreed).await, 1, "what ap-south has agreed to stays");
    cluster.stop_all().await;
}
