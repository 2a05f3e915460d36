//! setup, clean and selftest where something is wrong: with the cluster, with the server that is asked, with the command
//! line. What they do where all is well is shown by tests/cluster.

use crate::support::answer::{Answer, Reply};
use crate::support::api::{ApiServer, Listen, Request};
use crate::support::eventually;
use crate::support::kubeconfig::Kubeconfig;
use crate::support::plugin::{Plugin, is_alive};
use crate::support::server::{Finished, Setup};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

/// The commands that ask a cluster.
const COMMANDS: [&[&str]; 3] =
    [&["setup"], &["clean"], &["selftest", "http://127.0.0.1:9", "--clean-first", "--timeout", "5"]];

/// Runs a command for this API server.
fn run(api: &ApiServer, args: &[&str]) -> Finished {
    Setup::for_api(api).run(args)
}

/// The last line on stderr, of a command that failed with 1.
fn failure(end: &Finished) -> &str {
    assert_eq!(end.code, Some(1), "{end:?}");
    end.stderr.lines().last().unwrap_or_else(|| panic!("nothing on stderr: {end:?}"))
}

#[test]
fn setup_prints_its_yaml_without_any_cluster() {
    let end = Setup::new().run(&["setup", "--print"]);
    assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""), "{end:?}");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("k8s");
    for file in ["namespace.yaml", "quota.yaml", "quota-premium.yaml", "rbac.yaml"] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        assert!(end.stdout.contains(&text), "{file} is not in\n{}", end.stdout);
    }
    let documents = serde_yaml::Deserializer::from_str(&end.stdout);
    assert_eq!(documents.count(), 12);
}

#[test]
fn a_cluster_that_cannot_be_asked_is_one_line_that_says_why() {
    let mut gone = ApiServer::start();
    gone.close_port();
    let refused = ApiServer::start();
    refused.always(Reply::failure(401, "Unauthorized", "Unauthorized"));
    let html = ApiServer::start();
    html.always(Reply::html(200));
    let forbidden = ApiServer::start();
    let said = r#"x is forbidden: User "ann" cannot get resource "x" in API group "" at the cluster scope"#;
    forbidden.always(Reply::failure(403, "Forbidden", said));
    let hung = ApiServer::start();
    hung.always(Answer::Never);
    for args in COMMANDS {
        for (api, words) in [
            (&gone, "cannot reach https://"),
            (&refused, "answered 401 Unauthorized"),
            (&html, "is not a Kubernetes answer"),
            (&forbidden, "this takes an administrator's kubeconfig"),
            (&hung, "no answer in time"),
        ] {
            let end = Setup::for_api(api).args(&["--kube-timeout", "1"]).run(args);
            let line = failure(&end);
            assert!(line.starts_with("img-classification: ") && line.contains(words), "{args:?}: {line}");
            assert_eq!(end.stdout, "", "{args:?}");
        }
    }
}

#[test]
fn wrong_usage_names_the_command_and_exits_with_2() {
    for (args, words) in [
        (&["selftest"][..], "selftest needs URL"),
        (&["selftest", "a", "b"], "unexpected argument \"b\""),
        (&["setup", "now"], "unexpected argument \"now\""),
        (&["clean", "--listen", "x:1"], "clean does not take --listen"),
        (&["--print"], "serve does not take --print"),
        (&["clean", "--timeout", "0"], "--timeout is \"0\""),
        (&["setup", "--print=yes"], "--print"),
        (&["serve", "--local", "--kubeconfig", "x"], "--local and --kubeconfig exclude each other"),
        (&["--local", "--local-nodes", "0"], "--local-nodes is \"0\""),
        (&["--local", "--local-job-seconds", "0.5"], "--local-job-seconds is \"0.5\""),
    ] {
        let end = Setup::new().run(args);
        assert_eq!((end.code, end.stdout.as_str()), (Some(2), ""), "{args:?}: {end:?}");
        assert!(end.stderr.contains(words) && end.stderr.lines().count() == 1, "{args:?}: {}", end.stderr);
    }
    let end = Setup::new().env("LOCAL", "perhaps").run(&["serve"]);
    assert!(end.code == Some(2) && end.stderr.contains("LOCAL is \"perhaps\", but must be 1 or 0"), "{end:?}");
}

