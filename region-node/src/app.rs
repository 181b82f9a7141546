//! What every feature works with.

use std::{ops::Deref, sync::Arc, time::Duration};

use anyhow::Context;
use fred::{
    clients::SubscriberClient,
    prelude::{
        Builder, Client as Redis, ClientLike, Config as RedisConfig, EventInterface, FredResult, PubsubInterface,
        ReconnectPolicy,
    },
};
use secrecy::ExposeSecret;
use shared::{clock::Clock, ids::RegionName};
use sqlx::PgPool;
use tokio::{sync::broadcast::error::RecvError, time::MissedTickBehavior};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::Config,
    db::Db,
    dispatch::{Due, Previews},
    drivers::Drivers,
    identity::{self, Sealer, TenantKeys, Tokens},
    payments::PspRegistry,
    realtime::{self, EventReceiver, EventSender},
    tenants::Tenants,
    travel::Travel,
    zones::Zones,
};

/// A node's parts; cheap to clone.
#[derive(Clone)]
pub struct App(Arc<AppInner>);

/// The parts themselves.
pub struct AppInner {
    pub config: Config,
    pub region: RegionName,
    pub clock: Clock,
    pub db: Db,
    /// May be down at any time; losing it costs speed, never truth.
    pub redis: Redis,
    pub tenants: Tenants,
    /// Seals what belongs to the region; what belongs to a tenant is sealed with [`crate::db::TenantTx::sealer`].
    pub sealer: Sealer,
    /// The keys of the tenants at home here.
    pub tenant_keys: TenantKeys,
    pub tokens: Tokens,
    pub events: EventSender,
    /// Where every driver of the region is.
    pub drivers: Drivers,
    /// Moves the money.
    pub psp: PspRegistry,
    /// Who has rides to dispatch.
    pub dispatch_due: Due,
    /// How many previews of dispatch are under way.
    pub previews: Previews,
    /// How long ways take.
    pub travel: Travel,
    /// Which queue a place belongs to.
    pub zones: Zones,
    /// Calls other programs: other regions, global-sync.
    pub http: reqwest::Client,
    /// Background work runs on this, so that shutdown waits for it.
    pub tasks: TaskTracker,
    /// Cancelled when the node stops.
    pub stop: CancellationToken,
}

impl Deref for App {
    type Target = AppInner;
    fn deref(&self) -> &AppInner {
        &self.0
    }
}

/// What an [`App`] is made of besides its settings.
pub struct Parts {
    /// Sees one tenant at a time.
    pub app_pool: PgPool,
    /// Sees all tenants.
    pub system_pool: PgPool,
    pub redis: Redis,
    pub master_key: [u8; 32],
    pub clock: Clock,
}

impl App {
    /// Puts a node together: loads its signing key and the directory. What it tells comes out of the receiver.
    pub async fn assemble(config: Config, parts: Parts) -> anyhow::Result<(Self, EventReceiver)> {
        let Parts { app_pool, system_pool, redis, master_key, clock } = parts;
        let region = config.region.name.clone();
        let sealer = Sealer::new(&master_key);
        let signing = identity::load_or_create_key(&app_pool, &sealer, &clock, &region).await?;
        let (ttl, cluster) = (config.tokens.access_ttl, config.region.cluster_id.clone());
        let tokens = Tokens::new(&cluster, region.clone(), ttl, clock.clone(), Some(signing));
        let (drivers, dispatch_due) = (Drivers::new(&config.drivers, &cluster), Due::default());
        let (events, receiver) = realtime::channel(drivers.clone(), dispatch_due.clone());
        let tenant_keys = TenantKeys::new(region.clone(), sealer.clone());
        let db = Db::new(app_pool, system_pool, region.clone(), events.clone(), tenant_keys.clone());
        let tenants =
            Tenants::load(db.clone(), tenant_keys.clone()).await.context("the directory could not be read")?;
        let http = http_client(config.edge.connect_timeout)?;
        let app = Self(Arc::new(AppInner {
            psp: PspRegistry::new(&config.psp, db.clone(), clock.clone(), &http, tenants.clone())?,
            db,
            travel: Travel::new(&config.travel, http.clone())
                .context("travel.road_graph must name a folder with road_nodes.csv and road_edges.csv")?,
            http,
            zones: Zones::default(),
            dispatch_due,
            previews: Previews::default(),
            drivers,
            config,
            region,
            clock,
            redis,
            tenants,
            sealer,
            tenant_keys,
            tokens,
            events,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }));
        app.learn_keys();
        Ok((app, receiver))
    }

