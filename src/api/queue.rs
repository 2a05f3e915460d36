//! GET /queue: the free tier's running and waiting Jobs, from the watch; never calls Kubernetes.

use crate::api::App;
use crate::api::error::ApiError;
use crate::api::response::Response;

/// The queue as the watch last saw it.
///
/// # Errors
/// 404 if the server runs without the watch, 503 while the watch is not connected.
pub fn show(app: &App) -> Result<Response, ApiError> {
    let queue = app.queue.as_ref().ok_or(ApiError::QueueDisabled)?;
    Ok(Response::value(200, &queue.snapshot().map_err(ApiError::QueueUnavailable)?))
}