#[test]
fn every_command_has_help_of_its_own() {
    for (command, option) in [("setup", "--print"), ("doctor", "--as-service"), ("clean", "--all"), ("selftest", "URL")]
    {
        let end = Setup::new().run(&[command, "--help"]);
        assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""), "{end:?}");
        assert!(end.stdout.contains(&format!("Usage: img-classification {command}")), "{}", end.stdout);
        assert!(end.stdout.contains(option) && !end.stdout.contains("--posts-per-minute"), "{}", end.stdout);
    }
}

fn list(kind: &str, items: &[Value]) -> Answer {
    Reply::json(200, &json!({"kind": kind, "apiVersion": "v1", "metadata": {}, "items": items})).into()
}

fn named(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "free-service"}})
}

#[test]
fn clean_that_cannot_finish_says_what_is_left() {
    let api = ApiServer::start();
    let (jobs, pod) = ([named("free-mnist-a")], named("free-mnist-a-x"));
    let mut pod = [pod];
    pod[0]["metadata"]["ownerReferences"] = json!([{"kind": "Job", "name": "free-mnist-a"}]);
    api.script(move |request| match (request.method.as_str(), request.path().rsplit('/').next().unwrap()) {
        ("GET", "jobs") if request.path().contains("free-service") => list("JobList", &jobs),
        ("GET", "jobs") => list("JobList", &[]),
        ("GET", "pods") if request.path().contains("free-service") => list("PodList", &pod),
        ("GET", "pods") => list("PodList", &[]),
        ("GET", "resourcequotas") => list("ResourceQuotaList", &[]),
        _ => Reply::json(200, &json!({"kind": "Status", "status": "Success"})).into(),
    });
    let end = run(&api, &["clean", "--timeout", "1"]);
    assert_eq!((end.code, end.stderr.as_str()), (Some(1), ""), "{end:?}");
    let lines: Vec<&str> = end.stdout.lines().collect();
    assert_eq!(lines[..2], ["ok free-service: deleted job free-mnist-a", "ok default: no Jobs to delete"]);
    assert_eq!(
        lines.last(),
        Some(
            &"FAIL free-service: still there when the time was up: pod free-mnist-a-x; \
               to do: kubectl describe jobs,pods,resourcequotas -n free-service"
        )
    );
}

#[test]
fn clean_is_not_ready_while_a_finalizer_keeps_a_job() {
    let api = ApiServer::start();
    let mut job = named("free-mnist-a");
    api.script(move |request| match (request.method.as_str(), request.path().rsplit('/').next().unwrap()) {
        ("GET", "jobs") if request.path().contains("free-service") => list("JobList", &[job.clone()]),
        ("DELETE", _) => {
            job["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            Reply::json(200, &job).into()
        }
        _ => list("List", &[]),
    });
    let end = run(&api, &["clean", "--timeout", "1"]);
    assert_eq!((end.code, end.stderr.as_str()), (Some(1), ""), "{end:?}");
    let last = "FAIL free-service: still there when the time was up: job free-mnist-a, which finalizers keep; \
                to do: kubectl describe jobs,pods,resourcequotas -n free-service";
    assert_eq!(end.stdout.lines().last(), Some(last));
}

/// Answers as a cluster that has one object, and does what is asked with any.
fn with_object(path: &'static str, object: Value) -> ApiServer {
    let api = ApiServer::start();
    let mut stored = Some(object);
    api.script(move |request| match request.method.as_str() {
        "GET" if request.path() == path && stored.is_some() => Reply::json(200, stored.as_ref().unwrap()).into(),
        "GET" => Reply::failure(404, "NotFound", "not found").into(),
        "DELETE" => {
            stored = None;
            Reply::json(200, &json!({"kind": "Status", "status": "Success"})).into()
        }
        _ => Reply::json(200, &request.json()).into(),
    });
    api
}

#[test]
fn setup_replaces_a_quota_whose_scopes_leave_our_pods_out() {
    let path = "/api/v1/namespaces/free-service/resourcequotas/free-cpu";
    let hard = json!({"requests.cpu": "2", "limits.cpu": "2"});
    let selector = json!({"matchExpressions": [{"scopeName": "Terminating", "operator": "Exists"}]});
    for scoped in [json!({"hard": hard, "scopes": ["Terminating"]}), json!({"hard": hard, "scopeSelector": selector})] {
        let api = with_object(path, json!({"metadata": {"name": "free-cpu"}, "spec": scoped}));
        let end = run(&api, &["setup"]);
        assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""), "{end:?}");
        let line = "ok resourcequota free-service/free-cpu: replaced: it was for pods of some scopes only";
        assert!(end.stdout.lines().any(|said| said == line), "no {line:?} in\n{}", end.stdout);
        let methods: Vec<String> = api
            .requests()
            .iter()
            .filter(|request| request.path() == path)
            .map(|request| request.method.clone())
            .collect();
        assert_eq!(methods, ["GET", "DELETE", "PATCH"]);
    }
}

