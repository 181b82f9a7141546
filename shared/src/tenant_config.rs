//! A tenant's settings, as published: what runs is always one whole, validated version of this.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    geo::Point,
    local_time,
    money::Currency,
    problem::FieldError,
    promotion::{self, MAX_PROMOTIONS, Promotion},
    tariff::{MAX_TARIFF_AMOUNT, Tariff},
    tenant_document::Conflict,
    zone::{MAX_ZONES, Zone},
};

/// Everything a tenant may set; what is missing has its default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct TenantConfig {
    /// The company's name, as riders see it.
    pub name: String,
    /// What riders are charged in.
    #[schema(value_type = String)]
    pub currency: Currency,
    /// IANA time zone of the tenant's city.
    pub timezone: String,
    /// What a map shows first.
    pub map: MapView,
    /// Kinds of vehicle riders may ask for.
    pub vehicle_classes: BTreeSet<String>,
    /// Prices by vehicle class; a class without one uses `standard`'s.
    pub tariffs: BTreeMap<String, Tariff>,
    /// The tenant's share of a fare before tax, percent.
    pub commission_percent: u8,
    /// What cancelling costs.
    pub cancellation: CancellationPolicy,
    /// How rides find drivers.
    pub dispatch: DispatchPolicy,
    /// Areas with rules of their own; where two overlap, the first counts.
    pub zones: Vec<Zone>,
    /// Codes that make rides cheaper, at the tenant's cost.
    pub promotions: BTreeMap<String, Promotion>,
    /// How scarcity raises prices.
    pub surge: SurgePolicy,
    /// Kill switches.
    pub flags: Flags,
    /// Who moves the money.
    pub psp: PspAccount,
    /// When drivers get theirs.
    pub payouts: PayoutPolicy,
    /// What holds of the region the tenant is at home in.
    pub home: HomePolicy,
    /// Publish a valid draft at once; otherwise wait for `POST …/config/publish`.
    pub auto_publish: bool,
    /// Free for the tenant's own use.
    pub labels: BTreeMap<String, Value>,
    /// The back office's credentials; never part of an answer.
    pub auth: Credentials,
}

/// Where a map opens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct MapView {
    /// Degrees north.
    pub lat: f64,
    /// Degrees east.
    pub lng: f64,
    /// Web-map zoom level.
    pub zoom: f64,
}

/// When cancelling costs, and how much; a ride keeps what held when it was priced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct CancellationPolicy {
    /// Free for this long after a driver accepted, seconds.
    pub free_seconds: u32,
    /// What the rider pays after that, minor units.
    pub fee: i64,
    /// A driver who has waited this long at the pick-up may cancel at the rider's cost, seconds.
    pub no_show_wait_seconds: u32,
}

/// How candidates are matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DispatchMode {
    /// Requests of one window are assigned together, at the least total cost.
    Batched,
    /// Each request takes the nearest free driver, in order of arrival.
    Nearest,
}

/// How rides find drivers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct DispatchPolicy {
    /// How candidates are matched.
    pub mode: DispatchMode,
    /// Requests of one area that arrive this close together are matched together, milliseconds; one that comes alone is
    /// matched at once.
    pub window_ms: u32,
    /// How long a driver has to answer, seconds.
    pub offer_ttl_s: u32,
    /// Drivers asked before the ride expires.
    pub max_offers: u32,
    /// Nobody farther away than this is asked, metres as the crow flies.
    pub radius_m: u32,
    /// Nobody who would need longer than this to the pick-up is asked, seconds; null: no limit but the radius.
    pub max_pickup_s: Option<u32>,
    /// A ride nobody takes expires after this, seconds.
    pub expire_after_s: u32,
    /// Drivers one ride is offered to at once; the first to accept gets it.
    pub group_size: u32,
    /// A driver who needs at most this long to the end of his trip may be asked to take another ride after it, seconds; 0: only
    /// those without a trip are asked.
    pub chain_within_s: u32,
    /// His trip may end so much later than he should have been at the next pick-up, or as much later as he was expected to need
    /// in all; then the next ride goes to somebody else. Seconds.
    pub chain_slack_s: u32,
    /// A batched matching lets a driver who has waited half an hour or longer for work drive so much farther, seconds; others in
    /// proportion.
    pub idle_bonus_s: u32,
    /// And one who has earned nothing lately, where others have; who earned at least the fleet's median has no bonus, and
    /// those in between have one in proportion.
    pub fairness_bonus_s: u32,
    /// A driver who often refuses counts as farther away, by the wait his refusal is expected to cost, and by no more than
    /// this, seconds; 0 takes no notice.
    pub refusal_cost_cap_s: u32,
    /// Kinds of documents without which, or with which expired, a driver takes no rides.
    pub required_documents: BTreeSet<String>,
}