    /// Takes over the directory's token keys.
    pub fn learn_keys(&self) {
        let directory = self.tenants.directory();
        self.tokens.learn(directory.regions.values().map(|region| &region.jwks));
    }

    /// Runs `work` until it ends or the node stops, and lets shutdown wait for it.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(work).await;
        });
    }
}

/// A client for calls to other programs. Time-outs of whole calls are set per call.
pub fn http_client(connect_timeout: Duration) -> anyhow::Result<reqwest::Client> {
    reqwest::Client::builder()
        .connect_timeout(connect_timeout)
        .pool_idle_timeout(Duration::from_secs(30))
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .context("the HTTP client could not be made")
}

/// A connection to Redis for messages from other nodes.
pub fn redis_subscriber(config: &crate::config::RedisConfig) -> anyhow::Result<SubscriberClient> {
    let mut builder = redis_builder(config)?;
    // A burst of messages is held rather than missed.
    builder.with_performance_config(|performance| performance.broadcast_channel_capacity = 8_192);
    builder.build_subscriber_client().context("the Redis client could not be made")
}

/// In a cluster a channel can move to another server without any connection's end: so often it is subscribed to anyway.
const RENEW: Duration = Duration::from_secs(5);
/// A subscription that failed is tried again after this.
const SUBSCRIBE_AGAIN: Duration = Duration::from_millis(500);

/// Subscribes to sharded channels, which every server of a cluster carries a part of. One by one, since those of one command
/// would have to be on one server.
pub async fn subscribe(client: &SubscriberClient, channels: &[String]) -> FredResult<()> {
    for channel in channels {
        client.ssubscribe(channel.as_str()).await?;
    }
    Ok(())
}

/// Keeps `client` subscribed for as long as the node runs, whatever becomes of its connections from this call on. After each
/// new one it says so by `hears_again`, once it is subscribed: what was told until then may not have been heard.
pub fn keep_subscribed(
    client: SubscriberClient,
    channels: Vec<String>,
    hears_again: impl Fn() + Send,
) -> impl Future<Output = ()> + Send {
    let mut reconnected = client.reconnect_rx();
    async move {
        let mut renew = tokio::time::interval(RENEW);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_new = tokio::select! {
                reconnected = reconnected.recv() => match reconnected {
                    Ok(_) | Err(RecvError::Lagged(_)) => true,
                    Err(RecvError::Closed) => return,
                },
                _ = renew.tick(), if client.is_clustered() => false,
            };
            while let Err(error) = subscribe(&client, &channels).await {
                tracing::warn!(%error, "messages of other nodes may not be heard until Redis answers");
                tokio::time::sleep(SUBSCRIBE_AGAIN).await;
            }
            if is_new {
                hears_again();
            }
        }
    }
}

/// Connects to Redis; it must be there at start, and may go and come back after that.
pub async fn connect_redis(config: &crate::config::RedisConfig) -> anyhow::Result<Redis> {
    let client = redis_builder(config)?.build().context("the Redis client could not be made")?;
    let servers: Vec<String> = client.client_config().server.hosts().iter().map(ToString::to_string).collect();
    let connected = tokio::time::timeout(Duration::from_secs(5), client.init()).await;
    connected.map_err(anyhow::Error::from).and_then(|result| result.map_err(anyhow::Error::from)).with_context(
        || {
            let at = servers.join(", ");
            format!("Redis at {at} cannot be used: is it running there, and is redis.url right?")
        },
    )?;
    Ok(client)
}

fn redis_builder(config: &crate::config::RedisConfig) -> anyhow::Result<Builder> {
    let mut settings = RedisConfig::from_url(config.url.expose_secret())
        .context("redis.url is not an address like redis://host:6379 or redis-cluster://host:6379")?;
    settings.version = fred::types::RespVersion::RESP3;
    let mut builder = Builder::from_config(settings);
    builder
        .with_connection_config(|connection| {
            connection.connection_timeout = Duration::from_secs(3);
            connection.internal_command_timeout = Duration::from_secs(3);
            // A Redis that takes commands and answers none is as good as gone, and told so soon.
            connection.unresponsive.max_timeout = Some(Duration::from_secs(1));
            connection.unresponsive.interval = Duration::from_millis(250);
        })
        .with_performance_config(|performance| performance.default_command_timeout = Duration::from_secs(2))
        .set_policy(ReconnectPolicy::new_exponential(0, 50, 2_000, 2));
    Ok(builder)
}
