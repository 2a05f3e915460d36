//! From a request to a reply: the route table, the body's rules, and what each failure means to the caller.
//!
//! No socket is seen here: bytes come in, a [`Reply`] goes out. Past [`Call`] there are no strings.

pub mod auth;
pub mod config;
pub mod single_flight;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::json;

use crate::api::auth::Token;
use crate::api::single_flight::{Flight, Missed};
use crate::front::upstream::Crew;
use crate::job::{self, Dataset, Manifests, Tier};
use crate::kube::{self, CredentialError};
use crate::queue::Unknown;
use crate::queue::controller::Nudge;

/// Longest request body, in bytes: forty times what a good one needs.
pub const BODY_LIMIT: usize = 1024;

/// What a caller is told to wait, in seconds, when Kubernetes is unreachable or overloaded and names no time itself.
const RETRY_SOON: u64 = 5;

/// What a caller is told to wait, in seconds, when its tier's queue is full: a classifier runs for a minute or so.
const RETRY_QUEUE: u64 = 60;

/// Longest wait, in seconds, that is passed on from Kubernetes.
const RETRY_MOST: u64 = 300;

/// What the handlers work with.
pub struct App {
    /// The cluster.
    pub kube: kube::Client,
    /// What is created.
    manifests: Manifests,
    /// What premium requests must carry; none: premium is open.
    pub premium: Option<Token>,
    /// The free tier's queue, as it is watched; none with --no-nudge.
    pub queue: Option<Nudge>,
    /// Those that ask Kubernetes.
    pub crew: Crew,
    /// How long a request waits for a place among them: its caller has then given up, and its Job would be nobody's.
    patience: Duration,
    /// One for all who wait for it.
    lists: Flight<Result<List, ApiError>>,
}

/// An answer to GET /config and the number of its pods.
type List = (Arc<Vec<u8>>, usize);

impl App {
    /// `crew` ask Kubernetes at a time; `patience` is the longest wait for a place among them.
    pub fn new(
        kube: kube::Client,
        jobs: &job::Settings,
        premium: Option<Token>,
        queue: Option<Nudge>,
        crew: usize,
        patience: Duration,
    ) -> Self {
        Self {
            kube,
            manifests: Manifests::new(jobs),
            premium,
            queue,
            crew: Crew::new(crew),
            patience,
            lists: Flight::default(),
        }
    }

    /// Asks Kubernetes when there is a place; `tier` is that of a Job to be created.
    fn ask<T>(
        &self,
        tier: Option<Tier>,
        patience: Duration,
        ask: impl FnOnce(&kube::Client) -> Result<T, kube::Error>,
    ) -> Result<T, ApiError> {
        let _place = self.crew.enter(patience).ok_or(ApiError::Busy)?;
        ask(&self.kube).map_err(|error| ApiError::Kube(Arc::new(error), tier))
    }

    fn list(&self, patience: Duration) -> Result<List, ApiError> {
        let view: config::View = self.ask(None, patience, kube::Client::list_pods)?;
        let count = view.count();
        Ok((Arc::new(view.into_json()), count))
    }
}

/// What a request line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// POST /img-classification/TIER
    CreateJob(Tier),
    /// GET /config
    ListPods,
    /// GET /queue
    Queue,
    /// GET /healthz
    Healthz,
    /// GET /readyz
    Readyz,
}

const GET: &str = "GET, HEAD";
const POST: &str = "POST";

/// RFC 9110's methods and PATCH; any other word is not implemented rather than not allowed.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

impl Route {
    /// The route table. `target` is the request's path, with or without a query, which nothing here looks at.
    ///
    /// # Errors
    /// 404, 405 or 501.
    #[rustfmt::skip] // a table
    pub fn parse(method: &str, target: &str) -> Result<Self, ApiError> {
        let path = target.split(['?', '#']).next().unwrap_or_default();
        match (method, path) {
            ("POST",         "/img-classification/free")    => Ok(Self::CreateJob(Tier::Free)),
            ("POST",         "/img-classification/premium") => Ok(Self::CreateJob(Tier::Premium)),
            ("GET" | "HEAD", "/config")                     => Ok(Self::ListPods),
            ("GET" | "HEAD", "/queue")                      => Ok(Self::Queue),
            ("GET" | "HEAD", "/healthz")                    => Ok(Self::Healthz),
            ("GET" | "HEAD", "/readyz")                     => Ok(Self::Readyz),

            (method, _) if !METHODS.contains(&method)       => Err(ApiError::UnknownMethod),
            (_, "/img-classification/free")                 => Err(ApiError::MethodNotAllowed(POST)),
            (_, "/img-classification/premium")              => Err(ApiError::MethodNotAllowed(POST)),
            (_, "/config" | "/queue" | "/healthz" | "/readyz") => Err(ApiError::MethodNotAllowed(GET)),
            _                                               => Err(ApiError::NotFound),
        }
    }

