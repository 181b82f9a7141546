use serde::Serialize;
use shared::ids::{PaymentId, RefundId};
use uuid::Uuid;

/// Every class of difference, as the database's CHECK has them.
pub(in crate::payments) const CLASSES: [&str; 13] = [
    "missing_here",
    "missing_at_psp",
    "charged_twice",
    "amount_differs",
    "status_differs",
    "refund_missing_here",
    "refund_missing_at_psp",
    "refund_made_twice",
    "refund_amount_differs",
    "refund_status_differs",
    "dispute_missing_here",
    "dispute_status_differs",
    "ledger_differs",
];

/// What the payment service and the books here do not agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(in crate::payments) struct Difference {
    #[schema(value_type = String, format = "uuid")]
    pub(in crate::payments) id: Uuid,
    /// `missing_here`, `missing_at_psp`, `amount_differs`, `status_differs`, each of them with `refund_` before it for a
    /// refund; `charged_twice` and `refund_made_twice` where the payment service has done what stands here once more;
    /// `dispute_missing_here` where nobody has told of a dispute, `dispute_status_differs` where nobody has told how it was
    /// decided; and `ledger_differs` where a payment or refund and its entry in the ledger do.
    pub(in crate::payments) class: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::payments) payment_id: Option<PaymentId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::payments) refund_id: Option<RefundId>,
    /// The payment service's name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::payments) provider_ref: Option<String>,
    /// The payment or refund as it stands here.
    pub(in crate::payments) here: Option<Seen>,
    /// As the payment service has it; for `ledger_differs` as the ledger has it.
    pub(in crate::payments) there: Option<Seen>,
}

/// How one side sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(in crate::payments) struct Seen {
    /// Minor units.
    pub(in crate::payments) amount: i64,
    pub(in crate::payments) currency: String,
    pub(in crate::payments) status: String,
}
