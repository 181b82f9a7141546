//! Ctrl-C and SIGTERM as something to be asked about, instead of this program's sudden end in the midst of something that
//! has to be undone.

use futures::FutureExt;
use nix::sys::signal::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// While it lives, and after that too, neither signal ends this program by itself.
#[derive(Debug)]
pub struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    pub fn hold() -> anyhow::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> Number {
        tokio::select! {
            _ = self.interrupt.recv() => Number::SIGINT,
            _ = self.terminate.recv() => Number::SIGTERM,
        }
    }

    /// An error if one came meanwhile.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.next().now_or_never() {
            None => Ok(()),
            Some(_) => Err(Failure::new("interrupted", "everything it began has been removed").into()),
        }
    }
}
