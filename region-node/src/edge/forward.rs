//! Forwarding: the call goes on as it came, its body streaming; a socket becomes a pipe.

use std::{net::SocketAddr, time::Duration};

use axum::{
    body::{Body, HttpBody},
    extract::{ConnectInfo, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::Response,
};
use futures::TryStreamExt;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use url::Url;

use super::{Edge, GIVEN_BY_EDGE, HOME_EPOCH};

/// Headers about one connection, not about the call (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Socket.IO's ping interval and time-out: a poll is answered within the first, and given up after both.
const LONGEST_POLL: Duration = Duration::from_secs(25 + 20);

/// No answer came.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForwardError {
    #[error("no answer began in time")]
    TooSlow,
    #[error(transparent)]
    Http(#[from] reqwest::Error),
}

/// Sends `request` on to `base_url`, marked with the header `mark`, and gives its answer.
pub(super) async fn forward(
    edge: &Edge,
    base_url: &Url,
    mark: &'static HeaderName,
    mut request: Request,
) -> Result<Response, ForwardError> {
    let mut url = base_url.clone();
    url.set_path(request.uri().path());
    url.set_query(request.uri().query());
    let patience = match *request.method() == Method::GET && request.uri().path().starts_with("/socket.io") {
        true => LONGEST_POLL.max(edge.0.config.forward_timeout),
        false => edge.0.config.forward_timeout,
    };
    // Other protocols are not spoken; such a call is forwarded as what it is without its offer to upgrade.
    let is_socket = |protocol: &&HeaderValue| protocol.as_bytes().eq_ignore_ascii_case(b"websocket");
    let upgrade = request.headers().get(header::UPGRADE).filter(is_socket).cloned();
    let upgrade = upgrade.filter(|_| request.method() == Method::GET);
    let client_side = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let home_epoch = edge.home_epoch(&request).and_then(|epoch| HeaderValue::from_str(&epoch).ok());
    let (parts, body) = request.into_parts();

    let mut headers = without_hop_by_hop(&parts.headers);
    headers.remove(header::HOST);
    let own = HeaderValue::from_str(edge.0.region.as_str()).expect("a region's name is ASCII");
    // Who gave it to this node is nothing to the next region.
    headers.remove(&GIVEN_BY_EDGE);
    headers.insert(mark.clone(), own);
    headers.remove(&HOME_EPOCH);
    if let Some(epoch) = home_epoch {
        headers.insert(HOME_EPOCH.clone(), epoch);
    }
    if let Some(peer) = peer.and_then(|peer| HeaderValue::from_str(&peer.to_string()).ok()) {
        headers.append("x-forwarded-for", peer);
    }
    if let Some(traceparent) = shared::telemetry::current_traceparent().and_then(|text| text.parse().ok()) {
        headers.insert("traceparent", traceparent);
    }
    let mut outgoing = edge.0.http.request(parts.method, url);
    match upgrade {
        Some(protocol) => {
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, protocol);
        }
        // Sent as a stream, nothing would become an empty chunked body.
        None if !body.is_end_stream() => {
            outgoing =
                outgoing.body(reqwest::Body::wrap_stream(body.into_data_stream().map_err(std::io::Error::other)));
        }
        None => {}
    }
    let sent = tokio::time::timeout(patience, outgoing.headers(headers).send()).await;
    let answer = sent.map_err(|_| ForwardError::TooSlow)??;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = without_hop_by_hop(answer.headers());
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client_side) = client_side
    {
        for name in [header::CONNECTION, header::UPGRADE] {
            if let Some(value) = answer.headers().get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        let mut home_side = answer.upgrade().await?;
        let stop = edge.0.stop.clone();
        edge.0.tasks.spawn(async move {
            let Ok(client_side) = client_side.await else { return };
            // Either side closing, with or without an error, ends the tunnel; so does this node when it stops.
            let mut client_side = TokioIo::new(client_side);
            stop.run_until_cancelled(copy_bidirectional(&mut client_side, &mut home_side)).await;
        });
    } else {
        *response.body_mut() = Body::from_stream(answer.bytes_stream());
    }
    Ok(response)
}

fn without_hop_by_hop(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|names| names.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let mut kept = headers.clone();
    for name in HOP_BY_HOP.iter().chain(&named) {
        kept.remove(name);
    }
    kept
}
