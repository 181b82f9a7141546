//! Money, charged once and settled once.

use utoipa_axum::router::OpenApiRouter;

use crate::app::App;

/// This feature's endpoints.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
}
