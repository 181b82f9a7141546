//! What every feature's endpoints stand on: problems, extractors, commands with idempotency keys, pages, limits.

mod accept;
mod answers;
mod client_address;
mod command;
mod cors;
mod extract;
mod limits;
mod page;
mod problem;
pub mod router;
mod server;
#[cfg(test)]
mod tests;

pub(crate) use accept::preferred;
pub use client_address::{ForwardedHeader, Networks};
pub use command::{Command, CommandTx, Empty, IdempotencyKey, Question, Stop, forget_old_answers};
pub(crate) use command::{KEPT_FOR, forget_answers_of, read_body, read_json, valid_json};
pub use cors::Origins;
pub(crate) use extract::bearer;
pub use extract::{Path, Query};
pub use limits::Limits;
pub use page::{Page, PageQuery};
pub use problem::{Problem, ProblemBody};
pub use server::{DRAIN, serve};
