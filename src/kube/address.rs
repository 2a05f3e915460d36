//! The address of a Kubernetes API, parsed and validated, and percent-encoding. Pure.

use std::fmt;

use ureq::http::Uri;

/// The address of an API: a lower-case scheme, an authority and a path prefix without a final slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    text: String,
    https: bool,
    host: String,
    port: u16,
}

impl Address {
    /// Parses an address. Without a scheme it is https if `tls_by_default`, else http.
    ///
    /// # Errors
    /// The problem, as the end of a sentence whose subject is the field.
    pub fn parse(text: &str, tls_by_default: bool) -> Result<Self, &'static str> {
        let full = match (text.contains("://"), tls_by_default) {
            (true, _) => text.to_owned(),
            (false, true) => format!("https://{text}"),
            (false, false) => format!("http://{text}"),
        };
        let uri: Uri = full.parse().map_err(|_| "is not a URL like https://host:6443")?;
        let https = match uri.scheme_str() {
            Some(scheme) if scheme.eq_ignore_ascii_case("https") => true,
            Some(scheme) if scheme.eq_ignore_ascii_case("http") => false,
            _ => return Err("is neither https:// nor http://"),
        };
        let authority = uri.authority().filter(|authority| !authority.host().is_empty()).ok_or("has no host")?;
        if authority.as_str().contains('@') || uri.query().is_some() || full.contains('#') {
            return Err("may have only a scheme, a host, a port and a path");
        }
        let given = &authority.as_str()[authority.host().len()..];
        let port = match (given.strip_prefix(':'), https) {
            (None, true) => 443,
            (None, false) => 80,
            (Some(digits), _) => digits.parse().map_err(|_| "has an invalid port")?,
        };
        let (scheme, host) = (if https { "https" } else { "http" }, authority.host().to_owned());
        let path = uri.path().trim_end_matches('/');
        Ok(Self { text: format!("{scheme}://{authority}{path}"), https, host, port })
    }

    pub fn is_https(&self) -> bool {
        self.https
    }

    /// Returns the host; an IPv6 address has brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The characters of a query value without escapes, besides letters and digits: RFC 3986, section 2.3.
pub const UNRESERVED: &[u8] = b"-._~";

/// Percent-encodes all bytes except ASCII letters, digits and those in `keep`.
pub fn percent_encode(text: &str, keep: &[u8]) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || keep.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
