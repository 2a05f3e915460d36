//! The watched pods: GET /config is answered from them while the watch is live, and from a list otherwise.

use crate::support::api::{ApiServer, Request};
use crate::support::cluster::pod;
use crate::support::eventually;
use crate::support::http::Response;
use crate::support::response::{ApiResponse, Behavior, Stream, no_permission};
use crate::support::server::{Server, Setup};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

const PODS: &str = "/api/v1/pods";

/// The line that tells that the watch is live.
const LIVE: &str = "GET /config is answered from the watched pods";

/// A scripted Kubernetes whose pods the test controls.
struct Cluster {
    api: ApiServer,
    world: Arc<Mutex<World>>,
}

#[derive(Default)]
struct World {
    /// By the key in etcd.
    pods: BTreeMap<String, Value>,
    version: u64,
    watch: Option<Stream>,
    /// The response to every watch.
    refusal: Option<ApiResponse>,
    /// The oldest version from which a watch may start.
    oldest: u64,
}

impl World {
    fn response(&mut self, request: &Request) -> Behavior {
        if request.path() != PODS {
            return Behavior::Default;
        }
        if request.query("watch").is_some() {
            if let Some(refusal) = &self.refusal {
                return refusal.clone().into();
            }
            if request.query("resourceVersion").unwrap().parse::<u64>().unwrap() < self.oldest {
                return ApiResponse::failure(410, "Expired", "too old resource version").into();
            }
            let stream = Stream::default();
            self.watch = Some(stream.clone());
            return Behavior::Stream(stream);
        }
        let items: Vec<&Value> = self.pods.values().collect();
        let metadata = json!({"resourceVersion": self.version.to_string()});
        ApiResponse::json(200, &json!({"kind": "PodList", "metadata": metadata, "items": items})).into()
    }

    fn send(&mut self, kind: &str, object: &Value) {
        let line = json!({"type": kind, "object": object}).to_string() + "\n";
        self.watch.as_ref().expect("a watch is open").send(line);
    }
}

