//! From a request to a response: the routes, their handlers, and the meaning of each failure to the caller.
//!
//! This module opens no client socket: a [`Request`] comes in, a [`Response`] goes out.

pub mod auth;
pub mod conditional;
pub mod config;
pub mod error;
pub mod health;
pub mod idempotency;
pub mod info;
pub mod job_deletion;
pub mod job_list;
pub mod job_log;
mod job_read;
pub mod job_wait;
pub mod jobs;
pub mod metrics;
mod openapi;
pub mod page;
pub mod query;
pub mod queue;
pub mod response;
pub mod route;
pub mod single_flight;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::auth::Tokens;
use crate::api::error::ApiError;
use crate::api::info::{Facts, KubeVersion};
use crate::api::metrics::Metrics;
use crate::api::response::Response;
use crate::api::route::{OTHER, Route};
use crate::api::single_flight::SingleFlight;
use crate::job::{self, Tier};
use crate::kube;
use crate::queue::controller::QueueController;
use crate::state::job_watch::JobWatch;
use crate::state::pod_list::Body;
use crate::state::pod_watch::PodWatch;

/// The request headers that the handlers read; a repeated one is empty.
pub const REQUEST_HEADERS: [&str; 5] = ["Accept", "Authorization", "Cache-Control", "If-None-Match", "Idempotency-Key"];

/// Longest request body, in bytes, that a handler reads; the front refuses longer ones.
pub const MAX_BODY: usize = 1024;

/// Least time for Kubernetes, which usually responds in 0.1 s, after a wait for a permit.
const MIN_REMAINING: Duration = Duration::from_secs(1);

/// The state that the handlers share.
pub struct App {
    /// The cluster.
    pub kube: Arc<kube::Client>,
    /// The serialized manifests of the Jobs.
    manifests: job::Manifests,
    tokens: Tokens,
    facts: Facts,
    kube_version: KubeVersion,
    /// The watches. `None` with --no-watch.
    pub watched: Option<Watched>,
    /// Concurrent GETs of /config share one list.
    lists: SingleFlight<Result<Body, ApiError>>,
    /// Callers of GET /readyz share one answer.
    readiness: health::Readiness,
    /// The counters of the requests.
    pub metrics: Metrics,
    /// Longest time of a request that calls Kubernetes.
    kube_timeout: Duration,
}

impl App {
    /// `kube_timeout` limits a request that calls Kubernetes, with all its waits.
    pub fn new(
        kube: Arc<kube::Client>,
        jobs: &job::Settings,
        tokens: Tokens,
        facts: Facts,
        watched: Option<Watched>,
        kube_timeout: Duration,
    ) -> Self {
        Self {
            kube,
            manifests: job::Manifests::new(jobs),
            tokens,
            facts,
            kube_version: KubeVersion::default(),
            watched,
            lists: SingleFlight::default(),
            readiness: health::Readiness::default(),
            metrics: Metrics::default(),
            kube_timeout,
        }
    }

    /// Returns the time that a request has left for Kubernetes. One that waited long has a little more: as it holds a permit, a quick
    /// response is worth it.
    fn remaining(&self, request: &Request<'_>) -> Duration {
        self.kube_timeout.saturating_sub(request.waited).max(MIN_REMAINING)
    }
}

/// The watches of the server.
pub struct Watched {
    /// The Jobs of both tiers.
    pub jobs: Arc<JobWatch>,
    /// The queue of the free tier.
    pub queue: Arc<QueueController>,
    /// The pods of all namespaces.
    pub pods: Arc<PodWatch>,
}

/// Ends what a request waits for.
pub type Stop = Box<dyn FnOnce() + Send>;

/// A whole request.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The method as sent.
    pub method: &'a str,
    /// The path with its query.
    pub target: &'a str,
    /// The value of Accept.
    pub accept: Option<&'a str>,
    /// The value of Authorization.
    pub authorization: Option<&'a str>,
    /// The value of Cache-Control.
    pub cache_control: Option<&'a str>,
    /// The value of If-None-Match.
    pub if_none_match: Option<&'a str>,
    /// The value of Idempotency-Key.
    pub idempotency_key: Option<&'a str>,
    /// The body; `None` if the request has neither Content-Length nor a chunked body.
    pub body: Option<&'a [u8]>,
    /// The wait for a permit.
    pub waited: Duration,
    /// Takes the function to call when the client of a stream leaves; calls it at once if the client has left.
    pub on_leave: &'a dyn Fn(Stop),
}

/// Handles a request with at most one operation on Kubernetes, and counts it. A panic becomes a 500.
pub fn handle(app: &App, request: Request<'_>) -> Response {
    let started = Instant::now();
    let route = Route::parse(request.method, request.target);
    let template = route.as_ref().map_or(OTHER, |route| route.template());
    let outcome = catch_unwind(AssertUnwindSafe(|| route.and_then(|route| respond(app, route, request))));
    let response = outcome.unwrap_or(Err(ApiError::Internal)).unwrap_or_else(ApiError::into_response);
    app.metrics.record(template, response.status, request.waited + started.elapsed());
    response
}

fn respond(app: &App, route: Route<'_>, request: Request<'_>) -> Result<Response, ApiError> {
    authorize(app, route, request.authorization)?;
    match route {
        Route::CreateJob(tier) => jobs::create(app, tier, &request),
        Route::ListPods => config::show(app, &request),
        Route::ListJobs => job_list::list(app, &request),
        Route::ShowJob(name) => job_list::show(app, name, &request),
        Route::ShowLog(name) => job_log::show(app, name, &request),
        Route::DeleteJob(name) => job_deletion::delete(app, name, &request),
        Route::Queue => queue::show(app),
        Route::Healthz => Ok(health::healthz()),
        Route::Readyz => health::readyz(app, app.remaining(&request)),
        Route::Metrics => Ok(metrics::show(app)),
        Route::OpenApi => Ok(openapi::show(&request)),
        Route::Info => Ok(info::show(app, &request)),
        Route::Page(file) => page::show(app, file, &request),
        Route::Options(methods) => Ok(Response::allow(methods)),
    }
}

/// Checks the token before the body is read.
fn authorize(app: &App, route: Route<'_>, authorization: Option<&str>) -> Result<(), ApiError> {
    let (token, purpose) = match route {
        Route::CreateJob(Tier::Premium) => (app.tokens.premium.as_ref(), "premium needs a token"),
        Route::DeleteJob(_) => {
            (Some(app.tokens.admin.as_ref().ok_or(ApiError::DeletionDisabled)?), "deleting a Job needs the admin token")
        }
        _ => (None, ""),
    };
    match token {
        Some(token) if !token.accepts(authorization) => Err(ApiError::Unauthorized(purpose)),
        _ => Ok(()),
    }
}
