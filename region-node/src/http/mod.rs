//! What every feature's endpoints stand on: problems, extractors, commands with idempotency keys, pages, limits.

mod client_address;
mod command;
mod extract;
mod limits;
mod page;
mod problem;
pub mod router;
#[cfg(test)]
mod tests;

pub use client_address::{ForwardedHeader, Networks};
pub use command::{Command, CommandTx, Empty, IdempotencyKey, Question, Stop, forget_old_answers};
pub(crate) use command::{KEPT_FOR, read_body, read_json};
pub use extract::{Path, Query};
pub use limits::Limits;
pub use page::{Page, PageQuery};
pub use problem::{Problem, ProblemBody};
