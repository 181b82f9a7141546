//! What an access token says of its bearer.

use serde::{Deserialize, Serialize};

use crate::ids::{RegionName, TenantId};

/// Who somebody is to the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Asks for rides.
    Rider,
    /// Drives them.
    Driver,
    /// A tenant's back office.
    TenantAdmin,
    /// Runs the platform; belongs to no tenant and may name any.
    Operator,
}

impl Role {
    /// As in tokens and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rider => "rider",
            Self::Driver => "driver",
            Self::TenantAdmin => "tenant_admin",
            Self::Operator => "operator",
        }
    }
}

/// The claims of an access token (RFC 7519 names).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The cluster whose regions issue and accept each other's tokens.
    pub iss: String,
    /// A rider's or driver's id, a back office's or operator's client id.
    pub sub: String,
    /// The bearer's tenant; an operator has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Who the bearer is.
    pub role: Role,
    /// The region that signed.
    pub region: RegionName,
    /// Issued at, Unix seconds.
    pub iat: i64,
    /// Good until, Unix seconds.
    pub exp: i64,
    /// This token's own id.
    pub jti: String,
}
