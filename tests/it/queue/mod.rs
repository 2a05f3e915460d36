//! The free tier's queue: requeueing when the quota has room, GET /queue, and both after watch errors.

mod job_deletion;
mod job_list;
mod job_log;
mod job_read;
mod job_wait;
mod metrics;
mod requeue;
mod watch;

use crate::support::api::{ApiServer, Request};
use crate::support::eventually;
use crate::support::kubeconfig::TOKEN;
use crate::support::response::{ApiResponse, Behavior, Stream, unauthorized};
use crate::support::server::{Server, Setup};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

const JOBS: &str = "/apis/batch/v1/namespaces/free-service/jobs";
const PODS: &str = "/api/v1/namespaces/free-service/pods";
const PREMIUM_JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const PREMIUM_PODS: &str = "/api/v1/namespaces/default/pods";
const EVENTS: &str = "/api/v1/namespaces/free-service/events";
const QUOTAS: &str = "/api/v1/namespaces/free-service/resourcequotas";

/// Jobs and pods of two tiers, and the quotas.
const WATCHES: usize = 5;

/// The CPU request of a Job; the quota is 2 CPU.
const FULL: &str = "900m";

/// The CPU request of a Job that fits when no other does.
const SMALL: &str = "100m";

/// A scripted Kubernetes whose free tier the test controls.
struct Tier {
    api: ApiServer,
    world: Arc<Mutex<World>>,
}

#[derive(Default)]
struct World {
    jobs: BTreeMap<String, Value>,
    pods: BTreeMap<String, Value>,
    used: u32,
    /// The quota's limits.
    hard: Value,
    version: u64,
    token: String,
    /// Sent events: path, resource version and line.
    log: Vec<(&'static str, u64, String)>,
    /// The open watches, by path.
    watches: BTreeMap<String, Stream>,
    /// Behaviors for the next requests, by method and path.
    instead: BTreeMap<String, VecDeque<Behavior>>,
    /// Requeued Jobs, with the used quota and the time.
    touches: Vec<(String, u32, Instant)>,
}

impl World {
    fn response(&mut self, request: &Request) -> Behavior {
        if request.header("Authorization") != Some(&format!("Bearer {}", self.token)) {
            return unauthorized().into();
        }
        let path = request.path().to_owned();
        let kind = match (request.query("watch"), request.query("follow")) {
            (Some(_), _) => "WATCH",
            (_, Some(_)) => "FOLLOW",
            _ => &request.method,
        };
        let instead = self.instead.get_mut(&format!("{kind} {path}")).and_then(VecDeque::pop_front);
        match (kind, path.as_str()) {
            ("PATCH", _) => {
                self.requeue(request);
                instead.unwrap_or_else(|| ApiResponse::json(200, &json!({"kind": "Job"})).into())
            }
            ("WATCH", JOBS | PODS | QUOTAS | PREMIUM_JOBS | PREMIUM_PODS) => instead.unwrap_or_else(|| {
                let (stream, from) = (Stream::default(), request.query("resourceVersion").unwrap().parse().unwrap());
                let since = self.log.iter().filter(|(of, version, _)| *of == path && *version > from);
                since.for_each(|(.., line)| stream.send(line.as_bytes()));
                self.watches.insert(path, stream.clone());
                Behavior::Stream(stream)
            }),
            ("GET", JOBS) => instead.unwrap_or_else(|| self.list("JobList", &self.jobs.values().collect::<Vec<_>>())),
            ("GET", PODS) => instead.unwrap_or_else(|| self.list("PodList", &self.pods.values().collect::<Vec<_>>())),
            ("GET", PREMIUM_JOBS) => instead.unwrap_or_else(|| self.list("JobList", &[])),
            ("GET", PREMIUM_PODS) => instead.unwrap_or_else(|| self.list("PodList", &[])),
            ("GET", path) if path.starts_with(JOBS) => instead.unwrap_or_else(|| self.stored(path)),
            ("GET", EVENTS) => instead.unwrap_or_else(|| self.list("EventList", &[])),
            ("GET", QUOTAS) => instead.unwrap_or_else(|| self.list("ResourceQuotaList", &[&self.quota()])),
            _ => instead.unwrap_or(Behavior::Default),
        }
    }

    /// The Job at this path.
    fn stored(&self, path: &str) -> Behavior {
        let job = path.rsplit('/').next().and_then(|name| self.jobs.get(name));
        job.map_or_else(
            || ApiResponse::failure(404, "NotFound", "jobs.batch not found"),
            |job| ApiResponse::json(200, job),
        )
        .into()
    }

    fn list(&self, kind: &str, items: &[&Value]) -> Behavior {
        let metadata = json!({"resourceVersion": self.version.to_string()});
        ApiResponse::json(200, &json!({"kind": kind, "metadata": metadata, "items": items})).into()
    }

    fn requeue(&mut self, request: &Request) {
        assert_eq!(request.header("Content-Type"), Some("application/merge-patch+json"));
        let name = request.path().strip_prefix(&format!("{JOBS}/")).unwrap().to_owned();
        let metadata = &request.json()["metadata"];
        assert_eq!(metadata["resourceVersion"], self.jobs[&name]["metadata"]["resourceVersion"], "its last version");
        assert!(
            metadata["annotations"]["img-classification/requeued-at"].as_str().unwrap().ends_with('Z'),
            "{metadata}"
        );
        self.touches.push((name, self.used, request.at));
    }

