//! `selftest`.

use crate::support::api::{ApiServer, Listen, Request};
use crate::support::response::{ApiResponse, Behavior};
use crate::support::server::{Finished, Setup};
use crate::support::tls;
use serde_json::{Value, json};

/// A fake server that implements the HTTP contract; its Jobs finish at once.
#[derive(Default)]
struct Fake {
    pods: Vec<Value>,
    posts: usize,
}

impl Fake {
    fn response(&mut self, request: &Request) -> ApiResponse {
        if request.method == "GET" {
            return ApiResponse::json(200, &json!({ "pods": self.pods }));
        }
        self.posts += 1;
        let name = format!("job-{}", self.posts);
        let free = request.path().ends_with("/free");
        let namespace = if free { "free-service" } else { "default" };
        let of_it = self.pods.iter().filter(|pod| pod["namespace"] == namespace).count();
        if !free || of_it < 2 {
            let node = format!("node-{}", self.posts % 2);
            self.pods.push(pod(&node, namespace, &format!("{name}-x")));
        }
        ApiResponse::json(200, &json!({ "job": name }))
    }
}

pub fn pod(node: &str, namespace: &str, name: &str) -> Value {
    json!({"node": node, "ip": "10.0.0.1", "namespace": namespace, "name": name, "status": "Running"})
}

/// Runs selftest against the fake; `change` replaces responses.
pub fn selftest(change: impl Fn(&Request, usize, Value) -> Behavior + Send + 'static) -> Finished {
    let plain = ApiServer::listen(&Listen { identity: None, ..Listen::default() });
    let mut fake = Fake::default();
    plain.script(move |request| {
        let default = fake.response(request);
        change(request, fake.posts, default.body_json())
    });
    Setup::new().run(&["selftest", &plain.url()])
}

fn good(response: &Value) -> Behavior {
    ApiResponse::json(200, response).into()
}

#[test]
fn selftest_accepts_a_server_that_only_follows_the_contract() {
    let end = selftest(|_, _, response| good(&response));
    assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""), "{end:?}");
    assert!(end.stdout.lines().last().unwrap().starts_with("passed in "), "{}", end.stdout);
    let lines: Vec<&str> = end.stdout.lines().collect();
    assert_eq!(lines[lines.len() - 2], "7 Jobs left; img-classification clean");
    assert!(end.stdout.contains("ok premium pods: 3 new in default: 3 Running ("), "{}", end.stdout);
    // Job names are optional in the contract.
    let end =
        selftest(|request, _, response| if request.method == "POST" { good(&json!({})) } else { good(&response) });
    assert_eq!(end.code, Some(0), "{end:?}");
}

type Change = Box<dyn Fn(&Request, usize, Value) -> Behavior + Send>;

#[test]
fn selftest_finds_each_contract_violation() {
    fn lists(change: impl Fn(usize, &mut Value) + Send + 'static) -> Change {
        Box::new(move |request, posts, mut response| {
            if request.method == "GET" {
                change(posts, &mut response);
            }
            good(&response)
        })
    }
    fn posts(change: impl Fn(&str, usize) -> Option<ApiResponse> + Send + 'static) -> Change {
        Box::new(move |request, posts, response| {
            let changed = if request.method == "POST" { change(request.path(), posts) } else { None };
            changed.map_or_else(|| good(&response), Behavior::from)
        })
    }
    let premium = |path: &str| path.ends_with("/premium");
    let cases: Vec<(&str, Change)> = vec![
        (
            "FAIL 3 x POST free: POST /img-classification/free returned 500: oh",
            posts(|path, _| path.ends_with("free").then(|| ApiResponse::new(500, "text/plain", "oh"))),
        ),
        (
            "FAIL 1 x POST premium: POST /img-classification/premium returned 503",
            posts(move |path, count| {
                (premium(path) && count == 7).then(|| ApiResponse::json(503, &json!({"error": "later"})))
            }),
        ),
        (
            "FAIL 3 x POST premium: two requests created the Job same",
            posts(move |path, _| premium(path).then(|| ApiResponse::json(200, &json!({"job": "same"})))),
        ),
        ("FAIL GET /config: GET /config returned no JSON", Box::new(|_, _, _| ApiResponse::html(200).into())),
        ("FAIL GET /config: GET /config returned another structure", lists(|_, response| *response = json!([]))),
        (
            "FAIL free pods: GET /config returned another structure: missing field `ip`",
            lists(|_, response| {
                for pod in response["pods"].as_array_mut().unwrap() {
                    pod.as_object_mut().unwrap().remove("ip");
                }
            }),
        ),
        (
            "FAIL free pods: GET /config lists the pod free-service/job-1-x twice",
            lists(|count, response| {
                if count > 0 {
                    let first = response["pods"][0].clone();
                    response["pods"].as_array_mut().unwrap().push(first);
                }
            }),
        ),
        (
            "FAIL free pods: 3 free pods run at the same time",
            lists(|count, response| {
                if count > 0 {
                    response["pods"].as_array_mut().unwrap().push(pod("node-1", "free-service", "one-more"));
                }
            }),
        ),
        (
            "FAIL premium pods: 3 new pods in default after 5.00 s, expected 4",
            lists(|_, response| {
                response["pods"].as_array_mut().unwrap().retain(|pod| pod["name"] != "job-7-x");
            }),
        ),
        (
            "FAIL nodes: pods on 1 nodes, expected 2",
            lists(|_, response| {
                for pod in response["pods"].as_array_mut().unwrap() {
                    pod["node"] = json!("node-1");
                }
            }),
        ),
        ("FAIL GET /config: GET http://127.0.0.1", Box::new(|_, _, _| Behavior::Close)),
    ];
    std::thread::scope(|scope| {
        for (line, change) in cases {
            scope.spawn(move || {
                let end = selftest(change);
                assert_eq!((end.code, end.stderr.as_str()), (Some(1), ""), "{line}: {end:?}");
                let found = end.stdout.lines().find(|printed| printed.starts_with(line));
                assert!(found.is_some_and(|printed| printed.contains("; fix: ")), "no {line:?} in\n{}", end.stdout);
                assert!(end.stdout.lines().last().unwrap().starts_with("failed steps: "), "{}", end.stdout);
            });
        }
    });
}

