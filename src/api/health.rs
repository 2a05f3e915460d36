//! GET /healthz and GET /readyz.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::App;
use crate::api::error::ApiError;
use crate::api::response::Response;
use crate::job::Tier;
use crate::queue::capacity;

/// 200 while the process serves requests.
pub fn healthz() -> Response {
    Response::value(200, &json!({ "status": "ok" }))
}

/// 200 if Kubernetes accepts the server's credentials and the free tier has its CPU quota.
///
/// # Errors
/// 503 with the reason.
pub fn readyz(app: &App) -> Result<Response, ApiError> {
    match check(app) {
        Ok(()) => Ok(healthz()),
        Err(error) => Err(ApiError::NotReady(Box::new(error))),
    }
}

/// Checks the watched quotas, or those of Kubernetes where they are not watched. A server without the permission to read
/// them is ready, as far as it can tell.
fn check(app: &App) -> Result<(), ApiError> {
    let kube = |error| ApiError::Kube(Arc::new(error), None);
    let watched = app.queue.as_ref().and_then(|queue| queue.has_cpu_quota());
    let has_quota = match watched {
        Some(has_quota) => app.kube.ready().map(|()| has_quota),
        None => match app.kube.list(&format!("/api/v1/namespaces/{}/resourcequotas", Tier::Free.namespace())) {
            Ok(quotas) => Ok(quotas.iter().any(limits_cpu)),
            Err(error) if error.not_permitted() || error.not_found() => app.kube.ready().map(|()| true),
            Err(error) => Err(error),
        },
    };
    if has_quota.map_err(kube)? { Ok(()) } else { Err(ApiError::NoCpuQuota) }
}

fn limits_cpu(quota: &Value) -> bool {
    quota["spec"]["hard"].as_object().is_some_and(|hard| hard.keys().any(|key| capacity::is_cpu(key)))
}
