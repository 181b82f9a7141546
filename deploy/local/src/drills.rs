//! Breaking a running cluster on purpose, and mending it: for tests and for practice.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use futures::future::join_all;

use crate::certificates::Authority;
use crate::cluster::{Cluster, lock};
use crate::failure::Failure;
use crate::link::{Carried, Direction, Links};
use crate::ports::{MAX_REGIONS, check_free, of_links, of_region};
use crate::postgres;
use crate::progress::Progress;
use crate::region::Region;
use crate::service::Service;
use crate::start::check_name;

/// How long a program has to end by itself.
const GRACE: Duration = Duration::from_secs(10);

impl Cluster {
    /// Ends a program as a crash does: SIGKILL to it and all it started.
    pub async fn kill(&self, region: &str, service: Service) -> anyhow::Result<()> {
        let _alone = self.changing.lock().await;
        self.process(region, service)?.kill().await;
        self.write_file()
    }

    /// Ends every program of a region at once, as when its building loses power.
    pub async fn kill_region(&self, region: &str) -> anyhow::Result<()> {
        let _alone = self.changing.lock().await;
        self.region(region)?;
        let all = self.processes().into_iter().filter(|(of, ..)| of == region);
        join_all(all.map(|(.., process)| async move { process.kill().await })).await;
        self.write_file()
    }

    /// Lets a program stand still: it keeps its connections and answers nothing.
    pub fn freeze(&self, region: &str, service: Service) -> anyhow::Result<()> {
        self.process(region, service)?.freeze();
        Ok(())
    }

    /// Lets a frozen program go on.
    pub fn thaw(&self, region: &str, service: Service) -> anyhow::Result<()> {
        self.process(region, service)?.thaw();
        Ok(())
    }

    /// Lets every program of a region stand still.
    pub fn freeze_region(&self, region: &str) -> anyhow::Result<()> {
        self.region(region)?;
        self.processes().iter().filter(|(of, ..)| of == region).for_each(|(.., process)| process.freeze());
        Ok(())
    }

    /// Lets every frozen program of a region go on.
    pub fn thaw_region(&self, region: &str) -> anyhow::Result<()> {
        self.region(region)?;
        self.processes().iter().filter(|(of, ..)| of == region).for_each(|(.., process)| process.thaw());
        Ok(())
    }

    /// Ends a program orderly, where it still runs.
    pub async fn halt(&self, region: &str, service: Service) -> anyhow::Result<()> {
        let _alone = self.changing.lock().await;
        self.process(region, service)?.stop(GRACE).await;
        self.write_file()
    }

    /// Starts a program, ending it orderly first where it still runs, and waits until it is ready.
    pub async fn restart(&self, region: &str, service: Service) -> anyhow::Result<()> {
        let _alone = self.changing.lock().await;
        self.process(region, service)?.stop(GRACE).await;
        self.start_service(region, service).await?;
        self.write_file()
    }

    /// Starts every program of a region that does not run.
    pub async fn restart_region(&self, region: &str) -> anyhow::Result<()> {
        let _alone = self.changing.lock().await;
        self.region(region)?;
        let stopped = |service: Service| self.process(region, service).is_ok_and(|process| !process.is_running());
        self.start_all(region, |service| service.is_database() && stopped(service)).await?;
        self.start_all(region, stopped).await?;
        self.write_file()
    }