#[test]
fn clean_asks_for_every_page_and_takes_what_is_gone_as_done() {
    let api = ApiServer::start();
    let mut left: HashMap<String, Value> = ["a", "b"].iter().map(|name| ((*name).to_owned(), named(name))).collect();
    api.script(move |request| {
        let last = request.path().rsplit('/').next().unwrap().to_owned();
        match (request.method.as_str(), last.as_str()) {
            ("GET", "jobs") if request.path().contains("free-service") => {
                let second = request.query("continue").is_some();
                let name = if second { "b" } else { "a" };
                let next = if second || left.is_empty() { "" } else { "t/2" };
                let items: Vec<&Value> = left.get(name).into_iter().collect();
                Reply::json(200, &json!({"kind": "JobList", "metadata": {"continue": next}, "items": items})).into()
            }
            // Somebody else was quicker.
            ("DELETE", "a") => {
                left.remove("a");
                Reply::failure(404, "NotFound", "jobs.batch \"a\" not found").into()
            }
            ("DELETE", name) => {
                left.remove(name);
                Reply::json(200, &json!({"kind": "Status", "status": "Success"})).into()
            }
            (_, "resourcequotas") => list("ResourceQuotaList", &[]),
            _ => list("List", &[]),
        }
    });
    let end = run(&api, &["clean"]);
    assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""), "{end:?}");
    let (a, b) = ("ok free-service: deleted job a\n", "ok free-service: deleted job b\n");
    assert!(end.stdout.contains(a) && end.stdout.contains(b) && end.stdout.ends_with("ready\n"), "{}", end.stdout);
    let pages = api.requests().iter().filter(|request| request.query("continue") == Some("t%2F2")).count();
    assert!(pages >= 1, "the second page was asked for, its token escaped");
    for request in api.requests().iter().filter(|request| request.method == "DELETE") {
        assert_eq!(request.json()["propagationPolicy"], "Background");
    }
}

/// An implementation of the contract that does all at once.
#[derive(Default)]
struct Fake {
    pods: Vec<Value>,
    posts: usize,
}

impl Fake {
    fn answer(&mut self, request: &Request) -> Reply {
        if request.method == "GET" {
            return Reply::json(200, &json!({ "pods": self.pods }));
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
        Reply::json(200, &json!({ "job": name }))
    }
}

fn pod(node: &str, namespace: &str, name: &str) -> Value {
    json!({"node": node, "ip": "10.0.0.1", "namespace": namespace, "name": name, "status": "Running"})
}

/// selftest against the fake, of which `change` spoils answers.
fn selftest(change: impl Fn(&Request, usize, Value) -> Answer + Send + 'static) -> Finished {
    let plain = ApiServer::listen(&Listen { identity: None, ..Listen::default() });
    let mut fake = Fake::default();
    plain.script(move |request| {
        let honest = fake.answer(request);
        change(request, fake.posts, honest.body_json())
    });
    Setup::new().run(&["selftest", &plain.url()])
}

fn good(answer: &Value) -> Answer {
    Reply::json(200, answer).into()
}

#[test]
fn selftest_needs_the_contract_only() {
    let end = selftest(|_, _, answer| good(&answer));
    assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""), "{end:?}");
    assert!(end.stdout.lines().last().unwrap().starts_with("passed in "), "{}", end.stdout);
    // Not every implementation names its Jobs.
    let end = selftest(|request, _, answer| if request.method == "POST" { good(&json!({})) } else { good(&answer) });
    assert_eq!(end.code, Some(0), "{end:?}");
}

