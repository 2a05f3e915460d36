//! The same binary against a real Kubernetes: what no scripted server can show.
//!
//! `tests/cluster/run` starts a cluster on this machine and runs this; with TEST_KUBECONFIG it runs against any cluster
//! whose nodes have the images of TEST_CLASSIFIER (`:short` ends after 5 s, `:long` runs until it is killed). Where they
//! have the image of Dockerfile.classifier, too, TEST_REAL_CLASSIFIER is its name; where they have that of k8s/server.yaml and
//! pods can be reached from here, TEST_SERVER_IMAGE says so.
//! The tests share one cluster and run one after another; each begins with an empty one.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "every test crate uses another part of it")]
mod support;

mod commands;
mod in_cluster;
mod queue;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::http::Response;
use support::server::{Server, Setup};

/// The Job controller tries a pod that the quota refused again after at most a minute.
const QUOTA_BACKOFF: Duration = Duration::from_secs(120);

/// Anything else that a cluster does.
const SOON: Duration = Duration::from_secs(60);

/// Between two looks at a cluster.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A training with the little data of tests/cluster/images/real, on two nodes that share two cores with everything else.
const TRAINING: Duration = Duration::from_secs(180);

const FREE: &str = "free-service";
const PREMIUM: &str = "default";

/// The account of k8s/rbac.yaml.
const ACCOUNT: &str = "system:serviceaccount:default:img-classification";

fn kubeconfig() -> PathBuf {
    let path = std::env::var_os("TEST_KUBECONFIG");
    path.expect("TEST_KUBECONFIG names no cluster; use tests/cluster/run, which starts one").into()
}

/// The folder of the cluster that tests/cluster/up started; none for somebody else's cluster.
fn own_cluster() -> Option<PathBuf> {
    let state = std::env::var_os("TEST_CLUSTER_STATE").map(PathBuf::from);
    if state.is_none() {
        println!("skipped: it needs the keys and the API server's process of a cluster of tests/cluster/up");
    }
    state
}

fn image(tag: &str) -> String {
    let name = std::env::var("TEST_CLASSIFIER").unwrap_or_else(|_| "registry.local/classifier".to_owned());
    format!("{name}:{tag}")
}

fn kubectl(args: &[&str]) -> Output {
    Command::new("kubectl").arg("--kubeconfig").arg(kubeconfig()).args(args).output().unwrap()
}

