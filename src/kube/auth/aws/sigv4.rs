//! Signatures of AWS, version 4, in a query or in a header. Pure.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use std::time::{Duration, SystemTime};

use ring::{digest, hmac};

use crate::kube::address::{UNRESERVED, percent_encode};
use crate::kube::auth::aws::credentials::AwsCredentials;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// The service and region of a signature, and its time.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    pub service: &'a str,
    pub region: &'a str,
    pub at: SystemTime,
}

/// The parts of a request that are signed. The path has only characters that need no escapes.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    pub method: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    /// In order; the signature sorts them.
    pub query: &'a [(&'a str, &'a str)],
    /// Names in lower case, without `host`.
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
}

impl Scope<'_> {
    /// Returns the time as X-Amz-Date.
    pub fn date(&self) -> String {
        humantime::format_rfc3339_seconds(self.at).to_string().replace(['-', ':'], "")
    }

    fn credential_scope(&self) -> String {
        format!("{}/{}/{}/aws4_request", &self.date()[..8], self.region, self.service)
    }

    fn signature(&self, credentials: &AwsCredentials, canonical_request: &str) -> String {
        let text = format!(
            "{ALGORITHM}\n{}\n{}\n{}",
            self.date(),
            self.credential_scope(),
            sha256(canonical_request.as_bytes())
        );
        let first = format!("AWS4{}", credentials.secret_key.expose());
        let day = self.date()[..8].to_owned();
        let mut key = first.into_bytes();
        for part in [&day, self.region, self.service, "aws4_request"] {
            key = hmac(&key, part);
        }
        hex(&hmac(&key, &text))
    }
}

/// Returns the query of `parts` with the signature. It is valid for `validity`.
pub fn presigned_query(credentials: &AwsCredentials, scope: Scope<'_>, parts: Parts<'_>, validity: Duration) -> String {
    let credential = format!("{}/{}", credentials.access_key, scope.credential_scope());
    let (date, seconds) = (scope.date(), validity.as_secs().to_string());
    let names = signed_headers(parts);
    let mut query = parts.query.to_vec();
    query.extend([
        ("X-Amz-Algorithm", ALGORITHM),
        ("X-Amz-Credential", &credential),
        ("X-Amz-Date", &date),
        ("X-Amz-Expires", &seconds),
        ("X-Amz-SignedHeaders", &names),
    ]);
    query.extend(credentials.token.as_ref().map(|token| ("X-Amz-Security-Token", token.expose())));
    let signature = scope.signature(credentials, &canonical_request(Parts { query: &query, ..parts }));
    format!("{}&X-Amz-Signature={signature}", encode(query.iter()).join("&"))
}

/// Returns the headers that sign `parts`: X-Amz-Date, X-Amz-Security-Token if the credential has a token, and Authorization.
pub fn signed_request_headers(
    credentials: &AwsCredentials,
    scope: Scope<'_>,
    parts: Parts<'_>,
) -> Vec<(&'static str, String)> {
    let date = scope.date();
    let mut headers = parts.headers.to_vec();
    headers.push(("x-amz-date", &date));
    headers.extend(credentials.token.as_ref().map(|token| ("x-amz-security-token", token.expose())));
    let parts = Parts { headers: &headers, ..parts };
    let signature = scope.signature(credentials, &canonical_request(parts));
    let (key, names, scope) = (&credentials.access_key, signed_headers(parts), scope.credential_scope());
    let value = format!("{ALGORITHM} Credential={key}/{scope}, SignedHeaders={names}, Signature={signature}");
    let mut signed = vec![("authorization", value), ("x-amz-date", date.clone())];
    signed.extend(credentials.token.as_ref().map(|token| ("x-amz-security-token", token.expose().to_owned())));
    signed
}

fn canonical_request(parts: Parts<'_>) -> String {
    let mut query = encode(parts.query.iter());
    // By name, then by value, in their encoded form.
    query.sort_by(|a, b| a.split_once('=').cmp(&b.split_once('=')));
    let mut headers = sorted_headers(parts);
    // Spaces around a value do not count, and several in it count as one.
    headers.iter_mut().for_each(|(_, value)| *value = value.split_whitespace().collect::<Vec<_>>().join(" "));
    let headers: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let path = percent_encode(parts.path, b"/-._~");
    let (query, names, body) = (query.join("&"), signed_headers(parts), sha256(parts.body));
    format!("{}\n{path}\n{query}\n{headers}\n{names}\n{body}", parts.method)
}

