//! How scarcity raises prices.

use serde::{Deserialize, Serialize};
use shared::tenant_config::TenantConfig;

/// A price multiplier in whole hundredths, 1.00 and up: 1.25 in JSON, 125 inside, so that no price is ever a float.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "f64", into = "f64")]
pub struct Surge(u32);

impl Surge {
    /// Prices as in the tariff.
    pub const NONE: Self = Self(100);

    /// `hundredths` / 100; never below 1.00.
    pub fn from_hundredths(hundredths: u32) -> Self {
        Self(hundredths.max(100))
    }

    /// 125 for 1.25.
    pub fn hundredths(self) -> u32 {
        self.0
    }
}

impl From<f64> for Surge {
    fn from(multiplier: f64) -> Self {
        // A float to integer cast saturates; not a number becomes 0.
        Self::from_hundredths((multiplier * 100.0).round() as u32)
    }
}

impl From<Surge> for f64 {
    fn from(surge: Surge) -> Self {
        f64::from(surge.0) / 100.0
    }
}

impl utoipa::PartialSchema for Surge {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::Number)
            .description(Some("What scarcity multiplies prices by, to the hundredth."))
            .minimum(Some(1.0))
            .examples([1.25])
            .into()
    }
}
impl utoipa::ToSchema for Surge {}

/// The multiplier where `waiting` rides look for a driver and `free` drivers could take them: 1.00 while there is a driver
/// for each, then a quarter more for each further ride per driver, up to the tenant's cap.
pub fn surge(config: &TenantConfig, waiting: u32, free: u32) -> Surge {
    if !config.surge.enabled || !config.flags.surge || waiting <= free {
        return Surge::NONE;
    }
    let short = u64::from(waiting - free);
    let raised = 100 + short * 25 / u64::from(free.max(1));
    Surge::from_hundredths(u32::try_from(raised).unwrap_or(u32::MAX)).min(Surge::from(config.surge.cap))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(enabled: bool, cap: f64) -> TenantConfig {
        let mut config = TenantConfig::default();
        config.surge.enabled = enabled;
        config.surge.cap = cap;
        config
    }

    #[test]
    fn surge_rises_with_scarcity_up_to_the_cap() {
        let config = config(true, 2.0);
        let at = |waiting, free| surge(&config, waiting, free).hundredths();
        assert_eq!([at(0, 0), at(4, 4), at(5, 4), at(8, 4), at(2, 0), at(60, 4)], [100, 100, 106, 125, 150, 200]);
    }

    #[test]
    fn both_the_policy_and_the_kill_switch_turn_surge_off() {
        assert_eq!(surge(&config(false, 2.0), 9, 0), Surge::NONE);
        let mut killed = config(true, 2.0);
        killed.flags.surge = false;
        assert_eq!(surge(&killed, 9, 0), Surge::NONE);
    }

    #[test]
    fn a_multiplier_is_a_plain_number_in_json() {
        let surge = Surge::from_hundredths(125);
        assert_eq!(serde_json::to_string(&surge).unwrap(), "1.25");
        assert_eq!(serde_json::from_str::<Surge>("1.25").unwrap(), surge);
        assert_eq!(serde_json::from_str::<Surge>("0.2").unwrap(), Surge::NONE);
    }
}