/// How scarcity raises prices.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct SurgePolicy {
    /// Off: the multiplier is 1.
    pub enabled: bool,
    /// The multiplier never exceeds this.
    pub cap: f64,
    /// Each ride more than there are drivers, per driver, raises prices by so much, percent.
    pub step_percent: u32,
    /// Prices follow demand and supply by half in so long, seconds.
    pub half_life_s: u32,
    /// A ride nobody took, or whose rider gave up waiting, still counts as demand for so long, seconds.
    pub unserved_for_s: u32,
    /// What happens in each of the cells around counts so much of what happens in a cell itself, percent.
    pub neighbour_percent: u32,
}

/// Kill switches: false turns a feature off for the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Flags {
    /// Charging riders.
    pub payments: bool,
    /// New riders and drivers.
    pub sign_up: bool,
    /// Taking ride requests.
    pub dispatch: bool,
    /// Surge pricing.
    pub surge: bool,
}

/// The payment service provider's account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct PspAccount {
    /// `sandbox` or `stripe`.
    pub provider: String,
    /// Which of the accounts at Stripe, by the name the nodes' own settings know its secrets by; secrets are never here.
    pub account: Option<String>,
    /// Whether money is taken at once or first set aside.
    pub capture: Capture,
}

/// When drivers are paid what their balances hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct PayoutPolicy {
    /// Every day, soon after midnight in the tenant's time zone, in the tenant's currency; otherwise when the back office says so.
    pub daily: bool,
    /// The least a daily payout is worth, minor units; what is less waits for another day.
    pub minimum: i64,
    /// Earnings are paid out only once another region has stored the settlements behind them. Without effect in a region that
    /// is alone.
    pub hold_until_durable: bool,
}

/// What becomes of a tenant whose home loses sight of the other regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct HomePolicy {
    /// The home refuses commands, and answers reads, once it has not heard from a majority of all regions for a quarter of a
    /// minute, and another region that takes its place by force waits until then, 35 seconds: never two homes at once, and none
    /// for a while. Otherwise it goes on, and what it settles after that is booked late.
    pub lease: bool,
}

/// How a payment service takes money.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Capture {
    /// In one step.
    #[default]
    Automatic,
    /// Set aside on the card first and captured in a second step.
    Manual,
}

/// Back-office clients and the hashes of their secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Credentials {
    /// By client id.
    pub clients: BTreeMap<String, Client>,
}

/// One back-office client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// argon2id, PHC string.
    pub secret_hash: String,
}

impl utoipa::PartialSchema for Credentials {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new().description(Some("Never part of an answer.")).into()
    }
}
impl utoipa::ToSchema for Credentials {}

impl Default for TenantConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            currency: Currency::USD,
            timezone: "UTC".into(),
            map: MapView::default(),
            vehicle_classes: ["standard".into()].into(),
            tariffs: [("standard".into(), Tariff::default())].into(),
            commission_percent: 20,
            cancellation: CancellationPolicy::default(),
            dispatch: DispatchPolicy::default(),
            zones: Vec::new(),
            promotions: BTreeMap::new(),
            surge: SurgePolicy::default(),
            flags: Flags::default(),
            psp: PspAccount::default(),
            payouts: PayoutPolicy::default(),
            home: HomePolicy::default(),
            auto_publish: true,
            labels: BTreeMap::new(),
            auth: Credentials::default(),
        }
    }
}

impl Default for MapView {
    fn default() -> Self {
        Self { lat: 0.0, lng: 0.0, zoom: 2.0 }
    }
}

impl Default for CancellationPolicy {
    fn default() -> Self {
        Self { free_seconds: 120, fee: 500, no_show_wait_seconds: 300 }
    }
}

impl Default for DispatchPolicy {
    fn default() -> Self {
        Self {
            mode: DispatchMode::Batched,
            window_ms: 200,
            offer_ttl_s: 15,
            max_offers: 8,
            radius_m: 5_000,
            max_pickup_s: None,
            expire_after_s: 180,
            group_size: 1,
            chain_within_s: 0,
            chain_slack_s: 120,
            idle_bonus_s: 600,
            fairness_bonus_s: 30,
            refusal_cost_cap_s: 60,
            required_documents: BTreeSet::new(),
        }
    }
}