    /// The network between two regions, both ways.
    pub fn link(&self, from: &str, to: &str) -> Link<'_> {
        Link { cluster: self, ways: vec![(from.to_owned(), to.to_owned()), (to.to_owned(), from.to_owned())] }
    }

    /// The network from one region to another, that way alone.
    pub fn one_way(&self, from: &str, to: &str) -> Link<'_> {
        Link { cluster: self, ways: vec![(from.to_owned(), to.to_owned())] }
    }

    /// The network between all regions.
    pub fn all_links(&self) -> Link<'_> {
        let names = self.regions();
        let pairs = names.iter().flat_map(|from| names.iter().map(move |to| (from.clone(), to.clone())));
        Link { cluster: self, ways: pairs.filter(|(from, to)| from != to).collect() }
    }

    /// Copies a region's database, consistent as of one moment, while it runs.
    pub async fn backup(&self, region: &str, name: &str) -> anyhow::Result<()> {
        let _alone = self.changing.lock().await;
        let plan = self.region(region)?;
        check_name(name)?;
        self.setup.postgres.backup(self.setup.ports.postgres(plan.index), &self.backup_folder(&plan, name)).await
    }

    /// Takes a region back to an earlier backup: its programs end, its database is replaced, its programs start again.
    pub async fn restore(&self, region: &str, name: &str) -> anyhow::Result<()> {
        let _alone = self.changing.lock().await;
        let plan = self.region(region)?;
        let backup = self.backup_folder(&plan, name);
        if !backup.is_dir() {
            return Err(Failure::new(
                format!("{region} has no backup named {name}"),
                format!("make one with `local backup {region} {name}`"),
            )
            .into());
        }
        self.stop_region(region).await;
        self.setup.postgres.copy(&backup, &self.setup.data(&plan).join("postgres")).await?;
        self.start_all(region, Service::is_database).await?;
        self.start_all(region, |service| !service.is_database()).await?;
        self.write_file()
    }

    /// Adds a region to the running cluster: the same authority signs for it, and the others learn of it by themselves.
    pub async fn add_region(&self, name: &str, progress: &Progress) -> anyhow::Result<()> {
        let _alone = self.changing.lock().await;
        check_name(name)?;
        let region = {
            let mut regions = lock(&self.regions);
            if regions.contains_key(name) {
                return Err(Failure::new(format!("there is a region {name} already"), "choose another name").into());
            }
            let free = (0..MAX_REGIONS).find(|index| regions.values().all(|region| region.index != *index));
            let index = free.ok_or_else(|| {
                Failure::new(format!("a cluster has room for {MAX_REGIONS} regions"), "remove one first")
            })?;
            let ports = self.setup.ports;
            let mut needed = of_region(ports, name, index, &self.setup.services());
            if self.setup.links {
                let others = regions.values().map(|other| (other.name.as_str(), other.index));
                let pairs = others.flat_map(|other| [((name, index), other), (other, (name, index))]);
                needed.extend(of_links(ports, pairs));
            }
            check_free(&needed, ports.base)?;
            let region = Region::new(name, index);
            regions.insert(name.to_owned(), region.clone());
            region
        };
        let started = async {
            Authority::open(&self.authority())?.issue(name, &self.setup.cluster_id)?;
            self.open_links(&region, true).await?;
            self.start_region(name, progress).await
        };
        if let Err(error) = started.await {
            self.forget(&region).await;
            return Err(error);
        }
        self.write_file()
    }

    /// Stops a region and deletes all it had.
    pub async fn remove_region(&self, name: &str) -> anyhow::Result<()> {
        let _alone = self.changing.lock().await;
        let region = self.region(name)?;
        self.forget(&region).await;
        self.write_file()
    }

    async fn forget(&self, region: &Region) {
        self.stop_region(&region.name).await;
        lock(&self.processes).retain(|(of, _), _| *of != region.name);
        lock(&self.regions).remove(&region.name);
        if let Some(links) = &self.links {
            links.close(&region.name);
        }
        postgres::release(&self.setup.data(region).join("postgres"));
        for folder in [self.setup.folder(region), self.setup.data(region), self.setup.certificates(&region.name)] {
            let _ = tokio::fs::remove_dir_all(folder).await;
        }
    }

    /// Ends all programs of a region, the services before the databases.
    async fn stop_region(&self, region: &str) {
        let all = self.processes().into_iter().filter(|(of, ..)| of == region);
        let (databases, services): (Vec<_>, Vec<_>) = all.partition(|(_, service, _)| service.is_database());
        for group in [services, databases] {
            join_all(group.iter().map(|(.., process)| process.stop(GRACE))).await;
        }
    }

    fn backup_folder(&self, region: &Region, name: &str) -> PathBuf {
        self.setup.data(region).join(format!("backup-{name}"))
    }
}

