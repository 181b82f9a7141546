//! Rate limits: per caller where somebody is signed in, per address where nobody is, or nobody proves to be.

use std::{net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use axum::{
    extract::{ConnectInfo, Request},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock as _, clock::DefaultClock};
use rand::RngExt;
use shared::{ids::TenantId, problem::Code};

use super::{Problem, bearer, client_address::Proxies};
use crate::{config::LimitsConfig, identity::Tokens, pace::Pace};

/// Counts calls. Cheap to clone.
#[derive(Clone)]
pub struct Limits(Arc<Inner>);

struct Inner {
    /// All addresses' new sockets together.
    new_sockets: Pace,
    /// Those who are told to come back, at the same pace.
    coming_back: Pace,
    connections: Limit<IpAddr>,
    sign_ins: Limit<IpAddr>,
    calls: Limit<CallerKey>,
    tokens: Tokens,
}

/// Whom a good token names, or the address of somebody without one: a made-up token would make a made-up caller.
#[derive(Clone, PartialEq, Eq, Hash)]
enum CallerKey {
    Subject(Option<TenantId>, String),
    Address(IpAddr),
}

struct Limit<K: std::hash::Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<K>,
    quota: u32,
    window: Duration,
}

/// So long a new socket waits for its turn.
const WAIT_FOR_TURN: Duration = Duration::from_secs(2);
/// Whoever would wait longer is told to come back when it may be their turn, within so many seconds.
const COME_BACK_WITHIN_S: u64 = 60;

/// Forgotten keys are swept once this many are known.
const SWEEP_AT: usize = 50_000;

impl<K: std::hash::Hash + Eq + Clone> Limit<K> {
    fn new(quota: Quota, shown: NonZeroU32, window: Duration) -> Self {
        Self { limiter: RateLimiter::keyed(quota), quota: shown.get(), window }
    }

    fn check(&self, limit: &'static str, key: &K) -> Result<(), Refused> {
        if self.limiter.len() > SWEEP_AT {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(key).map_err(|refused| {
            let wait = refused.wait_time_from(DefaultClock::default().now());
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            let detail = format!("at most {} in {} s; try again in {seconds} s", self.quota, self.window.as_secs());
            let problem = Problem::new(Code::RateLimited, detail).retry_after(seconds.max(1));
            metrics::counter!("region_node_rate_limited_total", "limit" => limit).increment(1);
            Refused { problem, quota: self.quota, window: self.window }
        })
    }
}

impl Limits {
    /// Limits as configured.
    pub fn new(config: LimitsConfig, tokens: Tokens) -> Self {
        let minute = Duration::from_secs(60);
        let per_minute = |count: NonZeroU32| Quota::per_minute(count);
        let calls = Quota::per_second(config.requests_per_second).allow_burst(config.requests_burst);
        Self(Arc::new(Inner {
            new_sockets: Pace::new(config.new_sockets_per_second),
            coming_back: Pace::new(config.new_sockets_per_second),
            connections: Limit::new(per_minute(config.connections_per_minute), config.connections_per_minute, minute),
            sign_ins: Limit::new(per_minute(config.sign_ins_per_minute), config.sign_ins_per_minute, minute),
            calls: Limit::new(calls, config.requests_per_second, Duration::from_secs(1)),
            tokens,
        }))
    }

    fn check(&self, request: &mut Request, address: IpAddr) -> Result<(), Refused> {
        let path = request.uri().path();
        let Inner { new_sockets: _, coming_back: _, connections, sign_ins, calls, tokens } = &*self.0;
        if path.starts_with("/socket.io") {
            return match is_new_socket(request) {
                true => connections.check("connections", &address),
                false => Ok(()),
            };
        }
        if !path.starts_with("/v1/") {
            return Ok(());
        }
        let is_post = request.method() == axum::http::Method::POST;
        if is_post && matches!(path, "/v1/auth/token" | "/v1/riders" | "/v1/drivers") {
            return sign_ins.check("sign_ins", &address);
        }
        let key = match bearer(request.headers()).map(|token| tokens.verify(token)) {
            Some(Ok(claims)) => {
                let key = CallerKey::Subject(claims.tenant.clone(), claims.sub.clone());
                request.extensions_mut().insert(claims);
                key
            }
            Some(Err(_)) | None => CallerKey::Address(address),
        };
        calls.check("requests", &key)
    }

    /// Lets a new socket wait for its turn, or come back later. The clients of a node that died are spread out by that: they
    /// come back as fast as they can be let in, each second's at the pace of a second.
    pub(super) async fn wait_for_turn(&self) -> Result<(), Problem> {
        match self.0.new_sockets.take(1, WAIT_FOR_TURN) {
            Some(wait) => {
                tokio::time::sleep(wait).await;
                Ok(())
            }
            None => {
                metrics::counter!("region_node_rate_limited_total", "limit" => "new_sockets").increment(1);
                let turn = self.0.coming_back.take(1, Duration::from_secs(COME_BACK_WITHIN_S));
                let at_random = || rand::rng().random_range(1..=COME_BACK_WITHIN_S);
                let seconds = turn.map_or_else(at_random, |wait| wait.as_secs() + 1);
                let detail = format!("too many connect at once; try again in {seconds} s");
                Err(Problem::new(Code::Unavailable, detail).retry_after(seconds))
            }
        }
    }
}

/// Whether a Socket.IO connection begins with it.
pub(super) fn is_new_socket(request: &Request) -> bool {
    let query = request.uri().query().unwrap_or_default();
    request.uri().path().starts_with("/socket.io") && !query.split('&').any(|pair| pair.starts_with("sid="))
}

/// A call over a limit: the answer, and the limit.
struct Refused {
    problem: Problem,
    quota: u32,
    window: Duration,
}

/// The refusal of a call over a limit: 429 and the RateLimit-* headers. What a good token claims is kept with the call, so that
/// nobody looks it up again.
pub(super) fn limit(limits: &Limits, proxies: &Proxies, request: &mut Request) -> Option<Response> {
    // Calls inside the process (tests) have no address and no limit.
    let address = request.extensions().get::<ConnectInfo<std::net::SocketAddr>>().map(|info| info.0.ip())?;
    let address = proxies.client(address, request.headers());
    let Refused { problem, quota, window } = limits.check(request, address).err()?;
    let mut response = problem.into_response();
    let headers = response.headers_mut();
    headers.insert("ratelimit-limit", HeaderValue::from(quota));
    headers.insert("ratelimit-remaining", HeaderValue::from(0));
    let reset = headers.get(header::RETRY_AFTER).cloned().unwrap_or(HeaderValue::from(window.as_secs()));
    headers.insert("ratelimit-reset", reset);
    Some(response)
}
