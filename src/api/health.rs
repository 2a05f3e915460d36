//! GET /healthz and GET /readyz.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::App;
use crate::api::error::ApiError;
use crate::api::response::Response;
use crate::api::single_flight::SingleFlight;
use crate::job::Tier;
use crate::queue::capacity;

/// Time for which all callers of /readyz share an answer of Kubernetes, so that their number does not matter to it.
const SHARED_FOR: Duration = Duration::from_secs(1);

/// The last answer of Kubernetes to /readyz.
#[derive(Default)]
pub struct Readiness {
    rounds: SingleFlight<Result<(), ApiError>>,
    last: Mutex<Option<(Instant, Result<(), ApiError>)>>,
}

impl Readiness {
    /// Returns the answer of the last second, or that of `ask`, which one caller at a time calls.
    fn get(&self, timeout: Duration, ask: impl FnOnce(Instant) -> Result<(), ApiError>) -> Result<(), ApiError> {
        if let Some(answer) = self.recent() {
            return answer;
        }
        let round = self.rounds.run(timeout, |deadline| {
            // The caller before may have asked meanwhile.
            self.recent().unwrap_or_else(|| {
                let answer = ask(deadline);
                *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), answer.clone()));
                answer
            })
        });
        round.map_err(ApiError::from)?
    }

    fn recent(&self) -> Option<Result<(), ApiError>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(at, _)| at.elapsed() < SHARED_FOR).map(|(_, answer)| answer.clone())
    }
}

/// 200 while the process serves requests.
pub fn healthz() -> Response {
    Response::value(200, &json!({ "status": "ok" }))
}

/// 200 if, within `timeout`, Kubernetes accepts the server's credentials and the free tier has its CPU quota.
///
/// # Errors
/// 503 with the reason.
pub fn readyz(app: &App, timeout: Duration) -> Result<Response, ApiError> {
    match app.readiness.get(timeout, |deadline| check(app, deadline)) {
        Ok(()) => Ok(healthz()),
        Err(error) => Err(ApiError::NotReady(Box::new(error))),
    }
}

/// Checks the watched quotas, or those of Kubernetes where they are not watched. A server without the permission to read
/// them is ready, as far as it can tell.
fn check(app: &App, deadline: Instant) -> Result<(), ApiError> {
    let kube = |error| ApiError::Kube(Arc::new(error));
    let watched = app.watched.as_ref().and_then(|watched| watched.queue.has_cpu_quota());
    let has_quota = match watched {
        Some(has_quota) => app.kube.ready(deadline).map(|()| has_quota),
        None => match app
            .kube
            .list_until(&format!("/api/v1/namespaces/{}/resourcequotas", Tier::Free.namespace()), deadline)
        {
            Ok(quotas) => Ok(quotas.iter().any(limits_cpu)),
            Err(error) if error.not_permitted() || error.not_found() => app.kube.ready(deadline).map(|()| true),
            Err(error) => Err(error),
        },
    };
    if has_quota.map_err(kube)? { Ok(()) } else { Err(ApiError::NoCpuQuota) }
}

fn limits_cpu(quota: &Value) -> bool {
    quota["spec"]["hard"].as_object().is_some_and(|hard| hard.keys().any(|key| capacity::is_cpu(key)))
}
