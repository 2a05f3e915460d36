//! The free tier's queue with requeueing by the server.

use super::permissions::{account_token, kubeconfig_of};
use super::*;

/// Number of Jobs: two run at once, the others wait.
const POSTED: usize = 6;

/// Far less than the five seconds of a pod.
const LOOK_CLOSELY: Duration = Duration::from_millis(100);

#[test]
fn waiting_free_jobs_start_in_order_when_the_quota_has_room() {
    empty_cluster();
    let (_home, server) = requeueing_server("short", &[]);
    let posted: Vec<String> = (0..POSTED).map(|_| post_ok(&server, "free", "mnist")).collect();
    let queue = within(SOON, "two that run, and the others", || {
        let queue = server.get("/queue").json();
        let count = |key: &str| queue[key].as_array().map_or(0, Vec::len);
        ((count("running"), count("waiting")) == (2, POSTED - 2)).then_some(queue)
    });
    let waiting: Vec<&str> = queue["waiting"].as_array().unwrap().iter().map(|job| text(job, "/job")).collect();
    let running: Vec<&str> = queue["running"].as_array().unwrap().iter().map(|job| text(job, "/job")).collect();
    let in_order: Vec<&String> = posted.iter().filter(|job| !running.contains(&job.as_str())).collect();
    assert_eq!(waiting, in_order, "{queue}");

    let (mut started, mut ended) = (BTreeMap::new(), BTreeMap::new());
    let deadline = Instant::now() + QUOTA_BACKOFF;
    while ended.len() < POSTED {
        assert!(Instant::now() < deadline, "{started:?} {ended:?}\n{}", server.stderr());
        thread::park_timeout(LOOK_CLOSELY);
        let now = Instant::now();
        for (name, pod) in config(&server).into_iter().filter(|(name, _)| name.starts_with(FREE)) {
            started.entry(name.clone()).or_insert(now);
            if text(&pod, "/status") == "Succeeded" {
                ended.entry(name).or_insert(now);
            }
        }
    }
    let (mut starts, mut ends): (Vec<Instant>, Vec<Instant>) =
        (started.into_values().collect(), ended.into_values().collect());
    starts.sort();
    ends.sort();
    // The third Job starts when the first ends, and so on.
    let refills: Vec<Duration> =
        starts[2..].iter().zip(&ends).map(|(start, end)| start.saturating_duration_since(*end)).collect();
    println!("refilled after {refills:?}");
    let log = server.log_until_now();
    let requeued: Vec<&str> =
        log.lines().filter_map(|line| line.strip_prefix("requeued ")?.split(':').next()).collect();
    let mut sorted = requeued.clone();
    sorted.sort_by_key(|job| posted.iter().position(|name| name == job));
    assert_eq!(requeued, sorted, "the oldest first");
    // The controller's own retry may be faster at times.
    assert!(!requeued.is_empty(), "{log}");
    // The Job controller updates a Job a moment after its pod's end.
    let empty = json!({ "running": [], "starting": [], "waiting": [] });
    within(SOON, "an empty queue", || (server.get("/queue").json() == empty).then_some(()));
}

/// A server with the permissions of k8s/rbac.yaml only, which requeues Jobs.
pub fn requeueing_server(tag: &str, args: &[&str]) -> (tempfile::TempDir, Server) {
    let home = tempfile::TempDir::new().unwrap();
    let path = kubeconfig_of(home.path(), &json!({ "token": account_token() }));
    let setup = Setup::new().args(&["--kubeconfig", path.to_str().unwrap(), "--image", &image(tag)]);
    let server = setup.args(args).env("NO_WATCH", "").start();
    (home, server)
}

#[test]
fn missing_image_is_starting_with_the_reason_until_the_timeout_frees_the_slot() {
    empty_cluster();
    let (_home, server) = requeueing_server("missing", &["--job-timeout", "15"]);
    for _ in 0..3 {
        post_ok(&server, "free", "mnist");
    }
    within(SOON, "two that start, with the reason", || {
        let starting = server.get("/queue").json()["starting"].as_array().cloned().unwrap_or_default();
        let is_image =
            |job: &Value| text(job, "/reason").starts_with("image ") && text(job, "/reason").ends_with(":missing");
        (starting.len() == 2 && starting.iter().all(is_image)).then_some(())
    });
    let warning = format!("{}; fix: img-classification doctor", image("missing"));
    server.wait_for_log("of the reason", |line| line.starts_with("warning: free-mnist-") && line.ends_with(&warning));
    within(QUOTA_BACKOFF, "three Jobs that failed", || {
        let failed = jobs(FREE).iter().filter(|job| text(job, "/status/conditions/0/type") == "Failed").count();
        (failed == 3).then_some(())
    });
    assert!(pods(FREE).iter().all(|pod| text(pod, "/status/reason") == "DeadlineExceeded"), "{:?}", pods(FREE));
    within(SOON, "an empty queue", || (server.get("/queue").json()["starting"] == json!([])).then_some(()));
    let log = server.log_until_now();
    let reasons: BTreeSet<&str> =
        log.lines().filter_map(|line| line.split_once("cannot start: ")).map(|(_, reason)| reason).collect();
    assert_eq!(log.matches("cannot start: ").count(), reasons.len(), "{log}");
}

/// Removes a quota of the free tier, also after a failure.
struct ExtraQuota;

impl Drop for ExtraQuota {
    fn drop(&mut self) {
        kubectl(&["delete", "quota", "extra", "-n", FREE, "--ignore-not-found"]);
    }
}

#[test]
fn job_that_a_quota_refuses_for_its_own_fault_is_logged_with_the_event() {
    empty_cluster();
    let (home, server) = requeueing_server("short", &[]);
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "extra", "namespace": FREE},
                       "spec": {"hard": {"limits.memory": "1Gi"}}});
    let file = home.path().join("quota.json");
    std::fs::write(&file, quota.to_string()).unwrap();
    let _quota = ExtraQuota;
    kubectl_ok(&["create", "-f", file.to_str().unwrap()]);
    let job = post_ok(&server, "free", "mnist");
    let start = format!("warning: {job} cannot start: failed quota: extra: must specify limits.memory");
    server.wait_for_log("with the sentence of the event", |line| line.starts_with(&start));
}