type Change = Box<dyn Fn(&Request, usize, Value) -> Answer + Send>;

#[test]
fn selftest_finds_each_fault_of_a_server() {
    fn lists(change: impl Fn(usize, &mut Value) + Send + 'static) -> Change {
        Box::new(move |request, posts, mut answer| {
            if request.method == "GET" {
                change(posts, &mut answer);
            }
            good(&answer)
        })
    }
    fn posts(change: impl Fn(&str, usize) -> Option<Reply> + Send + 'static) -> Change {
        Box::new(move |request, posts, answer| {
            let changed = if request.method == "POST" { change(request.path(), posts) } else { None };
            changed.map_or_else(|| good(&answer), Answer::from)
        })
    }
    let premium = |path: &str| path.ends_with("/premium");
    let cases: Vec<(&str, Change)> = vec![
        (
            "FAIL 3 x POST free: POST /img-classification/free was answered with 500: oh",
            posts(|path, _| path.ends_with("free").then(|| Reply::new(500, "text/plain", "oh"))),
        ),
        (
            "FAIL 1 x POST premium: POST /img-classification/premium was answered with 503",
            posts(move |path, count| {
                (premium(path) && count == 7).then(|| Reply::json(503, &json!({"error": "later"})))
            }),
        ),
        (
            "FAIL 3 x POST premium: two requests made the Job same",
            posts(move |path, _| premium(path).then(|| Reply::json(200, &json!({"job": "same"})))),
        ),
        ("FAIL GET /config: GET /config gave no JSON", Box::new(|_, _, _| Reply::html(200).into())),
        ("FAIL GET /config: GET /config gave another list of pods", lists(|_, answer| *answer = json!([]))),
        (
            "FAIL free pods: GET /config gave another list of pods: missing field `ip`",
            lists(|_, answer| {
                for pod in answer["pods"].as_array_mut().unwrap() {
                    pod.as_object_mut().unwrap().remove("ip");
                }
            }),
        ),
        (
            "FAIL free pods: GET /config has the pod free-service/job-1-x twice",
            lists(|count, answer| {
                if count > 0 {
                    let first = answer["pods"][0].clone();
                    answer["pods"].as_array_mut().unwrap().push(first);
                }
            }),
        ),
        (
            "FAIL free pods: 3 free pods live at a time",
            lists(|count, answer| {
                if count > 0 {
                    answer["pods"].as_array_mut().unwrap().push(pod("node-1", "free-service", "one-more"));
                }
            }),
        ),
        (
            "FAIL premium pods: 3 new pods in default in place of 4, after 5.00 s",
            lists(|_, answer| {
                answer["pods"].as_array_mut().unwrap().retain(|pod| pod["name"] != "job-7-x");
            }),
        ),
        (
            "FAIL nodes: pods on 1 nodes in place of 2",
            lists(|_, answer| {
                for pod in answer["pods"].as_array_mut().unwrap() {
                    pod["node"] = json!("node-1");
                }
            }),
        ),
        ("FAIL GET /config: GET http://127.0.0.1", Box::new(|_, _, _| Answer::Close)),
    ];
    std::thread::scope(|scope| {
        for (line, change) in cases {
            scope.spawn(move || {
                let end = selftest(change);
                assert_eq!((end.code, end.stderr.as_str()), (Some(1), ""), "{line}: {end:?}");
                let found = end.stdout.lines().find(|said| said.starts_with(line));
                assert!(found.is_some_and(|said| said.contains("; to do: ")), "no {line:?} in\n{}", end.stdout);
                assert!(end.stdout.lines().last().unwrap().starts_with("failed: "), "{}", end.stdout);
            });
        }
    });
}