    /// Checks who asks, before anything of the body is looked at.
    ///
    /// # Errors
    /// 401 if the route needs a token and `authorization` does not carry it.
    pub fn authorize(self, app: &App, authorization: Option<&str>) -> Result<(), ApiError> {
        match (self, &app.premium) {
            (Self::CreateJob(Tier::Premium), Some(token)) if !token.accepts(authorization) => {
                Err(ApiError::Unauthorized)
            }
            _ => Ok(()),
        }
    }

    /// The request needs its body read.
    pub fn takes_body(self) -> bool {
        matches!(self, Self::CreateJob(_))
    }

    /// The request waits for Kubernetes.
    pub fn asks_kubernetes(self) -> bool {
        !matches!(self, Self::Healthz | Self::Queue)
    }

    /// The call that the route and its body make.
    ///
    /// # Errors
    /// 400 if the body is not what the route takes.
    pub fn into_call(self, body: &[u8]) -> Result<Call, ApiError> {
        Ok(match self {
            Self::CreateJob(tier) => Call::CreateJob(tier, dataset(body)?),
            Self::ListPods => Call::ListPods,
            Self::Queue => Call::Queue,
            Self::Healthz => Call::Healthz,
            Self::Readyz => Call::Readyz,
        })
    }
}

/// A request that makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Create a Job.
    CreateJob(Tier, Dataset),
    /// List all pods.
    ListPods,
    /// Show who waits.
    Queue,
    /// Say that the process serves.
    Healthz,
    /// Say whether Kubernetes answers.
    Readyz,
}

/// Does what the call asks for: one operation on Kubernetes at most.
///
/// # Errors
/// [`ApiError`], which is the answer.
pub fn handle(app: &App, call: Call) -> Result<Reply, ApiError> {
    match call {
        Call::CreateJob(tier, dataset) => create_job(app, tier, dataset),
        Call::ListPods => {
            let list = app.lists.join(app.patience, |patience| app.list(patience));
            let (body, count) = list.map_err(|missed| match missed {
                Missed::Late => ApiError::Busy,
                Missed::Panicked => ApiError::Panicked,
            })??;
            Ok(Reply { note: format!("{count} pods"), ..Reply::new(200, body) })
        }
        Call::Queue => {
            let queue = app.queue.as_ref().ok_or(ApiError::NoQueue)?;
            Ok(Reply::json(200, &queue.show().map_err(ApiError::QueueUnknown)?))
        }
        Call::Healthz => Ok(Reply::json(200, &json!({ "status": "ok" }))),
        Call::Readyz => match app.ask(None, app.patience, kube::Client::ready) {
            Ok(()) => Ok(Reply::json(200, &json!({ "status": "ok" }))),
            Err(error) => Err(ApiError::NotReady(Box::new(error))),
        },
    }
}

fn create_job(app: &App, tier: Tier, dataset: Dataset) -> Result<Reply, ApiError> {
    let mut random = [0; 8];
    getrandom::getrandom(&mut random).map_err(|_| ApiError::NoRandomness)?;
    let name = job::name(tier, dataset, u64::from_ne_bytes(random));
    let manifest = app.manifests.named(tier, dataset, &name);
    app.ask(Some(tier), app.patience, |kube| kube.create_job(tier.namespace(), &name, manifest.as_bytes()))?;
    // Written by hand for the order of its keys; none of the values needs escaping.
    let body = format!(
        r#"{{"job":"{name}","namespace":"{}","tier":"{}","dataset":"{}","type":"{}"}}"#,
        tier.namespace(),
        tier.as_str(),
        dataset.as_str(),
        tier.network()
    );
    Ok(Reply { note: name, ..Reply::new(200, Arc::new(body.into_bytes())) })
}

