//! One line per region: what its fleet does, and how far its ledger has come.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use shared::ids::FactId;
use tokio::time::timeout;

use crate::{
    api::{ApiError, Client, Credentials, PeerStatus, SyncStatus},
    fleet::{Snapshot, Tally},
};

/// A line is not kept waiting longer than this by a region that does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Watches one region.
pub struct RegionWatch {
    region: String,
    /// The city's tenant and fleet, if this region is a home of one.
    fleets: Vec<(String, Arc<Tally>)>,
    operator: Client,
    credentials: Credentials,
    sync: Client,
    settlements: usize,
    last_seen: Option<FactId>,
    answers: bool,
}

impl RegionWatch {
    /// `operator` speaks to this region and signs in when it can; `sync` speaks to its global-sync.
    pub fn new(
        region: &str,
        fleets: Vec<(String, Arc<Tally>)>,
        (operator, credentials): (Client, Credentials),
        sync: Client,
    ) -> Self {
        Self {
            region: region.to_owned(),
            fleets,
            operator,
            credentials,
            sync,
            settlements: 0,
            last_seen: None,
            answers: false,
        }
    }

    /// The region as it is now.
    pub async fn line(&mut self) -> String {
        let sync = self.sync.clone();
        let (ledger, status) = tokio::join!(timeout(PATIENCE, self.read_on()), timeout(PATIENCE, sync.sync_status()));
        self.answers = matches!(ledger, Ok(Ok(())));
        self.write(status.ok().and_then(Result::ok).as_ref())
    }

    /// Counts what the region's ledger has gained.
    async fn read_on(&mut self) -> Result<(), ApiError> {
        if self.operator.token().await.is_none() {
            self.operator.sign_in(self.credentials.clone()).await?;
        }
        loop {
            let after = self.last_seen.map(|id| id.to_string());
            let page = self.operator.settlements(after.as_deref()).await?;
            let Some(last) = page.items.last() else { return Ok(()) };
            self.last_seen = Some(last.fact_id);
            self.settlements += page.items.iter().filter(|item| item.kind == "settlement").count();
            if page.next_cursor.is_none() {
                return Ok(());
            }
        }
    }

    fn write(&self, status: Option<&SyncStatus>) -> String {
        let mut line = format!("{:<9}", self.region);
        for (tenant, tally) in &self.fleets {
            let _ = write!(line, " {tenant:<15} {}", fleet(&tally.snapshot()));
        }
        let stale = if self.answers { "" } else { " (no answer)" };
        let _ = write!(line, " · settlements {}{stale} · ", self.settlements);
        match status {
            Some(status) if status.peers.is_empty() => line.push_str("no peers"),
            Some(status) => line.push_str(&status.peers.iter().map(peer).collect::<Vec<_>>().join(", ")),
            None => line.push_str("replication does not answer"),
        }
        line
    }
}

fn fleet(now: &Snapshot) -> String {
    let p95 = now.offer_p95.map_or("-".to_owned(), |wait| format!("{} ms", wait.as_millis()));
    format!(
        "drivers {:>3} · open rides {:>3} · matches/min {:>3} · request to offer p95 {p95}",
        now.online, now.open_rides, now.matches_per_minute
    )
}

fn peer(peer: &PeerStatus) -> String {
    if !peer.connected {
        return format!("{} cut off", peer.region);
    }
    match (peer.lag_entries, peer.lag_ms) {
        (Some(0) | None, _) => format!("{} lag 0", peer.region),
        (Some(entries), Some(ms)) => format!("{} lag {entries} ({ms:.0} ms)", peer.region),
        (Some(entries), None) => format!("{} lag {entries}", peer.region),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_the_fleet_the_ledger_and_the_lag_to_each_peer() {
        let tally = Arc::new(Tally::default());
        tally.went_online();
        tally.matched();
        let nowhere = Client::new("http://127.0.0.1:9");
        let nobody = Credentials::Client { id: String::new(), secret: String::new() };
        let mut watch = RegionWatch::new("us-east", vec![("cabs".into(), tally)], (nowhere.clone(), nobody), nowhere);
        watch.answers = true;
        watch.settlements = 7;
        let status: SyncStatus = serde_json::from_value(serde_json::json!({
            "region": "us-east", "leader": true, "version_vector": {}, "digest": "d", "logs": {}, "outbox": {"pending": 0},
            "peers": [
                {"region": "eu-west", "connected": true, "rtt_ms": 1.5, "lag_entries": 2, "lag_ms": 40},
                {"region": "ap-south", "connected": false, "rtt_ms": null, "lag_entries": 9, "lag_ms": 100}
            ]
        }))
        .unwrap();
        assert_eq!(
            watch.write(Some(&status)),
            "us-east   cabs            drivers   1 · open rides   0 · matches/min   1 · request to offer p95 - \
             · settlements 7 · eu-west lag 2 (40 ms), ap-south cut off"
        );
        assert!(watch.write(None).ends_with("replication does not answer"));
    }
}