fn sorted_headers(parts: Parts<'_>) -> Vec<(&str, String)> {
    let mut headers: Vec<(&str, String)> =
        parts.headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    headers.push(("host", parts.host.to_owned()));
    headers.sort();
    headers
}

fn signed_headers(parts: Parts<'_>) -> String {
    sorted_headers(parts).iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";")
}

fn encode<'a>(query: impl Iterator<Item = &'a (&'a str, &'a str)>) -> Vec<String> {
    let pair = |(name, value): &(&str, &str)| {
        format!("{}={}", percent_encode(name, UNRESERVED), percent_encode(value, UNRESERVED))
    };
    query.map(pair).collect()
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::auth::secret::Secret;

    fn credentials(access_key: &str, secret_key: &str) -> AwsCredentials {
        let (access_key, secret_key) = (access_key.to_owned(), Secret::new(secret_key));
        AwsCredentials { access_key, secret_key, token: None, expires: None, source: String::new() }
    }

    fn at(time: &str) -> SystemTime {
        humantime::parse_rfc3339(time).expect(time)
    }

    const SESSION_TOKEN: &str = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267";
    const UNRESERVED_NAME: &str = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";
    const FORM_HASH: &str = "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e";

    const GET: Parts<'_> =
        Parts { method: "GET", host: "example.amazonaws.com", path: "/", query: &[], headers: &[], body: b"" };
    const ORDER: Parts<'_> = Parts { query: &[("Param2", "value2"), ("Param1", "value1")], ..GET };
    const UNRESERVED_QUERY: Parts<'_> = Parts { query: &[(UNRESERVED_NAME, UNRESERVED_NAME)], ..GET };
    const TRIM: Parts<'_> = Parts { headers: &[("my-header1", "value1"), ("my-header2", "\"a   b   c\"")], ..GET };
    const POST_QUERY: Parts<'_> = Parts { method: "POST", query: &[("Param1", "value1")], ..GET };
    const POST_FORM: Parts<'_> = Parts {
        method: "POST",
        headers: &[("content-type", FORM), ("content-length", "13")],
        body: b"Param1=value1",
        ..GET
    };

    /// Requests of AWS's test suite for signatures, with the signatures in a header and in the query:
    /// <https://github.com/awslabs/aws-c-auth/tree/main/tests/aws-signing-test-suite/v4>. The header of a form also has its hash there.
    #[test]
    fn signatures_are_those_of_the_published_test_suite() {
        let plain = credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        let temporary = AwsCredentials { token: Some(Secret::new(SESSION_TOKEN)), ..plain.clone() };
        let scope = Scope { service: "service", region: "us-east-1", at: at("2015-08-30T12:36:00Z") };
        let form = [POST_FORM.headers, &[("x-amz-content-sha256", FORM_HASH)]].concat();
        for (credentials, parts, in_header, in_query) in [
            (
                &plain,
                GET,
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
                "e93c787ed7f371d5c6b165c1b38ede9550f4dce4144713e844b25b7192d3865d",
            ),
            (
                &plain,
                ORDER,
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
                "86012e2c9ad4d77369f5d81c11f75158aae4f895a085212cc6d3f923d300bed5",
            ),
            (
                &plain,
                UNRESERVED_QUERY,
                "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
                "8e76a88a7433637b12778d5592799b29ad21ecd6cf6325051c21d86f0acda2bf",
            ),
            (
                &plain,
                TRIM,
                "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
                "e7bb0fd515e125e1aec2ecc4c0c17484fb06f6846b927c35e46005dd3df3acd4",
            ),
            (
                &plain,
                POST_QUERY,
                "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
                "a9ef26247f293bffe40eeff86a0480ba8c14d31503b2e0c3399e3a16bf1a3682",
            ),
            (
                &plain,
                POST_FORM,
                "328d1b9eaadca9f5818ef05e8392801e091653bafec24fcab71e7344e7f51422",
                "0dbeb9b026c7b6675f266b8427efec9b4fa8b1f6ef1477d717aea231106eab4d",
            ),
            (
                &temporary,
                GET,
                "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8",
                "7ff2b50b376cb4d151970630573d6291dc128cc5c2a12ffb237f73cc53f67b6c",
            ),
        ] {
            let query = presigned_query(credentials, scope, parts, Duration::from_secs(3600));
            assert!(query.ends_with(&format!("&X-Amz-Signature={in_query}")), "{query}");
            let parts = if parts.body.is_empty() { parts } else { Parts { headers: &form, ..parts } };
            let headers = signed_request_headers(credentials, scope, parts);
            assert!(headers[0].1.ends_with(&format!("Signature={in_header}")), "{headers:?}");
        }
    }
}