impl Default for SurgePolicy {
    fn default() -> Self {
        Self { enabled: false, cap: 2.0, step_percent: 25, half_life_s: 60, unserved_for_s: 180, neighbour_percent: 50 }
    }
}

impl Default for Flags {
    fn default() -> Self {
        Self { payments: true, sign_up: true, dispatch: true, surge: true }
    }
}

impl Default for PspAccount {
    fn default() -> Self {
        Self { provider: "sandbox".into(), account: None, capture: Capture::default() }
    }
}

impl Default for PayoutPolicy {
    fn default() -> Self {
        Self { daily: false, minimum: 1, hold_until_durable: false }
    }
}

impl PspAccount {
    /// What payments and the ledger know the account by: `sandbox`, `stripe:acme`.
    pub fn reference(&self) -> String {
        match &self.account {
            None => self.provider.clone(),
            Some(account) => format!("{}:{account}", self.provider),
        }
    }

    fn errors(&self) -> Option<FieldError> {
        match (self.provider.as_str(), self.account.as_deref()) {
            ("sandbox", None) => None,
            ("sandbox", Some(_)) => Some(FieldError::new("psp.account", "must be null: the sandbox has no accounts")),
            ("stripe", Some(account)) if is_account_name(account) => None,
            ("stripe", _) => {
                Some(FieldError::new("psp.account", "must name an account: [a-z0-9_]{1,40}, no two _ in a row"))
            }
            _ => Some(FieldError::new("psp.provider", "must be sandbox or stripe")),
        }
    }
}

