//! One method per endpoint.

use reqwest::Method;
use serde_json::{Value, json};
use shared::{
    geo::Point,
    ids::{DriverId, PaymentId, RideId, TripId},
};
use uuid::Uuid;

use super::{
    ApiError, Client, ConfigView, DriverAccount, HomeRoute, Journey, Move, Offer, Page, Payment, Quote, Ride,
    RiderAccount, Settlement, SyncStatus, Trip, Vehicle,
};
use crate::streets::Position;

/// The sandbox's card that always has money.
const CARD: &str = "tok_visa";

impl Client {
    pub async fn register_rider(&self, name: &str, phone: &str, password: &str) -> Result<RiderAccount, ApiError> {
        self.post("/v1/riders", &json!({"name": name, "phone": phone, "password": password})).await
    }

    pub async fn register_driver(
        &self,
        name: &str,
        phone: &str,
        password: &str,
        vehicle: &Vehicle,
    ) -> Result<DriverAccount, ApiError> {
        let account = json!({"name": name, "phone": phone, "password": password, "vehicle": vehicle});
        self.post("/v1/drivers", &account).await
    }

    pub async fn estimate(&self, journey: &Journey) -> Result<Quote, ApiError> {
        self.post("/v1/rides/estimate", journey).await
    }

    /// Asks for a ride, at the quoted price if there is a quote.
    pub async fn request_ride(&self, journey: &Journey, quote_id: Option<&str>) -> Result<Ride, ApiError> {
        self.post("/v1/rides", &ride_request(journey, quote_id)).await
    }

    pub async fn ride(&self, id: RideId) -> Result<Ride, ApiError> {
        self.get(&format!("/v1/rides/{id}")).await
    }

    /// A page of rides; `query` as in `status=completed&limit=10`.
    pub async fn rides(&self, query: &str) -> Result<Page<Ride>, ApiError> {
        self.get(&format!("/v1/rides?{query}")).await
    }

    pub async fn cancel_ride(&self, id: RideId, reason: &str) -> Result<Ride, ApiError> {
        self.post(&format!("/v1/rides/{id}/cancel"), &json!({"reason": reason})).await
    }

    /// Why each driver was or was not asked.
    pub async fn dispatch_story(&self, id: RideId) -> Result<Value, ApiError> {
        self.get(&format!("/v1/rides/{id}/dispatch")).await
    }

    pub async fn set_online(&self, id: DriverId, online: bool) -> Result<Value, ApiError> {
        let status = if online { "online" } else { "offline" };
        self.post(&format!("/v1/drivers/{id}/status"), &json!({"status": status})).await
    }

    pub async fn send_location(&self, id: DriverId, position: &Value) -> Result<(), ApiError> {
        let call = self.call(Method::POST, &format!("/v1/drivers/{id}/location")).body(position);
        call.send().await.map(drop)
    }

    pub async fn offers(&self, id: DriverId) -> Result<Vec<Offer>, ApiError> {
        let answer: Value = self.get(&format!("/v1/drivers/{id}/offers")).await?;
        // A list, bare or as a page.
        let items = answer.get("items").cloned().unwrap_or(answer);
        serde_json::from_value(items).map_err(|error| ApiError::Garbled { status: 200, text: error.to_string() })
    }

    pub async fn nearby(&self, at: Point, radius_m: u32) -> Result<Value, ApiError> {
        self.get(&format!("/v1/drivers/nearby?lat={}&lng={}&radius_m={radius_m}", at.lat, at.lng)).await
    }

    pub async fn accept(&self, driver: DriverId, ride: RideId) -> Result<Trip, ApiError> {
        self.post(&format!("/v1/drivers/{driver}/accept"), &json!({"ride_id": ride})).await
    }

    pub async fn decline(&self, driver: DriverId, ride: RideId) -> Result<(), ApiError> {
        let call = self.call(Method::POST, &format!("/v1/drivers/{driver}/decline")).body(&json!({"ride_id": ride}));
        call.send().await.map(drop)
    }

    pub async fn trip(&self, id: TripId) -> Result<Trip, ApiError> {
        self.get(&format!("/v1/trips/{id}")).await
    }

    pub async fn arrive(&self, id: TripId) -> Result<Trip, ApiError> {
        self.trip_step(id, "arrive", &json!({})).await
    }

