//! Refusals: whoever or whatever breaks the rules is turned away, counted by reason, and named in the log once.

use std::{fmt, sync::Arc};

use quinn::{ConnectionError, TransportErrorCode};
use shared::ids::RegionName;

use crate::{
    once::Once,
    protocol::{BatchError, CloseReason, LogId, TrustError},
    store::StoreError,
};

/// Why a connection was refused or ended. Peers that fell silent or called twice broke no rule and are not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Its certificate is of an authority we do not believe, has ended, or is not there.
    Certificate,
    /// It does not believe our certificate.
    OurCertificate,
    /// It speaks no version that we do.
    Version,
    /// It is of another cluster.
    OtherCluster,
    /// It is not the region it says it is, or not the one that was called.
    WrongRegion,
    /// The handshake, or the first stream after it, took too long.
    Handshake,
    /// It went away before the handshake was over, or spoke no TLS.
    BrokenOff,
    /// There are too many connections already.
    TooMany,
    /// A frame is longer than one may be, packed or not.
    OversizedFrame,
    /// A frame ended early.
    TruncatedFrame,
    /// A frame does not unpack or is no message.
    UnreadableFrame,
    /// A frame took too long.
    SlowFrame,
    /// A message at the wrong time, as a hello said again.
    OutOfOrder,
}

impl Refusal {
    /// A stable name, for logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::OurCertificate => "our_certificate",
            Self::Version => "version",
            Self::OtherCluster => "other_cluster",
            Self::WrongRegion => "wrong_region",
            Self::Handshake => "handshake_timeout",
            Self::BrokenOff => "broken_off",
            Self::TooMany => "too_many_connections",
            Self::OversizedFrame => "oversized_frame",
            Self::TruncatedFrame => "truncated_frame",
            Self::UnreadableFrame => "unreadable_frame",
            Self::SlowFrame => "slow_frame",
            Self::OutOfOrder => "out_of_order",
        }
    }

    /// Why the core ended a connection, if the peer broke a rule.
    pub(crate) fn of(reason: &CloseReason) -> Option<Self> {
        match reason {
            CloseReason::Version => Some(Self::Version),
            CloseReason::OtherCluster => Some(Self::OtherCluster),
            CloseReason::WrongRegion => Some(Self::WrongRegion),
            CloseReason::OutOfOrder => Some(Self::OutOfOrder),
            CloseReason::Duplicate | CloseReason::Silent => None,
        }
    }

    /// Why a caller's handshake failed.
    pub(crate) fn of_handshake(error: &ConnectionError) -> Self {
        /// What TLS calls a caller without a protocol of ours.
        const NO_APPLICATION_PROTOCOL: u8 = 120;
        /// The alerts about certificates, and the one about a proof that does not fit: whoever sends one does not believe.
        const CERTIFICATES: [u8; 8] = [42, 43, 44, 45, 46, 48, 51, 116];
        let alert = |code: TransportErrorCode| {
            let code = u64::from(code);
            // A TLS alert is carried as 0x100 and its number.
            code.checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok())
        };
        match error {
            ConnectionError::VersionMismatch => Self::Version,
            ConnectionError::TimedOut => Self::Handshake,
            ConnectionError::TransportError(error) => match alert(error.code) {
                Some(NO_APPLICATION_PROTOCOL) => Self::Version,
                Some(alert) if CERTIFICATES.contains(&alert) => Self::Certificate,
                Some(_) | None => Self::BrokenOff,
            },
            ConnectionError::ConnectionClosed(close) => match alert(close.error_code) {
                Some(alert) if CERTIFICATES.contains(&alert) => Self::OurCertificate,
                Some(_) | None => Self::BrokenOff,
            },
            ConnectionError::ApplicationClosed(_)
            | ConnectionError::Reset
            | ConnectionError::LocallyClosed
            | ConnectionError::CidsExhausted => Self::BrokenOff,
        }
    }
}

/// What has been refused; one for the whole process, since peers outlive its lives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusals {
    told: Arc<Once>,
}

impl Refusals {
    /// Counts a connection that was refused or ended, and says whose and why, once for each peer and reason.
    pub(crate) fn connection(&self, peer: impl fmt::Display, refusal: Refusal, detail: impl fmt::Display) {
        let reason = refusal.as_str();
        metrics::counter!("global_sync_refused_connections_total", "reason" => reason).increment(1);
        if self.told.is_new(&format!("{peer} {reason}")) {
            tracing::warn!(%peer, reason, "connection with {peer} refused: {detail}");
        }
    }

    /// Counts entries that are not believed, and says whose and why, once for each peer, log and reason.
    pub(crate) fn entries(&self, from: &RegionName, log: &LogId, error: &BatchError) {
        let reason = reason_of(error);
        metrics::counter!("global_sync_bad_batches_total", "from" => from.to_string(), "reason" => reason).increment(1);
        if self.told.is_new(&format!("{from} {log} {reason}")) {
            tracing::error!(peer = %from, %log, reason, "{from} sent entries of {log} that are not believed: {error}");
        }
    }

    /// Counts a snapshot that is not what the origins of its entries wrote, and says whose and why, once for each peer and
    /// reason; a snapshot that just broke off is none.
    pub(crate) fn snapshot(&self, from: &RegionName, error: &StoreError) {
        let reason = match error {
            StoreError::Forged { reason, .. } => *reason,
            error if error.is_about_data() => "rows",
            _ => return,
        };
        metrics::counter!("global_sync_refused_snapshots_total", "from" => from.to_string(), "reason" => reason)
            .increment(1);
        if self.told.is_new(&format!("{from} snapshot {reason}")) {
            tracing::error!(peer = %from, reason, "a snapshot of {from} is refused: {error}");
        }
    }
}

/// A stable name for what is wrong with entries, for metrics.
pub(crate) fn reason_of(error: &BatchError) -> &'static str {
    match error {
        BatchError::Gap { .. } | BatchError::Nothing | BatchError::BrokenChain(_) => "chain",
        BatchError::NoBody(_) => "no_body",
        BatchError::Entry(..) => "entry",
        BatchError::WrongLog(_) => "wrong_log",
        BatchError::WrongCheckpoint => "wrong_checkpoint",
        BatchError::Untrusted(TrustError::UnknownKey) => "unknown_key",
        BatchError::Untrusted(TrustError::BadCertificate(_)) => "signer",
        BatchError::Untrusted(TrustError::BadSignature) => "signature",
    }
}
