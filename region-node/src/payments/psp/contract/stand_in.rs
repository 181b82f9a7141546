use std::{collections::BTreeMap, path::PathBuf, process::Stdio, time::Duration};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use shared::clock::Clock;
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    process::{Child, Command},
    sync::mpsc,
    task::JoinSet,
};

use super::super::{
    OperationKey, Psp, WebhookEvent,
    stripe::{Stripe, StripeConfig},
};
use crate::app::http_client;

/// What its webhooks are signed with.
pub(super) const SECRET: &str = "whsec_of_tests";
const KEY: &str = "sk_test_of_tests";
const LIMIT: Duration = Duration::from_secs(30);

type Received = (HeaderMap, Bytes);

/// localstripe, in a network namespace of its own: the only ways in and out are two Unix sockets.
pub(super) struct StandIn {
    port: u16,
    webhooks: mpsc::UnboundedReceiver<Received>,
    _forwarding: JoinSet<()>,
    _program: Child,
    folder: PathBuf,
}

impl StandIn {
    /// None where it is not installed or no namespace can be made; in CI that is a failure.
    pub(super) async fn start() -> Option<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        match Self::try_start().await {
            Ok(started) => Some(started),
            Err(missing) => {
                assert!(std::env::var_os("CI").is_none(), "Stripe cannot be tested: {missing}");
                eprintln!("NOT TESTED: Stripe, since {missing}");
                None
            }
        }
    }

    async fn try_start() -> Result<Self, String> {
        let own = std::env::current_exe().unwrap();
        let modules = own.ancestors().nth(3).unwrap().join("test-tools/localstripe");
        if !modules.join("localstripe").is_dir() {
            return Err("localstripe is not there; `target/debug/local tools --tests` installs it".to_owned());
        }
        let folder = std::env::temp_dir().join(format!("stripe-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (serve_on, webhooks_to) = (folder.join("api"), folder.join("webhooks"));
        let (sender, webhooks) = mpsc::unbounded_channel();
        let mut forwarding = JoinSet::new();
        let receive = async |State(sender): State<mpsc::UnboundedSender<Received>>, headers: HeaderMap, body: Bytes| {
            sender.send((headers, body)).unwrap();
        };
        let receiver = Router::new().route("/", post(receive)).with_state(sender);
        let listener = UnixListener::bind(&webhooks_to).unwrap();
        forwarding.spawn(async move { axum::serve(listener, receiver).await.unwrap() });

        let mut program = Command::new("unshare");
        program.args(["--map-root-user", "--net", "python3", "-c", include_str!("stand_in.py")]);
        program.arg(&serve_on).arg(&webhooks_to).env("PYTHONPATH", &modules).kill_on_drop(true);
        let program = program.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut program = program.map_err(|error| format!("`unshare` of util-linux cannot be run: {error}"))?;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        forwarding.spawn(forward(listener, serve_on.clone()));

        let http = http_client(LIMIT).unwrap();
        let hook = format!("http://127.0.0.1:{port}/_config/webhooks/tests");
        let hook = http.post(hook).json(&serde_json::json!({"url": "http://127.0.0.1:9000/", "secret": SECRET}));
        let ready = async {
            while !hook.try_clone().unwrap().send().await.is_ok_and(|answer| answer.status().is_success()) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            () = ready => Ok(Self { port, webhooks, _forwarding: forwarding, _program: program, folder }),
            ended = program.wait() => Err(format!(
                "it ended with {}: python3 (3.10 to 3.13) and the right to make user and network namespaces are needed",
                ended.unwrap()
            )),
            () = tokio::time::sleep(LIMIT) => Err(format!("localstripe did not serve within {LIMIT:?}")),
        }
    }

    /// Our account there.
    pub(super) fn account(&self) -> Stripe {
        let account =
            serde_json::json!({"mode": "test", "tenants": ["cabs"], "secret_key": KEY, "webhook_secret": SECRET});
        let accounts = BTreeMap::from([("acme".to_owned(), serde_json::from_value(account).unwrap())]);
        let base_url = format!("http://127.0.0.1:{}", self.port).parse().unwrap();
        let config = StripeConfig { base_url, accounts };
        let made = Stripe::accounts(&config, &http_client(LIMIT).unwrap()).unwrap();
        made.into_iter().map(|(_, account)| account).next().unwrap()
    }

    /// The webhook it sends about `key`.
    pub(super) async fn webhook_about(&mut self, psp: &dyn Psp, key: OperationKey) -> (HeaderMap, Bytes, WebhookEvent) {
        let now = Clock::system().now();
        let arrives = async {
            loop {
                let (headers, body) = self.webhooks.recv().await.unwrap();
                let event = psp.webhook(&headers, &body, now).unwrap();
                if event.about == Some(key) {
                    return (headers, body, event);
                }
            }
        };
        tokio::time::timeout(LIMIT, arrives).await.expect("localstripe sends a webhook")
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Carries connections of this machine's loopback into the namespace.
async fn forward(listener: TcpListener, to: PathBuf) {
    let mut connections = JoinSet::new();
    loop {
        let (mut from, _) = listener.accept().await.unwrap();
        let to = to.clone();
        connections.spawn(async move {
            if let Ok(mut to) = UnixStream::connect(to).await {
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            }
        });
    }
}
