//! GET /healthz and GET /readyz.

use std::sync::Arc;

use serde_json::json;

use crate::api::App;
use crate::api::error::ApiError;
use crate::api::response::Response;

/// 200 while the process serves requests.
pub fn healthz() -> Response {
    Response::value(200, &json!({ "status": "ok" }))
}

/// 200 if Kubernetes accepts the server's credentials.
///
/// # Errors
/// 503 with the reason.
pub fn readyz(app: &App) -> Result<Response, ApiError> {
    match app.kube.ready() {
        Ok(()) => Ok(healthz()),
        Err(error) => Err(ApiError::NotReady(Box::new(ApiError::Kube(Arc::new(error), None)))),
    }
}
