//! Who makes a call, and what of it may be theirs.

use std::sync::Arc;

use axum::{extract::FromRequestParts, http::request::Parts};
use shared::{
    claims::{Claims, Role},
    ids::{DriverId, RiderId, TenantId},
    problem::Code,
};
use time::OffsetDateTime;

use super::Tokens;
use crate::{
    app::App,
    http::{Problem, bearer},
    tenants::TenantHeader,
};

/// Whoever may do what is for a tenant's back office: that one, and an operator acting for it.
pub const BACK_OFFICE: [Role; 2] = [Role::TenantAdmin, Role::Operator];

/// An authenticated caller of a call about one tenant.
#[derive(Clone, Debug)]
pub struct Caller {
    /// What they are.
    pub role: Role,
    /// Who they are.
    pub subject: Subject,
    /// Until when their token is good.
    pub expires_at: OffsetDateTime,
    tenant: TenantId,
}

/// Who a token speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A rider.
    Rider(RiderId),
    /// A driver.
    Driver(DriverId),
    /// A back office's or an operator's client id.
    Client(String),
}

impl Caller {
    /// Whose data the call is about.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The rider calling, else 403.
    pub fn rider(&self) -> Result<RiderId, Problem> {
        match self.subject {
            Subject::Rider(id) => Ok(id),
            Subject::Driver(_) | Subject::Client(_) => Err(self.may_not()),
        }
    }

    /// The driver calling, else 403.
    pub fn driver(&self) -> Result<DriverId, Problem> {
        match self.subject {
            Subject::Driver(id) => Ok(id),
            Subject::Rider(_) | Subject::Client(_) => Err(self.may_not()),
        }
    }

    /// Refuses every driver but `id`: to another driver, and to anybody else of this tenant, `id`'s own calls are not
    /// there (404), except that somebody of the wrong role is told so (403).
    pub fn driver_is(&self, id: DriverId) -> Result<DriverId, Problem> {
        match self.driver()? {
            own if own == id => Ok(id),
            _ => Err(Problem::not_found(format!("no driver {id}"))),
        }
    }

    /// Refuses every role not in `roles`.
    pub fn must_be(&self, roles: &[Role]) -> Result<(), Problem> {
        if roles.contains(&self.role) { Ok(()) } else { Err(self.may_not()) }
    }

    /// Whether this is the tenant's back office, or an operator acting for it.
    pub fn is_back_office(&self) -> bool {
        BACK_OFFICE.contains(&self.role)
    }

    /// In whose name idempotency keys are kept.
    pub fn key_owner(&self) -> String {
        match &self.subject {
            Subject::Rider(id) => key_owner(self.role, id),
            Subject::Driver(id) => key_owner(self.role, id),
            Subject::Client(id) => key_owner(self.role, id),
        }
    }

    fn may_not(&self) -> Problem {
        Problem::new(Code::Forbidden, format!("a {} may not do this", self.role.as_str()))
    }

    fn new(claims: &Claims, tenant: TenantId) -> Result<Self, Problem> {
        if claims.role != Role::Operator && claims.tenant.as_ref() != Some(&tenant) {
            let detail = format!("the access token is not of tenant '{tenant}'");
            return Err(Problem::new(Code::TenantMismatch, detail));
        }
        let malformed = |_| Problem::new(Code::InvalidToken, "the access token names nobody");
        let subject = match claims.role {
            Role::Rider => Subject::Rider(claims.sub.parse().map_err(malformed)?),
            Role::Driver => Subject::Driver(claims.sub.parse().map_err(malformed)?),
            Role::TenantAdmin | Role::Operator => Subject::Client(claims.sub.clone()),
        };
        Ok(Self { role: claims.role, subject, expires_at: Tokens::expires_at(claims), tenant })
    }
}

/// In whose name the idempotency keys of a role's `subject` are kept.
pub(super) fn key_owner(role: Role, subject: impl std::fmt::Display) -> String {
    format!("{}:{subject}", role.as_str())
}

/// Checks a token against the tenant it is used for.
pub fn verify(tokens: &Tokens, token: &str, tenant: &TenantId) -> Result<Caller, Problem> {
    let claims = tokens.verify(token)?;
    Caller::new(&claims, tenant.clone())
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let TenantHeader(tenant) = TenantHeader::from_request_parts(parts, app).await?;
        let claims = claims(parts, &app.tokens)?;
        Self::new(&claims, tenant)
    }
}

/// An operator, calling about no tenant.
#[derive(Clone, Debug)]
pub struct Operator {
    /// The operator's client id.
    pub client_id: String,
}

impl FromRequestParts<App> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let claims = claims(parts, &app.tokens)?;
        match claims.role {
            Role::Operator => Ok(Self { client_id: claims.sub.clone() }),
            Role::Rider | Role::Driver | Role::TenantAdmin => {
                Err(Problem::new(Code::Forbidden, format!("a {} may not do this", claims.role.as_str())))
            }
        }
    }
}

/// The claims of the call's bearer token, which whoever limits calls may have looked up already.
pub(crate) fn claims(parts: &Parts, tokens: &Tokens) -> Result<Arc<Claims>, Problem> {
    if let Some(known) = parts.extensions.get::<Arc<Claims>>() {
        return Ok(known.clone());
    }
    let missing = || Problem::new(Code::Unauthenticated, "send an access token: Authorization: Bearer …");
    tokens.verify(bearer(&parts.headers).ok_or_else(missing)?)
}