/// The output of a kubectl that must succeed.
fn kubectl_ok(args: &[&str]) -> String {
    let output = kubectl(args);
    assert!(output.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn items(args: &[&str]) -> Vec<Value> {
    let text = kubectl_ok(&[args, &["-o", "json"]].concat());
    serde_json::from_str::<Value>(&text).unwrap()["items"].as_array().unwrap().clone()
}

fn pods(namespace: &str) -> Vec<Value> {
    items(&["get", "pods", "-n", namespace])
}

fn jobs(namespace: &str) -> Vec<Value> {
    items(&["get", "jobs", "-n", namespace])
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn names(objects: &[Value]) -> BTreeSet<String> {
    objects.iter().map(|object| text(object, "/metadata/name").to_owned()).collect()
}

/// The Jobs whose pods these are.
fn owners(pods: &[Value]) -> BTreeSet<String> {
    pods.iter().map(|pod| text(pod, "/metadata/labels/job-name").to_owned()).collect()
}

fn in_phase(pods: &[Value], phase: &str) -> usize {
    pods.iter().filter(|pod| text(pod, "/status/phase") == phase).count()
}

/// Looks again and again until there is something to return.
fn within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        thread::park_timeout(LOOK_AGAIN);
    }
}

/// Runs kubectl with a file of this content behind its last argument.
fn kubectl_file(args: &[&str], content: &Value) -> String {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("file.json");
    std::fs::write(&file, content.to_string()).unwrap();
    kubectl_ok(&[args, &[file.to_str().unwrap()]].concat())
}

/// Creates an object from a manifest. (`kubectl create job` and the like speak protocol buffers since 1.32, which the
/// embedded cluster does not.)
fn create(object: &Value) {
    kubectl_file(&["create", "-f"], object);
}

/// The manifests of the repository, as README tells people to apply them.
fn manifest(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("k8s").join(name).display().to_string()
}

/// A cluster with our manifests and without Jobs or pods.
fn empty_cluster() {
    for name in ["namespace.yaml", "quota.yaml", "quota-premium.yaml", "rbac.yaml"] {
        kubectl_ok(&["apply", "-f", &manifest(name)]);
    }
    for namespace in [FREE, PREMIUM] {
        kubectl_ok(&["delete", "jobs,pods", "--all", "--wait=false", "-n", namespace]);
    }
    for namespace in [FREE, PREMIUM] {
        within(QUOTA_BACKOFF, "an empty namespace", || {
            (jobs(namespace).is_empty() && pods(namespace).is_empty()).then_some(())
        });
        within(SOON, "a quota of which nothing is used", || {
            let used = items(&["get", "resourcequotas", "-n", namespace]);
            let unused = |quota: &Value| {
                let used = quota.pointer("/status/used").and_then(Value::as_object);
                used.is_some_and(|used| used.values().all(|amount| amount == "0"))
            };
            used.iter().all(unused).then_some(())
        });
    }
}

/// The server, as the kubeconfig's own user, with an image of that tag.
fn server(tag: &str) -> Server {
    server_with(&kubeconfig(), tag)
}

fn server_with(kubeconfig: &Path, tag: &str) -> Server {
    Setup::new().args(&["--kubeconfig", kubeconfig.to_str().unwrap(), "--image", &image(tag)]).start()
}

fn post(server: &Server, tier: &str, dataset: &str) -> Response {
    server.post(&format!("/img-classification/{tier}"), json!({ "dataset": dataset }).to_string())
}

/// Posts and returns the Job's name.
fn post_ok(server: &Server, tier: &str, dataset: &str) -> String {
    let answer = post(server, tier, dataset);
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), server.stderr());
    answer.json()["job"].as_str().unwrap().to_owned()
}

/// All pods as GET /config has them: name and the five fields.
fn config(server: &Server) -> BTreeMap<String, Value> {
    pods_of(&server.get("/config"))
}

fn pods_of(answer: &Response) -> BTreeMap<String, Value> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let pods = answer.json()["pods"].as_array().unwrap().clone();
    pods.into_iter().map(|pod| (format!("{}/{}", text(&pod, "/namespace"), text(&pod, "/name")), pod)).collect()
}

/// The same from kubectl.
fn expected_config() -> BTreeMap<String, Value> {
    let field = |pod: &Value, pointer: &str| pod.pointer(pointer).cloned().unwrap_or(Value::Null);
    let row = |pod: &Value| {
        json!({
            "node": field(pod, "/spec/nodeName"),
            "ip": field(pod, "/status/podIP"),
            "namespace": field(pod, "/metadata/namespace"),
            "name": field(pod, "/metadata/name"),
            "status": field(pod, "/status/phase"),
        })
    };
    let pods = items(&["get", "pods", "-A"]);
    pods.iter()
        .map(|pod| (format!("{}/{}", text(pod, "/metadata/namespace"), text(pod, "/metadata/name")), row(pod)))
        .collect()
}

