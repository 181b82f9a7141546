//! How many rides are open, for whoever watches.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use crate::{app::App, http::Problem};

/// What was reported last: of what there is no more, there are none.
#[derive(Default)]
pub(crate) struct Reported(Mutex<BTreeSet<(String, String)>>);

/// Reports the region's rides that are neither completed, cancelled nor expired, by tenant and status.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub(crate) async fn report_open(app: &App, reported: &Reported) -> Result<(), Problem> {
    // In two, each along an index of open rides alone.
    let open = sqlx::query!(
        r#"SELECT tenant_id AS "tenant_id!", status AS "status!", count(*) AS "count!" FROM rides
           WHERE status IN ('requested', 'offered') AND dispatch_at IS NOT NULL GROUP BY tenant_id, status
           UNION ALL
           SELECT tenant_id, status, count(*) FROM rides
           WHERE status IN ('accepted', 'arrived', 'in_progress') GROUP BY tenant_id, status"#
    )
    .fetch_all(app.db.system_alone())
    .await?;
    let show = |tenant: &str, status: &str, count: i64| {
        let labels = [("tenant", tenant.to_owned()), ("status", status.to_owned())];
        metrics::gauge!("region_node_rides_open", &labels).set(count as f64);
    };
    let mut shown = BTreeSet::new();
    for row in open {
        show(&row.tenant_id, &row.status, row.count);
        shown.insert((row.tenant_id, row.status));
    }
    let mut before = reported.0.lock().unwrap_or_else(PoisonError::into_inner);
    before.difference(&shown).for_each(|(tenant, status)| show(tenant, status, 0));
    *before = shown;
    Ok(())
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;
    use serde_json::json;
    use sqlx::PgPool;

    use super::*;
    use crate::{
        dispatch::{run_due, tests::online},
        rides::tests::request,
        testing::TestRegion,
    };

    #[sqlx::test(migrator = "crate::db::MIGRATOR")]
    async fn rides_and_offers_are_counted_by_what_became_of_them_and_keyed_requests_too(pool: PgPool) {
        let recorder = PrometheusBuilder::new().build_recorder();
        let page = recorder.handle();
        let _counted_here = metrics::set_default_local_recorder(&recorder);
        let region = TestRegion::new(pool).await;
        let (rider, driver, reported) = (region.rider().await, region.driver().await, Reported::default());
        let expect = |lines: &[&str]| {
            let page = page.render();
            for line in lines {
                assert!(page.lines().any(|found| found == *line), "{line} is not in\n{page}");
            }
        };

        online(&driver, 300.0).await;
        let ride = request(&rider).await;
        let answer = json!({"ride_id": ride["id"]});
        report_open(&region.app, &reported).await.unwrap();
        expect(&[
            r#"region_node_rides_open{tenant="cabs",status="requested"} 1"#,
            r#"region_node_rides_total{tenant="cabs",outcome="requested"} 1"#,
        ]);
        run_due(&region.app).await;
        expect(&[
            r#"region_node_offers_total{tenant="cabs",outcome="made"} 1"#,
            r#"region_node_dispatch_request_to_offer_seconds_count{tenant="cabs"} 1"#,
        ]);
        driver.post_keyed(&format!("/v1/drivers/{}/decline", driver.id), "once", answer.clone()).await.ok(204);
        driver.post_keyed(&format!("/v1/drivers/{}/decline", driver.id), "once", answer.clone()).await.ok(204);
        driver
            .post_keyed(&format!("/v1/drivers/{}/decline", driver.id), "once", json!({"ride_id": ride["rider_id"]}))
            .await
            .problem(422);
        expect(&[
            r#"region_node_offers_total{tenant="cabs",outcome="declined"} 1"#,
            r#"region_node_idempotency_total{result="first"} 1"#,
            r#"region_node_idempotency_total{result="replayed"} 1"#,
            r#"region_node_idempotency_total{result="reused"} 1"#,
        ]);
        // What is refused changes nothing, and is not counted.
        driver.post(&format!("/v1/drivers/{}/accept", driver.id), answer).await.problem(409);
        rider.post(&format!("/v1/rides/{}/cancel", ride["id"].as_str().unwrap()), json!({})).await.ok(200);
        report_open(&region.app, &reported).await.unwrap();
        expect(&[
            r#"region_node_rides_open{tenant="cabs",status="requested"} 0"#,
            r#"region_node_rides_total{tenant="cabs",outcome="cancelled"} 1"#,
        ]);
        assert!(!page.render().contains(r#"outcome="accepted""#));
    }
}
