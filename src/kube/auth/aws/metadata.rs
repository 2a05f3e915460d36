//! Credentials over HTTP without a signature: the instance metadata service of EC2, and the endpoint of a container.
//!
//! <https://docs.aws.amazon.com/sdkref/latest/guide/feature-imds-credentials.html>,
//! <https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html>

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::http::{Request, Uri};

use crate::kube::address::Address;
use crate::kube::agent::{agent_for, direct_agent};
use crate::kube::auth::aws::AwsError;
use crate::kube::auth::aws::credentials::AwsCredentials;
use crate::kube::auth::aws::env::AwsEnv;
use crate::kube::auth::aws::http::{NoReply, Reply, first_line, send};
use crate::kube::auth::secret::Secret;
use crate::kube::files::read_regular;
use crate::kube::{proxy, time};

const IMDS: &str = "http://169.254.169.254";
const IMDS_IPV6: &str = "http://[fd00:ec2::254]";

/// Time limit of a request to the instance metadata service, as in botocore. It is on the host itself and responds within milliseconds.
const IMDS_TIMEOUT: Duration = Duration::from_secs(1);

/// Largest AWS_METADATA_SERVICE_TIMEOUT, in seconds.
const MAX_IMDS_SECONDS: u64 = 10;

/// Attempts at the instance metadata service, which limits the packets of an instance for a moment.
const IMDS_ATTEMPTS: u32 = 3;

/// Lifetime of a session token, in seconds: the longest.
const TOKEN_TTL: &str = "21600";

const ROLE_PATH: &str = "/latest/meta-data/iam/security-credentials/";

/// The advice for a container whose requests reach the service while the response with the token does not reach it.
const HOP_LIMIT: &str = "the host's metadata options allow a token one network hop only, and a container needs two: \
                         aws ec2 modify-instance-metadata-options --instance-id ID --http-put-response-hop-limit 2";

/// The host of AWS_CONTAINER_CREDENTIALS_RELATIVE_URI.
const CONTAINER: &str = "http://169.254.170.2";

/// Hosts that may have a container's credentials without TLS, besides those of the loopback network.
const CONTAINER_HOSTS: [&str; 4] = ["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]", "localhost"];

/// Time limit of a request for a container's credentials, and the attempts, as in botocore.
const CONTAINER_TIMEOUT: Duration = Duration::from_secs(2);
const CONTAINER_ATTEMPTS: u32 = 3;

/// The instance metadata service.
pub struct Imds {
    base: String,
    agent: Agent,
    timeout: Duration,
    is_v1_disabled: bool,
    /// The session token; `None` for version 1 of the service.
    token: Option<String>,
    /// The request for a token got no response.
    is_token_lost: bool,
}

impl Imds {
    /// Opens a session.
    ///
    /// # Errors
    /// [`AwsError::NoCredentials`] if the service is off or not reachable, else [`AwsError::Failed`].
    pub fn open(env: &AwsEnv) -> Result<Self, AwsError> {
        if env.is_true("AWS_EC2_METADATA_DISABLED") {
            return Err(AwsError::NoCredentials("AWS_EC2_METADATA_DISABLED is true".to_owned()));
        }
        let is_ipv6 =
            env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE").is_some_and(|mode| mode.eq_ignore_ascii_case("ipv6"))
                || env.is_true("AWS_IMDS_USE_IPV6");
        let base = env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or(if is_ipv6 { IMDS_IPV6 } else { IMDS });
        let base = base.trim_end_matches('/').to_owned();
        // A URL may hold a password, and is not shown then.
        let odd = || {
            AwsError::Unsupported(
                "AWS_EC2_METADATA_SERVICE_ENDPOINT is more than a scheme, a host and a port".to_owned(),
            )
        };
        let address = Address::parse(&base, false).map_err(|_| odd())?;
        let agent = agent_for(&address, None, None).map_err(|_| odd())?;
        if proxy::from_environment(&address, |name| env.get(name).map(str::to_owned)).is_some() {
            let reason = "HTTP_PROXY holds for the instance metadata service, since NO_PROXY does not name it";
            return Err(AwsError::Unsupported(reason.to_owned()));
        }
        let seconds = env.get("AWS_METADATA_SERVICE_TIMEOUT").and_then(|seconds| seconds.parse::<u64>().ok());
        let timeout = seconds.map_or(IMDS_TIMEOUT, |seconds| Duration::from_secs(seconds.clamp(1, MAX_IMDS_SECONDS)));
        let is_v1_disabled = env.is_true("AWS_EC2_METADATA_V1_DISABLED");
        let mut imds = Self { base, agent, timeout, is_v1_disabled, token: None, is_token_lost: false };
        imds.request_token()?;
        Ok(imds)
    }

