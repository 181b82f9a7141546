//! Several stories on one cluster: starting a cluster costs seconds, and a test runner would start one per function.

use std::{pin::Pin, time::Duration};

use futures::StreamExt;
use tokio::{
    task::LocalSet,
    time::{Instant, timeout},
};
use tokio_util::task::TaskTracker;

use super::TestCluster;

const LONGEST: Duration = Duration::from_secs(180);

/// A named test on a shared cluster.
pub struct Story {
    pub name: &'static str,
    pub run: Pin<Box<dyn Future<Output = ()>>>,
}

/// Names stories after their functions, each of which takes the cluster: `stories!(cluster; first, second)`.
#[macro_export]
macro_rules! stories {
    ($cluster:expr; $($story:path),+ $(,)?) => {
        vec![$($crate::harness::Story { name: stringify!($story), run: Box::pin($story($cluster.clone())) }),+]
    };
}

/// Runs stories, `at_once` of them side by side; all are told even if some fail. `STORY=part of a name` chooses some.
///
/// # Panics
/// In the end, naming those that failed.
pub async fn tell(cluster: &TestCluster, at_once: usize, stories: Vec<Story>) {
    let only = std::env::var("STORY").unwrap_or_default();
    let chosen = stories.into_iter().filter(|story| story.name.contains(&only));
    let tasks = TaskTracker::new();
    let outcomes = futures::stream::iter(chosen.map(|story| tell_one(story, &tasks))).buffer_unordered(at_once);
    let failed: Vec<_> = LocalSet::new().run_until(outcomes.filter_map(std::future::ready).collect()).await;
    if !failed.is_empty() {
        eprintln!("{}", cluster.last_words());
        panic!("{} failed: {}", failed.len(), failed.join(", "));
    }
}

/// The name of a story that failed.
async fn tell_one(story: Story, tasks: &TaskTracker) -> Option<String> {
    let begun = Instant::now();
    // A task of its own, so that its panic ends it alone.
    let outcome = tasks.spawn_local(timeout(LONGEST, story.run)).await;
    let (verdict, failed) = match outcome {
        Ok(Ok(())) => ("ok", None),
        Ok(Err(_)) => ("TIMED OUT", Some(story.name.to_owned())),
        Err(_) => ("FAILED", Some(story.name.to_owned())),
    };
    println!("story {}: {verdict} ({:.1} s)", story.name, begun.elapsed().as_secs_f64());
    failed
}
