//! The queue of the free tier: who is touched when there is room, what GET /queue shows, and what becomes of both when the
//! watch of Kubernetes does not go as it should.
#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "every test crate uses another part of it")]
mod support;

use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use support::answer::{Answer, Gate, Reply, Stream, unauthorized};
use support::api::{ApiServer, Request};
use support::eventually;
use support::kubeconfig::{Kubeconfig, TOKEN};
use support::server::{Server, Setup};

const JOBS: &str = "/apis/batch/v1/namespaces/free-service/jobs";
const QUOTAS: &str = "/api/v1/namespaces/free-service/resourcequotas";

/// What a Job asks for; the quota is of 2 CPU.
const FULL: &str = "900m";
/// A Job that finds room where no other does.
const SMALL: &str = "100m";

/// A Kubernetes whose free tier does what the test says.
struct Tier {
    api: ApiServer,
    world: Arc<Mutex<World>>,
}

#[derive(Default)]
struct World {
    jobs: BTreeMap<String, Value>,
    used: u32,
    version: u64,
    token: String,
    /// What was told: the path, the version, and the line.
    log: Vec<(&'static str, u64, String)>,
    /// The open watches, by path.
    watches: BTreeMap<String, Stream>,
    /// What comes in place of the next answers, by method and path.
    instead: BTreeMap<String, VecDeque<Answer>>,
    /// The Jobs that were touched, what of the quota was used by then, and when.
    touches: Vec<(String, u32, Instant)>,
}

impl World {
    fn answer(&mut self, request: &Request) -> Answer {
        if request.header("Authorization") != Some(&format!("Bearer {}", self.token)) {
            return unauthorized().into();
        }
        let path = request.path().to_owned();
        let kind = if request.query("watch").is_some() { "WATCH" } else { &request.method };
        let instead = self.instead.get_mut(&format!("{kind} {path}")).and_then(VecDeque::pop_front);
        match (kind, path.as_str()) {
            ("PATCH", _) => {
                self.touch(request);
                instead.unwrap_or_else(|| Reply::json(200, &json!({"kind": "Job"})).into())
            }
            ("WATCH", JOBS | QUOTAS) => instead.unwrap_or_else(|| {
                let (stream, from) = (Stream::default(), request.query("resourceVersion").unwrap().parse().unwrap());
                let since = self.log.iter().filter(|(of, version, _)| *of == path && *version > from);
                since.for_each(|(.., line)| stream.send(line.as_bytes()));
                self.watches.insert(path, stream.clone());
                Answer::Stream(stream)
            }),
            ("GET", JOBS) => instead.unwrap_or_else(|| self.list("JobList", &self.jobs.values().collect::<Vec<_>>())),
            ("GET", QUOTAS) => instead.unwrap_or_else(|| self.list("ResourceQuotaList", &[&self.quota()])),
            _ => Answer::Honest,
        }
    }

    fn list(&self, kind: &str, items: &[&Value]) -> Answer {
        let metadata = json!({"resourceVersion": self.version.to_string()});
        Reply::json(200, &json!({"kind": kind, "metadata": metadata, "items": items})).into()
    }

    fn touch(&mut self, request: &Request) {
        assert_eq!(request.header("Content-Type"), Some("application/merge-patch+json"));
        let name = request.path().strip_prefix(&format!("{JOBS}/")).unwrap().to_owned();
        let metadata = &request.json()["metadata"];
        assert_eq!(metadata["resourceVersion"], self.jobs[&name]["metadata"]["resourceVersion"], "its last version");
        assert!(metadata["annotations"]["img-classification/nudged"].as_str().unwrap().ends_with('Z'), "{metadata}");
        self.touches.push((name, self.used, request.at));
    }

