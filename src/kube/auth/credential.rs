//! The credential of one request, and the header values that carry it.

use std::sync::Arc;

use base64::Engine;
use ureq::http::HeaderValue;

use crate::kube::auth::secret::Secret;
use crate::kube::transport::tls::Identity;

/// Maximum of a token's subject that is shown, in characters: a service account has 140 at most.
const MAX_SUBJECT_CHARS: usize = 256;

/// The credential of one request. Both fields may be absent.
#[derive(Debug)]
pub struct Credential {
    /// The value of the Authorization header, marked as sensitive.
    pub authorization: Option<HeaderValue>,
    /// The client certificate.
    pub identity: Option<Arc<Identity>>,
    /// Grows with each replacement, to tell a rejected credential from its successor.
    pub serial: u64,
}

impl Credential {
    /// Returns the `sub` claim of the token, if it is a JSON Web Token (RFC 7519): a name, not a secret. Tokens of EKS
    /// are not.
    pub fn subject(&self) -> Option<String> {
        subject(self.authorization.as_ref()?.to_str().ok()?.strip_prefix("Bearer ")?)
    }
}

fn subject(token: &str) -> Option<String> {
    let [_, claims, _] = token.split('.').collect::<Vec<_>>().try_into().ok()?;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    Some(claims["sub"].as_str()?.chars().take(MAX_SUBJECT_CHARS).collect())
}

/// Builds the header value of a bearer token, RFC 6750. Returns `None` if the token has characters that a header cannot
/// carry, such as a line break.
pub fn bearer_header(token: &Secret) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {}", token.expose()))
}

/// Builds the header value of a username and a password, RFC 7617.
pub fn basic_header(username: &str, password: &Secret) -> Option<HeaderValue> {
    let pair = format!("{username}:{}", password.expose());
    sensitive(&format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subject_is_read_from_a_json_web_token_only() {
        let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        let jwt = |claims: &str| format!("{}.{}.c2lnbmF0dXJl", encode("{}"), encode(claims));
        let found = subject(&jwt(r#"{"sub":"system:serviceaccount:default:a","jti":"x"}"#));
        assert_eq!(found.as_deref(), Some("system:serviceaccount:default:a"));
        for token in ["", "t0ken", "a.b.c", "k8s-aws-v1.aGk", &jwt("[]"), &jwt(r#"{"sub":1}"#)] {
            assert_eq!(subject(token), None, "{token}");
        }
    }
}
