//! Connecting at start-up, with errors an operator can act on.

use std::time::Duration;

use anyhow::{Context, ensure};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    Connection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::config::DatabaseConfig;

/// A request that waits longer than this for a statement or a lock is better refused and tried again.
const STATEMENT_TIMEOUT: &str = "15s";
const LOCK_TIMEOUT: &str = "5s";
const IDLE_IN_TRANSACTION_TIMEOUT: &str = "20s";
/// A connection that has rested longer is asked whether it still lives.
const RESTED: Duration = Duration::from_secs(1);

/// Opens a pool on `url`, whose setting is called `setting`.
pub async fn connect(url: &SecretString, setting: &str, config: &DatabaseConfig) -> anyhow::Result<PgPool> {
    let options = options(url, setting)?.options([
        ("statement_timeout", STATEMENT_TIMEOUT),
        ("lock_timeout", LOCK_TIMEOUT),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT),
    ]);
    let pool = PgPoolOptions::new()
        .max_connections(config.max_connections)
        .acquire_timeout(config.acquire_timeout)
        .max_lifetime(Duration::from_secs(1800))
        // The pool pings a connection that comes back. One that went out again at once need not be asked a second time.
        .test_before_acquire(false)
        .before_acquire(|connection, of| {
            Box::pin(async move {
                if of.idle_for > RESTED {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_with(options.clone())
        .await
        .with_context(|| unreachable(setting, &options))?;
    let migrated: bool = sqlx::query_scalar("SELECT to_regclass('tenant_homes') IS NOT NULL")
        .fetch_one(&pool)
        .await
        .with_context(|| unreachable(setting, &options))?;
    let (host, port) = (options.get_host(), options.get_port());
    ensure!(
        migrated,
        "the database at {host}:{port} has no schema: run `region-node migrate`, or set database.migrate_url to have it brought at start"
    );
    Ok(pool)
}

/// Brings the schema up to date. Nodes that start together take turns on an advisory lock.
pub async fn migrate(url: &SecretString) -> anyhow::Result<()> {
    let setting = "database.migrate_url";
    let options = options(url, setting)?;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(options.clone())
        .await
        .with_context(|| unreachable(setting, &options))?;
    super::MIGRATOR.run(&pool).await.context("the schema could not be migrated")?;
    pool.close().await;
    Ok(())
}

/// Refuses a database whose schema nobody has made.
pub async fn must_be_migrated(pool: &PgPool) -> anyhow::Result<()> {
    let is_made = sqlx::query_scalar!(r#"SELECT to_regclass('public.tenant_homes') IS NOT NULL AS "made!""#)
        .fetch_one(pool)
        .await
        .context("the database does not answer")?;
    anyhow::ensure!(is_made, "the database has no schema yet: run `region-node migrate`, or set database.migrate_url");
    Ok(())
}

fn options(url: &SecretString, setting: &str) -> anyhow::Result<PgConnectOptions> {
    let options: PgConnectOptions = url
        .expose_secret()
        .parse()
        .with_context(|| format!("{setting} is not an address like postgres://user@host:5432/database"))?;
    Ok(options.application_name("region-node"))
}

fn unreachable(setting: &str, options: &PgConnectOptions) -> String {
    let (host, port) = (options.get_host(), options.get_port());
    format!("the database at {host}:{port} cannot be used: is Postgres running there, and is {setting} right?")
}
