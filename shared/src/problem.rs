//! Every error code the API answers with, described once: for clients, for the OpenAPI document and for people.

use serde::Serialize;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $status:literal $code:literal),* $(,)?) => {
        /// A stable reason for a refusal; clients branch on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[doc = $doc])+ $name,)*
        }

        impl Code {
            /// All of them, for the documentation.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// As clients see it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The HTTP status it travels with.
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// One sentence on what it means.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)* }
            }
        }
    };
}

codes! {
    /// The body is not well-formed JSON.
    MalformedJson = 400 "malformed_json",
    /// The request cannot be understood.
    BadRequest = 400 "bad_request",
    /// The call needs an X-Tenant-Id header.
    TenantRequired = 400 "tenant_required",
    /// The call needs an access token.
    Unauthenticated = 401 "unauthenticated",
    /// The access token is malformed, expired or not signed by any region.
    InvalidToken = 401 "invalid_token",
    /// The credentials are wrong.
    InvalidCredentials = 401 "invalid_credentials",
    /// The refresh token is unknown, expired, revoked or was used before.
    InvalidRefreshToken = 401 "invalid_refresh_token",
    /// The webhook's signature is missing, wrong or too old.
    InvalidSignature = 401 "invalid_signature",
    /// The token belongs to another tenant than X-Tenant-Id names.
    TenantMismatch = 403 "tenant_mismatch",
    /// The caller may not do this.
    Forbidden = 403 "forbidden",
    /// The tenant has switched this feature off.
    FeatureDisabled = 403 "feature_disabled",
    /// There is no such thing, or the caller may not know of it.
    NotFound = 404 "not_found",
    /// No tenant has this id.
    UnknownTenant = 404 "unknown_tenant",
    /// No region has this name.
    UnknownRegion = 404 "unknown_region",
    /// The path does not take this method.
    MethodNotAllowed = 405 "method_not_allowed",
    /// None of the media types asked for can be produced.
    NotAcceptable = 406 "not_acceptable",
    /// The request took too long to arrive or to answer.
    RequestTimeout = 408 "request_timeout",
    /// A request with this idempotency key is still running.
    IdempotencyInProgress = 409 "idempotency_in_progress",
    /// The step is not possible from the present state.
    InvalidTransition = 409 "invalid_transition",
    /// Another driver has the ride.
    RideAlreadyTaken = 409 "ride_already_taken",
    /// The offer is no longer open.
    OfferExpired = 409 "offer_expired",
    /// The driver has another offer or trip.
    DriverBusy = 409 "driver_busy",
    /// The driver lacks a document the tenant requires.
    DocumentMissing = 409 "document_missing",
    /// A document the tenant requires of the driver has expired.
    DocumentExpired = 409 "document_expired",
    /// The rider has an open ride already.
    RideInProgress = 409 "ride_in_progress",
    /// The rider has as many rides booked ahead as allowed.
    TooManyBookings = 409 "too_many_bookings",
    /// A version of the config is tried in a canary region: promote it or roll it back first.
    RolloutInProgress = 409 "rollout_in_progress",
    /// The account exists already.
    AlreadyExists = 409 "already_exists",
    /// A move of the tenant to another region is under way.
    MoveInProgress = 409 "move_in_progress",
    /// The region cannot take a tenant over now.
    RegionUnfit = 409 "region_unfit",
    /// The trip is paid, or a payment of it is under way.
    AlreadyPaid = 409 "already_paid",
    /// The rider's bank holds what is to be given back, or has taken it: the rider would have it twice.
    PaymentDisputed = 409 "payment_disputed",
    /// The rider's wallet holds less than is to be paid from it.
    WalletInsufficient = 409 "wallet_insufficient",
    /// The trip has a tip, or one is under way.
    AlreadyTipped = 409 "already_tipped",
    /// The driver has no balance that can be paid out now.
    NothingToPayOut = 409 "nothing_to_pay_out",
    /// The trip was rated by this party already.
    AlreadyRated = 409 "already_rated",
    /// The fare of a ride that is to be paid in cash cannot be shared.
    NotShareable = 409 "not_shareable",
    /// The fare is shared with as many riders as allowed.
    TooManyShares = 409 "too_many_shares",
    /// The quote has expired; ask for a new estimate.
    QuoteExpired = 409 "quote_expired",
    /// The document changed since the heads named in If-Match.
    PreconditionFailed = 412 "precondition_failed",
    /// The body is larger than allowed.
    PayloadTooLarge = 413 "payload_too_large",
    /// The body must be application/json.
    UnsupportedMediaType = 415 "unsupported_media_type",
    /// The tenant's home is another region.
    WrongRegion = 421 "wrong_region",
    /// One or more fields are missing or out of range.
    ValidationFailed = 422 "validation_failed",
    /// The idempotency key was used for a different request.
    IdempotencyKeyReused = 422 "idempotency_key_reused",
    /// The refund is larger than what is left of the payment.
    AmountExceedsPayment = 422 "amount_exceeds_payment",
    /// The payout is larger than what the driver can be paid now.
    AmountExceedsBalance = 422 "amount_exceeds_balance",
    /// The trip's PIN is wrong.
    WrongPin = 422 "wrong_pin",
    /// Too many requests; come back after Retry-After seconds.
    RateLimited = 429 "rate_limited",
    /// Something went wrong here; it is in our logs under the request id.
    Internal = 500 "internal",
    /// The service is starting, stopping or has lost its database; try again.
    Unavailable = 503 "unavailable",
    /// The tenant is being moved to another region; try again after Retry-After seconds.
    TenantMoving = 503 "tenant_moving",
    /// The tenant's home has lost sight of most other regions, and another may take its place; try again after Retry-After
    /// seconds.
    HomeUnconfirmed = 503 "home_unconfirmed",
    /// The tenant's payment service cannot be asked now; nothing was charged, try again after Retry-After seconds.
    PspUnavailable = 503 "psp_unavailable",
    /// The tenant's home region cannot be reached; try again later.
    HomeRegionUnreachable = 503 "home_region_unreachable",
    /// The call was forwarded once and still is not at home.
    RoutingLoop = 508 "routing_loop",
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What is wrong with one field of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct FieldError {
    /// Where, as a path: `pickup.lat`.
    pub field: String,
    /// What would be right.
    pub message: String,
}

impl FieldError {
    /// `field` is wrong; `message` says what would be right.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_is_snake_case_unique_and_explained() {
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code:?} twice");
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            assert!(code.title().ends_with('.'), "{code:?}");
            assert!((400..600).contains(&code.status()));
        }
    }
}
