//! Connections: how many there may be, how long each may take to say what it wants, and how they end.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
    serve::Listener,
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use crate::{
    config::HttpConfig,
    realtime::{Refusals, Unveiling},
};

/// Calls still running when the node stops have this long.
pub const DRAIN: Duration = Duration::from_secs(10);

/// A silent HTTP/2 connection is asked so often whether anybody is there, and given so long to say so.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves `service` on `listener` until `stop`, then lets running calls end. Long-lived connections (sockets, tunnels) do
/// not end by themselves and are left behind.
pub async fn serve(listener: TcpListener, service: Router, config: HttpConfig, stop: CancellationToken) {
    let mut listener = Refusals(listener);
    let slots = Arc::new(Semaphore::new(config.max_connections.get()));
    let mut protocol = auto::Builder::new(TokioExecutor::new());
    protocol.http1().timer(TokioTimer::new()).header_read_timeout(config.header_read_timeout);
    protocol
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        // Sockets over HTTP/2.
        .enable_connect_protocol();
    let protocol = Arc::new(protocol);
    let tasks = TaskTracker::new();
    // When all are taken, whoever comes next waits to be accepted.
    let accept = async |listener: &mut Refusals| {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
        let (stream, address) = listener.accept().await;
        let write_timeout = config.write_timeout;
        (Connection { stream, _slot: slot, write_timeout, stalled: None, has_ended: false, reader: None }, address)
    };
    while let Some((connection, address)) = stop.run_until_cancelled(accept(&mut listener)).await {
        let (protocol, service, stop) = (protocol.clone(), service.clone(), stop.clone());
        let patience = config.header_read_timeout;
        tasks.spawn(async move { converse(&protocol, connection, address, service, patience, stop).await });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::info!("{} connections did not end in time", tasks.len());
    }
}

/// Serves one connection to its end.
async fn converse(
    protocol: &auto::Builder<TokioExecutor>,
    connection: Connection,
    address: SocketAddr,
    service: Router,
    patience: Duration,
    stop: CancellationToken,
) {
    let has_asked = Arc::new(AtomicBool::new(false));
    let service = service_fn({
        let has_asked = has_asked.clone();
        move |request: Request<Incoming>| {
            has_asked.store(true, Ordering::Relaxed);
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(address));
            service.clone().oneshot(request)
        }
    });
    let mut serving = pin!(protocol.serve_connection_with_upgrades(TokioIo::new(connection), service));
    // The protocol's own time-out begins once it is known which protocol it is.
    let mut silence = pin!(tokio::time::sleep(patience));
    let (mut is_waited_for, mut is_stopping) = (true, false);
    loop {
        tokio::select! {
            served = &mut serving => {
                if let Err(error) = served {
                    tracing::debug!(%error, "a connection ended early");
                }
                return;
            }
            () = &mut silence, if is_waited_for => {
                if !has_asked.load(Ordering::Relaxed) {
                    return;
                }
                is_waited_for = false;
            }
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

/// A connection and its place among those there may be, which it keeps when it becomes a socket or a tunnel.
struct Connection {
    stream: Unveiling,
    _slot: OwnedSemaphorePermit,
    /// How long the other side may take nothing of what is sent to it.
    write_timeout: Duration,
    /// Runs while it takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    has_ended: bool,
    /// Of whoever reads, and must hear when it has ended.
    reader: Option<Waker>,
}

impl Connection {
    /// Ends the connection if what was to be written waited too long. Nothing else would: a client that lives and does not
    /// read keeps a connection open for ever, and Socket.IO's own heartbeat only ends the session on top of it, whose
    /// messages then wait for the connection's end.
    fn unless_stalled<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if self.has_ended {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stalled.as_mut().poll(cx));
        self.has_ended = true;
        metrics::counter!("region_node_slow_sockets_total", "why" => "stalled").increment(1);
        self.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.has_ended {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_pending() && !self.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            self.reader = Some(cx.waker().clone());
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.unless_stalled(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.unless_stalled(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.unless_stalled(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.unless_stalled(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;
    use crate::config::Config;

    const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n";

    fn config() -> HttpConfig {
        let required = "region = { name = \"a1\" }\nhttp = { public_url = \"http://127.0.0.1\" }";
        Config::from_toml(&[required]).unwrap().http
    }

    /// A server of "hello" whose settings are the default but for these.
    async fn server(patience: Duration, most: usize) -> (SocketAddr, CancellationToken, TaskTracker) {
        let mut config = config();
        config.header_read_timeout = patience;
        config.max_connections = NonZeroUsize::new(most).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop, tasks) = (listener.local_addr().unwrap(), CancellationToken::new(), TaskTracker::new());
        let service = Router::new().route("/", get(|| async { "hello" }));
        tasks.spawn(serve(listener, service, config, stop.clone()));
        tasks.close();
        (address, stop, tasks)
    }

    async fn is_answered(connection: &mut TcpStream) -> bool {
        connection.write_all(ASK).await.unwrap();
        let mut answer = [0; 15];
        let read = tokio::time::timeout(Duration::from_millis(300), connection.read_exact(&mut answer)).await;
        matches!(read, Ok(Ok(_)) if answer == *b"HTTP/1.1 200 OK")
    }

    #[tokio::test]
    async fn a_client_that_never_says_what_it_wants_is_cut_off() {
        let (address, _stop, _tasks) = server(Duration::from_millis(200), 10).await;
        // Nothing, half a request's head, and what may yet become HTTP/2.
        for said in [&b""[..], b"GET / HTTP/1.1\r\nho", b"PRI * HT"] {
            let mut connection = TcpStream::connect(address).await.unwrap();
            connection.write_all(said).await.unwrap();
            let ended = tokio::time::timeout(Duration::from_secs(5), connection.read_to_end(&mut Vec::new())).await;
            assert!(ended.is_ok(), "{said:?}");
        }
        let mut quick = TcpStream::connect(address).await.unwrap();
        assert!(is_answered(&mut quick).await);
    }

    #[tokio::test]
    async fn one_connection_too_many_waits_until_another_ends() {
        let (address, _stop, _tasks) = server(Duration::from_secs(60), 2).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        assert!(is_answered(&mut first).await && is_answered(&mut second).await);
        let mut third = TcpStream::connect(address).await.unwrap();
        assert!(!is_answered(&mut third).await);
        drop(first);
        let mut answer = [0; 15];
        tokio::time::timeout(Duration::from_secs(5), third.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    }

    #[tokio::test]
    async fn a_client_that_lives_and_takes_nothing_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let service = Router::new().route("/", get(|| async { vec![b'a'; 64 << 20] }));
        let mut config = config();
        config.write_timeout = Duration::from_millis(300);
        config.max_connections = NonZeroUsize::new(1).unwrap();
        tasks.spawn(serve(listener, service, config, stop.clone()));
        let mut deaf = TcpStream::connect(address).await.unwrap();
        deaf.write_all(ASK).await.unwrap();
        // The only place there is becomes free though the deaf client holds on.
        let mut next = TcpStream::connect(address).await.unwrap();
        next.write_all(ASK).await.unwrap();
        let mut answer = [0; 15];
        tokio::time::timeout(Duration::from_secs(10), next.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        drop(deaf);
    }

    #[tokio::test]
    async fn a_stop_ends_idle_connections_at_once() {
        let (address, stop, tasks) = server(Duration::from_secs(60), 10).await;
        let mut connection = TcpStream::connect(address).await.unwrap();
        assert!(is_answered(&mut connection).await);
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(5), tasks.wait()).await.unwrap();
    }
}
