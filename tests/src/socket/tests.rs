//! The client against the server the platform uses.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use socketioxide::{
    SocketIo,
    extract::{AckSender, Data, SocketRef},
};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::*;
use crate::api::{Client, SignedIn};

struct Refusal;

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not with this token")
    }
}

/// A server that takes the token `good`, echoes `echo`, answers questions and hangs up on `leave`.
struct Server {
    base_url: String,
    tasks: TaskTracker,
}

async fn server() -> Server {
    let (layer, io) = SocketIo::builder().ping_interval(Duration::from_millis(50)).build_layer();
    let check =
        async |_: SocketRef, Data(auth): Data<Value>| if auth["token"] == "good" { Ok(()) } else { Err(Refusal) };
    let on_connect = async |socket: SocketRef| {
        socket.on("echo", async |socket: SocketRef, Data(payload): Data<Value>| {
            socket.emit("echoed", &payload).unwrap();
        });
        socket.on("question", async |Data(payload): Data<Value>, ack: AckSender| {
            ack.send(&json!({"ok": true, "asked": payload})).unwrap();
        });
        socket.on("leave", async |socket: SocketRef| {
            socket.disconnect().unwrap();
        });
    };
    io.ns("/", socketioxide::handler::ConnectHandler::with(on_connect, check));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    let tasks = TaskTracker::new();
    let app = axum::Router::new().layer(layer);
    tasks.spawn(async move { axum::serve(listener, app).await });
    Server { base_url, tasks }
}

async fn client(server: &Server, token: &str) -> Client {
    let client = Client::new(&server.base_url).for_tenant("tests");
    let access_token = token.to_owned();
    let tokens = SignedIn {
        access_token,
        refresh_token: String::new(),
        expires_in: 60,
        role: "driver".into(),
        subject: "d".into(),
    };
    client.set_token(tokens).await;
    client
}

#[tokio::test]
async fn events_go_both_ways_and_questions_are_answered() {
    let server = server().await;
    let mut socket = Socket::connect(&client(&server, "good").await, &server.tasks).await.unwrap();
    socket.emit("echo", json!({"n": 1})).await.unwrap();
    assert_eq!(socket.next().await, Some(Event { name: "echoed".into(), payload: json!({"n": 1}) }));
    let answers = futures::future::join_all((0..10).map(|n| socket.ask("question", json!(n)))).await;
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.unwrap(), json!({"ok": true, "asked": n}));
    }
}

#[tokio::test]
async fn a_refusal_comes_with_its_reason() {
    let server = server().await;
    let refused = Socket::connect(&client(&server, "bad").await, &server.tasks).await.err().unwrap();
    assert!(
        matches!(&refused, SocketError::Refused { message, .. } if message.contains("not with this token")),
        "{refused}"
    );
}

#[tokio::test]
async fn pings_keep_the_connection_alive() {
    let server = server().await;
    let mut socket = Socket::connect(&client(&server, "good").await, &server.tasks).await.unwrap();
    // The server pings every 50 ms; nothing else happens, and nothing ends.
    assert!(timeout(Duration::from_millis(500), socket.next()).await.is_err());
    assert!(socket.ask("question", json!(1)).await.is_ok());
}

#[tokio::test]
async fn a_hung_up_socket_ends_and_a_live_one_comes_back() {
    let server = server().await;
    let client = client(&server, "good").await;
    let mut socket = Socket::connect(&client, &server.tasks).await.unwrap();
    socket.emit("leave", Value::Null).await.unwrap();
    assert_eq!(socket.next().await, None);

    let mut live = LiveSocket::open(&client, &server.tasks);
    assert_eq!(live.next().await, LiveEvent::Connected);
    live.emit("leave", Value::Null).await.unwrap();
    assert_eq!(live.next().await, LiveEvent::Disconnected);
    assert_eq!(live.next().await, LiveEvent::Connected);
    assert!(live.ask("question", json!(1)).await.is_ok());
}

#[tokio::test]
async fn nobody_at_the_address_is_an_error_and_not_a_wait() {
    let tasks = TaskTracker::new();
    let nowhere = Client::new("http://127.0.0.1:9").for_tenant("tests");
    let nowhere = Arc::new(nowhere);
    assert!(matches!(Socket::connect(&nowhere, &tasks).await, Err(SocketError::Transport(_))));
}

#[tokio::test]
async fn who_is_told_to_come_back_later_hears_when() {
    let full = || async { (axum::http::StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "7")]) };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    let tasks = TaskTracker::new();
    tasks.spawn(async move { axum::serve(listener, axum::Router::new().fallback(full)).await });
    let refused = Socket::connect_with(&base_url, None, &json!({}), &tasks).await.err().unwrap();
    assert_eq!(refused.retry_after(), Some(Duration::from_secs(7)));
}
