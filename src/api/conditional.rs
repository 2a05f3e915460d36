//! Conditional requests and cache directives. Pure.

use std::sync::Arc;

use crate::api::Request;
use crate::api::response::Response;
use crate::state::pod_list::hash;

/// Returns a small JSON body with its entity tag, or 304 if the caller has it.
pub fn json(request: &Request<'_>, body: Vec<u8>) -> Response {
    self::body(request, "application/json", body)
}

/// Returns a small body of this media type with its entity tag, or 304 if the caller has it.
pub fn body(request: &Request<'_>, media_type: &str, body: Vec<u8>) -> Response {
    let etag = format!("\"{:016x}\"", hash(&body));
    match has_etag(request, &etag) {
        true => Response::not_modified(etag),
        false => Response::new(200, media_type, Arc::new(body)).with_header("ETag", etag),
    }
}

/// Tests if the caller has the body of this entity tag, RFC 9110, section 13.1.2.
pub fn has_etag(request: &Request<'_>, etag: &str) -> bool {
    members(request.if_none_match).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// Tests for the directive to answer from Kubernetes instead of watched state, RFC 9111, section 5.2.1.4.
pub fn has_no_cache(cache_control: Option<&str>) -> bool {
    members(cache_control).any(|directive| directive.eq_ignore_ascii_case("no-cache"))
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