/// A name that can be a part of an environment variable's, whose levels are parted by two underscores.
fn is_account_name(text: &str) -> bool {
    (1..=40).contains(&text.len())
        && !text.contains("__")
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

impl TenantConfig {
    /// Reads a merged draft; every reason why it cannot be published, by field. A setting this version does not know is one
    /// of them: misspelt, it would be without effect.
    pub fn from_draft(draft: &Value) -> Result<Self, Vec<FieldError>> {
        let config = Self::read(draft)?;
        let mut errors = config.errors();
        // Of a published version any text is taken, and read as UTC where there is no such zone: there are releases that did
        // not look, and others know zones this one does not.
        if !local_time::is_time_zone(&config.timezone) {
            errors.push(FieldError::new("timezone", "must be an IANA time zone, such as Europe/Lisbon"));
        }
        let known = serde_json::to_value(&config).expect("settings are plain data");
        unknown_settings(draft, &known, "", &mut errors);
        if errors.is_empty() { Ok(config) } else { Err(errors) }
    }

    /// Reads a published version. It was valid where it was published, perhaps by a later release with more settings, which
    /// are ignored here; what this release knows of it must hold here too.
    pub fn from_published(published: &Value) -> Result<Self, Vec<FieldError>> {
        let config = Self::read(published)?;
        let errors = config.errors();
        if errors.is_empty() { Ok(config) } else { Err(errors) }
    }

    fn read(settings: &Value) -> Result<Self, Vec<FieldError>> {
        serde_path_to_error::deserialize(settings).map_err(|error| {
            let at = Some(error.path().to_string()).filter(|path| path != ".").unwrap_or_default();
            vec![FieldError::new(at, error.inner().to_string())]
        })
    }

    /// The tariff of a vehicle class: its own, else `standard`'s, else the default.
    pub fn tariff(&self, vehicle_class: &str) -> Tariff {
        self.tariffs.get(vehicle_class).or_else(|| self.tariffs.get("standard")).cloned().unwrap_or_default()
    }

    /// What an answer shows: everything but the credentials.
    pub fn public_view(config: &Value) -> Value {
        let mut view = config.clone();
        if let Some(fields) = view.as_object_mut() {
            fields.remove("auth");
        }
        view
    }

    /// What an answer shows of a draft's conflicts: everything but those about credentials.
    pub fn public_conflicts(mut conflicts: Vec<Conflict>) -> Vec<Conflict> {
        conflicts.retain(|conflict| conflict.path != "/auth" && !conflict.path.starts_with("/auth/"));
        conflicts
    }

    fn errors(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut require = |ok: bool, field: String, message: &str| {
            if !ok {
                errors.push(FieldError::new(field, message));
            }
        };
        require(self.name.chars().count() <= 80, "name".into(), "must have at most 80 characters");
        require(Point::new(self.map.lat, self.map.lng).is_valid(), "map".into(), "must be a place on the globe");
        require(!self.vehicle_classes.is_empty(), "vehicle_classes".into(), "must name at least one class");
        for class in &self.vehicle_classes {
            require(is_class_name(class), format!("vehicle_classes.{class}"), "must match [a-z0-9_-]{1,30}");
        }
        for (class, tariff) in &self.tariffs {
            require(is_class_name(class), format!("tariffs.{class}"), "must match [a-z0-9_-]{1,30}");
            for (field, message) in tariff.faults(&self.zones) {
                require(false, format!("tariffs.{class}.{field}"), message);
            }
        }
        require(self.promotions.len() <= MAX_PROMOTIONS, "promotions".into(), "must be at most 100");
        for (code, promotion) in &self.promotions {
            require(promotion::is_code(code), format!("promotions.{code}"), "must match [A-Z0-9-]{3,20}");
            for (field, message) in promotion.faults() {
                require(false, format!("promotions.{code}.{field}"), message);
            }
        }
        require(self.commission_percent <= 100, "commission_percent".into(), "must be 0 to 100");
        let fee = self.cancellation.fee;
        require(
            (0..=MAX_TARIFF_AMOUNT).contains(&fee),
            "cancellation.fee".into(),
            "must be 0 to 100000000 minor units",
        );
        let dispatch = &self.dispatch;
        require(dispatch.window_ms <= 10_000, "dispatch.window_ms".into(), "must be at most 10000");
        require((1..=300).contains(&dispatch.offer_ttl_s), "dispatch.offer_ttl_s".into(), "must be 1 to 300");
        require((1..=100).contains(&dispatch.max_offers), "dispatch.max_offers".into(), "must be 1 to 100");
        require((100..=100_000).contains(&dispatch.radius_m), "dispatch.radius_m".into(), "must be 100 to 100000");
        require(
            (5..=86_400).contains(&dispatch.expire_after_s),
            "dispatch.expire_after_s".into(),
            "must be 5 to 86400",
        );
        require(
            dispatch.max_pickup_s.is_none_or(|most_s| (30..=14_400).contains(&most_s)),
            "dispatch.max_pickup_s".into(),
            "must be 30 to 14400, or null",
        );
        require(dispatch.chain_within_s <= 1_800, "dispatch.chain_within_s".into(), "must be at most 1800");
        require(dispatch.chain_slack_s <= 1_800, "dispatch.chain_slack_s".into(), "must be at most 1800");
        require((1..=5).contains(&dispatch.group_size), "dispatch.group_size".into(), "must be 1 to 5");
        // Preferences among drivers, never a reason to let riders wait without end.
        require(dispatch.idle_bonus_s <= 900, "dispatch.idle_bonus_s".into(), "must be at most 900");
        require(dispatch.fairness_bonus_s <= 120, "dispatch.fairness_bonus_s".into(), "must be at most 120");
        require(dispatch.refusal_cost_cap_s <= 300, "dispatch.refusal_cost_cap_s".into(), "must be at most 300");
        require(
            dispatch.required_documents.len() <= MAX_DOCUMENTS,
            "dispatch.required_documents".into(),
            "must name at most 10 kinds",
        );
        for kind in &dispatch.required_documents {
            require(is_class_name(kind), format!("dispatch.required_documents.{kind}"), "must match [a-z0-9_-]{1,30}");
        }
        require(self.zones.len() <= MAX_ZONES, "zones".into(), "must be at most 50 zones");
        for (index, zone) in self.zones.iter().enumerate() {
            for (field, message) in zone.faults() {
                require(false, format!("zones[{index}].{field}"), message);
            }
            let is_first = self.zones[..index].iter().all(|other| other.id != zone.id);
            require(is_first, format!("zones[{index}].id"), "must be no other zone's");
        }
        let surge = self.surge;
        require((1.0..=10.0).contains(&surge.cap), "surge.cap".into(), "must be 1 to 10");
        require(surge.step_percent <= 1_000, "surge.step_percent".into(), "must be at most 1000");
        require((1..=3_600).contains(&surge.half_life_s), "surge.half_life_s".into(), "must be 1 to 3600");
        require(surge.unserved_for_s <= 3_600, "surge.unserved_for_s".into(), "must be at most 3600");
        require(surge.neighbour_percent <= 100, "surge.neighbour_percent".into(), "must be at most 100");
        let minimum = self.payouts.minimum;
        require(
            (1..=MAX_TARIFF_AMOUNT).contains(&minimum),
            "payouts.minimum".into(),
            "must be 1 to 100000000 minor units",
        );
        errors.extend(self.psp.errors());
        errors
    }
}

/// Kinds of documents a tenant may require, and a driver may have.
pub const MAX_DOCUMENTS: usize = 10;

/// What stands in `given` and was not read: it does not stand in `known`, which is what was read.
fn unknown_settings(given: &Value, known: &Value, path: &str, errors: &mut Vec<FieldError>) {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            for (name, value) in given {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match known.get(name) {
                    Some(known) => unknown_settings(value, known, &path, errors),
                    None => errors.push(FieldError::new(path, format!("there is no setting '{name}'"))),
                }
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            for (index, (given, known)) in given.iter().zip(known).enumerate() {
                unknown_settings(given, known, &format!("{path}[{index}]"), errors);
            }
        }
        _ => {}
    }
}

