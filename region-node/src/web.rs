//! The React app, embedded; every path that is not the API's is the app's to route.

use axum::{
    body::Body,
    http::{HeaderValue, Method, Uri, header},
    response::{IntoResponse, Response},
};
use rust_embed::{EmbeddedFile, RustEmbed};
use shared::problem::Code;

use crate::http::{Problem, router::not_found};

#[derive(RustEmbed)]
#[folder = "web/dist"]
#[allow_missing = true]
struct Dist;

/// Only our own files, and calls to any region's API and sockets.
const POLICY: &str = "default-src 'self'; connect-src 'self' http: https: ws: wss:; img-src 'self' data: blob:; \
    style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; frame-ancestors 'none'; base-uri 'self'";

/// The fallback of the router: a file of the app, or its start page.
pub async fn serve(method: Method, uri: Uri) -> Response {
    let path = uri.path().trim_start_matches('/');
    let is_api = ["v1/", "socket.io", ".well-known/", "health", "metrics", "docs", "openapi.json"];
    if is_api.iter().any(|prefix| path.starts_with(prefix)) {
        return not_found(uri.path());
    }
    if method != Method::GET && method != Method::HEAD {
        return Problem::new(Code::MethodNotAllowed, format!("this path does not take {method}")).into_response();
    }
    if let Some(file) = Dist::get(path) {
        return answer(path, file);
    }
    let is_page = !path.rsplit('/').next().unwrap_or_default().contains('.');
    match Dist::get("index.html").filter(|_| is_page) {
        Some(page) => answer("index.html", page),
        None => not_found(uri.path()),
    }
}

fn answer(path: &str, file: EmbeddedFile) -> Response {
    let kind = HeaderValue::from_str(file.metadata.mimetype()).expect("a MIME type is ASCII");
    let mut response = Body::from(file.data).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, kind);
    // Vite names assets by their content, so they never change; the page that names them does.
    let cache = if path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}