#[test]
fn selftest_explains_an_invalid_or_dead_address() {
    for (url, words) in [
        ("127.0.0.1:9", "GET http://127.0.0.1:9/config: Connection refused"),
        ("nowhere.invalid:5000/", "GET http://nowhere.invalid:5000/config: "),
        ("https://127.0.0.1:9/", "GET https://127.0.0.1:9/config: Connection refused"),
    ] {
        let end = Setup::new().run(&["selftest", url]);
        assert_eq!(end.code, Some(1), "{end:?}");
        assert!(end.stdout.starts_with("FAIL GET /config: ") && end.stdout.contains(words), "{url}: {}", end.stdout);
    }
    for url in [
        "https://",
        "http://",
        "",
        ":5000",
        "http://a b",
        "a?b",
        "ftp://a",
        "http:///x",
        "u:p@host",
        "a:99999",
        "http://a:0x50/b",
        "[::1]:",
        "[::1]:0",
    ] {
        let end = Setup::new().run(&["selftest", url]);
        assert_eq!(end.code, Some(2), "{url:?}: {end:?}");
        assert!(end.stderr.contains("the URL is ") && end.stderr.contains("http://HOST:PORT"), "{url}: {}", end.stderr);
    }
}

#[test]
fn selftest_tells_pods_that_wait_for_cpu_and_prints_json() {
    let setup = Setup::local().env("NO_WATCH", "").args(&["--image", "x:long", "--admin-token-file"]);
    let token = setup.file("token", "x");
    let server = setup.args(&[token.to_str().unwrap()]).start();
    let url = format!("http://{}", server.address());
    let end = Setup::new().run(&["selftest", &url]);
    // Two nodes, which two free pods fill.
    let line = "ok premium pods: 4 new in default: 0 Running, 4 Pending for CPU";
    assert!(end.code == Some(0) && end.stdout.lines().any(|printed| printed.starts_with(line)), "{end:?}");
    let end = Setup::new().run(&["selftest", &url, "--json"]);
    let lines: Vec<Value> = end.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["check"], &lines[0]["result"]), (&json!("pods"), &json!("warning")), "{end:?}");
    let last = lines.last().unwrap();
    assert!(last["passed"] == (end.code == Some(0)) && last["seconds"].is_number(), "{end:?}");
}

#[test]
fn selftest_names_the_option_of_the_post_limit() {
    let server = Setup::local().args(&["--posts-per-minute", "2"]).start();
    let end = Setup::new().run(&["selftest", &format!("http://{}", server.address())]);
    let line = end.stdout.lines().find(|line| line.starts_with("FAIL 3 x POST free: ")).unwrap();
    assert!(line.contains("returned 429") && line.contains("larger --posts-per-minute"), "{line}");
    assert!(end.stdout.contains("\n2 Jobs left; "), "{}", end.stdout);
}

#[test]
fn selftest_accepts_https() {
    let server = ApiServer::start();
    let mut fake = Fake::default();
    server.script(move |request| fake.response(request).into());
    let ca = tls::path("ca.pem");
    let end = Setup::new().run(&["selftest", &server.url(), "--ca", ca.to_str().unwrap()]);
    assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""), "{end:?}");
}

#[test]
fn selftest_warns_about_existing_pods() {
    let end = selftest(|request, _, mut response| {
        if request.method == "GET" {
            response["pods"].as_array_mut().unwrap().insert(0, pod("node-1", "default", "old"));
        }
        good(&response)
    });
    assert_eq!(end.code, Some(0), "{end:?}");
    let warning = "warning pods: 1 pods already exist in free-service and default; the autograder counts them as well; \
                   fix: img-classification clean, or selftest --clean-first";
    assert_eq!(end.stdout.lines().next(), Some(warning));
}

#[test]
fn selftest_sends_the_premium_token() {
    let setup = Setup::local();
    let token = setup.file("token", "let-me-in\n");
    let server = setup.args(&["--premium-token-file", token.to_str().unwrap()]).start();
    let url = format!("http://{}", server.address());
    let end = Setup::new().run(&["selftest", &url]);
    assert!(end.code == Some(1) && end.stdout.contains("returned 401"), "{end:?}");
    let end = Setup::new().args(&["--premium-token-file", token.to_str().unwrap()]).run(&["selftest", &url]);
    // The first run left free pods, of which two run at a time.
    assert!(!end.stdout.contains("401") && end.stdout.contains("ok 3 x POST premium: 3 x status 200"), "{end:?}");
    assert!(!format!("{end:?}").contains("let-me-in"), "{end:?}");
}