/// Reads `{"dataset": NAME}`; other keys may stand beside it.
fn dataset(body: &[u8]) -> Result<Dataset, ApiError> {
    let text = std::str::from_utf8(body).map_err(|_| ApiError::BadBody("is not UTF-8"))?;
    if text.trim().is_empty() {
        return Err(ApiError::BadBody("is empty"));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let found = json.deserialize_map(BodyVisitor).and_then(|found| json.end().map(|()| found));
    match found {
        Ok(Found::One(name)) => Dataset::parse(&name).ok_or(ApiError::BadBody("names an unknown dataset")),
        Ok(Found::None) => Err(ApiError::BadBody("has no dataset")),
        Ok(Found::Many) => Err(ApiError::BadBody("names the dataset more than once")),
        Ok(Found::NotText) => Err(ApiError::BadBody("has a dataset that is not a string")),
        Err(_) => Err(ApiError::BadBody("is not a single JSON object")),
    }
}

/// What a body says of its dataset. serde's own derive would also take an array for the object, and would not tell a
/// key that comes twice.
enum Found {
    None,
    One(String),
    Many,
    NotText,
}

struct BodyVisitor;

impl<'de> Visitor<'de> for BodyVisitor {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Found, M::Error> {
        let mut found = Found::None;
        while let Some(key) = map.next_key::<String>()? {
            if key != "dataset" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            found = match (found, map.next_value()?) {
                (Found::None, serde_json::Value::String(name)) => Found::One(name),
                (Found::None, _) => Found::NotText,
                _ => Found::Many,
            };
        }
        Ok(found)
    }
}

/// An answer: what goes to the caller, and what goes into the log beside it.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// JSON.
    pub body: Arc<Vec<u8>>,
    /// Seconds for a Retry-After header.
    pub retry_after: Option<u64>,
    /// Value for an Allow header.
    pub allow: Option<&'static str>,
    /// Ask for a bearer token.
    pub challenge: bool,
    /// The job's name, or the chain of causes.
    pub note: String,
}

impl Reply {
    fn new(status: u16, body: Arc<Vec<u8>>) -> Self {
        Self { status, body, retry_after: None, allow: None, challenge: false, note: String::new() }
    }

    fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::new(status, Arc::new(body.to_string().into_bytes()))
    }
}