impl Cluster {
    fn start() -> Cluster {
        let (api, world) = (ApiServer::start(), Arc::new(Mutex::new(World { version: 100, ..World::default() })));
        let responses = Arc::clone(&world);
        api.script(move |request| responses.lock().unwrap().response(request));
        Cluster { api, world }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Changes a pod without an event.
    fn store(&self, namespace: &str, name: &str, phase: &str, node: Option<(&str, &str)>) -> Value {
        let mut world = self.world();
        world.version += 1;
        let mut pod = pod(namespace, name, phase, node);
        pod["metadata"]["resourceVersion"] = json!(world.version.to_string());
        world.pods.insert(format!("{namespace}/{name}"), pod.clone());
        pod
    }

    fn delete(&self, key: &str) {
        let mut world = self.world();
        world.version += 1;
        let mut pod = world.pods.remove(key).unwrap();
        pod["metadata"]["resourceVersion"] = json!(world.version.to_string());
        world.send("DELETED", &pod);
    }

    fn serve(&self, args: &[&str]) -> Server {
        Setup::for_api(&self.api).env("NO_WATCH", "").args(args).start()
    }

    /// A server whose watch is live.
    fn watched(&self) -> Server {
        self.watched_by(&[])
    }

    fn watched_by(&self, args: &[&str]) -> Server {
        let server = self.serve(args);
        assert_eq!(server.get("/config").status, 200);
        server.wait_for_log("of the watch", |line| line == LIVE);
        eventually("a watch is open", || self.world().watch.is_some());
        server
    }

    /// The requests for pods of this kind: "watch", or a list "of the watch" or "of a caller".
    fn requests(&self, kind: &str) -> usize {
        let kind_of = |request: &Request| match (request.query("watch"), request.query("limit")) {
            (Some(_), _) => "watch",
            (None, Some(_)) => "of the watch",
            (None, None) => "of a caller",
        };
        let requests = self.api.requests();
        requests.iter().filter(|request| request.path() == PODS && kind_of(request) == kind).count()
    }
}

fn get_with(server: &Server, method: &str, headers: &str) -> Response {
    server.connect().request_with(method, "/config", headers, b"")
}

/// The response of Kubernetes itself.
fn listed(server: &Server) -> Response {
    get_with(server, "GET", "Cache-Control: no-cache\r\n")
}

#[test]
fn config_follows_the_watched_pods_and_equals_a_list() {
    let cluster = Cluster::start();
    cluster.store("a", "x", "Running", Some(("node-1", "10.0.0.1")));
    cluster.store("a-b", "x", "Pending", None);
    let server = cluster.watched();
    assert!(cluster.requests("of a caller") <= 1, "the first is a list, unless the watch is live before it");
    let first = server.get("/config");
    assert_eq!(first.text(), listed(&server).text());
    let names: Vec<Value> =
        first.json()["pods"].as_array().unwrap().iter().map(|pod| pod["namespace"].clone()).collect();
    assert_eq!(names, ["a-b", "a"], "the order of the keys in etcd");
    let lists = cluster.requests("of a caller");

    let scheduled = cluster.store("a-b", "x", "Running", Some(("node-2", "10.0.0.2")));
    cluster.world().send("MODIFIED", &scheduled);
    let added = cluster.store("b", "\u{fc}", "", None);
    cluster.world().send("ADDED", &added);
    eventually("the changes", || server.get("/config").json()["pods"].as_array().unwrap().len() == 3);
    cluster.delete("a/x");
    eventually("the deletion", || server.get("/config").json()["pods"].as_array().unwrap().len() == 2);
    let watched = server.get("/config");
    assert_eq!((cluster.requests("of a caller"), cluster.requests("of the watch")), (lists, 1));
    let list = listed(&server);
    assert_eq!(cluster.requests("of a caller"), lists + 1, "no-cache asks Kubernetes");
    assert_eq!((watched.text(), watched.header("ETag")), (list.text(), list.header("ETag")));
    assert_eq!(watched.json()["pods"][1]["status"], "Unknown");
}

#[test]
fn config_that_the_caller_has_is_304() {
    let cluster = Cluster::start();
    cluster.store("a", "x", "Running", None);
    for server in [cluster.watched(), Setup::for_api(&cluster.api).start()] {
        let etag = server.get("/config").header("ETag").unwrap().to_owned();
        for known in [etag.clone(), format!("\"other\", W/{etag}"), "*".to_owned()] {
            for method in ["GET", "HEAD"] {
                let response = get_with(&server, method, &format!("If-None-Match: {known}\r\n"));
                assert_eq!((response.status, response.header("ETag")), (304, Some(etag.as_str())), "{method} {known}");
                assert_eq!(response.header("Content-Length"), None, "{method} {known}");
            }
        }
        assert_eq!(get_with(&server, "HEAD", "").header("ETag"), Some(etag.as_str()));
        assert_eq!(get_with(&server, "GET", "If-None-Match: \"other\"\r\n").status, 200);
    }
}

#[test]
fn each_config_is_a_list_without_the_watch() {
    let cluster = Cluster::start();
    let server = Setup::for_api(&cluster.api).env("NO_WATCH", "").args(&["--no-watch"]).start();
    for count in 1..=3 {
        assert_eq!(server.get("/config").status, 200);
        assert_eq!(cluster.requests("of a caller"), count);
    }
    assert_eq!(server.get("/queue").status, 404);
    assert_eq!((cluster.requests("watch"), cluster.requests("of the watch")), (0, 0));
}

#[test]
fn forbidden_watch_is_logged_once_and_each_config_is_a_list() {
    let cluster = Cluster::start();
    cluster.world().refusal = Some(no_permission());
    let server = cluster.serve(&[]);
    assert_eq!(server.get("/config").status, 200);
    let fix = "; fix: run img-classification setup, or kubectl apply -f k8s/rbac.yaml, or start with --no-watch";
    let is_warning =
        |line: &str| line.starts_with("warning: cannot watch the pods of all namespaces; GET /config lists");
    server.wait_for_log("of the refusal", |line| is_warning(line) && line.ends_with(fix));
    cluster.store("a", "x", "Running", None);
    assert_eq!(server.get("/config").json()["pods"].as_array().unwrap().len(), 1);
    assert_eq!(cluster.requests("of a caller"), 2);
    assert_eq!(server.log_until_now().lines().filter(|line| is_warning(line)).count(), 1);
}

#[test]
fn pods_that_change_during_an_outage_are_listed_again() {
    let mut cluster = Cluster::start();
    cluster.store("a", "goes", "Running", None);
    let server = cluster.watched_by(&["--kube-timeout", "2"]);
    cluster.api.close_port();
    // The watch fails, and then a list does.
    eventually("503", || server.get("/config").status == 503);
    cluster.world().pods.clear();
    cluster.store("a", "comes", "Running", None);
    let version = cluster.world().version;
    cluster.world().oldest = version;
    cluster.api.reopen_port();
    eventually("a list", || server.get("/config").status == 200);
    assert_eq!(server.get("/config").json()["pods"][0]["name"], "comes");
    let is_live = |log: String| log.lines().filter(|line| *line == LIVE).count() == 2;
    eventually("the watch is live again", || is_live(server.stderr()));
    let lists = cluster.requests("of a caller");
    assert_eq!(server.get("/config").json()["pods"][0]["name"], "comes");
    assert_eq!(cluster.requests("of a caller"), lists);
}

#[test]
fn event_that_is_nonsense_causes_a_new_list() {
    let cluster = Cluster::start();
    cluster.store("a", "x", "Running", None);
    let server = cluster.watched();
    cluster.store("a", "y", "Running", None);
    cluster.world().watch.take().unwrap().send("{\"type\":\"ADDED\",\"object\":{\"metadata\":{}}}\n");
    eventually("both pods", || server.get("/config").json()["pods"].as_array().unwrap().len() == 2);
    eventually("a second list of the watch", || cluster.requests("of the watch") == 2);
}

#[test]
fn first_config_starts_the_watch() {
    let cluster = Cluster::start();
    let server = cluster.serve(&[]);
    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(cluster.requests("watch"), 0, "the CPU of a small host");
    assert_eq!(server.get("/config").status, 200);
    eventually("a watch", || cluster.requests("watch") == 1);
}
