//! The API of EKS: the address and the CA of a cluster.
//!
//! <https://docs.aws.amazon.com/eks/latest/APIReference/API_DescribeCluster.html>

use std::time::{Duration, SystemTime};

use serde_json::Value;
use ureq::http::Request;

use crate::kube::auth::aws::AwsError;
use crate::kube::auth::aws::credentials::AwsCredentials;
use crate::kube::auth::aws::http::{first_line, send};
use crate::kube::auth::aws::settings::Settings;
use crate::kube::auth::aws::sigv4::{Parts, Scope, signed_request_headers};

/// Time limit of one attempt.
const TIMEOUT: Duration = Duration::from_secs(10);
const ATTEMPTS: u32 = 3;

/// The fields of a cluster that its kubeconfig needs.
#[derive(Debug, PartialEq, Eq)]
pub struct ClusterDescription {
    pub arn: String,
    /// The URL of the Kubernetes API.
    pub endpoint: String,
    /// The CA, PEM in base64.
    pub ca: String,
}

/// Describes the cluster `name`.
///
/// # Errors
/// [`AwsError::Failed`]
pub fn describe(
    settings: &Settings<'_>,
    region: &str,
    credentials: &AwsCredentials,
    name: &str,
) -> Result<ClusterDescription, AwsError> {
    let endpoint = settings.endpoint("eks", region)?;
    let agent = settings.agent(&endpoint)?;
    let failed =
        |problem: &str| AwsError::Failed(format!("DescribeCluster of {name} at {} failed: {problem}", endpoint.origin));
    let path = format!("/clusters/{name}");
    let parts = Parts { method: "GET", host: &endpoint.host, path: &path, query: &[], headers: &[], body: b"" };
    let mut request = Request::get(format!("{}{path}", endpoint.origin));
    let scope = Scope { service: "eks", region, at: SystemTime::now() };
    for (header, value) in signed_request_headers(credentials, scope, parts) {
        request = request.header(header, value);
    }
    let request = request.body(Vec::new());
    let request = request.map_err(|_| failed("the credential has characters that no header can carry"))?;
    let reply = send(&agent, &request, TIMEOUT, ATTEMPTS).map_err(|error| failed(error.text()))?;
    let body: Value = serde_json::from_str(&reply.body).unwrap_or_default();
    if reply.status != 200 {
        let message = ["message", "Message"].iter().find_map(|key| body[key].as_str()).unwrap_or("there is no message");
        let fix = match reply.status {
            403 => format!("; fix: {} needs eks:DescribeCluster", credentials.source),
            404 => "; fix: check the name and the region".to_owned(),
            _ => String::new(),
        };
        let message = credentials.redact(&first_line(message));
        return Err(failed(&format!("the response is {}: {message}{fix}", reply.status)));
    }
    let cluster = &body["cluster"];
    let text = |pointer: &str| cluster.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    match (text("/arn"), text("/endpoint"), text("/certificateAuthority/data")) {
        (Some(arn), Some(endpoint), Some(ca)) => Ok(ClusterDescription { arn, endpoint, ca }),
        _ => {
            let status = text("/status").unwrap_or_else(|| "not known".to_owned());
            Err(failed(&format!("the cluster has no address yet; its status is {status}")))
        }
    }
}
