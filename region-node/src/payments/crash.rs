//! Where tests let a node die, or dawdle, at a very instruction of a movement of money.
//!
//! Off unless `psp.crash_dir` is set, which no running company does. A test writes `<payment|top_up|refund>.<phase> <abort|hold>` into
//! a file of that folder named after the trip that is paid, the rider who tops up, or the payment that is given back. The first node that brings that
//! movement to that phase takes the order by renaming the file to `<name>.<port>`, which also says who obeys, and then either
//! aborts as a crash does: nothing is unwound, flushed or closed; or it stands still in the midst of its step until the file is
//! gone, while the test takes its database away or lets another node go on.

use std::{path::Path, time::Duration};

use shared::ids::{PaymentId, RiderId, TripId};

use crate::app::App;

/// A test that died lets nobody wait for ever.
const LONGEST_HOLD: Duration = Duration::from_secs(20);
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// The steps between which a node can be told to die, of a payment as of a refund.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The intent is written and not committed.
    Intending,
    /// The intent is committed, the PSP not asked.
    Intended,
    /// The PSP has answered, or its time is up; nothing of that is written.
    Asked,
    /// The answer is written and not committed.
    Recording,
    /// The answer is committed, the ledger has nothing.
    Answered,
    /// Settlement, ledger and outbox are written and not committed.
    Settling,
    /// All is committed, the client not answered.
    Settled,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Intending => "intending",
            Self::Intended => "intended",
            Self::Asked => "asked",
            Self::Recording => "recording",
            Self::Answered => "answered",
            Self::Settling => "settling",
            Self::Settled => "settled",
        }
    }
}

/// Which movement of money comes by.
#[derive(Clone, Copy, Debug)]
pub(super) enum Passing {
    /// The payment of a trip.
    Payment(TripId),
    /// A top-up of a rider's wallet.
    TopUp(RiderId),
    /// A refund of a payment.
    Refund(PaymentId),
}

impl Passing {
    /// Passes a phase: at once, unless a test has laid an order for it.
    pub(super) async fn at(self, app: &App, phase: Phase) {
        let Some(folder) = &app.config.psp.crash_dir else { return };
        let (what, id) = match self {
            Self::Payment(trip) => ("payment", trip.0),
            Self::TopUp(rider) => ("top_up", rider.0),
            Self::Refund(payment) => ("refund", payment.0),
        };
        let order = folder.join(id.to_string());
        let Ok(text) = std::fs::read_to_string(&order) else { return };
        let deed = text.strip_prefix(&format!("{what}.{} ", phase.as_str())).map(str::trim);
        let taken = order.with_extension(app.config.http.listen.port().to_string());
        match deed {
            Some("abort") if std::fs::rename(&order, &taken).is_ok() => std::process::abort(),
            Some("hold") if std::fs::rename(&order, &taken).is_ok() => until_gone(&taken).await,
            _ => {}
        }
    }
}

async fn until_gone(file: &Path) {
    let gone = async {
        while file.exists() {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    };
    let _ = tokio::time::timeout(LONGEST_HOLD, gone).await;
}