#[test]
fn a_posted_job_runs_its_dataset_and_network_under_its_cpu_limit_to_the_end() {
    empty_cluster();
    let server = server("short");
    for (tier, dataset, namespace, network) in [("free", "mnist", FREE, "ff"), ("premium", "kmnist", PREMIUM, "cnn")] {
        let job = post_ok(&server, tier, dataset);
        within(SOON, "the Job's success", || {
            let text = kubectl_ok(&["get", "job", &job, "-n", namespace, "-o", "jsonpath={.status.succeeded}"]);
            (text == "1").then_some(())
        });
        let log = kubectl_ok(&["logs", &format!("job/{job}"), "-n", namespace]);
        for line in [format!("dataset: {dataset}"), format!("type: {network}"), "cpu limit: 0.9".to_owned()] {
            assert!(log.lines().any(|found| found == line), "no {line:?} in\n{log}");
        }
        assert!(log.lines().last().unwrap().starts_with("Accuracy of the network"), "{log}");
        let pods = pods(namespace);
        let pod = pods.iter().find(|pod| text(pod, "/metadata/labels/job-name") == job).unwrap();
        assert_eq!(text(pod, "/status/phase"), "Succeeded");
        assert_eq!(text(pod, "/spec/containers/0/resources/limits/cpu"), "900m");
        assert_eq!(text(pod, "/spec/containers/0/resources/requests/cpu"), "900m");
        assert_eq!(pod.pointer("/spec/volumes").and_then(Value::as_array).map_or(0, Vec::len), 0, "a token is mounted");
    }
}

/// The image that Dockerfile.classifier makes.
fn real_image() -> Option<String> {
    let image = std::env::var("TEST_REAL_CLASSIFIER").ok();
    if image.is_none() {
        println!("skipped: TEST_REAL_CLASSIFIER names no image of Dockerfile.classifier that the nodes have");
    }
    image
}

/// What the real classifier prints from its first line to its last, with an accuracy that only learning gives.
fn assert_trained(log: &str, dataset: &str, network: &str) {
    let lines: Vec<&str> = log.lines().collect();
    let first = [format!("dataset: {dataset}"), format!("type: {network}"), "cpu limit: 0.9".to_owned()];
    assert!(lines.len() > 3 && lines[..3] == first, "{log}");
    let (last, epochs) = lines[3..].split_last().unwrap();
    for epoch in 1..=5 {
        let beginning = format!("Epoch [{epoch}/5], Step [");
        assert!(epochs.iter().any(|line| line.starts_with(&beginning) && line.contains("], Loss: ")), "{log}");
    }
    assert!(epochs.iter().all(|line| line.starts_with("Epoch [")), "{log}");
    let number = last.strip_prefix("Accuracy of the network on the 10K test images: ");
    let number = number.and_then(|rest| rest.strip_suffix(" %")).and_then(|number| number.parse::<u8>().ok());
    let percent = number.unwrap_or_else(|| panic!("{log}"));
    assert!((50..=100).contains(&percent), "ten classes are 10 % by chance: {log}");
}

#[test]
fn the_real_classifier_trains_in_each_tier_and_its_log_ends_in_its_accuracy() {
    let Some(image) = real_image() else { return };
    empty_cluster();
    let server = Setup::new().args(&["--kubeconfig", kubeconfig().to_str().unwrap(), "--image", &image]).start();
    let tiers = [("free", "mnist", FREE, "ff"), ("premium", "kmnist", PREMIUM, "cnn")];
    let posted = tiers.map(|(tier, dataset, namespace, network)| {
        let begin = Instant::now();
        (post_ok(&server, tier, dataset), begin, dataset, namespace, network)
    });
    for (job, begin, dataset, namespace, network) in posted {
        let selector = format!("job-name={job}");
        let pod = within(TRAINING, "the end of the Job's pod", || {
            let pods = items(&["get", "pods", "-n", namespace, "-l", &selector]);
            pods.into_iter().find(|pod| ["Succeeded", "Failed"].contains(&text(pod, "/status/phase")))
        });
        let log = kubectl_ok(&["logs", &format!("job/{job}"), "-n", namespace]);
        assert_eq!(text(&pod, "/status/phase"), "Succeeded", "{pod:#}\n{log}");
        assert_trained(&log, dataset, network);
        println!("{job}: {:?} from the POST to the end", begin.elapsed());
    }
}

