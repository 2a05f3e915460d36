//! Every error answer of the API: the status, the sentence for the caller, and the chain of causes for the log.

use std::sync::Arc;

use serde_json::json;

use crate::api::response::Response;
use crate::api::single_flight::Missed;
use crate::job::Tier;
use crate::kube::{self, CredentialError};
use crate::state::watch_state::Unavailable;

/// Retry-After, in seconds, when Kubernetes is unreachable or overloaded and names no time itself.
const RETRY_SOON: u64 = 5;

/// Retry-After, in seconds, when the tier's queue is full: a classifier runs for a minute or so.
const RETRY_QUEUE: u64 = 60;

/// Longest Retry-After, in seconds, that is passed on from Kubernetes.
const MAX_RETRY: u64 = 300;

/// The sentence of 504.
const NO_ANSWER: &str = "Kubernetes did not answer in time; try again later";

/// The reason for an error answer.
#[derive(Debug, Clone)]
pub enum ApiError {
    /// The body does not fit the route; the text follows "the body".
    BadBody(&'static str),
    /// Unknown path.
    NotFound,
    /// A parameter of the query with an unknown value, and the values that it may have.
    BadQuery(&'static str, &'static str),
    /// No Job of this name.
    NoSuchJob,
    /// /queue or /jobs with --no-watch.
    NotWatched,
    /// /queue or /jobs while the state of this tier is not known.
    JobsUnavailable(Unavailable, Tier),
    /// The path has other methods.
    MethodNotAllowed(&'static str),
    /// Neither Content-Length nor chunked.
    LengthRequired,
    /// Unknown method.
    UnknownMethod,
    /// Missing or wrong token on a route that needs one.
    Unauthorized,
    /// The shared operation on Kubernetes did not end in time.
    NoAnswer,
    /// Kubernetes or the connection to it failed; with the tier of the Job to create.
    Kube(Arc<kube::Error>, Option<Tier>),
    /// No quota of the free tier limits CPU.
    NoCpuQuota,
    /// /readyz, with the reason.
    NotReady(Box<ApiError>),
    /// The operating system gave no random bytes.
    NoRandomness,
    /// A bug of the server.
    Internal,
}

impl From<Missed> for ApiError {
    fn from(missed: Missed) -> Self {
        match missed {
            Missed::TimedOut => Self::NoAnswer,
            Missed::Panicked => Self::Internal,
        }
    }
}

impl ApiError {
    /// The response: a status, a sentence for the caller, and the chain of causes for the log.
    pub fn into_response(self) -> Response {
        let (status, sentence, retry_after) = self.to_status();
        let log_detail = self.causes().unwrap_or_else(|| sentence.clone());
        let mut response = Response::value(status, &json!({ "error": sentence })).with_detail(log_detail);
        response.headers.extend(retry_after.map(|seconds| ("Retry-After", seconds.to_string())));
        match self {
            Self::MethodNotAllowed(methods) => response.headers.push(("Allow", methods.to_owned())),
            Self::Unauthorized => response.headers.push(("WWW-Authenticate", "Bearer".to_owned())),
            _ => {}
        }
        response
    }

    /// Status, sentence and Retry-After in seconds.
    fn to_status(&self) -> (u16, String, Option<u64>) {
        let plain = |status, sentence: &str| (status, sentence.to_owned(), None);
        match self {
            Self::BadBody(problem) => {
                (400, format!(r#"the body {problem}; send {{"dataset":"mnist"}} or {{"dataset":"kmnist"}}"#), None)
            }
            Self::NotFound => plain(
                404,
                "no such path; there are POST /img-classification/free and /img-classification/premium, GET /config, /jobs, /jobs/NAME, /queue, /healthz and /readyz",
            ),
            Self::BadQuery(parameter, values) => (400, format!("unknown value of {parameter}; send {values}"), None),
            Self::NoSuchJob => {
                plain(404, "no such Job; it never existed, was deleted, or ended longer than --job-ttl ago")
            }
            Self::NotWatched => plain(404, "the Jobs are not watched; start the server without --no-watch"),
            Self::JobsUnavailable(Unavailable::Forbidden, tier) => {
                let namespace = tier.namespace();
                let what = format!("lacks the permission to watch Jobs and pods in {namespace}");
                (502, format!("the server {what}; run img-classification setup"), None)
            }
            Self::JobsUnavailable(Unavailable::Starting, _) => {
                (503, "the Jobs are not known yet; try again in a moment".to_owned(), Some(RETRY_SOON))
            }
            Self::JobsUnavailable(Unavailable::Failing, _) => (
                503,
                "the Jobs are not known: Kubernetes cannot be watched; try again later".to_owned(),
                Some(RETRY_SOON),
            ),
            Self::MethodNotAllowed(methods) => (405, format!("this path takes {methods} only"), None),
            Self::LengthRequired => plain(411, "the request has no body length; send the body with a Content-Length"),
            Self::UnknownMethod => plain(501, "this method is not known; use GET, HEAD or POST"),
            Self::Unauthorized => plain(401, "premium needs a token; send it as Authorization: Bearer TOKEN"),
            Self::NoAnswer => plain(504, NO_ANSWER),
            Self::Kube(error, tier) => kube_to_status(error, *tier),
            Self::NotReady(reason) => {
                let (_, sentence, retry_after) = reason.to_status();
                (503, sentence, retry_after)
            }
            Self::NoCpuQuota => (
                503,
                "no quota limits the CPU of free-service; run img-classification setup".to_owned(),
                Some(RETRY_SOON),
            ),
            Self::NoRandomness => plain(500, "the server has no source of random names; see its log"),
            Self::Internal => plain(500, "the server failed; this is a bug, see its log"),
        }
    }

    fn causes(&self) -> Option<String> {
        match self {
            Self::Kube(error, _) => Some(kube::chain(error)),
            Self::NotReady(reason) => reason.causes(),
            _ => None,
        }
    }
}

/// Maps a failure of Kubernetes to an answer. The sentences are stable; the message of Kubernetes is only in the log.
fn kube_to_status(error: &kube::Error, tier: Option<Tier>) -> (u16, String, Option<u64>) {
    let (status, sentence, retry) = match error {
        kube::Error::Unreachable { .. } | kube::Error::CircuitOpen { .. } => {
            (503, "Kubernetes cannot be reached; try again later", Some(RETRY_SOON))
        }
        kube::Error::Timeout { .. } | kube::Error::Credential(CredentialError::Pending { .. }) => {
            (504, NO_ANSWER, None)
        }
        kube::Error::Truncated { .. } | kube::Error::ListExpired { .. } => {
            (503, "Kubernetes' answer was cut short; try again", Some(RETRY_SOON))
        }
        kube::Error::OutcomeUnknown { .. } => {
            (504, "Kubernetes' answer was lost; see with GET /config whether the Job is there", None)
        }
        kube::Error::ProxyRefused { .. } => {
            (502, "the proxy on the way to Kubernetes refused; check the server's proxy settings", None)
        }
        kube::Error::Tls { .. } => {
            (502, "there is no trusted TLS connection to Kubernetes; check the server's kubeconfig", None)
        }
        kube::Error::NotKubernetes { .. } => {
            (502, "what answered is not the Kubernetes API; check the server's kubeconfig and proxies", None)
        }
        kube::Error::Credential(_) => {
            (502, "the server has no credential for Kubernetes; run its credential plugin by hand, see its log", None)
        }
        kube::Error::Status { status, retry_after, .. } => {
            return answer_to_status(status, retry_after.map(|pause| pause.as_secs()), tier);
        }
    };
    (status, sentence.to_owned(), retry)
}

fn answer_to_status(status: &kube::Status, retry_after: Option<u64>, tier: Option<Tier>) -> (u16, String, Option<u64>) {
    let namespace = tier.map_or("every namespace", Tier::namespace);
    match status.code {
        401 => (502, "Kubernetes does not accept the server's credential; check its kubeconfig".to_owned(), None),
        403 if status.quota_exceeded() => {
            let tier = tier.map_or("", Tier::as_str);
            (
                429,
                format!("the {tier} tier's queue is full; try again when some of its Jobs are done"),
                Some(RETRY_QUEUE),
            )
        }
        403 if status.quota_not_computed() => {
            (503, "Kubernetes has not computed the tier's quota yet; try again".to_owned(), Some(RETRY_SOON))
        }
        403 if status.namespace_terminating() => {
            let sentence = format!(
                "the namespace {namespace} is being deleted; run img-classification setup, which waits for its end"
            );
            (502, sentence, None)
        }
        403 if status.not_permitted() => {
            let what = if tier.is_some() { "create Jobs" } else { "list pods" };
            let sentence =
                format!("the server lacks the permission to {what} in {namespace}; run img-classification setup");
            (502, sentence, None)
        }
        404 if status.namespace_missing() => {
            (502, format!("the namespace {namespace} does not exist; run img-classification setup"), None)
        }
        429 | 500.. => {
            let sentence = "Kubernetes is overloaded or failing; try again later".to_owned();
            (503, sentence, Some(retry_after.unwrap_or(RETRY_SOON).clamp(1, MAX_RETRY)))
        }
        // Concurrent changes to the quota, or a random name already in use.
        409 => (503, "Kubernetes could not store the Job this time; try again".to_owned(), Some(RETRY_SOON)),
        _ => (502, "Kubernetes rejected the request; the server's log has its reason".to_owned(), None),
    }
}