    fn quota(&self) -> Value {
        let (hard, used) = (&self.hard, json!({"requests.cpu": format!("{}m", self.used)}));
        let metadata = json!({"name": "free-cpu", "resourceVersion": self.version.to_string()});
        json!({"metadata": metadata, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
    }

    fn send_event(&mut self, path: &'static str, kind: &str, object: &Value) {
        // Kubernetes writes the type first.
        let line = format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n");
        self.watches.get(path).into_iter().for_each(|watch| watch.send(line.as_bytes()));
        self.log.push((path, self.version, line));
    }
}

/// A Job created in this second with this CPU request.
fn job(name: &str, second: u32, cpu: &str, status: &Value, version: u64) -> Value {
    json!({
        "kind": "Job", "apiVersion": "batch/v1",
        "metadata": {"name": name, "namespace": "free-service", "resourceVersion": version.to_string(),
                     "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"), "labels": {"app.kubernetes.io/managed-by": "img-classification"}},
        "spec": {"template": {"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}},
        "status": status,
    })
}

impl Tier {
    /// The quota has two running Jobs.
    fn full() -> Tier {
        let world = World {
            used: 1800,
            hard: json!({"requests.cpu": "2"}),
            version: 100,
            token: TOKEN.to_owned(),
            ..World::default()
        };
        let (api, world) = (ApiServer::start(), Arc::new(Mutex::new(world)));
        let responses = Arc::clone(&world);
        api.script(move |request| responses.lock().unwrap().response(request));
        Tier { api, world }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Sets the behavior of the next request with this method (or WATCH, or FOLLOW of a log) and path.
    fn instead(&self, what: &str, path: &str, response: impl Into<Behavior>) {
        self.world().instead.entry(format!("{what} {path}")).or_default().push_back(response.into());
    }

    /// A server that watches this tier.
    fn serve(&self) -> Server {
        Setup::for_api(&self.api).env("NO_WATCH", "").start()
    }

    /// A server whose watches of this tier are connected.
    fn watched(&self) -> Server {
        let server = self.serve();
        eventually("all watches", || self.world().watches.len() == WATCHES);
        server
    }

    fn put(&self, name: &str, second: u32, cpu: &str, status: &Value) {
        let job = job(name, second, cpu, status, self.world().version + 1);
        self.put_job(name, &job);
    }

    fn put_job(&self, name: &str, job: &Value) {
        let mut world = self.world();
        world.version += 1;
        let kind = if world.jobs.insert(name.to_owned(), job.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        world.send_event(JOBS, kind, job);
    }

    fn waits(&self, name: &str, second: u32, cpu: &str) {
        self.put(name, second, cpu, &json!({"startTime": "2026-01-01T00:01:00Z"}));
    }

    fn starts(&self, name: &str, second: u32) {
        self.put(name, second, FULL, &json!({"active": 1, "startTime": "2026-01-01T00:01:00Z"}));
    }

    fn runs(&self, name: &str, second: u32) {
        self.put_pod(name, &json!({"phase": "Running"}));
        self.starts(name, second);
    }

    /// Adds or changes the pod of a Job.
    fn put_pod(&self, job: &str, status: &Value) {
        let mut world = self.world();
        world.version += 1;
        let metadata = json!({"name": format!("{job}-pod"), "labels": {"job-name": job}, "resourceVersion": world.version.to_string()});
        let pod = json!({"metadata": metadata, "status": status});
        let kind = if world.pods.insert(job.to_owned(), pod.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        world.send_event(PODS, kind, &pod);
    }

    /// Sets the used quota.
    fn used(&self, milli: u32) {
        self.change_quota(|world| world.used = milli);
    }

    /// Sets the quota's limits.
    fn limit(&self, hard: &Value) {
        self.change_quota(|world| world.hard = hard.clone());
    }

    fn change_quota(&self, change: impl FnOnce(&mut World)) {
        let mut world = self.world();
        world.version += 1;
        change(&mut world);
        let quota = world.quota();
        world.send_event(QUOTAS, "MODIFIED", &quota);
    }

    fn requeued(&self) -> Vec<String> {
        self.world().touches.iter().map(|(name, ..)| name.clone()).collect()
    }

    fn until_requeued(&self, names: &[&str]) {
        eventually(&format!("touches of {names:?}"), || self.requeued().len() >= names.len());
        assert_eq!(self.requeued(), names);
    }

    /// Waits for `count` LIST or WATCH requests of this path.
    fn requests(&self, path: &str, is_watch: bool) -> Vec<Request> {
        let wanted = |request: &Request| {
            request.method == "GET" && request.path() == path && request.query("watch").is_some() == is_watch
        };
        self.api.requests().into_iter().filter(wanted).collect()
    }

    fn until_requests(&self, path: &str, is_watch: bool, count: usize) -> Vec<Request> {
        eventually("another request", || self.requests(path, is_watch).len() >= count);
        self.requests(path, is_watch)
    }

    /// The open watch of the Jobs.
    fn stream(&self) -> Stream {
        self.world().watches[JOBS].clone()
    }
}

fn names(queue: &Value, key: &str) -> Vec<String> {
    queue[key].as_array().unwrap().iter().map(|job| job["job"].as_str().unwrap().to_owned()).collect()
}

fn until_waiting(server: &Server, names_wanted: &[&str]) {
    eventually(&format!("{names_wanted:?} waiting"), || {
        let response = server.get("/queue");
        response.status == 200 && names(&response.json(), "waiting") == names_wanted
    });
}

fn warnings(server: &Server, of: &str) -> usize {
    server.log_until_now().lines().filter(|line| line.starts_with("warning: ") && line.contains(of)).count()
}
