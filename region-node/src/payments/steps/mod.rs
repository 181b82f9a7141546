//! The steps of a payment and of a refund. Each is safe to repeat and leaves behind what the next one, perhaps on another
//! node after a crash, needs to go on.

mod charge;
mod give_back;

pub(super) use charge::{ask_for_charge, find_or_charge, record_charge, settle_payment};
pub(super) use give_back::{ask_for_refund, find_or_refund, record_refund, settle_refund};

use super::{Sequence, Step};

/// Tells an operator of a movement nobody will try again.
fn note_if_given_up(what: &'static str, id: &dyn std::fmt::Display, sequence: &Sequence) {
    if sequence.step == Step::Unknown && sequence.next_attempt_at.is_none() {
        metrics::counter!("region_node_payments_given_up_total", "what" => what).increment(1);
        tracing::error!(
            attempts = sequence.attempts,
            "{what} {id} is given up: the PSP does not say what became of it"
        );
    }
}