/// Whether something is a name of a vehicle class or of a kind of document.
pub fn is_class_name(text: &str) -> bool {
    (1..=30).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_empty_draft_is_the_default_config() {
        assert_eq!(TenantConfig::from_draft(&json!({})).unwrap(), TenantConfig::default());
    }

    #[test]
    fn a_bad_draft_says_which_fields_are_wrong() {
        let fields = |draft| -> Vec<String> {
            TenantConfig::from_draft(&draft).unwrap_err().into_iter().map(|e| e.field).collect()
        };
        let draft = json!({"tariffs": {"standard": {"per_km": -1, "commission_percent": 101,
            "night": [{"from": "22:00", "to": "06:00"}],
            "zones": [{"zone": "moon", "at": "pickup", "kind": "flat", "amount": 1}]}},
            "timezone": "Mars/Olympus", "dispatch": {"max_offers": 0}});
        let expected = [
            "tariffs.standard.per_km",
            "tariffs.standard.commission_percent",
            "tariffs.standard.night[0].raise_percent",
            "tariffs.standard.zones[0].zone",
            "dispatch.max_offers",
            "timezone",
        ];
        assert_eq!(fields(draft), expected);
        assert_eq!(fields(json!({"tariffs": {"standard": {"tax_percent": 101}}})), ["tariffs.standard.tax_percent"]);
    }

    #[test]
    fn what_dispatch_prefers_is_bounded() {
        let draft = json!({"dispatch": {
            "max_pickup_s": 5, "group_size": 6, "chain_within_s": 1801, "chain_slack_s": 1801, "idle_bonus_s": 901, "fairness_bonus_s": 121, "refusal_cost_cap_s": 301,
            "required_documents": ["Licence"],
        }});
        let fields: Vec<String> = TenantConfig::from_draft(&draft).unwrap_err().into_iter().map(|e| e.field).collect();
        let expected = [
            "dispatch.max_pickup_s",
            "dispatch.chain_within_s",
            "dispatch.chain_slack_s",
            "dispatch.group_size",
            "dispatch.idle_bonus_s",
            "dispatch.fairness_bonus_s",
            "dispatch.refusal_cost_cap_s",
            "dispatch.required_documents.Licence",
        ];
        assert_eq!(fields, expected);
        let draft = json!({"dispatch": {"max_pickup_s": null, "group_size": 5, "required_documents": ["licence"]}});
        assert_eq!(TenantConfig::from_draft(&draft).unwrap().dispatch.group_size, 5);
    }

    #[test]
    fn a_misspelt_setting_is_refused_by_name() {
        let draft =
            json!({"dispach": {}, "tariffs": {"standard": {"per_kilometre": 1}}, "labels": {"any": {"thing": 1}}});
        let fields: Vec<String> = TenantConfig::from_draft(&draft).unwrap_err().into_iter().map(|e| e.field).collect();
        assert_eq!(fields, ["dispach", "tariffs.standard.per_kilometre"]);
    }

    #[test]
    fn an_account_is_of_a_known_provider_and_never_carries_a_secret() {
        let refused = |psp: Value| {
            let errors = TenantConfig::from_draft(&json!({"psp": psp})).unwrap_err();
            errors.into_iter().map(|error| error.field).collect::<Vec<_>>()
        };
        assert_eq!(refused(json!({"provider": "monopoly"})), ["psp.provider"]);
        for account in [json!(null), json!("Acme"), json!("a__b"), json!("")] {
            assert_eq!(refused(json!({"provider": "stripe", "account": account})), ["psp.account"]);
        }
        assert_eq!(refused(json!({"provider": "sandbox", "account": "acme"})), ["psp.account"]);
        assert_eq!(refused(json!({"provider": "stripe", "account": "acme", "secret_key": "sk"})), ["psp.secret_key"]);
        let draft = json!({"psp": {"provider": "stripe", "account": "acme", "capture": "manual"}});
        let psp = TenantConfig::from_draft(&draft).unwrap().psp;
        assert_eq!((psp.reference().as_str(), psp.capture), ("stripe:acme", Capture::Manual));
    }

    #[test]
    fn a_payout_is_worth_something() {
        for minimum in [0, -1, MAX_TARIFF_AMOUNT + 1] {
            let errors = TenantConfig::from_draft(&json!({"payouts": {"minimum": minimum}})).unwrap_err();
            assert_eq!(errors[0].field, "payouts.minimum");
        }
        let draft = json!({"payouts": {"daily": true, "minimum": 500, "hold_until_durable": true}});
        let policy = PayoutPolicy { daily: true, minimum: 500, hold_until_durable: true };
        assert_eq!(TenantConfig::from_draft(&draft).unwrap().payouts, policy);
    }

    #[test]
    fn a_bad_zone_is_named_by_its_index() {
        let zone = |id: &str| json!({"id": id, "area": {"circle": {"center": {"lat": 40.6, "lng": -73.8}, "radius_m": 900}}, "queue": true});
        let mut misspelt = zone("lga");
        misspelt["leave_margin"] = json!(5);
        let draft = json!({"zones": [zone("jfk"), zone("jfk"), misspelt]});
        let fields: Vec<String> = TenantConfig::from_draft(&draft).unwrap_err().into_iter().map(|e| e.field).collect();
        assert_eq!(fields, ["zones[1].id", "zones[2].leave_margin"]);
        assert!(TenantConfig::from_draft(&json!({"zones": [zone("jfk"), zone("lga")]})).is_ok());
    }

    #[test]
    fn a_setting_of_the_wrong_type_is_named() {
        let errors = TenantConfig::from_draft(&json!({"tariffs": {"xl": {"base": "free"}}})).unwrap_err();
        assert_eq!(errors[0].field, "tariffs.xl.base");
    }

    #[test]
    fn a_version_a_later_release_published_is_read_but_for_what_is_new() {
        let published = json!({"tariffs": {"standard": {"base": 300, "per_stop": 50}}, "loyalty": {"points": 1}});
        let config = TenantConfig::from_published(&published).unwrap();
        let tariff = config.tariff("standard");
        assert_eq!((tariff.base, tariff.free_waiting_minutes, tariff.commission_percent), (300, 3, None));
        assert!(tariff.night.is_empty() && tariff.zones.is_empty() && tariff.max_declared_tolls == 0);
        assert!(TenantConfig::from_published(&json!({"timezone": "Hill Valley"})).is_ok());
        let unusable = [json!({"tariffs": {"standard": {"base": "300"}}}), json!({"psp": {"provider": "gold"}})];
        assert!(unusable.iter().all(|published| TenantConfig::from_published(published).is_err()));
    }

    #[test]
    fn the_demo_s_configs_can_be_published() {
        let demo = [
            include_str!("../../deploy/local/tenants/manhattan-cabs.json"),
            include_str!("../../deploy/local/tenants/porto-taxis.json"),
            include_str!("../../deploy/local/tenants/bengaluru-rides.json"),
        ];
        for tenant in demo {
            let tenant: Value = serde_json::from_str(tenant).unwrap();
            assert_eq!(TenantConfig::from_draft(&tenant["config"]).err(), None, "{}", tenant["id"]);
        }
    }

    #[test]
    fn credentials_never_show() {
        let config = json!({"name": "Cabs", "auth": {"clients": {"a": {"secret_hash": "$argon2id$"}}}});
        assert_eq!(TenantConfig::public_view(&config), json!({"name": "Cabs"}));
        let conflict = |path: &str| Conflict { path: path.into(), values: vec![json!(1), json!(2)], winner: json!(1) };
        let conflicts = ["/auth", "/auth/clients/a", "/authors", "/labels/auth"].map(conflict).to_vec();
        let shown = TenantConfig::public_conflicts(conflicts);
        assert_eq!(shown, [conflict("/authors"), conflict("/labels/auth")]);
    }
}