#[test]
fn selftest_says_of_an_address_what_is_wrong_with_it() {
    for (url, words) in [
        ("127.0.0.1:9", "GET http://127.0.0.1:9/config: Connection refused"),
        ("nowhere.invalid:5000/", "GET http://nowhere.invalid:5000/config: "),
    ] {
        let end = Setup::new().run(&["selftest", url]);
        assert_eq!(end.code, Some(1), "{end:?}");
        assert!(end.stdout.starts_with("FAIL GET /config: ") && end.stdout.contains(words), "{url}: {}", end.stdout);
    }
    for url in [
        "https://127.0.0.1:9",
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
fn selftest_warns_of_pods_that_a_grader_would_count() {
    let end = selftest(|request, _, mut answer| {
        if request.method == "GET" {
            answer["pods"].as_array_mut().unwrap().insert(0, pod("node-1", "default", "old"));
        }
        good(&answer)
    });
    assert_eq!(end.code, Some(0), "{end:?}");
    let warning = "warning pods: 1 pods are in free-service and default already; an autograder counts them, too; \
                   to do: img-classification clean, or --clean-first";
    assert_eq!(end.stdout.lines().next(), Some(warning));
}

#[test]
fn selftest_brings_the_token_that_premium_wants() {
    let setup = Setup::local();
    let token = setup.file("token", "let-me-in\n");
    let server = setup.args(&["--premium-token-file", token.to_str().unwrap()]).start();
    let url = format!("http://{}", server.address());
    let end = Setup::new().run(&["selftest", &url]);
    assert!(end.code == Some(1) && end.stdout.contains("was answered with 401"), "{end:?}");
    let end = Setup::new().args(&["--premium-token-file", token.to_str().unwrap()]).run(&["selftest", &url]);
    // The first try has left free pods, of which two live at a time.
    assert!(!end.stdout.contains("401") && end.stdout.contains("ok 3 x POST premium: 3 times 200"), "{end:?}");
    assert!(!format!("{end:?}").contains("let-me-in"), "{end:?}");
}

#[test]
fn a_command_that_is_interrupted_takes_its_credential_plugin_along() {
    let api = ApiServer::start();
    for signal in crate::support::ending_signals() {
        for args in [&["doctor"][..], &["setup"], &["clean"]] {
            let folder = tempfile::TempDir::new().unwrap();
            // Two processes: the plugin, and what it waits for.
            let plugin = Plugin::write(folder.path(), "plugin", "sleep 600 & echo $! >>\"$HERE/plugin.pids\"\nwait");
            let kubeconfig = folder.path().join("kubeconfig");
            std::fs::write(&kubeconfig, Kubeconfig::new(&api.url()).user(plugin.user()).yaml()).unwrap();
            let mut command = Command::new(env!("CARGO_BIN_EXE_img-classification"));
            command.args(args).arg("--kubeconfig").arg(&kubeconfig).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = crate::support::spawn(&mut command);
            eventually("the plugin runs", || plugin.pids().len() == 2);
            kill_process(Pid::from_child(&child), signal).unwrap();
            assert_eq!(child.wait().unwrap().signal(), Some(signal.as_raw()), "{args:?}");
            eventually("the plugin has ended", || !plugin.pids().into_iter().any(is_alive));
        }
    }
    let folder = tempfile::TempDir::new().unwrap();
    let plugin = Plugin::write(folder.path(), "slow", "sleep 600 & echo $! >>\"$HERE/slow.pids\"\nwait");
    let end = Setup::new()
        .kubeconfig(Kubeconfig::new(&api.url()).user(plugin.user()).yaml())
        .args(&["--kube-timeout", "1"])
        .run(&["setup"]);
    assert_eq!(end.code, Some(1), "{end:?}");
    eventually("what gave up takes it along, too", || !plugin.pids().into_iter().any(is_alive));
}

#[test]
fn a_command_that_nohup_started_outlives_its_terminal() {
    let api = ApiServer::start();
    api.always(Answer::Never);
    let folder = tempfile::TempDir::new().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, Kubeconfig::new(&api.url()).yaml()).unwrap();
    let mut command = Command::new("nohup");
    command.arg(env!("CARGO_BIN_EXE_img-classification")).args(["setup", "--kube-timeout", "1", "--kubeconfig"]);
    let mut child = crate::support::spawn(command.arg(&kubeconfig).stdout(Stdio::null()).stderr(Stdio::null()));
    api.wait_for_requests(1);
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    // It says that nobody answered.
    assert_eq!(child.wait().unwrap().code(), Some(1));
}
