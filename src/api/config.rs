//! GET /config: every pod of the cluster, from the watched pods or, where they are not live, from a list of Kubernetes, which is
//! written pod by pod as it streams in.

use std::sync::Arc;

use crate::api::conditional::{has_etag, has_no_cache};
use crate::api::error::ApiError;
use crate::api::response::Response;
use crate::api::{App, Request};
use crate::state::pod_list::{Body, PodList};

/// Returns the pods, or 304 if the caller has them.
///
/// # Errors
/// The failure of Kubernetes, or no list ended in time.
pub fn show(app: &App, request: &Request<'_>) -> Result<Response, ApiError> {
    let watched = app.watched.as_ref().map(|watched| &watched.pods).filter(|_| !has_no_cache(request.cache_control));
    if let Some(pods) = watched {
        pods.record_demand();
    }
    // The digest decides first: a 304 needs no body.
    let unchanged = watched.and_then(|pods| pods.digest()).filter(|digest| has_etag(request, &digest.etag()));
    let mut is_listed = false;
    let (digest, body) = match unchanged {
        Some(digest) => (digest, None),
        None => {
            let from_watch = watched.and_then(|pods| pods.body());
            is_listed = from_watch.is_none();
            let (digest, body) = from_watch.map_or_else(|| list(app, request), Ok)?;
            (digest, Some(body).filter(|_| !has_etag(request, &digest.etag())))
        }
    };
    if is_listed { &app.metrics.config_from_list } else { &app.metrics.config_from_watch }.increment();
    let response = match body {
        Some(body) => Response::json(200, body).with_header("ETag", digest.etag()),
        None => Response::not_modified(digest.etag()),
    };
    Ok(response.with_detail(format!("{} pods", digest.rows)))
}

/// Lists the pods, or shares the list of another caller.
fn list(app: &App, request: &Request<'_>) -> Result<Body, ApiError> {
    let list = app.lists.run(app.remaining(request), |deadline| {
        let list: PodList = app.kube.list_pods(deadline).map_err(|error| ApiError::Kube(Arc::new(error)))?;
        Ok((list.digest, Arc::new(list.into_json())))
    });
    list.map_err(ApiError::from)?
}