    pub async fn start(&self, id: TripId, pin: Option<&str>) -> Result<Trip, ApiError> {
        let body = pin.map_or_else(|| json!({}), |pin| json!({"pin": pin}));
        self.trip_step(id, "start", &body).await
    }

    pub async fn pause(&self, id: TripId) -> Result<Trip, ApiError> {
        self.trip_step(id, "pause", &json!({})).await
    }

    pub async fn resume(&self, id: TripId) -> Result<Trip, ApiError> {
        self.trip_step(id, "resume", &json!({})).await
    }

    pub async fn end(&self, id: TripId) -> Result<Trip, ApiError> {
        self.trip_step(id, "end", &json!({})).await
    }

    async fn trip_step(&self, id: TripId, step: &str, body: &Value) -> Result<Trip, ApiError> {
        self.post(&format!("/v1/trips/{id}/{step}"), body).await
    }

    pub async fn rate(&self, id: TripId, stars: u8) -> Result<Value, ApiError> {
        self.post(&format!("/v1/trips/{id}/rating"), &json!({"stars": stars})).await
    }

    pub async fn pay(&self, id: TripId) -> Result<Payment, ApiError> {
        self.post("/v1/payments", &payment_request(id)).await
    }

    pub async fn payment(&self, id: PaymentId) -> Result<Payment, ApiError> {
        self.get(&format!("/v1/payments/{id}")).await
    }

    pub async fn refund(&self, id: PaymentId, reason: &str) -> Result<Value, ApiError> {
        self.post(&format!("/v1/payments/{id}/refunds"), &json!({"reason": reason})).await
    }

    pub async fn config(&self, tenant: &str) -> Result<ConfigView, ApiError> {
        self.get(&format!("/v1/tenants/{tenant}/config")).await
    }

    pub async fn patch_config(&self, tenant: &str, patch: &Value) -> Result<ConfigView, ApiError> {
        self.call(Method::PATCH, &format!("/v1/tenants/{tenant}/config")).body(patch).send().await?.json()
    }

    /// One page of the ledger as this region has it.
    pub async fn settlements(&self, after: Option<&str>) -> Result<Page<Settlement>, ApiError> {
        let after = after.map(|cursor| format!("&after={cursor}")).unwrap_or_default();
        self.get(&format!("/v1/settlements?limit=500{after}")).await
    }

    /// The whole ledger as this region has it.
    pub async fn all_settlements(&self) -> Result<Vec<Settlement>, ApiError> {
        let mut page = self.settlements(None).await?;
        let mut all = std::mem::take(&mut page.items);
        while let Some(cursor) = page.next_cursor.take() {
            page = self.settlements(Some(&cursor)).await?;
            if page.items.is_empty() {
                break;
            }
            all.append(&mut page.items);
        }
        Ok(all)
    }

    /// Has a tenant move, `planned` or as a `failover`.
    pub async fn rehome(&self, tenant: &str, to_region: &str, mode: &str) -> Result<Move, ApiError> {
        self.post(&format!("/v1/tenants/{tenant}/rehome"), &json!({"to_region": to_region, "mode": mode})).await
    }

    /// How far a move is.
    pub async fn tenant_move(&self, id: Uuid) -> Result<Move, ApiError> {
        self.get(&format!("/v1/moves/{id}")).await
    }

    pub async fn home_route(&self) -> Result<HomeRoute, ApiError> {
        self.get("/v1/route").await
    }

    /// What the global-sync at this client's address says of itself.
    pub async fn sync_status(&self) -> Result<SyncStatus, ApiError> {
        self.get("/status").await
    }
}

/// The body of `POST /v1/rides`.
pub fn ride_request(journey: &Journey, quote_id: Option<&str>) -> Value {
    let mut body = json!({
        "pickup": journey.pickup,
        "dropoff": journey.dropoff,
        "vehicle_class": journey.vehicle_class,
        "payment_method": {"type": "card", "token": CARD},
    });
    if let Some(quote_id) = quote_id {
        body["quote_id"] = json!(quote_id);
    }
    body
}

/// The body of `POST /v1/payments`.
pub fn payment_request(trip: TripId) -> Value {
    json!({"trip_id": trip, "method": {"type": "card", "token": CARD}})
}

/// The body of a position, in REST and on the socket.
pub fn location_update(position: Position) -> Value {
    json!({
        "lat": position.point.lat,
        "lng": position.point.lng,
        "heading": position.heading,
        "speed": position.speed_mps,
        "accuracy": 5.0,
    })
}
