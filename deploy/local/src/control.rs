//! How `local` steers a running cluster: one line of JSON with an order over a unix socket, answered by lines of JSON,
//! the last of which says how it went. Only the user who started the cluster can reach the socket.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::Cluster;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::state::Owner;

/// What can be asked of a running cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    Stop,
    Status,
    Kill { region: String, service: Option<String> },
    Freeze { region: String, service: String },
    Thaw { region: String, service: String },
    Restart { region: String, service: Option<String> },
    Link { between: Option<(String, String)>, one_way: bool, change: Change },
    Backup { region: String, name: String },
    Restore { region: String, name: String },
    AddRegion { name: String },
    RemoveRegion { name: String },
}

/// What to do to a link.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Cut,
    Heal,
    DelayMs(u64),
    LossPercent(f64),
}

/// Opens the socket on which [`serve`] takes orders.
pub fn listen(socket: &Path) -> anyhow::Result<UnixListener> {
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers orders until `stop` is cancelled, which the order `stop` does itself.
pub async fn serve(cluster: Arc<Cluster>, listener: UnixListener, stop: CancellationToken) {
    let answering = TaskTracker::new();
    while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
        let (cluster, stop) = (cluster.clone(), stop.clone());
        answering.spawn(async move {
            let _ = answer(&cluster, stream, &stop).await;
        });
    }
    answering.close();
    let _ = tokio::time::timeout(Duration::from_secs(30), answering.wait()).await;
}

async fn answer(cluster: &Cluster, stream: UnixStream, stop: &CancellationToken) -> anyhow::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let line = BufReader::new(reader).lines().next_line().await?.unwrap_or_default();
    let outcome = match serde_json::from_str::<Order>(&line) {
        Ok(Order::Stop) => {
            stop.cancel();
            Ok(Value::Null)
        }
        Ok(order) => Box::pin(obey(cluster, order)).await,
        Err(error) => Err(error.into()),
    };
    let answer = match outcome {
        Ok(value) => json!({"ok": value}),
        Err(error) => json!({"error": format!("{error:#}")}),
    };
    writer.write_all(format!("{answer}\n").as_bytes()).await?;
    Ok(())
}

async fn obey(cluster: &Cluster, order: Order) -> anyhow::Result<Value> {
    match order {
        Order::Stop => {}
        Order::Status => return Ok(status(cluster)),
        Order::Kill { region, service: Some(service) } => cluster.kill(&region, service.parse()?).await?,
        Order::Kill { region, service: None } => cluster.kill_region(&region).await?,
        Order::Freeze { region, service } => cluster.freeze(&region, service.parse()?)?,
        Order::Thaw { region, service } => cluster.thaw(&region, service.parse()?)?,
        Order::Restart { region, service: Some(service) } => cluster.restart(&region, service.parse()?).await?,
        Order::Restart { region, service: None } => cluster.restart_region(&region).await?,
        Order::Link { between, one_way, change } => {
            let link = match &between {
                None => cluster.all_links(),
                Some((from, to)) if one_way => cluster.one_way(from, to),
                Some((from, to)) => cluster.link(from, to),
            };
            match change {
                Change::Cut => link.cut()?,
                Change::Heal => link.heal()?,
                Change::DelayMs(ms) => link.delay(Duration::from_millis(ms))?,
                Change::LossPercent(percent) => link.loss(percent / 100.0)?,
            }
        }
        Order::Backup { region, name } => cluster.backup(&region, &name).await?,
        Order::Restore { region, name } => cluster.restore(&region, &name).await?,
        Order::AddRegion { name } => cluster.add_region(&name, &Progress::silent()).await?,
        Order::RemoveRegion { name } => cluster.remove_region(&name).await?,
    }
    Ok(Value::Null)
}

/// Every program and every link as they are.
fn status(cluster: &Cluster) -> Value {
    let regions = cluster.regions().into_iter().map(|name| {
        let services = cluster
            .setup
            .services()
            .into_iter()
            .map(|service| (service.to_string(), json!(cluster.pid(&name, service))));
        json!({"name": name, "http": cluster.http_url(&name), "services": services.collect::<serde_json::Map<_, _>>()})
    });
    let directions = cluster.links.as_ref().map(|links| links.all()).unwrap_or_default();
    let links = directions.into_iter().map(|((from, to), way)| {
        let delay_ms = u64::try_from(way.delay.as_millis()).unwrap_or(u64::MAX);
        json!({"from": from, "to": to, "cut": way.cut, "delay_ms": delay_ms, "loss_percent": way.loss * 100.0})
    });
    json!({"regions": regions.collect::<Vec<_>>(), "links": links.collect::<Vec<_>>()})
}

/// Sends an order to the cluster that runs from `state_dir` and waits for its outcome.
pub async fn send(state_dir: &Path, order: &Order) -> anyhow::Result<Value> {
    let nobody = || Failure::new(format!("no cluster runs from {}", state_dir.display()), "start one with `make up`");
    let owner = Owner::read(state_dir).filter(|owner| owner.supervisor.is_running()).ok_or_else(nobody)?;
    let connected = UnixStream::connect(&owner.control).await;
    let stream = connected
        .with_context(|| format!("the cluster (process {}) is still starting or stopping", owner.supervisor.pid))?;
    let (reader, mut writer) = stream.into_split();
    writer.write_all(format!("{}\n", serde_json::to_string(order)?).as_bytes()).await?;
    let line = BufReader::new(reader).lines().next_line().await?.context("the cluster ended before it answered")?;
    let answer: Value = serde_json::from_str(&line)?;
    if let Some(error) = answer["error"].as_str() {
        bail!("{error}");
    }
    Ok(answer["ok"].clone())
}