#[test]
fn the_real_classifier_needs_neither_root_nor_a_file_to_write() {
    let Some(image) = real_image() else { return };
    empty_cluster();
    for (dataset, network) in [("mnist", "cnn"), ("kmnist", "ff")] {
        let name = format!("strict-{dataset}-{network}");
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": PREMIUM},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "containers": [{
                    "name": "classifier", "image": image, "imagePullPolicy": "IfNotPresent",
                    "env": [{"name": "DATASET", "value": dataset}, {"name": "TYPE", "value": network}],
                    "resources": {"limits": {"cpu": "900m"}},
                    "securityContext": {
                        "runAsNonRoot": true, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }],
            },
        });
        let home = tempfile::TempDir::new().unwrap();
        let file = home.path().join("pod.json");
        std::fs::write(&file, pod.to_string()).unwrap();
        kubectl_ok(&["create", "-f", file.to_str().unwrap()]);
        let phase = within(TRAINING, "the pod's end", || {
            let phase = kubectl_ok(&["get", "pod", &name, "-n", PREMIUM, "-o", "jsonpath={.status.phase}"]);
            ["Succeeded", "Failed"].contains(&phase.as_str()).then_some(phase)
        });
        let log = kubectl_ok(&["logs", &name, "-n", PREMIUM]);
        assert_eq!(phase, "Succeeded", "{log}");
        assert_trained(&log, dataset, network);
    }
}

#[test]
fn of_four_free_jobs_two_run_and_the_others_follow_when_one_goes() {
    empty_cluster();
    let server = server("long");
    let posted: BTreeSet<String> = (0..4).map(|_| post_ok(&server, "free", "mnist")).collect();
    assert_eq!(names(&jobs(FREE)), posted, "four Jobs");
    // The controller has said of the other two that the quota refuses them.
    let refused = within(SOON, "two Jobs that the quota refuses", || {
        let events = items(&["get", "events", "-n", FREE]);
        let over = events.iter().filter(|event| text(event, "/message").contains("exceeded quota: free-cpu"));
        let refused: BTreeSet<_> = over.map(|event| text(event, "/involvedObject/name").to_owned()).collect();
        let ours: BTreeSet<_> = refused.intersection(&posted).cloned().collect();
        (ours.len() == 2).then_some(ours)
    });
    let running = within(SOON, "two running pods", || Some(pods(FREE)).filter(|pods| in_phase(pods, "Running") == 2));
    assert_eq!(running.len(), 2, "exactly two pods");
    assert!(owners(&running).is_disjoint(&refused));

    let first = owners(&running).pop_first().unwrap();
    kubectl_ok(&["delete", "job", &first, "-n", FREE]);
    let running = within(QUOTA_BACKOFF, "the third Job's pod", || {
        let pods = pods(FREE);
        (in_phase(&pods, "Running") == 2 && !owners(&pods).contains(&first)).then_some(pods)
    });
    assert!(!owners(&running).is_disjoint(&refused), "one of those that waited");
}

#[test]
fn free_jobs_that_end_make_room_for_those_that_wait() {
    empty_cluster();
    let server = server("short");
    let posted: BTreeSet<String> = (0..3).map(|_| post_ok(&server, "free", "kmnist")).collect();
    within(QUOTA_BACKOFF, "three successes", || {
        let pods = pods(FREE);
        let live = pods.len() - in_phase(&pods, "Succeeded") - in_phase(&pods, "Failed");
        assert!(live <= 2, "{live} pods at a time");
        (in_phase(&pods, "Succeeded") == 3 && owners(&pods) == posted).then_some(())
    });
}

#[test]
fn four_premium_jobs_have_four_pods_and_config_agrees_with_kubectl() {
    empty_cluster();
    let server = server("long");
    let posted: BTreeSet<String> = (0..4).map(|_| post_ok(&server, "premium", "mnist")).collect();
    let running =
        within(SOON, "four running pods", || Some(pods(PREMIUM)).filter(|pods| in_phase(pods, "Running") == 4));
    assert_eq!(owners(&running), posted);
    // One that can never be scheduled, so that it has neither node nor IP.
    let lonely = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lonely", "namespace": FREE},
        "spec": {
            "nodeSelector": {"no-node": "has-this"},
            "containers": [{"name": "c", "image": image("long"), "resources": {"requests": {"cpu": "1m"}, "limits": {"cpu": "1m"}}}],
        },
    });
    create(&lonely);

    let seen = within(SOON, "/config as kubectl has it", || {
        let expected = expected_config();
        Some(config(&server)).filter(|seen| *seen == expected)
    });
    for pod in names(&running) {
        let row = &seen[&format!("{PREMIUM}/{pod}")];
        assert!(row["node"].is_string() && row["ip"].is_string(), "{row}");
    }
    let row = &seen[&format!("{FREE}/lonely")];
    assert_eq!((&row["node"], &row["ip"], &row["status"]), (&Value::Null, &Value::Null, &json!("Pending")));
}

