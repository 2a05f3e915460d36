//! Every error answer of the API: the status, the sentence and the code for the caller, and the chain of causes for the log.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;

use crate::api::response::Response;
use crate::api::single_flight::Missed;
use crate::job::Tier;
use crate::kube::{self, CredentialError};
use crate::state::job_status::State;
use crate::state::watch_state::Unavailable;

/// Retry-After, in seconds, when Kubernetes is unreachable or overloaded and names no time itself.
const RETRY_SOON: u64 = 5;

/// Retry-After, in seconds, when the tier's queue is full: a classifier runs for a minute or so.
const RETRY_QUEUE: u64 = 60;

/// Longest Retry-After, in seconds, that is passed on from Kubernetes.
const MAX_RETRY: u64 = 300;

/// The reason for an error answer.
#[derive(Debug, Clone)]
pub enum ApiError {
    /// The body does not fit the route; the text follows "the body".
    BadBody(&'static str),
    /// Unknown path.
    NotFound,
    /// A parameter of the query with an unknown value, and the values that it may have.
    BadQuery(&'static str, &'static str),
    /// A parameter of the query that occurs more than once.
    RepeatedParameter(&'static str),
    /// No Job of this name.
    NoSuchJob,
    /// The container of this Job has not started.
    NotStarted(State),
    /// The pod of the Job was deleted.
    LogGone,
    /// Kubernetes did not return the log of a Job in this state.
    Log(Arc<kube::Error>, Tier, State),
    /// Kubernetes did not delete the Job.
    Deletion(Arc<kube::Error>, Tier),
    /// No token for deletions is configured.
    DeletionDisabled,
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
    /// Missing or wrong token on a route that needs one; the text is the start of the sentence.
    Unauthorized(&'static str),
    /// The shared operation on Kubernetes did not end in time.
    NoAnswer,
    /// Kubernetes or the connection to it failed.
    Kube(Arc<kube::Error>),
    /// The same for a Job that is read from the namespace of this tier.
    ReadJob(Arc<kube::Error>, Tier),
    /// The same at the creation of a Job.
    Create(Arc<kube::Error>, NewJob),
    /// An Idempotency-Key that is repeated, empty, too long or not in visible ASCII.
    BadIdempotencyKey,
    /// The Job of the Idempotency-Key is being deleted.
    JobBeingDeleted,
    /// Another program has a Job of the name that the Idempotency-Key gives.
    NameTaken,
    /// No quota of the free tier limits CPU.
    NoCpuQuota,
    /// /readyz, with the reason.
    NotReady(Box<ApiError>),
    /// The operating system gave no random bytes.
    NoRandomness,
    /// A bug of the server.
    Internal,
}

/// A Job that could not be created.
#[derive(Debug, Clone)]
pub struct NewJob {
    pub tier: Tier,
    pub name: Box<str>,
    /// The request has an Idempotency-Key.
    pub has_key: bool,
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
    /// Returns the error of a Job that could not be created.
    pub fn create(error: kube::Error, job: NewJob) -> Self {
        Self::Create(Arc::new(error), job)
    }

    /// The response: a status, a sentence and a code for the caller, and the chain of causes for the log.
    pub fn into_response(self) -> Response {
        let Answer { status, code, sentence, retry_after } = self.to_answer();
        let log_detail = self.causes().unwrap_or_else(|| sentence.clone().into_owned());
        let body = serde_json::to_vec(&ErrorBody { error: &sentence, code }).expect("strings are always JSON");
        let mut response = Response::json(status, Arc::new(body)).with_detail(log_detail);
        response.headers.extend(retry_after.map(|seconds| ("Retry-After", seconds.to_string())));
        match self {
            Self::MethodNotAllowed(methods) => response.headers.push(("Allow", methods.to_owned())),
            Self::Unauthorized(_) => response.headers.push(("WWW-Authenticate", "Bearer".to_owned())),
            _ => {}
        }
        response
    }

    fn to_answer(&self) -> Answer {
        match self {
            Self::BadBody(problem) => {
                let sentence = format!(r#"the body {problem}; send {{"dataset":"mnist"}} or {{"dataset":"kmnist"}}"#);
                Answer::new(400, "bad_body", sentence)
            }
            Self::NotFound => Answer::new(
                404,
                "not_found",
                "no such path; there are POST /img-classification/free and /img-classification/premium, GET /config, /jobs, /jobs/NAME, /jobs/NAME/logs, /queue, /info, /healthz, /readyz, /metrics and /openapi.json",
            ),
            Self::BadQuery(parameter, values) => {
                Answer::new(400, "bad_query", format!("unknown value of {parameter}; send {values}"))
            }
            Self::RepeatedParameter(parameter) => {
                Answer::new(400, "bad_query", format!("{parameter} occurs more than once; send it once"))
            }
            Self::NoSuchJob => Answer::new(
                404,
                "job_not_found",
                "no such Job; it never existed, was deleted, or ended longer than --job-ttl ago",
            ),
            Self::NotStarted(State::Failed) => {
                not_started("its container never started (state: failed); see its reason")
            }
            Self::NotStarted(state) => {
                let state = state.as_str();
                not_started(format!("its container has not started (state: {state}); try again when it is running"))
            }
            Self::LogGone => log_gone(),
            Self::Log(error, tier, state) => log_to_answer(error, *tier, *state),
            Self::Deletion(error, tier) if error.not_permitted() => missing_permission("delete Jobs", tier.namespace()),
            Self::Deletion(error, _) => kube_to_answer(error, None),
            Self::DeletionDisabled => {
                Answer::new(403, "deletion_disabled", "deleting Jobs is off; start the server with --admin-token-file")
            }
            Self::NotWatched => {
                Answer::new(404, "not_watched", "the Jobs are not watched; start the server without --no-watch")
            }
            Self::JobsUnavailable(Unavailable::Forbidden, tier) => {
                missing_permission("watch Jobs and pods", tier.namespace())
            }
            Self::JobsUnavailable(Unavailable::Starting, _) => {
                Answer::new(503, "jobs_unknown", "the Jobs are not known yet; try again in a moment").retry(RETRY_SOON)
            }
            Self::JobsUnavailable(Unavailable::Failing, _) => {
                let sentence = "the Jobs are not known: Kubernetes cannot be watched; try again later";
                Answer::new(503, "jobs_unknown", sentence).retry(RETRY_SOON)
            }
            Self::MethodNotAllowed(methods) => {
                Answer::new(405, "method_not_allowed", format!("this path takes {methods} only"))
            }
            Self::LengthRequired => Answer::new(
                411,
                "length_required",
                "the request has no body length; send the body with a Content-Length",
            ),
            Self::UnknownMethod => {
                Answer::new(501, "unknown_method", "this method is not known; use GET, HEAD, POST or DELETE")
            }
            Self::Unauthorized(purpose) => {
                Answer::new(401, "unauthorized", format!("{purpose}; send it as Authorization: Bearer TOKEN"))
            }
            Self::NoAnswer => no_answer(),
            Self::ReadJob(error, tier) if error.not_permitted() => {
                missing_permission("read Jobs and pods", tier.namespace())
            }
            Self::Kube(error) | Self::ReadJob(error, _) => kube_to_answer(error, None),
            Self::Create(error, job) => create_to_answer(error, job),
            Self::BadIdempotencyKey => Answer::new(
                400,
                "bad_idempotency_key",
                "the Idempotency-Key is malformed; send it once, with 1 to 255 visible ASCII characters",
            ),
            Self::JobBeingDeleted => {
                let sentence = "the Job of this Idempotency-Key is being deleted; try again later, or send another key";
                Answer::new(503, "job_being_deleted", sentence).retry(RETRY_SOON)
            }
            Self::NameTaken => Answer::new(
                409,
                "name_taken",
                "another program has a Job of the name that this Idempotency-Key gives; send another key",
            ),
            Self::NotReady(reason) => Answer { status: 503, ..reason.to_answer() },
            Self::NoCpuQuota => {
                let sentence = "no quota limits the CPU of free-service; run img-classification setup";
                Answer::new(503, "quota_missing", sentence).retry(RETRY_SOON)
            }
            Self::NoRandomness => Answer::new(500, "internal", "the server has no source of random names; see its log"),
            Self::Internal => Answer::new(500, "internal", "the server failed; this is a bug, see its log"),
        }
    }

    fn causes(&self) -> Option<String> {
        match self {
            Self::Kube(error)
            | Self::ReadJob(error, _)
            | Self::Create(error, _)
            | Self::Log(error, ..)
            | Self::Deletion(error, _) => Some(kube::chain(error)),
            Self::NotReady(reason) => reason.causes(),
            _ => None,
        }
    }
}

/// The body of an error answer. The order of the fields is part of the interface.
#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    code: &'static str,
}

/// An error answer without its detail for the log.
struct Answer {
    status: u16,
    /// A stable word for programs, in snake case.
    code: &'static str,
    /// A stable sentence for people: the problem and its fix.
    sentence: Cow<'static, str>,
    /// Retry-After, in seconds.
    retry_after: Option<u64>,
}

impl Answer {
    fn new(status: u16, code: &'static str, sentence: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, sentence: sentence.into(), retry_after: None }
    }

    /// The same answer for a caller who may try again after this number of seconds.
    fn retry(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }
}

fn not_started(sentence: impl Into<Cow<'static, str>>) -> Answer {
    Answer::new(409, "not_started", sentence)
}

/// Maps a failure to read the log of a Job that was in this state.
fn log_to_answer(error: &kube::Error, tier: Tier, state: State) -> Answer {
    match error {
        kube::Error::Status { status, .. } if status.container_waiting() => {
            // The watched state is older.
            let state = if state == State::Running { State::Pending } else { state };
            ApiError::NotStarted(state).to_answer()
        }
        kube::Error::Status { status, .. } if status.code == 404 => log_gone(),
        kube::Error::Status { status, .. } if status.kubelet_unreachable() => Answer::new(
            502,
            "node_unreachable",
            "Kubernetes cannot reach the node of this Job's pod; try again later, or run img-classification doctor",
        ),
        error if error.not_permitted() => missing_permission("read the logs of pods", tier.namespace()),
        error => kube_to_answer(error, None),
    }
}

fn log_gone() -> Answer {
    Answer::new(404, "log_gone", "the log of this Job is gone: its pod was deleted; GET /jobs/NAME has its result")
}

fn no_answer() -> Answer {
    Answer::new(504, "kubernetes_timeout", "Kubernetes did not answer in time; try again later")
}

fn missing_permission(what: &str, namespace: &str) -> Answer {
    let sentence = format!("the server lacks the permission to {what} in {namespace}; run img-classification setup");
    Answer::new(502, "permission_missing", sentence)
}

/// Maps a failure to create a Job to an answer. Where the Job may exist, the sentence tells how to find it.
fn create_to_answer(error: &kube::Error, job: &NewJob) -> Answer {
    let (code, problem) = match error {
        kube::Error::Timeout { .. } => ("kubernetes_timeout", "Kubernetes did not answer in time"),
        kube::Error::OutcomeUnknown { .. } => ("outcome_unknown", "Kubernetes' answer was lost"),
        _ => return kube_to_answer(error, Some(job.tier)),
    };
    let sentence = match job.has_key {
        true => format!("{problem}; repeat the request with the same Idempotency-Key"),
        false => format!("{problem}; see with GET /jobs/{} whether the Job is there", job.name),
    };
    Answer::new(504, code, sentence)
}

/// Maps a failure of Kubernetes to an answer. The sentences are stable; the message of Kubernetes is only in the log.
fn kube_to_answer(error: &kube::Error, tier: Option<Tier>) -> Answer {
    match error {
        kube::Error::Unreachable { .. } | kube::Error::CircuitOpen { .. } => {
            Answer::new(503, "kubernetes_unreachable", "Kubernetes cannot be reached; try again later")
                .retry(RETRY_SOON)
        }
        kube::Error::Timeout { .. }
        | kube::Error::OutcomeUnknown { .. }
        | kube::Error::Credential(CredentialError::Pending { .. }) => no_answer(),
        kube::Error::Truncated { .. } | kube::Error::ListExpired { .. } => {
            Answer::new(503, "kubernetes_answer_incomplete", "Kubernetes' answer was cut short; try again")
                .retry(RETRY_SOON)
        }
        kube::Error::ProxyRefused { .. } => Answer::new(
            502,
            "proxy_refused",
            "the proxy on the way to Kubernetes refused; check the server's proxy settings",
        ),
        kube::Error::Tls { .. } => Answer::new(
            502,
            "tls_failed",
            "there is no trusted TLS connection to Kubernetes; check the server's kubeconfig",
        ),
        kube::Error::NotKubernetes { .. } => Answer::new(
            502,
            "not_kubernetes",
            "what answered is not the Kubernetes API; check the server's kubeconfig and proxies",
        ),
        kube::Error::Credential(_) => Answer::new(
            502,
            "credential_missing",
            "the server has no credential for Kubernetes; run its credential plugin by hand, see its log",
        ),
        kube::Error::Status { status, retry_after, .. } => {
            status_to_answer(status, retry_after.map(|pause| pause.as_secs()), tier)
        }
    }
}

fn status_to_answer(status: &kube::Status, retry_after: Option<u64>, tier: Option<Tier>) -> Answer {
    let namespace = tier.map_or("every namespace", Tier::namespace);
    match status.code {
        401 => Answer::new(
            502,
            "credential_rejected",
            "Kubernetes does not accept the server's credential; check its kubeconfig",
        ),
        403 if status.quota_exceeded() => {
            let tier = tier.map_or("", Tier::as_str);
            let sentence = format!("the {tier} tier's queue is full; try again when some of its Jobs are done");
            Answer::new(429, "queue_full", sentence).retry(RETRY_QUEUE)
        }
        403 if status.quota_not_computed() => {
            Answer::new(503, "quota_not_computed", "Kubernetes has not computed the tier's quota yet; try again")
                .retry(RETRY_SOON)
        }
        403 if status.namespace_terminating() => {
            let sentence = format!(
                "the namespace {namespace} is being deleted; run img-classification setup, which waits for its end"
            );
            Answer::new(502, "namespace_terminating", sentence)
        }
        403 if status.not_permitted() => {
            missing_permission(if tier.is_some() { "create Jobs" } else { "list pods" }, namespace)
        }
        404 if status.namespace_missing() => {
            let sentence = format!("the namespace {namespace} does not exist; run img-classification setup");
            Answer::new(502, "namespace_missing", sentence)
        }
        429 | 500.. => {
            let sentence = "Kubernetes is overloaded or failing; try again later";
            let seconds = retry_after.unwrap_or(RETRY_SOON).clamp(1, MAX_RETRY);
            Answer::new(503, "kubernetes_overloaded", sentence).retry(seconds)
        }
        // Concurrent changes to the quota, or a random name already in use.
        409 => Answer::new(503, "kubernetes_conflict", "Kubernetes could not store the Job this time; try again")
            .retry(RETRY_SOON),
        _ => {
            Answer::new(502, "kubernetes_rejected", "Kubernetes rejected the request; the server's log has its reason")
        }
    }
}
