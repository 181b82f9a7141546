//! Rate limits: per caller where somebody is signed in, per address where nobody is, or nobody proves to be.

use std::{net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use axum::{
    extract::{ConnectInfo, Request},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock as _, clock::DefaultClock};
use shared::{ids::TenantId, problem::Code};

use super::{Problem, bearer, client_address::Proxies};
use crate::{config::LimitsConfig, identity::Tokens};

/// Counts calls. Cheap to clone.
#[derive(Clone)]
pub struct Limits(Arc<Inner>);

struct Inner {
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

/// Forgotten keys are swept once this many are known.
const SWEEP_AT: usize = 50_000;

impl<K: std::hash::Hash + Eq + Clone> Limit<K> {
    fn new(quota: Quota, shown: NonZeroU32, window: Duration) -> Self {
        Self { limiter: RateLimiter::keyed(quota), quota: shown.get(), window }
    }

    fn check(&self, key: &K) -> Result<(), Problem> {
        if self.limiter.len() > SWEEP_AT {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(key).map_err(|refused| {
            let wait = refused.wait_time_from(DefaultClock::default().now());
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            let detail = format!("at most {} in {} s; try again in {seconds} s", self.quota, self.window.as_secs());
            Problem::new(Code::RateLimited, detail).retry_after(seconds.max(1))
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
            connections: Limit::new(per_minute(config.connections_per_minute), config.connections_per_minute, minute),
            sign_ins: Limit::new(per_minute(config.sign_ins_per_minute), config.sign_ins_per_minute, minute),
            calls: Limit::new(calls, config.requests_per_second, Duration::from_secs(1)),
            tokens,
        }))
    }

    fn check(&self, request: &Request, address: IpAddr) -> Result<(), (Problem, u32, Duration)> {
        let path = request.uri().path();
        let limited = |problem, quota, window| (problem, quota, window);
        let Inner { connections, sign_ins, calls, tokens } = &*self.0;
        if path.starts_with("/socket.io") {
            let is_new = !request.uri().query().unwrap_or_default().split('&').any(|pair| pair.starts_with("sid="));
            return match is_new {
                true => connections.check(&address).map_err(|p| limited(p, connections.quota, connections.window)),
                false => Ok(()),
            };
        }
        if !path.starts_with("/v1/") {
            return Ok(());
        }
        let is_post = request.method() == axum::http::Method::POST;
        if is_post && matches!(path, "/v1/auth/token" | "/v1/riders" | "/v1/drivers") {
            return sign_ins.check(&address).map_err(|p| limited(p, sign_ins.quota, sign_ins.window));
        }
        let key = match bearer(request.headers()).map(|token| tokens.verify(token)) {
            Some(Ok(claims)) => CallerKey::Subject(claims.tenant.clone(), claims.sub.clone()),
            Some(Err(_)) | None => CallerKey::Address(address),
        };
        calls.check(&key).map_err(|p| limited(p, calls.quota, calls.window))
    }
}

/// The refusal of a call over a limit: 429 and the RateLimit-* headers.
pub(super) fn limit(limits: &Limits, proxies: &Proxies, request: &Request) -> Option<Response> {
    // Calls inside the process (tests) have no address and no limit.
    let address = request.extensions().get::<ConnectInfo<std::net::SocketAddr>>().map(|info| info.0.ip())?;
    let address = proxies.client(address, request.headers());
    let (problem, quota, window) = limits.check(request, address).err()?;
    let mut response = problem.into_response();
    let headers = response.headers_mut();
    headers.insert("ratelimit-limit", HeaderValue::from(quota));
    headers.insert("ratelimit-remaining", HeaderValue::from(0));
    let reset = headers.get(header::RETRY_AFTER).cloned().unwrap_or(HeaderValue::from(window.as_secs()));
    headers.insert("ratelimit-reset", reset);
    Some(response)
}