#[test]
fn a_job_that_is_over_goes_when_its_time_to_live_is() {
    empty_cluster();
    let setup = Setup::new().args(&["--kubeconfig", kubeconfig().to_str().unwrap(), "--image", &image("fails")]);
    let server = setup.args(&["--job-ttl", "1"]).start();
    let job = post_ok(&server, "premium", "mnist");
    within(SOON, "the failure of the Job's one pod", || {
        let output = kubectl(&["get", "job", &job, "-n", PREMIUM]);
        (!output.status.success()).then_some(())
    });
    assert_eq!(names(&jobs(PREMIUM)), BTreeSet::new());
}

#[test]
fn the_manifests_create_the_same_jobs_by_kubectl_alone() {
    empty_cluster();
    // A kubectl older than 1.26 does not know podFailurePolicy.
    for (file, namespace, network) in [("free-job.yaml", FREE, "ff"), ("premium-job.yaml", PREMIUM, "cnn")] {
        let created = kubectl_ok(&["create", "--validate=false", "-f", &manifest(file), "-o", "json"]);
        let created: Value = serde_json::from_str(&created).unwrap();
        assert_eq!(text(&created, "/metadata/namespace"), namespace);
        let env = created.pointer("/spec/template/spec/containers/0/env").and_then(Value::as_array).unwrap();
        assert!(env.contains(&json!({"name": "TYPE", "value": network})), "{env:?}");
    }
}

