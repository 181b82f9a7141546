//! CPU as the operating system charged it, program by program.

use anyhow::Context;
use deploy_local::{Cluster, ProcessId, Service};

/// The kernel counts in hundredths of a second, on every architecture Linux runs on.
const TICK_US: f64 = 10_000.0;

/// Counts from the moment it is made.
pub struct Meter {
    watched: Vec<(Kind, ProcessId, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Node,
    Redis,
    Postgres,
    Sync,
}

impl From<Service> for Kind {
    fn from(service: Service) -> Self {
        match service {
            Service::RegionNode(_) | Service::Edge(_) => Self::Node,
            Service::Redis => Self::Redis,
            Service::Postgres => Self::Postgres,
            Service::GlobalSync(_) => Self::Sync,
        }
    }
}

/// Microseconds of CPU, user and system.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpu {
    pub node_us: f64,
    pub redis_us: f64,
    pub postgres_us: f64,
    pub sync_us: f64,
}

impl Cpu {
    pub fn total_us(self) -> f64 {
        self.node_us + self.redis_us + self.postgres_us + self.sync_us
    }
}

impl Meter {
    /// Watches all programs of a region.
    pub fn of_region(cluster: &Cluster, region: &str) -> anyhow::Result<Self> {
        let mut watched = Vec::new();
        for (of, service, process) in cluster.processes() {
            if of == region {
                watched.push((service.into(), process.id.clone(), ticks(&process.id)?));
            }
        }
        Ok(Self { watched })
    }

    /// Watches one program.
    pub fn of_process(pid: u32) -> anyhow::Result<Self> {
        let id = ProcessId::of(pid).with_context(|| format!("process {pid} does not run"))?;
        Ok(Self { watched: vec![(Kind::Node, id.clone(), ticks(&id)?)] })
    }

    /// Watches a program of a region besides, from the moment that program started.
    pub fn add_started(&mut self, cluster: &Cluster, region: &str, service: Service) -> anyhow::Result<()> {
        let pid = pid(cluster, region, service)?;
        let id = ProcessId::of(pid).with_context(|| format!("process {pid} does not run"))?;
        self.watched.push((service.into(), id, 0));
        Ok(())
    }

    /// What they used since the start.
    pub fn used(&self) -> anyhow::Result<Cpu> {
        let mut cpu = Cpu::default();
        for (kind, id, before) in &self.watched {
            let used = ticks(id)?.saturating_sub(*before) as f64 * TICK_US;
            match kind {
                Kind::Node => cpu.node_us += used,
                Kind::Redis => cpu.redis_us += used,
                Kind::Postgres => cpu.postgres_us += used,
                Kind::Sync => cpu.sync_us += used,
            }
        }
        Ok(cpu)
    }
}

/// How much memory a program of a region holds.
pub fn memory_kib(cluster: &Cluster, region: &str, service: Service) -> anyhow::Result<f64> {
    status_kib(cluster, region, service, "VmRSS:")
}

/// The most a program of a region ever held since it started.
pub fn most_memory_kib(cluster: &Cluster, region: &str, service: Service) -> anyhow::Result<f64> {
    status_kib(cluster, region, service, "VmHWM:")
}

fn status_kib(cluster: &Cluster, region: &str, service: Service, field: &str) -> anyhow::Result<f64> {
    let pid = pid(cluster, region, service)?;
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn pid(cluster: &Cluster, region: &str, service: Service) -> anyhow::Result<u32> {
    cluster.pid(region, service).with_context(|| format!("{service} of {region} does not run"))
}

/// The sum of a metric over all labels, or of those lines that hold `label`, in what a program says of itself; none if it
/// does not know the metric.
pub fn sum_of_metric(text: &str, name: &str, label: &str) -> Option<f64> {
    let value = |line: &str| line.rsplit_once(' ')?.1.parse::<f64>().ok();
    let is_of = |line: &&str| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with([' ', '{'])) && line.contains(label)
    };
    let values: Vec<f64> = text.lines().filter(is_of).filter_map(value).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

/// Ticks of a process, of what it started, and of what it started and has ended (Postgres' connections).
fn ticks(id: &ProcessId) -> anyhow::Result<u64> {
    let mut sum = 0;
    for process in id.tree() {
        // One that ended meanwhile is counted by its parent.
        if let Ok(text) = std::fs::read_to_string(format!("/proc/{}/stat", process.pid)) {
            sum += of_stat(&text).with_context(|| format!("/proc/{}/stat cannot be read", process.pid))?;
        }
    }
    Ok(sum)
}

/// `utime`, `stime`, `cutime` and `cstime` of proc(5), after the name in brackets, which may hold anything.
fn of_stat(text: &str) -> Option<u64> {
    let (_, fields) = text.rsplit_once(')')?;
    let times = fields.split_whitespace().skip(11).take(4).map(str::parse::<u64>);
    times.sum::<Result<u64, _>>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_whatever_name_a_process_has() {
        let stat = "42 (a) b) S 1 2 3 4 5 6 7 8 9 10 100 20 3 4 20 0 1 0 99";
        assert_eq!(of_stat(stat), Some(127));
    }
}