/// One or more ways between regions.
#[derive(Debug)]
pub struct Link<'a> {
    cluster: &'a Cluster,
    ways: Vec<(String, String)>,
}

impl Link<'_> {
    /// Nothing arrives any more: TCP waits, datagrams are lost.
    pub fn cut(&self) -> anyhow::Result<()> {
        self.spoil(|way| way.cut = true)
    }

    /// As if nothing had ever been wrong: no cut, no delay, no loss.
    pub fn heal(&self) -> anyhow::Result<()> {
        self.change(|way| *way = Direction::default())
    }

    /// Everything takes so much longer, each way.
    pub fn delay(&self, delay: Duration) -> anyhow::Result<()> {
        self.spoil(|way| way.delay = delay)
    }

    /// This share of datagrams is lost, 0 to 1.
    pub fn loss(&self, share: f64) -> anyhow::Result<()> {
        if !(0.0..=1.0).contains(&share) {
            return Err(Failure::new(format!("{share} is no share of datagrams"), "give a number from 0 to 1").into());
        }
        self.spoil(|way| way.loss = share)
    }

    /// What travelled so far, every way of it taken together.
    pub fn carried(&self) -> anyhow::Result<Carried> {
        let links = self.links()?;
        self.ways.iter().try_fold(Carried::default(), |sum, (from, to)| {
            let way = links.carried(from, to)?;
            Ok(Carried { streams: sum.streams + way.streams, datagrams: sum.datagrams + way.datagrams })
        })
    }

    /// As [`Self::change`], where both regions use the relays between them. Programs that started before a region joined
    /// have found it by themselves and reach it directly: what is done to the relay would not be done to them.
    fn spoil(&self, change: impl Fn(&mut Direction)) -> anyhow::Result<()> {
        for (from, to) in self.ways.iter().flat_map(|(from, to)| [(from, to), (to, from)]) {
            let past: Vec<String> = self
                .cluster
                .processes()
                .into_iter()
                .filter(|(region, service, process)| {
                    region == from && !service.is_database() && process.is_running() && !knows(&process.spec.envs, to)
                })
                .map(|(region, service, _)| format!("`local restart {region} {service}`"))
                .collect();
            if !past.is_empty() {
                let cause = format!("{from} was started before {to} joined and reaches it past the relay between them");
                return Err(Failure::new(cause, format!("run {} first", past.join(" and "))).into());
            }
        }
        self.change(change)
    }

    fn change(&self, change: impl Fn(&mut Direction)) -> anyhow::Result<()> {
        let links = self.links()?;
        for (from, to) in &self.ways {
            links.change(from, to, &change)?;
        }
        Ok(())
    }

    fn links(&self) -> anyhow::Result<&Links> {
        self.cluster.links.as_ref().context("this cluster was started without relays between its regions")
    }
}

/// Whether a program was told the address of a region's relay when it started.
fn knows(settings: &[(String, String)], region: &str) -> bool {
    let peers = settings.iter().filter(|(name, _)| name.ends_with("PEERS")).flat_map(|(_, list)| list.split(','));
    peers.filter_map(|peer| peer.split_once('=')).any(|(name, _)| name == region)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_knows_the_relays_it_was_started_with() {
        let settings = [("GLOBAL_SYNC_PEERS".to_owned(), "eu-west=127.0.0.1:1,ap-south=127.0.0.1:2".to_owned())];
        assert!(knows(&settings, "eu-west") && knows(&settings, "ap-south"));
        assert!(!knows(&settings, "sa-east") && !knows(&settings, "eu") && !knows(&[], "eu-west"));
    }
}