/// A kubeconfig for the cluster with another user.
fn kubeconfig_of(home: &Path, user: &Value) -> PathBuf {
    let view = kubectl_ok(&["config", "view", "--raw", "--minify", "--flatten", "-o", "json"]);
    let mut config: Value = serde_json::from_str(&view).unwrap();
    config["users"][0]["user"] = user.clone();
    let path = home.join("kubeconfig-of-another-user");
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

/// A token of the service account, from the same call for every Kubernetes: `kubectl create token` is newer than 1.20.
fn account_token() -> String {
    let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
    let path = "/api/v1/namespaces/default/serviceaccounts/img-classification/token";
    let made = kubectl_file(&["create", "--raw", path, "-f"], &request);
    let made: Value = serde_json::from_str(&made).unwrap();
    text(&made, "/status/token").to_owned()
}

#[test]
fn the_role_is_enough_and_nothing_more() {
    empty_cluster();
    let home = tempfile::TempDir::new().unwrap();
    let token = account_token();
    let path = kubeconfig_of(home.path(), &json!({ "token": token }));
    let server = server_with(&path, "long");
    assert_eq!(server.get("/readyz").status, 200, "{}", server.stderr());
    post_ok(&server, "free", "mnist");
    post_ok(&server, "premium", "mnist");
    within(SOON, "/config as the administrator has it", || (config(&server) == expected_config()).then_some(()));

    let as_account = |args: &[&str]| {
        let output = Command::new("kubectl").arg("--kubeconfig").arg(&path).args(args).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for args in [
        &["get", "secrets", "-n", "default"][..],
        &["get", "jobs", "-n", PREMIUM],
        &["delete", "jobs", "--all", "-n", FREE],
        &["delete", "pods", "--all", "-n", FREE],
        &["get", "nodes"],
    ] {
        let (done, said) = as_account(args);
        assert!(!done && said.contains("orbidden"), "kubectl {args:?} as the account: {said}");
    }
    for (verb, resource, namespace, allowed) in [
        ("create", "jobs", FREE, true),
        ("create", "jobs", PREMIUM, true),
        ("list", "pods", "kube-system", true),
        ("create", "jobs", "kube-system", false),
        ("delete", "jobs", FREE, false),
        ("get", "jobs", FREE, false),
        ("watch", "jobs", FREE, true),
        ("patch", "jobs", FREE, true),
        ("watch", "resourcequotas", FREE, true),
        ("patch", "resourcequotas", FREE, false),
        ("update", "jobs", FREE, false),
        ("watch", "jobs", PREMIUM, false),
        ("patch", "jobs", PREMIUM, false),
        ("create", "pods", FREE, false),
        ("delete", "pods", PREMIUM, false),
        ("watch", "pods", FREE, false),
        ("get", "pods", FREE, false),
        ("get", "secrets", "default", false),
    ] {
        let answer = kubectl(&["auth", "can-i", verb, resource, "-n", namespace, "--as", ACCOUNT]);
        let said = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
        assert_eq!(said == "yes", allowed, "{verb} {resource} in {namespace}: {said}");
    }
}

#[test]
fn without_the_role_each_answer_names_the_fix() {
    empty_cluster();
    let home = tempfile::TempDir::new().unwrap();
    let view = kubectl_ok(&["config", "view", "--raw", "--minify", "--flatten", "-o", "json"]);
    let config: Value = serde_json::from_str(&view).unwrap();
    let mut user = config["users"][0]["user"].clone();
    user["as"] = json!("nobody");
    let path = kubeconfig_of(home.path(), &user);
    let server = server_with(&path, "long");
    for answer in [post(&server, "free", "mnist"), server.get("/config")] {
        assert_eq!(answer.status, 502);
        assert!(answer.error().contains("k8s/rbac.yaml"), "{}", answer.text());
    }
    assert_eq!(server.get("/readyz").status, 503);
    server.wait_for_log("with Kubernetes' own words", |line| line.contains("User \"nobody\" cannot create resource"));
    assert_eq!(names(&jobs(FREE)), BTreeSet::new());
}

#[test]
fn a_full_queue_is_429() {
    empty_cluster();
    let server = server("long");
    kubectl_ok(&[
        "patch",
        "resourcequota",
        "free-jobs",
        "-n",
        FREE,
        "-p",
        r#"{"spec":{"hard":{"count/jobs.batch":"3"}}}"#,
    ]);
    within(SOON, "the quota in force", || {
        let hard = kubectl_ok(&[
            "get",
            "resourcequota",
            "free-jobs",
            "-n",
            FREE,
            "-o",
            "jsonpath={.status.hard.count/jobs\\.batch}",
        ]);
        (hard == "3").then_some(())
    });
    for _ in 0..3 {
        post_ok(&server, "free", "mnist");
    }
    let answer = post(&server, "free", "mnist");
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert!(answer.header("Retry-After").is_some());
    assert_eq!(jobs(FREE).len(), 3);
    post_ok(&server, "premium", "mnist");
}

/// Runs a command that looks after the cluster, as the kubeconfig's own user: its lines, and whether it was content.
fn command(name: &str, args: &[&str]) -> (String, bool) {
    let setup =
        Setup::new().env("AWS_EC2_METADATA_DISABLED", "true").args(&["--kubeconfig", kubeconfig().to_str().unwrap()]);
    let end = setup.args(args).run(&[name]);
    (format!("{}{}", end.stdout, end.stderr), end.code == Some(0))
}

fn doctor() -> (String, bool) {
    command("doctor", &["--listen", "0.0.0.0:0", "--image", &image("short")])
}

#[test]
fn doctor_is_content_with_a_cluster_after_setup_and_changes_nothing() {
    empty_cluster();
    let before = (pods(FREE), pods(PREMIUM), jobs(FREE), jobs(PREMIUM));
    let (said, content) = doctor();
    assert!(content, "{said}");
    for start in [
        "ok API: ",
        "ok permission: ",
        "ok namespace: ",
        "ok quota: ",
        "ok dry run: a free pod",
        "ok dry run: a premium pod",
    ] {
        assert!(said.lines().any(|line| line.starts_with(start)), "no {start:?} in\n{said}");
    }
    assert!(said.contains("2 classifiers of 900m CPU run at a time"), "{said}");
    assert_eq!((pods(FREE), pods(PREMIUM), jobs(FREE), jobs(PREMIUM)), before);
}

#[test]
fn what_doctor_finds_wrong_with_a_quota_setup_repairs() {
    empty_cluster();
    let broken = [
        (r#"{"spec":{"hard":{"requests.cpu":"900m"}}}"#, "requests.cpu 900m: only 1 classifier"),
        (r#"{"spec":{"hard":{"requests.memory":"1Gi"}}}"#, "has requests.memory"),
        (r#"{"spec":{"hard":{"limits.cpu":null}}}"#, "nothing there limits limits.cpu"),
    ];
    for (patch, words) in broken {
        kubectl_ok(&["patch", "resourcequota", "free-cpu", "-n", FREE, "--type", "merge", "-p", patch]);
        let (said, content) = doctor();
        let line =
            said.lines().find(|line| line.starts_with("FAIL quota: ")).unwrap_or_else(|| panic!("{patch}:\n{said}"));
        assert!(line.contains(words) && line.ends_with("; to do: img-classification setup"), "{line}");
        assert!(!content, "{said}");
        let (said, done) = command("setup", &[]);
        assert!(done, "{said}");
        within(SOON, "doctor's content", || doctor().1.then_some(()));
    }
    kubectl_ok(&["delete", "resourcequota", "free-cpu", "-n", FREE]);
    let (said, content) = doctor();
    assert!(!content && said.contains("FAIL quota: no ResourceQuota limits CPU in free-service"), "{said}");
    assert!(command("setup", &[]).1);
    within(SOON, "doctor's content", || doctor().1.then_some(()));
}

#[test]
fn doctor_takes_a_full_quota_for_what_it_is_and_counts_jobs() {
    empty_cluster();
    let server = server("long");
    for _ in 0..3 {
        post_ok(&server, "free", "mnist");
    }
    within(SOON, "two pods", || (pods(FREE).len() == 2).then_some(()));
    let said = within(SOON, "doctor's word on the full quota", || {
        let (said, content) = doctor();
        assert!(content, "{said}");
        said.contains("ok dry run: free-service is in full use").then_some(said)
    });
    assert!(said.contains("warning leftover Jobs: 0 finished, 2 running, 1 waiting in free-service"), "{said}");
}

/// Posts `count` premium Jobs at once; the names of those answered with 200, and the statuses of the others.
fn post_at_once(server: &Server, count: usize, mut meanwhile: impl FnMut(usize)) -> (BTreeSet<String>, Vec<u16>) {
    let (sender, answers) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..count {
            let sender = sender.clone();
            scope.spawn(move || sender.send(post(server, "premium", "mnist")).unwrap());
        }
        drop(sender);
        let (mut named, mut others) = (BTreeSet::new(), Vec::new());
        for (number, answer) in answers.iter().enumerate() {
            match answer.status {
                200 => assert!(named.insert(answer.json()["job"].as_str().unwrap().to_owned()), "a name came twice"),
                status => others.push(status),
            }
            meanwhile(number);
        }
        (named, others)
    })
}

#[test]
fn two_hundred_posts_at_once_make_exactly_two_hundred_jobs() {
    empty_cluster();
    let server = server("long");
    let (named, others) = post_at_once(&server, 200, |_| {});
    assert_eq!((named.len(), others.as_slice()), (200, &[][..]), "{}", server.stderr());
    assert_eq!(names(&jobs(PREMIUM)), named);
}

#[test]
fn an_api_server_killed_and_restarted_in_the_middle_loses_and_doubles_nothing() {
    let Some(state) = own_cluster() else { return };
    empty_cluster();
    let server = server("long");
    let control = |what: &str| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/apiserver");
        assert!(Command::new(script).arg(&state).arg(what).status().unwrap().success(), "apiserver {what}");
    };
    let (named, others) = post_at_once(&server, 200, |number| {
        if number == 40 {
            control("kill");
            control("start");
        }
    });
    within(SOON, "the API server's return", || (server.get("/readyz").status == 200).then_some(()));
    println!("answered 200: {}, with an error: {others:?}", named.len());
    let stored = names(&jobs(PREMIUM));
    assert!(named.len() >= 40, "those before the kill");
    assert!(stored.is_superset(&named), "lost: {:?}", named.difference(&stored));
    // A request that was answered with an error may have left its Job behind, but never two.
    assert!(stored.len() <= named.len() + others.len(), "{} Jobs of 200 requests", stored.len());
    assert!(others.iter().all(|status| [502, 503, 504].contains(status)), "{others:?}");
    post_ok(&server, "premium", "mnist");
}

#[test]
fn a_token_that_expires_is_replaced_without_a_failed_request() {
    let Some(state) = own_cluster() else { return };
    empty_cluster();
    let uid = kubectl_ok(&["get", "serviceaccount", "img-classification", "-o", "jsonpath={.metadata.uid}"]);
    let home = tempfile::TempDir::new().unwrap();
    // Signs tokens as Kubernetes does, of which each is over after a few seconds. One plugin says so; the other says that
    // its tokens last for ever, and only a refusal tells that they do not.
    for (name, expiry) in [("honest", "$(date -u -d @$end +%Y-%m-%dT%H:%M:%SZ)"), ("lying", "2099-01-01T00:00:00Z")] {
        let script = format!(
            r#"#!/bin/sh
echo run >>{runs}
# Kubernetes grants a minute of leeway.
end=$(($(date +%s) + 4)); claim=$((end - 60))
b64() {{ openssl base64 -A | tr '+/' '-_' | tr -d '='; }}
body="$(printf '{{"alg":"RS256","typ":"JWT"}}' | b64).$(printf '{{"iss":"https://kubernetes.default.svc","aud":["https://kubernetes.default.svc"],"iat":%d,"nbf":%d,"exp":%d,"sub":"{ACCOUNT}","kubernetes.io":{{"namespace":"default","serviceaccount":{{"name":"img-classification","uid":"{uid}"}}}}}}' $((claim - 600)) $((claim - 600)) $claim | b64)"
signature=$(printf %s "$body" | openssl dgst -sha256 -sign {key} | b64)
echo '{{"apiVersion":"client.authentication.k8s.io/v1beta1","kind":"ExecCredential","status":{{"token":"'$body.$signature'","expirationTimestamp":"'{expiry}'"}}}}'
"#,
            runs = home.path().join(format!("{name}.runs")).display(),
            key = state.join("pki/sa.key").display(),
        );
        let plugin = home.path().join(name);
        std::fs::write(&plugin, script).unwrap();
        assert!(Command::new("chmod").arg("700").arg(&plugin).status().unwrap().success());
        let exec = json!({"apiVersion": "client.authentication.k8s.io/v1beta1", "command": plugin, "interactiveMode": "Never"});
        let server = server_with(&kubeconfig_of(home.path(), &json!({ "exec": exec })), "long");

        let runs =
            || std::fs::read_to_string(home.path().join(format!("{name}.runs"))).map_or(0, |text| text.lines().count());
        let mut requests = 0;
        // The API server itself remembers a good token for ten seconds.
        within(SOON, "three tokens", || {
            let answer = server.get("/config");
            requests += 1;
            assert_eq!(answer.status, 200, "{name}: {}\n{}", answer.text(), server.stderr());
            (runs() >= 3).then_some(())
        });
        println!("{name}: {requests} requests, {} runs of the plugin", runs());
        assert_eq!(server.get("/config").status, 200, "{}", server.stderr());
    }
}
