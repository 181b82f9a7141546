//! The steps of a payment and of a refund. Each is safe to repeat and leaves behind what the next one, perhaps on another
//! node after a crash, needs to go on.

mod charge;
mod give_back;

pub(super) use charge::{
    ask_for_charge, find_or_charge, hinder_charge, record_charge, settle_payment, take_from_wallet,
};
pub(super) use give_back::{
    ask_for_refund, find_or_refund, hinder_refund, record_refund, settle_refund, take_back_if_sent_back,
};

use super::Sequence;

/// Tells an operator of a movement nobody will try again by itself.
fn note_if_given_up(what: &'static str, id: &dyn std::fmt::Display, sequence: &Sequence) {
    if sequence.is_given_up() {
        let reason = sequence.last_error.as_deref().unwrap_or_default();
        tracing::error!(attempts = sequence.attempts, reason, "{what} {id} is given up: somebody has to look at it");
    }
}
