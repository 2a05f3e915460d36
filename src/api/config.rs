//! GET /config: every pod of the cluster, from the watched pods or, where they are not live, from a list of Kubernetes, which is
//! written pod by pod as it streams in.

use std::sync::Arc;

use crate::api::error::ApiError;
use crate::api::response::Response;
use crate::api::{App, Request};
use crate::state::pod_list::{Digest, PodList};

/// A body of GET /config, shared by concurrent callers, and the digest of its rows.
pub type List = (Arc<Vec<u8>>, Digest);

/// Returns the pods, or 304 if the caller has them.
///
/// # Errors
/// The failure of Kubernetes, or no list ended in time.
pub fn show(app: &App, request: &Request<'_>) -> Result<Response, ApiError> {
    let watched = app.pods.as_ref().filter(|_| !wants_list(request.cache_control));
    watched.inspect(|pods| pods.demand());
    if let Some(digest) = watched.and_then(|pods| pods.digest())
        && is_known(request, &digest)
    {
        return Ok(Response::not_modified(digest.etag()).with_detail(format!("{} pods", digest.rows)));
    }
    let (body, digest) = match watched.and_then(|pods| pods.body()) {
        Some((digest, body)) => (body, digest),
        None => list(app, request)?,
    };
    let response = match is_known(request, &digest) {
        true => Response::not_modified(digest.etag()),
        false => Response::json(200, body).with_header("ETag", digest.etag()),
    };
    Ok(response.with_detail(format!("{} pods", digest.rows)))
}

/// Lists the pods, or shares the list of another caller.
fn list(app: &App, request: &Request<'_>) -> Result<List, ApiError> {
    let list = app.lists.run(app.remaining(request), |deadline| {
        let list: PodList = app.kube.list_pods(deadline).map_err(|error| ApiError::Kube(Arc::new(error), None))?;
        let digest = list.digest;
        Ok((Arc::new(list.into_json()), digest))
    });
    list.map_err(ApiError::from)?
}

/// Tests for a caller that wants Kubernetes itself to answer, RFC 9111, section 5.2.1.4.
fn wants_list(cache_control: Option<&str>) -> bool {
    let directives = cache_control.unwrap_or_default().split(',').map(str::trim);
    directives.into_iter().any(|directive| directive.eq_ignore_ascii_case("no-cache"))
}

/// Tests if the caller has this body, RFC 9110, section 13.1.2.
fn is_known(request: &Request<'_>, digest: &Digest) -> bool {
    let Some(known) = request.if_none_match else { return false };
    let etag = digest.etag();
    known.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
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
            assert_eq!(wants_list(value), expected, "{value:?}");
        }
    }
}
