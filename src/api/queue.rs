//! GET /queue: the free tier's running and waiting Jobs, from the watch; never calls Kubernetes.

use crate::api::App;
use crate::api::error::ApiError;
use crate::api::response::Response;
use crate::job::Tier;

/// The queue as the watch last saw it.
///
/// # Errors
/// 404 without watched state, 502 without the permission to watch, 503 while the state is not known.
pub fn show(app: &App) -> Result<Response, ApiError> {
    let watched = app.watched.as_ref().ok_or(ApiError::NotWatched)?;
    let queue = watched.queue.snapshot().map_err(|why| ApiError::JobsUnavailable(why, Tier::Free))?;
    Ok(Response::value(200, &queue))
}