/// A request that is answered with an error.
#[derive(Debug, Clone)]
pub enum ApiError {
    /// The body is not what the route takes; the text goes on after "the body".
    BadBody(&'static str),
    /// No such path.
    NotFound,
    /// /queue with --no-nudge.
    NoQueue,
    /// /queue while the watch does not stand.
    QueueUnknown(Unknown),
    /// The path has other methods.
    MethodNotAllowed(&'static str),
    /// No Content-Length.
    LengthRequired,
    /// A body over [`BODY_LIMIT`].
    BodyTooLarge,
    /// A method that we do not know.
    UnknownMethod,
    /// A Transfer-Encoding.
    TransferEncoding,
    /// It is not HTTP as we take it; the text goes on after "the request is not understood:".
    BadRequest(&'static str),
    /// Head or body did not come in time.
    TooSlow,
    /// An overlong request line.
    LineTooLong,
    /// Too many headers, or too long ones.
    HeadTooLarge,
    /// An Expect other than 100-continue.
    Expectation,
    /// A version other than HTTP/1.0 and 1.1.
    Version,
    /// No token, or the wrong one, where one is needed.
    Unauthorized,
    /// More posts than one address may make; the time until the next one may come.
    TooManyPosts(Duration),
    /// More connections than we keep.
    ConnectionLimit,
    /// More requests wait for Kubernetes than we keep.
    Busy,
    /// Kubernetes, or the way to it; with the tier whose Job was to be created.
    Kube(Arc<kube::Error>, Option<Tier>),
    /// /readyz: the reason.
    NotReady(Box<ApiError>),
    /// The operating system gave no random bytes.
    NoRandomness,
    /// A bug of ours.
    Panicked,
}

impl ApiError {
    /// The answer: a status, a sentence for the caller, and the chain of causes for the log.
    pub fn into_reply(self) -> Reply {
        let (status, sentence, retry_after) = self.judge();
        let allow = match self {
            Self::MethodNotAllowed(methods) => Some(methods),
            _ => None,
        };
        let challenge = matches!(self, Self::Unauthorized);
        let note = self.causes().unwrap_or_else(|| sentence.clone());
        Reply { retry_after, allow, challenge, note, ..Reply::json(status, &json!({ "error": sentence })) }
    }

    /// Status, sentence and Retry-After in seconds.
    fn judge(&self) -> (u16, String, Option<u64>) {
        let plain = |status, sentence: &str| (status, sentence.to_owned(), None);
        match self {
            Self::BadBody(problem) => {
                (400, format!(r#"the body {problem}; send {{"dataset":"mnist"}} or {{"dataset":"kmnist"}}"#), None)
            }
            Self::NotFound => plain(
                404,
                "no such path; there are POST /img-classification/free and /img-classification/premium, GET /config, /queue, /healthz and /readyz",
            ),
            Self::NoQueue => plain(404, "the queue is not watched; start the server without --no-nudge"),
            Self::QueueUnknown(why) => {
                let sentence = match why {
                    Unknown::Starting => "the queue is not known yet; try again in a moment",
                    Unknown::Failing => "the queue is not known: Kubernetes cannot be watched; try again later",
                    Unknown::Forbidden => {
                        "the server lacks the permission to watch Jobs in free-service; kubectl apply -f k8s/rbac.yaml"
                    }
                };
                (503, sentence.to_owned(), Some(RETRY_SOON))
            }
            Self::MethodNotAllowed(methods) => (405, format!("this path takes {methods} only"), None),
            Self::LengthRequired => plain(411, "the request has no Content-Length; send one with the body"),
            Self::BodyTooLarge => (413, format!("the body is over {BODY_LIMIT} bytes; send only the dataset"), None),
            Self::UnknownMethod => plain(501, "this method is not known; use GET, HEAD or POST"),
            Self::TransferEncoding => {
                plain(501, "transfer encodings are not supported; send the body with a Content-Length")
            }
            Self::BadRequest(problem) => (400, format!("the request is not understood: {problem}"), None),
            Self::TooSlow => plain(408, "the request came too slowly; send it again, all at once"),
            Self::LineTooLong => plain(414, "the request line is too long; the paths here are short"),
            Self::HeadTooLarge => plain(431, "the headers are too many or too long; send fewer"),
            Self::Expectation => plain(417, "only Expect: 100-continue is known; leave the header out"),
            Self::Version => plain(505, "only HTTP/1.1 and HTTP/1.0 are spoken here"),
            Self::Unauthorized => plain(401, "premium needs a token; send it as Authorization: Bearer TOKEN"),
            Self::TooManyPosts(wait) => {
                let sentence = "this address posts too often; wait as Retry-After says".to_owned();
                (429, sentence, Some(wait.as_secs().saturating_add(1)))
            }
            Self::ConnectionLimit => {
                (503, "there are too many connections; try again later".to_owned(), Some(RETRY_SOON))
            }
            Self::Busy => {
                (503, "too many requests are waiting for Kubernetes; try again later".to_owned(), Some(RETRY_SOON))
            }
            Self::Kube(error, tier) => judge_kube(error, *tier),
            Self::NotReady(reason) => {
                let (_, sentence, retry_after) = reason.judge();
                (503, sentence, retry_after)
            }
            Self::NoRandomness => plain(500, "the server has no source of random names; see its log"),
            Self::Panicked => plain(500, "the server failed; this is a bug, see its log"),
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

/// What a failure of Kubernetes means to the caller. The sentences are stable; what Kubernetes said is in the log only.
fn judge_kube(error: &kube::Error, tier: Option<Tier>) -> (u16, String, Option<u64>) {
    let (status, sentence, retry) = match error {
        kube::Error::Unreachable { .. } | kube::Error::CircuitOpen { .. } => {
            (503, "Kubernetes cannot be reached; try again later", Some(RETRY_SOON))
        }
        kube::Error::Timeout { .. } | kube::Error::Credential(CredentialError::Pending { .. }) => {
            (504, "Kubernetes did not answer in time; try again later", None)
        }
        kube::Error::Truncated { .. } => (503, "Kubernetes' answer was cut short; try again", Some(RETRY_SOON)),
        kube::Error::OutcomeUnknown { .. } => (
            504,
            "Kubernetes' answer was lost and the tier's queue is full; see with GET /config whether the Job is there",
            None,
        ),
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
            return judge_status(status, retry_after.map(|pause| pause.as_secs()), tier);
        }
    };
    (status, sentence.to_owned(), retry)
}

fn judge_status(status: &kube::Status, retry_after: Option<u64>, tier: Option<Tier>) -> (u16, String, Option<u64>) {
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
        403 if status.not_permitted() => {
            let what = if tier.is_some() { "create Jobs" } else { "list pods" };
            let sentence =
                format!("the server lacks the permission to {what} in {namespace}; kubectl apply -f k8s/rbac.yaml");
            (502, sentence, None)
        }
        404 if status.namespace_missing() => {
            (502, format!("the namespace {namespace} does not exist; kubectl apply -f k8s/namespace.yaml"), None)
        }
        429 | 500.. => {
            let sentence = "Kubernetes is overloaded or failing; try again later".to_owned();
            (503, sentence, Some(retry_after.unwrap_or(RETRY_SOON).clamp(1, RETRY_MOST)))
        }
        // A quota that others kept changing, or a random name that was taken.
        409 => (503, "Kubernetes could not store the Job this time; try again".to_owned(), Some(RETRY_SOON)),
        _ => (502, "Kubernetes rejected the request; the server's log has its reason".to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_object_with_one_known_dataset_is_a_good_body() {
        for good in [
            r#"{"dataset":"mnist"}"#,
            " {\n\"dataset\" : \"mnist\" }\r\n",
            r#"{"x":[1,{"dataset":"kmnist"}],"dataset":"mnist"}"#,
            r#"{"d\u0061taset":"mnist"}"#,
        ] {
            assert_eq!(dataset(good.as_bytes()).ok(), Some(Dataset::Mnist), "{good}");
        }
        let table = [
            ("", "empty"),
            (" \n", "empty"),
            ("mnist", "JSON"),
            (r#""mnist""#, "JSON"),
            (r#"["mnist"]"#, "JSON"),
            ("null", "JSON"),
            ("{}", "no dataset"),
            (r#"{"dataset":null}"#, "not a string"),
            (r#"{"dataset":7}"#, "not a string"),
            (r#"{"dataset":["mnist"]}"#, "not a string"),
            (r#"{"dataset":{"mnist":null}}"#, "not a string"),
            (r#"{"dataset":"MNIST"}"#, "unknown"),
            (r#"{"dataset":"cifar"}"#, "unknown"),
            (r#"{"Dataset":"mnist"}"#, "no dataset"),
            (r#"{"dataset":"mnist","dataset":"mnist"}"#, "more than once"),
            (r#"{"dataset":"mnist"} {}"#, "JSON"),
            (r#"{"dataset":"mnist""#, "JSON"),
            ("\u{feff}{\"dataset\":\"mnist\"}", "JSON"),
        ];
        for (bad, expected) in table {
            let reply = dataset(bad.as_bytes()).map_err(ApiError::into_reply).expect_err(bad);
            assert_eq!(reply.status, 400, "{bad}");
            assert!(reply.note.contains(expected), "{bad}: {}", reply.note);
        }
        assert!(dataset(b"{\"dataset\":\"mnist\xff\"}").is_err());
    }

    #[test]
    fn routes_are_matched_to_the_letter() {
        let table = [
            ("POST", "/img-classification/free", 0),
            ("POST", "/img-classification/premium?x=1", 0),
            ("GET", "/config", 0),
            ("HEAD", "/config", 0),
            ("GET", "/queue?x", 0),
            ("PUT", "/queue", 405),
            ("GET", "/healthz", 0),
            ("HEAD", "/readyz", 0),
            ("GET", "/img-classification/free", 405),
            ("HEAD", "/img-classification/free", 405),
            ("DELETE", "/config", 405),
            ("OPTIONS", "/healthz", 405),
            ("GET", "/", 404),
            ("GET", "/config/", 404),
            ("GET", "//config", 404),
            ("GET", "/Config", 404),
            ("POST", "/img-classification", 404),
            ("POST", "/img-classification/gold", 404),
            ("BREW", "/config", 501),
            ("get", "/config", 501),
        ];
        for (method, target, status) in table {
            let seen = Route::parse(method, target).map_or_else(|error| error.into_reply().status, |_| 0);
            assert_eq!(seen, status, "{method} {target}");
        }
        assert!(Route::Readyz.asks_kubernetes() && !Route::Queue.asks_kubernetes(), "who waits for Kubernetes");
    }
}
