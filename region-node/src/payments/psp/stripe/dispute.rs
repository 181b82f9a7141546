use serde::Deserialize;
use shared::money::{Currency, Money};
use time::OffsetDateTime;

use super::{Metadata, amount::from_stripe};
use crate::payments::{
    DisputeStatus, PaymentError,
    psp::{DisputeNews, ListedState},
};

/// A dispute, as far as we look at it.
#[derive(Deserialize)]
pub(super) struct Dispute {
    pub(super) id: String,
    pub(super) amount: i64,
    pub(super) currency: String,
    status: String,
    pub(super) created: i64,
    /// Missing where the charge was not made through an intent, as ours all are.
    pub(super) payment_intent: Option<String>,
    #[serde(default)]
    pub(super) metadata: Metadata,
}

impl Dispute {
    /// As an event made at `told_at` says it. None of what takes no money: a bank's inquiry (`warning_…`), a dispute that was
    /// prevented, a charge that is not ours.
    pub(super) fn news(self, told_at: Option<OffsetDateTime>) -> Result<Option<DisputeNews>, PaymentError> {
        let Some(status) = self.status() else { return Ok(None) };
        let Some(charge_ref) = self.payment_intent else { return Ok(None) };
        let malformed = |what: &str| PaymentError::MalformedEvent(format!("a dispute's {what} cannot be read"));
        let currency: Currency = self.currency.to_uppercase().parse().map_err(|_| malformed("currency"))?;
        let amount = from_stripe(self.amount, currency.code());
        let opened_at = OffsetDateTime::from_unix_timestamp(self.created).map_err(|_| malformed("time"))?;
        Ok(Some(DisputeNews {
            reference: self.id,
            charge_ref,
            amount: Money::new(amount, currency),
            status,
            opened_at,
            told_at,
        }))
    }

    fn status(&self) -> Option<DisputeStatus> {
        match self.status.as_str() {
            "needs_response" | "under_review" => Some(DisputeStatus::Open),
            "won" => Some(DisputeStatus::Won),
            "lost" => Some(DisputeStatus::Lost),
            _ => None,
        }
    }

    /// How it stands in a list; none if it takes no money.
    pub(super) fn listed_as(&self) -> Option<ListedState> {
        Some(match self.status()? {
            DisputeStatus::Open => ListedState::Open,
            DisputeStatus::Won => ListedState::Failed,
            DisputeStatus::Lost => ListedState::Succeeded,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(status: &str, currency: &str) -> Option<DisputeNews> {
        let text = format!(
            r#"{{"object": "dispute", "id": "dp_1", "amount": 80000, "currency": "{currency}", "status": "{status}",
                "created": 1772366400, "payment_intent": "pi_1", "reason": "fraudulent"}}"#
        );
        serde_json::from_str::<Dispute>(&text).unwrap().news(None).unwrap()
    }

    #[test]
    fn a_dispute_is_open_won_or_lost_in_our_own_units_and_an_inquiry_is_none() {
        let open = news("needs_response", "usd").unwrap();
        assert_eq!((open.reference.as_str(), open.charge_ref.as_str()), ("dp_1", "pi_1"));
        assert_eq!((open.amount, open.status), (Money::new(80_000, "USD".parse().unwrap()), DisputeStatus::Open));
        assert_eq!(news("under_review", "isk").unwrap().amount, Money::new(800, "ISK".parse().unwrap()));
        assert_eq!(news("won", "usd").unwrap().status, DisputeStatus::Won);
        assert_eq!(news("lost", "usd").unwrap().status, DisputeStatus::Lost);
        assert_eq!(news("warning_needs_response", "usd"), None);
    }
}
