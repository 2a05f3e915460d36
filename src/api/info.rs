//! GET /info: the facts of this server and of its cluster that a client shows, or needs for its next request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::api::response::Response;
use crate::api::{App, Request, conditional};
use crate::kube;

/// Time until the version of Kubernetes is read again: a cluster is upgraded a few times a year, and a reader should see it the same day.
const VERSION_AGE: Duration = Duration::from_secs(600);

/// Time until a version that could not be read is read again.
const RETRY_PAUSE: Duration = Duration::from_secs(10);

/// The facts that do not change while the server runs.
pub struct Facts {
    /// The image of the Jobs.
    pub image: String,
    /// The cluster's name; see [`short_name`].
    pub cluster: Option<String>,
    /// The cluster is simulated.
    pub is_local: bool,
    /// The page is served.
    pub has_page: bool,
}

/// The body. The order of the fields is part of the interface.
#[derive(Serialize)]
struct Info<'a> {
    version: &'static str,
    image: &'a str,
    cluster: Option<&'a str>,
    kubernetes: Option<String>,
    local: bool,
    watch: bool,
    free_slots: Option<u64>,
    premium_token: bool,
    deletion: bool,
}

/// Returns the facts, without a request to Kubernetes.
pub fn show(app: &App, request: &Request<'_>) -> Response {
    let body = Info {
        version: env!("CARGO_PKG_VERSION"),
        image: &app.facts.image,
        cluster: app.facts.cluster.as_deref(),
        kubernetes: app.kube_version.get(&app.kube),
        local: app.facts.is_local,
        watch: app.watched.is_some(),
        free_slots: app.watched.as_ref().and_then(|watched| watched.queue.stats().ok()?.slots),
        premium_token: app.tokens.premium.is_some(),
        deletion: app.tokens.admin.is_some(),
    };
    conditional::json(request, serde_json::to_vec(&body).expect("strings and numbers are always JSON"))
}

/// Returns the part of a cluster's name that its users know: `mp12` of `arn:aws:eks:us-east-1:123456789012:cluster/mp12`, as the aws
/// program names it, and of `mp12.us-east-1.eksctl.io`.
pub fn short_name(name: &str) -> &str {
    if let Some(name) = name.strip_suffix(".eksctl.io") {
        return name.split('.').next().unwrap_or(name);
    }
    match name.starts_with("arn:") {
        true => name.rsplit('/').next().unwrap_or(name),
        false => name,
    }
}

/// The version of Kubernetes. A thread reads it, so that no caller waits for Kubernetes.
#[derive(Clone, Default)]
pub struct KubeVersion(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    version: Option<String>,
    /// The start of the last read, and the time until the next.
    last_read: Option<(Instant, Duration)>,
}

impl KubeVersion {
    /// Returns the version as last read, such as `v1.32.1`, and starts to read it if that was long ago.
    pub fn get(&self, kube: &Arc<kube::Client>) -> Option<String> {
        let mut known = self.lock();
        if known.last_read.is_none_or(|(at, pause)| at.elapsed() >= pause) {
            known.last_read = Some((Instant::now(), VERSION_AGE));
            let (this, kube) = (self.clone(), Arc::clone(kube));
            if thread::Builder::new().name("version".into()).spawn(move || this.read(&kube)).is_err() {
                known.last_read = Some((Instant::now(), RETRY_PAUSE));
            }
        }
        known.version.clone()
    }

    fn read(&self, kube: &kube::Client) {
        let version = kube.version();
        let mut known = self.lock();
        match version {
            Ok((version, _)) => known.version = Some(version),
            Err(_) => known.last_read = Some((Instant::now(), RETRY_PAUSE)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_has_the_name_that_its_users_know() {
        for (name, short) in [
            ("arn:aws:eks:us-east-1:123456789012:cluster/mp12", "mp12"),
            ("mp12.us-east-1.eksctl.io", "mp12"),
            ("kind-kind", "kind-kind"),
            ("default/api-example-com:6443/admin", "default/api-example-com:6443/admin"),
        ] {
            assert_eq!(short_name(name), short);
        }
    }
}
