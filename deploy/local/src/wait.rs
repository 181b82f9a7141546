//! Waiting for a condition, with a limit.

use std::time::Duration;

const STEP: Duration = Duration::from_millis(25);

/// Asks again and again until `check` has an answer or the time is over.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
    limit: Duration,
    mut check: impl FnMut() -> F,
) -> Option<T> {
    let asking = async {
        loop {
            if let Some(answer) = check().await {
                return answer;
            }
            tokio::time::sleep(STEP).await;
        }
    };
    tokio::time::timeout(limit, asking).await.ok()
}