    /// Requests a session token. A service that has none, or whose response is lost, may still answer without one.
    fn request_token(&mut self) -> Result<(), AwsError> {
        let request = Request::put(format!("{}/latest/api/token", self.base));
        let request = request.header("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_TTL).body(Vec::new());
        let request = request.map_err(|error| self.failed(&error.to_string()))?;
        match send(&self.agent, &request, self.timeout, IMDS_ATTEMPTS) {
            Ok(Reply { status: 200, body }) => self.token = Some(body.trim().to_owned()),
            Ok(Reply { status: 403..=405, .. }) if !self.is_v1_disabled => {}
            Ok(Reply { status, .. }) => {
                return Err(self.failed(&format!("it answered the request for a token with {status}")));
            }
            Err(NoReply::Unreachable(error)) => {
                return Err(AwsError::NoCredentials(format!(
                    "no instance metadata service answers at {}: {error}",
                    self.base
                )));
            }
            Err(NoReply::Lost(_)) if !self.is_v1_disabled => self.is_token_lost = true,
            Err(error) => return Err(self.failed(&format!("{}; {HOP_LIMIT}", error.text()))),
        }
        Ok(())
    }

    fn get(&self, path: &str) -> Result<Reply, AwsError> {
        let mut request = Request::get(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("x-aws-ec2-metadata-token", token);
        }
        let request = request.body(Vec::new()).map_err(|error| self.failed(&error.to_string()))?;
        match send(&self.agent, &request, self.timeout, IMDS_ATTEMPTS) {
            Ok(Reply { status: 401, .. }) if self.is_token_lost => {
                Err(self.failed(&format!("the response with a token is lost; {HOP_LIMIT}")))
            }
            Ok(reply) => Ok(reply),
            Err(error) if self.is_token_lost => Err(self.failed(&format!("{}; {HOP_LIMIT}", error.text()))),
            Err(error) => Err(self.failed(error.text())),
        }
    }

    fn failed(&self, problem: &str) -> AwsError {
        AwsError::Failed(format!("the instance metadata service at {} failed: {problem}", self.base))
    }

    /// Returns the credential of the instance's role.
    ///
    /// # Errors
    /// [`AwsError::NoCredentials`] if the instance has no role, else [`AwsError::Failed`].
    pub fn credentials(&self) -> Result<AwsCredentials, AwsError> {
        let role = self.get(ROLE_PATH)?;
        let name = role.body.trim();
        if role.status == 404 || (role.status == 200 && name.is_empty()) {
            let advice = "aws ec2 associate-iam-instance-profile --instance-id ID --iam-instance-profile Name=PROFILE";
            return Err(AwsError::NoCredentials(format!("this instance has no role; fix: {advice}")));
        }
        if role.status == 403 {
            let reason = format!("the instance metadata service at {} refuses requests", self.base);
            return Err(AwsError::NoCredentials(reason));
        }
        if role.status != 200 || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte)) {
            return Err(self.failed(&format!("it answered {ROLE_PATH} with {}", role.status)));
        }
        let reply = self.get(&format!("{ROLE_PATH}{name}"))?;
        if reply.status != 200 {
            return Err(self.failed(&format!("it answered {ROLE_PATH}{name} with {}", reply.status)));
        }
        parse(&reply.body, format!("the instance role {name}")).map_err(|problem| self.failed(&problem))
    }

    /// Returns the region of the instance.
    ///
    /// # Errors
    /// [`AwsError`]
    pub fn region(&self) -> Result<String, AwsError> {
        let path = "/latest/meta-data/placement/region";
        let reply = self.get(path)?;
        match reply.body.trim() {
            region if reply.status == 200 && !region.is_empty() => Ok(region.to_owned()),
            _ => Err(self.failed(&format!("it answered {path} with {}", reply.status))),
        }
    }
}

