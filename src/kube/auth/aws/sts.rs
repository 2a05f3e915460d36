//! The security token service of AWS: roles, and the identity of a credential.
//!
//! <https://docs.aws.amazon.com/STS/latest/APIReference/welcome.html>

use std::time::{Duration, SystemTime};

use ureq::Agent;
use ureq::http::Request;

use crate::kube::address::{UNRESERVED, percent_encode};
use crate::kube::auth::aws::AwsError;
use crate::kube::auth::aws::credentials::AwsCredentials;
use crate::kube::auth::aws::http::{Reply, first_line, send};
use crate::kube::auth::aws::settings::{Endpoint, Settings};
use crate::kube::auth::aws::sigv4::{Parts, Scope, signed_request_headers};
use crate::kube::auth::secret::Secret;
use crate::kube::time;

const VERSION: &str = "2011-06-15";

/// Time limit of one attempt. A response takes a fraction of a second.
const TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPTS: u32 = 3;

/// The media type of the parameters.
const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// The service in one region.
pub struct Sts {
    endpoint: Endpoint,
    agent: Agent,
}

impl Sts {
    /// # Errors
    /// [`AwsError`]
    pub fn new(settings: &Settings<'_>, region: &str) -> Result<Self, AwsError> {
        let endpoint = settings.endpoint("sts", region)?;
        let agent = settings.agent(&endpoint)?;
        Ok(Self { endpoint, agent })
    }

    /// Assumes a role. `parameters` are those beside the role's ARN.
    ///
    /// # Errors
    /// [`AwsError::Failed`]
    pub fn assume_role(
        &self,
        credentials: &AwsCredentials,
        role: &str,
        parameters: &[(&str, &str)],
    ) -> Result<AwsCredentials, AwsError> {
        let parameters = [&[("RoleArn", role)], parameters].concat();
        let body = self.call("AssumeRole", &parameters, Some(credentials))?;
        self.credentials(&body, format!("the role {role}, assumed with {}", credentials.source))
    }

    /// Assumes a role with the token of an identity provider, such as a service account of Kubernetes.
    ///
    /// # Errors
    /// [`AwsError::Failed`]
    pub fn assume_role_with_web_identity(
        &self,
        role: &str,
        session: &str,
        token: &Secret,
    ) -> Result<AwsCredentials, AwsError> {
        let parameters = [("RoleArn", role), ("RoleSessionName", session), ("WebIdentityToken", token.expose())];
        let body = self.call("AssumeRoleWithWebIdentity", &parameters, None)?;
        self.credentials(&body, format!("the role {role}, assumed with a web identity token"))
    }

    /// Returns the ARN of the credential's identity.
    ///
    /// # Errors
    /// [`AwsError::Failed`]
    pub fn caller_identity(&self, credentials: &AwsCredentials) -> Result<String, AwsError> {
        let body = self.call("GetCallerIdentity", &[], Some(credentials))?;
        element(&body, "Arn").ok_or_else(|| self.failed("GetCallerIdentity", "the response has no Arn"))
    }

    /// Sends an action, signed if there are `credentials`, and returns the response in XML.
    fn call(
        &self,
        action: &str,
        parameters: &[(&str, &str)],
        credentials: Option<&AwsCredentials>,
    ) -> Result<String, AwsError> {
        let pairs = [&[("Action", action), ("Version", VERSION)], parameters].concat();
        let pair = |(name, value): &(&str, &str)| format!("{name}={}", percent_encode(value, UNRESERVED));
        let form = pairs.iter().map(pair).collect::<Vec<_>>().join("&");
        let headers = [("content-type", FORM)];
        let parts = Parts {
            method: "POST",
            host: &self.endpoint.host,
            path: "/",
            query: &[],
            headers: &headers,
            body: form.as_bytes(),
        };
        let mut request = Request::post(format!("{}/", self.endpoint.origin)).header("content-type", FORM);
        if let Some(credentials) = credentials {
            let scope = Scope { service: "sts", region: &self.endpoint.region, at: SystemTime::now() };
            for (name, value) in signed_request_headers(credentials, scope, parts) {
                request = request.header(name, value);
            }
        }
        let request = request.body(form.clone().into_bytes());
        let request =
            request.map_err(|_| self.failed(action, "the credential has characters that no header can carry"))?;
        let reply = send(&self.agent, &request, TIMEOUT, ATTEMPTS);
        match reply.map_err(|error| self.failed(action, error.text()))? {
            Reply { status: 200, body } => Ok(body),
            Reply { status, body } => {
                let (code, message) = (element(&body, "Code"), element(&body, "Message"));
                let reason = match (code, message) {
                    // The message of SignatureDoesNotMatch quotes the request.
                    (Some(code), Some(message)) if code != "SignatureDoesNotMatch" => {
                        format!("{}: {}", first_line(&code), first_line(&message))
                    }
                    (Some(code), _) => first_line(&code),
                    (None, _) => format!("the response is {status}"),
                };
                let shown = credentials.map_or_else(|| reason.clone(), |credentials| credentials.redact(&reason));
                Err(self.failed(action, &shown))
            }
        }
    }

    fn credentials(&self, body: &str, source: String) -> Result<AwsCredentials, AwsError> {
        let expires = element(body, "Expiration").and_then(|text| time::parse(&text));
        let (key, secret, token) =
            (element(body, "AccessKeyId"), element(body, "SecretAccessKey"), element(body, "SessionToken"));
        match (key, secret, token) {
            (Some(access_key), Some(secret), Some(token)) if expires.is_some() => Ok(AwsCredentials {
                access_key,
                secret_key: Secret::new(secret),
                token: Some(Secret::new(token)),
                expires,
                source,
            }),
            _ => Err(self.failed("AssumeRole", "the response has no credential")),
        }
    }

    fn failed(&self, action: &str, problem: &str) -> AwsError {
        AwsError::Failed(format!("{action} at {} failed: {problem}", self.endpoint.origin))
    }
}

/// Returns the text of the first element of this name. The elements of these responses have no attributes.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let text = text.trim();
    if text.is_empty() || text.contains('<') {
        return None;
    }
    // XML has five entities; the ampersand comes last.
    let entities = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    Some(entities.iter().fold(text.to_owned(), |text, (entity, character)| text.replace(entity, character)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_is_read_with_its_entities() {
        let xml =
            "<A><Code>AccessDenied</Code><Message>a &amp;lt; &quot;b&quot;</Message><Empty></Empty><B><C>x</C></B></A>";
        assert_eq!(element(xml, "Code").as_deref(), Some("AccessDenied"));
        assert_eq!(element(xml, "Message").as_deref(), Some("a &lt; \"b\""));
        assert_eq!((element(xml, "Empty"), element(xml, "B"), element(xml, "D")), (None, None, None));
        assert_eq!(element("<Code>x", "Code"), None);
    }
}