    fn quota(&self) -> Value {
        let (hard, used) = (json!({"requests.cpu": "2"}), json!({"requests.cpu": format!("{}m", self.used)}));
        let metadata = json!({"name": "free-cpu", "resourceVersion": self.version.to_string()});
        json!({"metadata": metadata, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
    }

    fn tell(&mut self, path: &'static str, kind: &str, object: &Value) {
        // Kubernetes writes the type first.
        let line = format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n");
        self.watches.get(path).into_iter().for_each(|watch| watch.send(line.as_bytes()));
        self.log.push((path, self.version, line));
    }
}

/// A Job of that second, which asks for so much CPU.
fn job(name: &str, second: u32, cpu: &str, status: &Value, version: u64) -> Value {
    json!({
        "kind": "Job", "apiVersion": "batch/v1",
        "metadata": {"name": name, "namespace": "free-service", "resourceVersion": version.to_string(),
                     "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"), "labels": {"a": "b"}},
        "spec": {"template": {"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}},
        "status": status,
    })
}

impl Tier {
    /// Two classifiers run in it.
    fn full() -> Tier {
        let world = World { used: 1800, version: 100, token: TOKEN.to_owned(), ..World::default() };
        let (api, world) = (ApiServer::start(), Arc::new(Mutex::new(world)));
        let answers = Arc::clone(&world);
        api.script(move |request| answers.lock().unwrap().answer(request));
        Tier { api, world }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// The next answer to this method (or WATCH) at this path is another one.
    fn instead(&self, what: &str, path: &str, answer: impl Into<Answer>) {
        self.world().instead.entry(format!("{what} {path}")).or_default().push_back(answer.into());
    }

    /// A server that watches it.
    fn serve(&self) -> Server {
        Setup::for_api(&self.api).env("NO_REQUEUE", "").start()
    }

    /// A server that has begun to watch it.
    fn watched(&self) -> Server {
        let server = self.serve();
        eventually("two watches", || self.world().watches.len() == 2);
        server
    }

    fn put(&self, name: &str, second: u32, cpu: &str, status: &Value) {
        let mut world = self.world();
        world.version += 1;
        let job = job(name, second, cpu, status, world.version);
        let kind = if world.jobs.insert(name.to_owned(), job.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        world.tell(JOBS, kind, &job);
    }

    fn waits(&self, name: &str, second: u32, cpu: &str) {
        self.put(name, second, cpu, &json!({"startTime": "2026-01-01T00:01:00Z"}));
    }

    fn runs(&self, name: &str, second: u32) {
        self.put(name, second, FULL, &json!({"active": 1, "startTime": "2026-01-01T00:01:00Z"}));
    }

    /// So much of the quota is used.
    fn used(&self, milli: u32) {
        let mut world = self.world();
        world.version += 1;
        world.used = milli;
        let quota = world.quota();
        world.tell(QUOTAS, "MODIFIED", &quota);
    }

    fn touched(&self) -> Vec<String> {
        self.world().touches.iter().map(|(name, ..)| name.clone()).collect()
    }

    fn until_touched(&self, names: &[&str]) {
        eventually(&format!("touches of {names:?}"), || self.touched().len() >= names.len());
        assert_eq!(self.touched(), names);
    }

    /// The requests of a kind, LIST or WATCH.
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

    /// The watch of the Jobs that is open now.
    fn stream(&self) -> Stream {
        self.world().watches[JOBS].clone()
    }
}

fn names(queue: &Value, key: &str) -> Vec<String> {
    queue[key].as_array().unwrap().iter().map(|job| job["job"].as_str().unwrap().to_owned()).collect()
}

fn until_waiting(server: &Server, names_wanted: &[&str]) {
    eventually(&format!("{names_wanted:?} waiting"), || {
        let answer = server.get("/queue");
        answer.status == 200 && names(&answer.json(), "waiting") == names_wanted
    });
}

fn warnings(server: &Server, of: &str) -> usize {
    server.stderr().lines().filter(|line| line.starts_with("warning: ") && line.contains(of)).count()
}

#[test]
fn the_oldest_is_touched_when_there_is_room_and_nobody_when_there_is_none() {
    let tier = Tier::full();
    for (name, second) in [("younger", 2), ("oldest", 1), ("youngest", 3)] {
        tier.waits(name, second, FULL);
    }
    let _server = tier.watched();
    // The only one for which there is room: by now those before it had been looked at.
    tier.waits("small", 9, SMALL);
    tier.until_touched(&["small"]);
    tier.put("small", 9, SMALL, &json!({"succeeded": 1}));

    let freed = Instant::now();
    tier.used(900);
    tier.until_touched(&["small", "oldest"]);
    assert!(freed.elapsed() < Duration::from_secs(2), "{:?}", freed.elapsed());
    tier.runs("oldest", 1);
    tier.used(1800);
    tier.waits("small-again", 9, SMALL);
    tier.until_touched(&["small", "oldest", "small-again"]);
    tier.put("small-again", 9, SMALL, &json!({"succeeded": 1}));

    tier.used(0);
    tier.until_touched(&["small", "oldest", "small-again", "younger", "youngest"]);
    let world = tier.world();
    let had_room =
        |(name, used, _): &(String, u32, Instant)| used + if name.starts_with("small") { 100 } else { 900 } <= 2000;
    assert!(world.touches.iter().all(had_room), "{:?}", world.touches);
}

#[test]
fn one_free_slot_is_one_touch_and_a_job_that_does_not_start_makes_way() {
    let tier = Tier::full();
    tier.waits("stuck", 1, FULL);
    tier.waits("next", 2, FULL);
    let _server = tier.watched();
    tier.used(900);
    tier.until_touched(&["stuck", "next"]);
    let world = tier.world();
    assert!(world.touches[1].2 - world.touches[0].2 >= Duration::from_millis(4900), "{:?}", world.touches);
}

#[test]
fn a_job_that_has_just_changed_is_tried_again_and_not_at_once() {
    let tier = Tier::full();
    tier.waits("a", 1, FULL);
    tier.instead("PATCH", &format!("{JOBS}/a"), Reply::failure(409, "Conflict", "the object has been modified"));
    tier.instead("PATCH", &format!("{JOBS}/a"), Reply::failure(409, "Conflict", "the object has been modified"));
    let server = tier.watched();
    tier.used(0);
    tier.until_touched(&["a", "a", "a"]);
    let times: Vec<Instant> = tier.world().touches.iter().map(|(_, _, at)| *at).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_millis(900)), "{times:?}");
    assert_eq!(warnings(&server, ""), 0, "{}", server.stderr());
}

#[test]
fn the_queue_is_shown_in_order_from_what_was_watched() {
    let tier = Tier::full();
    let gate = Gate::default();
    tier.runs("first", 1);
    tier.put("over", 1, FULL, &json!({"succeeded": 1}));
    tier.waits("b", 4, FULL);
    tier.waits("a", 5, FULL);
    let list = Reply::json(
        200,
        &json!({"kind": "JobList", "metadata": {"resourceVersion": "1", "continue": "x"}, "items": null}),
    );
    tier.instead("GET", JOBS, Answer::After(gate.clone(), Box::new(list.into())));
    let server = tier.serve();
    tier.until_requests(JOBS, false, 1);
    let answer = server.get("/queue");
    assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("5")), "{}", answer.text());
    assert!(answer.error().contains("not known yet"), "{}", answer.text());
    gate.open();
    until_waiting(&server, &["b", "a"]);
    assert_eq!(tier.requests(JOBS, false)[1].query("continue"), Some("x"), "the second page");
    let answer = server.get("/queue?x=y");
    let expected = r#"{"running":[{"job":"first","since":"2026-01-01T00:01:00Z"}],"waiting":[{"job":"b","position":1,"since":"2026-01-01T00:00:04Z"},{"job":"a","position":2,"since":"2026-01-01T00:00:05Z"}]}"#;
    assert_eq!(answer.text(), expected);
    let head = server.connect().request("HEAD", "/queue", None);
    assert_eq!((head.status, head.header("Content-Length")), (200, Some(expected.len().to_string().as_str())));
    let post = server.post("/queue", "{}");
    assert_eq!((post.status, post.header("Allow")), (405, Some("GET, HEAD")));

    let asked = tier.api.requests().len();
    tier.runs("b", 4);
    until_waiting(&server, &["a"]);
    let queue = server.get("/queue").json();
    assert_eq!(names(&queue, "running"), ["first", "b"]);
    assert!(queue["running"][1]["since"].as_str().unwrap() > "2026-01-02", "it began when that was told: {queue}");
    assert_eq!(tier.api.requests().len(), asked, "GET /queue asks nobody");
}

#[test]
fn without_the_nudge_nothing_is_watched_and_the_queue_says_why_it_is_not_there() {
    let tier = Tier::full();
    let server = Setup::for_api(&tier.api).env("NO_REQUEUE", "").args(&["--no-requeue"]).start();
    let answer = server.get("/queue");
    assert!(answer.status == 404 && answer.error().contains("--no-requeue"), "{} {}", answer.status, answer.text());
    assert_eq!(server.get("/readyz").status, 200);
    assert!(tier.api.requests().iter().all(|request| request.path() == "/api/v1/pods"), "{:?}", tier.api.requests());
    assert!(server.stderr().lines().any(|line| line == "requeue: off"), "{}", server.stderr());
}

#[test]
fn a_watch_goes_on_where_it_ended_or_broke() {
    let tier = Tier::full();
    let server = tier.watched();
    assert_eq!(tier.requests(JOBS, true)[0].query("resourceVersion"), Some("100"));
    assert_eq!(tier.requests(JOBS, true)[0].query("allowWatchBookmarks"), Some("true"));
    // Nothing but a bookmark says how far it is.
    tier.stream()
        .send(r#"{"type":"BOOKMARK","object":{"kind":"Job","metadata":{"resourceVersion":"777","name":null}}}"#);
    tier.stream().end();
    assert_eq!(tier.until_requests(JOBS, true, 2)[1].query("resourceVersion"), Some("777"));
    tier.world().version = 800;
    tier.waits("a", 1, FULL);
    until_waiting(&server, &["a"]);
    tier.api.hang_up();
    assert_eq!(tier.until_requests(JOBS, true, 3)[2].query("resourceVersion"), Some("801"));
    tier.waits("b", 2, FULL);
    until_waiting(&server, &["a", "b"]);
    assert_eq!(tier.requests(JOBS, false).len(), 1, "no second list");
}

#[test]
fn what_is_too_old_is_listed_anew() {
    let gone = || Reply::failure(410, "Expired", "too old resource version: 100 (200)");
    let tier = Tier::full();
    tier.waits("goes", 1, FULL);
    tier.waits("stays", 2, FULL);
    let server = tier.watched();
    until_waiting(&server, &["goes", "stays"]);
    // Of what happens meanwhile nobody tells.
    let stream = std::mem::take(&mut tier.world().watches).remove(JOBS).unwrap();
    tier.world().jobs.remove("goes");
    tier.waits("comes", 3, FULL);
    stream.send(format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", gone().body_json()));
    until_waiting(&server, &["stays", "comes"]);
    assert_eq!(tier.requests(JOBS, false).len(), 2);

    eventually("a watch", || tier.world().watches.contains_key(JOBS));
    tier.instead("WATCH", JOBS, gone());
    tier.world().jobs.remove("comes");
    tier.stream().end();
    until_waiting(&server, &["stays"]);
    assert_eq!(warnings(&server, ""), 0, "{}", server.stderr());
}

#[test]
fn an_outage_is_said_once_and_what_is_old_is_not_shown_as_true() {
    let mut tier = Tier::full();
    tier.waits("a", 1, FULL);
    let server = tier.watched();
    until_waiting(&server, &["a"]);
    tier.api.close_port();
    let began = Instant::now();
    assert_eq!(server.get("/queue").status, 200, "a restart takes a moment");
    eventually("503", || server.get("/queue").status == 503);
    assert!(began.elapsed() >= Duration::from_secs(10), "{:?}", began.elapsed());
    let answer = server.get("/queue");
    assert!(
        answer.header("Retry-After").is_some() && answer.error().contains("cannot be watched"),
        "{}",
        answer.text()
    );
    assert_eq!(server.get("/healthz").status, 200);
    tier.world().watches.clear();
    tier.api.reopen_port();
    until_waiting(&server, &["a"]);
    eventually("both watches", || warnings(&server, " again") == 2);
    for what in ["cannot watch the free tier's Jobs", "cannot watch the free tier's quotas"] {
        assert_eq!(warnings(&server, what), 1, "{}", server.stderr());
    }
    tier.used(0);
    tier.until_touched(&["a"]);
}

#[test]
fn a_connection_that_died_unnoticed_is_given_up() {
    let tier = Tier::full();
    let server = tier.watched();
    // From now on both watches are as good as dead: nothing comes, not even their end.
    tier.world().watches.clear();
    tier.waits("a", 1, FULL);
    tier.used(0);
    tier.until_touched(&["a"]);
    until_waiting(&server, &["a"]);
}

#[test]
fn without_the_permission_the_fix_is_named_once_and_requests_are_served() {
    let mut tier = Tier::full();
    let words = r#"jobs.batch is forbidden: User "nobody" cannot list resource "jobs" in API group "batch""#;
    tier.instead("GET", JOBS, Reply::failure(403, "Forbidden", words));
    let server = tier.serve();
    server.wait_for_log("that names the fix", |line| {
        line.starts_with("warning: cannot watch the free tier's Jobs")
            && line.contains("k8s/rbac.yaml")
            && line.contains(words)
    });
    let answer = server.get("/queue");
    assert!(answer.status == 503 && answer.error().contains("k8s/rbac.yaml"), "{}", answer.text());
    assert_eq!((server.post_job().status, server.get("/config").status), (200, 200));

    let other = std::mem::replace(&mut tier, Tier::full());
    tier.waits("a", 1, FULL);
    tier.waits("b", 2, FULL);
    let words = words.replace("list", "patch");
    tier.instead("PATCH", &format!("{JOBS}/a"), Reply::failure(403, "Forbidden", &words));
    let touching = tier.watched();
    tier.used(0);
    let line = touching.wait_for_log("of the touch", |line| line.starts_with("warning: cannot nudge a"));
    assert!(line.contains("k8s/rbac.yaml") && line.contains(&words), "{line}");
    assert_eq!(touching.get("/queue").status, 200);
    let refused = Instant::now();
    eventually("time for another try after a second", || refused.elapsed() > Duration::from_secs(2));
    assert_eq!(tier.touched(), ["a"], "nobody is touched for a while");
    assert_eq!(other.requests(JOBS, false).len(), 1, "not asked again so soon");
}

#[test]
fn a_refused_token_is_replaced() {
    let tier = Tier::full();
    tier.waits("a", 1, FULL);
    let setup = Setup::new();
    let token = setup.file("token", TOKEN);
    let config = Kubeconfig::new(&tier.api.url()).user(json!({ "tokenFile": token }));
    let server = setup.kubeconfig(config.yaml()).env("NO_REQUEUE", "0").start();
    until_waiting(&server, &["a"]);
    std::fs::write(token, "the next").unwrap();
    tier.world().token = "the next".to_owned();
    tier.world().watches.clear();
    tier.api.hang_up();
    eventually("a watch", || tier.world().watches.len() == 2);
    tier.used(0);
    tier.until_touched(&["a"]);
    assert_eq!(warnings(&server, "401"), 0, "{}", server.stderr());
}

#[test]
fn events_may_come_torn_together_and_of_unknown_types() {
    let tier = Tier::full();
    let server = tier.watched();
    let event = |kind: &str, name: &str, second| {
        let job = job(name, second, FULL, &json!({}), 500);
        format!("{{\"type\":\"{kind}\",\"object\":{job}}}\n")
    };
    let stream = tier.stream();
    for byte in event("ADDED", "torn", 1).bytes() {
        stream.send([byte]);
    }
    until_waiting(&server, &["torn"]);
    let together = [
        "\n \r\n",
        &event("ADDED", "a", 2),
        &event("NOVEL", "b", 3),
        &event("ADDED", "c", 4),
        &event("DELETED", "a", 2),
    ];
    stream.send(together.concat());
    until_waiting(&server, &["torn", "c"]);
    assert_eq!(tier.requests(JOBS, true).len(), 1);
}

#[test]
fn nonsense_ends_the_watch_and_the_list_is_asked_for_anew() {
    let big = format!(r#"{{"type":"ADDED","object":{{"metadata":{{"name":"{}"#, "x".repeat(64 * 1024));
    let endless: Vec<String> = std::iter::once(big).chain((0..100).map(|_| "x".repeat(64 * 1024))).collect();
    let whitespace: Vec<String> = (0..100).map(|_| "\n".repeat(64 * 1024)).collect();
    let cases: [(&str, Vec<String>, usize); 5] = [
        ("HTML", vec!["<html></html>\n".into()], 2),
        ("no type", vec!["{}\n".into()], 2),
        ("an object that is none", vec!["{\"type\":\"ADDED\",\"object\":7}\n".into()], 2),
        ("an endless event", endless, 2),
        // That is no error; but the watch begins anew.
        ("endless blanks", whitespace, 1),
    ];
    for (what, pieces, lists) in cases {
        let tier = Tier::full();
        let server = tier.watched();
        let stream = tier.stream();
        tier.world().watches.remove(JOBS);
        tier.waits("a", 1, FULL);
        pieces.into_iter().for_each(|piece| stream.send(piece));
        eventually(what, || tier.world().watches.contains_key(JOBS));
        tier.waits("b", 2, FULL);
        eventually(what, || server.get("/queue").json()["waiting"].to_string().contains("\"b\""));
        assert_eq!(tier.requests(JOBS, false).len(), lists, "{what}");
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid().as_raw_nonzero())).unwrap();
        let peak: u32 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap()
            .trim_end_matches(" kB")
            .trim()
            .parse()
            .unwrap();
        assert!(peak < 40_000, "{what}: {peak} kB");
    }
}

#[test]
fn in_the_embedded_cluster_the_queue_moves_in_order_and_at_once() {
    let server = Setup::local().env("NO_REQUEUE", "").args(&["--local-job-seconds", "1"]).start();
    let posted: Vec<String> = (0..8).map(|_| server.post_job().json()["job"].as_str().unwrap().to_owned()).collect();
    let began = Instant::now();
    eventually("all eight", || {
        let queue = server.get("/queue").json();
        names(&queue, "running").len() + names(&queue, "waiting").len() == 8
    });
    eventually("an empty queue", || server.get("/queue").text() == r#"{"running":[],"waiting":[]}"#);
    let took = began.elapsed();
    let log = server.stderr();
    let nudged: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("nudged ")?.split(':').next()).collect();
    let mut in_order: Vec<&String> = posted.iter().filter(|name| nudged.contains(&name.as_str())).collect();
    in_order.dedup();
    assert_eq!(nudged, in_order, "each once, the oldest first");
    // Four pairs of 1.3 s; the controller's own retries would come after 1, 3, 7 and 15 s.
    assert!(took < Duration::from_secs(9), "{took:?}");
}