/// Returns the credential of the container, or `None` outside one.
///
/// # Errors
/// [`AwsError::Failed`]
pub fn container(env: &AwsEnv) -> Result<Option<AwsCredentials>, AwsError> {
    let relative = env.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").map(|path| format!("{CONTAINER}{path}"));
    let Some(url) = relative.or_else(|| env.get("AWS_CONTAINER_CREDENTIALS_FULL_URI").map(str::to_owned)) else {
        return Ok(None);
    };
    let uri = url.parse::<Uri>();
    let shown = uri.as_ref().ok().and_then(Uri::host).unwrap_or("an odd URL").to_owned();
    let failed = |problem: &str| AwsError::Failed(format!("the container's credentials at {shown}: {problem}"));
    let uri = uri.map_err(|_| failed("this is not a URL"))?;
    let (scheme, authority) =
        (uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |found| found.as_str()));
    let host = uri.host().unwrap_or_default();
    let is_loopback = host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    if scheme != "https" && !is_loopback && !CONTAINER_HOSTS.contains(&host) {
        return Err(failed("this host needs https"));
    }
    let agent = direct_agent(&format!("{scheme}://{authority}"), None).map_err(|error| failed(&error.to_string()))?;
    let mut request = Request::get(&url).header("accept", "application/json");
    if let Some(token) = container_token(env).map_err(|problem| failed(&problem))? {
        request = request.header("authorization", token.expose());
    }
    let request = request.body(Vec::new()).map_err(|_| failed("its token has characters that no header can carry"))?;
    let reply = send(&agent, &request, CONTAINER_TIMEOUT, CONTAINER_ATTEMPTS).map_err(|error| failed(error.text()))?;
    if reply.status != 200 {
        return Err(failed(&format!("the response is {}", reply.status)));
    }
    parse(&reply.body, "the container's role".to_owned()).map(Some).map_err(|problem| failed(&problem))
}

fn container_token(env: &AwsEnv) -> Result<Option<Secret>, String> {
    match env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        Some(path) => {
            let text =
                read_regular(path.as_ref()).map_err(|error| format!("cannot read the token file {path}: {error}"))?;
            Ok(Some(Secret::new(String::from_utf8_lossy(&text))))
        }
        None => Ok(env.secret("AWS_CONTAINER_AUTHORIZATION_TOKEN")),
    }
}

/// Parses the JSON of both services.
fn parse(body: &str, source: String) -> Result<AwsCredentials, String> {
    let object: Value = serde_json::from_str(body).map_err(|_| "the response is not JSON".to_owned())?;
    let text = |key: &str| object[key].as_str().filter(|text| !text.is_empty());
    match (text("AccessKeyId"), text("SecretAccessKey"), text("Token"), text("Expiration").and_then(time::parse)) {
        (Some(key), Some(secret), Some(token), Some(expires)) => Ok(AwsCredentials {
            access_key: key.to_owned(),
            secret_key: Secret::new(secret),
            token: Some(Secret::new(token)),
            expires: Some(expires),
            source,
        }),
        // For example AssumeRoleUnauthorizedAccess: EC2 may not assume the role.
        _ => match (text("Code"), text("Message")) {
            (Some(code), Some(message)) => Err(format!("{}: {}", first_line(code), first_line(message))),
            _ => Err("the response has no credential".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_has_a_whole_credential_or_its_reason() {
        let good =
            r#"{"AccessKeyId":"A","SecretAccessKey":"s3cret","Token":"t0ken","Expiration":"2026-01-02T03:04:05Z"}"#;
        let found = parse(good, "x".into()).expect("whole");
        assert!(
            found.expires.is_some()
                && !format!("{found:?}").contains("s3cret")
                && !format!("{found:?}").contains("t0ken")
        );
        for (body, problem) in [
            (
                r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"EC2 cannot assume the role"}"#,
                "AssumeRoleUnauthorizedAccess: EC2",
            ),
            (r#"{"AccessKeyId":"A","SecretAccessKey":"s3cret","Token":"t0ken"}"#, "no credential"),
            (r#"{"AccessKeyId":"A","SecretAccessKey":"s3cret","Token":"t0ken","Expiration":"soon"}"#, "no credential"),
            ("<html>", "not JSON"),
        ] {
            let error = parse(body, "x".into()).expect_err(body);
            assert!(error.contains(problem) && !error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn only_the_known_hosts_may_send_a_credential_without_tls() {
        let env =
            |url: &str| AwsEnv::new(&|_| None, &[("AWS_CONTAINER_CREDENTIALS_FULL_URI".to_owned(), url.to_owned())]);
        for url in ["http://example.com/x", "http://169.254.170.3/x", "http://localhost.example.com/x"] {
            let error = container(&env(url)).expect_err(url).to_string();
            assert!(error.contains("needs https"), "{error}");
        }
        assert!(container(&env("")).expect("unset").is_none());
    }
}
