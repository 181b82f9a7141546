//! As many connected drivers as the issue of scale asks for, and one of their nodes dying.

use std::{collections::BTreeMap, time::Duration};

use deploy_local::Service;
use tokio::time::Instant;

use crate::bench::{Crowd, Member, Options, Orders, Stand, Table, make_drivers, place_in_town};

/// One node more than descriptors demand: the others have room for the sockets of one that dies.
const NODES: u16 = 7;
const DRIVERS: usize = 100_000;
const PROCESSES: usize = 7;
/// The same with less of everything, for developing.
const FEW_NODES: u16 = 3;
const FEW_DRIVERS: usize = 12_000;
/// Of each node: handshakes enough to be done soon, and few enough that positions keep their share of the machine meanwhile.
const NEW_SOCKETS_PER_SECOND: u32 = 75;
const REPORT_EVERY: Duration = Duration::from_secs(20);
const OPENED_WITHIN: Duration = Duration::from_secs(900);
const BACK_WITHIN: Duration = Duration::from_secs(180);
const AGES_EVERY: Duration = Duration::from_secs(1);

const COLUMNS: [&str; 6] = [
    "",
    "sockets",
    "s until all are connected",
    "ms CPU/socket, all programs",
    "KiB/socket",
    "p99 age of positions, s",
];

pub async fn run(options: &Options) -> anyhow::Result<Vec<Table>> {
    let (nodes, count) = if options.quick { (FEW_NODES, FEW_DRIVERS) } else { (NODES, DRIVERS) };
    let stand = Stand::start_with(nodes, |builder| {
        let pace = NEW_SOCKETS_PER_SECOND.to_string();
        builder
            .node_env("REGION_NODE_DATABASE__MAX_CONNECTIONS", "8")
            .node_env("REGION_NODE_LIMITS__NEW_SOCKETS_PER_SECOND", &pace)
    })
    .await?;
    let memory = || (1..=nodes).map(|node| stand.memory_kib(node)).sum::<anyhow::Result<f64>>();
    let before_kib = memory()?;
    let drivers = make_drivers(&stand, count).await?;
    let members: Vec<_> = drivers
        .iter()
        .enumerate()
        .map(|(index, driver)| Member {
            token: stand.signer.sign(&stand.tenant, driver.role, driver.id),
            at: place_in_town(index, 1.0),
        })
        .collect();
    let urls = (1..=nodes).map(|node| stand.cluster.node_url(stand.region(), node)).collect();
    let orders = Orders { tenant: stand.tenant.clone(), urls, report_every: REPORT_EVERY, accepts: false };

    let mut table = Table::new(format!("{count} connected drivers on {nodes} region-nodes"), &COLUMNS);
    let (meter, begun) = (stand.meter()?, Instant::now());
    let crowd = Crowd::gather(&orders, &members, PROCESSES, &stand.tasks).await?;
    crowd.until_connected(count, OPENED_WITHIN).await?;
    let (opened_s, opening) = (begun.elapsed().as_secs_f64(), meter.used()?);
    // Until everybody has been heard everywhere.
    tokio::time::sleep(REPORT_EVERY * 2).await;
    let each_kib = (memory()? - before_kib) / count as f64;
    let each_ms = |us: f64, sockets: usize| us / 1_000.0 / sockets as f64;
    let quiet_age_s = worst_age_s(&stand, REPORT_EVERY / 2, || false).await?;
    table.row(
        "opened",
        &[vec![
            Some(count as f64),
            Some(opened_s),
            Some(each_ms(opening.total_us(), count)),
            Some(each_kib),
            Some(quiet_age_s),
        ]],
    );

    let failed = crowd.state().failed;
    let (meter, begun) = (stand.meter()?, Instant::now());
    stand.cluster.kill(stand.region(), Service::RegionNode(nodes)).await?;
    while crowd.state().connected == count && begun.elapsed() < BACK_WITHIN {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let age_s = worst_age_s(&stand, BACK_WITHIN, || crowd.state().connected == count);
    let (back, age_s) = tokio::join!(crowd.until_connected(count, BACK_WITHIN), age_s);
    let (back_s, storm) = (back.is_ok().then(|| begun.elapsed().as_secs_f64()), meter.used()?);
    if let Err(still) = back {
        table.notes.push(format!("Not all came back within {} s: {still}.", BACK_WITHIN.as_secs()));
    }
    let went_wrong = since(&failed, crowd.state().failed);
    let lost = usize::try_from(went_wrong.get("connection lost").copied().unwrap_or_default())?;
    table.row(
        "one node killed",
        &[vec![Some(lost as f64), back_s, Some(each_ms(storm.total_us(), lost.max(1))), None, Some(age_s?)]],
    );
    table.notes.push(format!(
        "Each stands and reports every {} s; other nodes are told of a car that stands once in a heartbeat of 20 s, so a position \
         there is up to both together old. Each node lets {NEW_SOCKETS_PER_SECOND} sockets in per second; who would wait longer than 2 s \
         is told to come back later, and does. While a node was dead: {went_wrong:?}. Memory is region-nodes' own, with the position \
         of every driver on each of them; CPU includes the positions reported meanwhile, and for those who came back that of \
         everybody else.",
        REPORT_EVERY.as_secs()
    ));
    Ok(vec![table])
}

/// The worst 99th percentile of ages on the first node until `is_over`, or for `most`.
async fn worst_age_s(stand: &Stand, most: Duration, is_over: impl Fn() -> bool) -> anyhow::Result<f64> {
    let (begun, mut worst) = (Instant::now(), f64::NAN);
    loop {
        let age_s = stand.metric("region_node_position_age_seconds", r#"quantile="0.99""#).await?;
        worst = age_s.unwrap_or(f64::NAN).max(worst);
        if is_over() || begun.elapsed() > most {
            return Ok(worst);
        }
        tokio::time::sleep(AGES_EVERY).await;
    }
}

/// What was counted after `before`.
fn since(before: &BTreeMap<String, u64>, now: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let more = |(what, times): (String, u64)| {
        let times = times - before.get(&what).copied().unwrap_or_default();
        (times > 0).then_some((what, times))
    };
    now.into_iter().filter_map(more).collect()
}
