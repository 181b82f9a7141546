//! Passwords and client secrets: argon2id, off the async threads, at most as many at once as there are cores.

use std::sync::LazyLock;

use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use tokio::sync::Semaphore;

use crate::http::Problem;

/// Hashing is meant to be slow; more at once than cores would only make each slower and starve what is short.
static PERMITS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)));

/// The PHC string of `secret`.
pub async fn hash_secret(secret: &str) -> Result<String, Problem> {
    let secret = secret.to_owned();
    on_a_worker(move || {
        let hash = Argon2::default().hash_password(secret.as_bytes());
        hash.expect("the default parameters are valid").to_string()
    })
    .await
}

/// Whether `secret` is the one behind `hash`. Without a hash (no such account) it works as long and says no, so that the
/// time taken does not tell who has an account.
pub(super) async fn verify_secret(secret: &str, hash: Option<&str>) -> Result<bool, Problem> {
    let (secret, hash) = (secret.to_owned(), hash.map(str::to_owned));
    on_a_worker(move || {
        static NOBODY: LazyLock<String> = LazyLock::new(|| {
            Argon2::default().hash_password(b"nobody").expect("the default parameters are valid").to_string()
        });
        let exists = hash.is_some();
        let hash = hash.unwrap_or_else(|| NOBODY.clone());
        Argon2::default().verify_password(secret.as_bytes(), hash.as_str()).is_ok() && exists
    })
    .await
}

async fn on_a_worker<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    let _permit = PERMITS.acquire().await.expect("the semaphore is never closed");
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a password worker died");
        Problem::internal()
    })
}
