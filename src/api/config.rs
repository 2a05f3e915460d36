//! GET /config: every pod of the cluster, from the watched pods or, where they are not live, from a list of Kubernetes, which is
//! written pod by pod as it streams in.

use std::sync::Arc;

use crate::api::error::ApiError;
use crate::api::response::Response;
use crate::api::{App, Request};
use crate::state::pod_list::{Body, Digest, PodList};

/// Returns the pods, or 304 if the caller has them.
///
/// # Errors
/// The failure of Kubernetes, or no list ended in time.
pub fn show(app: &App, request: &Request<'_>) -> Result<Response, ApiError> {
    let watched = app.pods.as_ref().filter(|_| !has_no_cache(request.cache_control));
    if let Some(pods) = watched {
        pods.record_demand();
    }
    // The digest decides first: a 304 needs no body.
    let unchanged = watched.and_then(|pods| pods.digest()).filter(|digest| matches_etag(request, digest));
    let (digest, body) = match unchanged {
        Some(digest) => (digest, None),
        None => {
            let (digest, body) = watched.and_then(|pods| pods.body()).map_or_else(|| list(app, request), Ok)?;
            (digest, Some(body).filter(|_| !matches_etag(request, &digest)))
        }
    };
    let response = match body {
        Some(body) => Response::json(200, body).with_header("ETag", digest.etag()),
        None => Response::not_modified(digest.etag()),
    };
    Ok(response.with_detail(format!("{} pods", digest.rows)))
}

/// Lists the pods, or shares the list of another caller.
fn list(app: &App, request: &Request<'_>) -> Result<Body, ApiError> {
    let list = app.lists.run(app.remaining(request), |deadline| {
        let list: PodList = app.kube.list_pods(deadline).map_err(|error| ApiError::Kube(Arc::new(error), None))?;
        Ok((list.digest, Arc::new(list.into_json())))
    });
    list.map_err(ApiError::from)?
}

/// Tests for a caller that wants Kubernetes itself to answer, RFC 9111, section 5.2.1.4.
fn has_no_cache(cache_control: Option<&str>) -> bool {
    members(cache_control).any(|directive| directive.eq_ignore_ascii_case("no-cache"))
}

/// Tests if the caller has this body, RFC 9110, section 13.1.2.
fn matches_etag(request: &Request<'_>, digest: &Digest) -> bool {
    let etag = digest.etag();
    members(request.if_none_match).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// Returns the members of a list in a header, RFC 9110, section 5.6.1.
fn members(value: Option<&str>) -> impl Iterator<Item = &str> {
    value.into_iter().flat_map(|value| value.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cache_is_one_of_the_directives() {
        for (value, expected) in [
            (None, false),
            (Some("no-cache"), true),
            (Some("max-age=0, No-Cache"), true),
            (Some("no-cachet"), false),
            (Some("max-age=0"), false),
        ] {
            assert_eq!(has_no_cache(value), expected, "{value:?}");
        }
    }
}
