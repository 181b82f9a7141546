//! Redis: one connection for commands, others that stay subscribed to what other nodes tell.

use std::time::Duration;

use anyhow::Context;
use fred::{
    clients::SubscriberClient,
    prelude::{Builder, Client, ClientLike, Config, EventInterface, FredResult, PubsubInterface, ReconnectPolicy},
    types::RespVersion,
};
use secrecy::ExposeSecret;
use tokio::{
    sync::broadcast::error::RecvError,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::config::RedisConfig;

/// In a cluster a channel can move to another server without any connection's end: so often it is subscribed to anyway.
const RENEW: Duration = Duration::from_secs(5);
/// A subscription that failed is tried again after this.
const SUBSCRIBE_AGAIN: Duration = Duration::from_millis(500);

/// Connects to Redis; it must be there at start, and may go and come back after that.
pub async fn connect(config: &RedisConfig) -> anyhow::Result<Client> {
    let client = builder(config)?.build().context("the Redis client could not be made")?;
    let servers: Vec<String> = client.client_config().server.hosts().iter().map(ToString::to_string).collect();
    let connected = timeout(Duration::from_secs(5), client.init()).await;
    connected.map_err(anyhow::Error::from).and_then(|result| result.map_err(anyhow::Error::from)).with_context(
        || {
            let at = servers.join(", ");
            format!("Redis at {at} cannot be used: is it running there, and is redis.url right?")
        },
    )?;
    Ok(client)
}

/// A connection to Redis for messages from other nodes.
pub fn subscriber(config: &RedisConfig) -> anyhow::Result<SubscriberClient> {
    let mut builder = builder(config)?;
    // A burst of messages is held rather than missed.
    builder.with_performance_config(|performance| performance.broadcast_channel_capacity = 8_192);
    builder.build_subscriber_client().context("the Redis client could not be made")
}

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
        let mut renew = interval(RENEW);
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
                sleep(SUBSCRIBE_AGAIN).await;
            }
            if is_new {
                hears_again();
            }
        }
    }
}

fn builder(config: &RedisConfig) -> anyhow::Result<Builder> {
    let mut settings = Config::from_url(config.url.expose_secret())
        .context("redis.url is not an address like redis://host:6379 or redis-cluster://host:6379")?;
    settings.version = RespVersion::RESP3;
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
