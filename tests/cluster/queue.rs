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
    let home = tempfile::TempDir::new().unwrap();
    // With the permissions of k8s/rbac.yaml only.
    let path = kubeconfig_of(home.path(), &json!({ "token": account_token() }));
    let setup = Setup::new().args(&["--kubeconfig", path.to_str().unwrap(), "--image", &image("short")]);
    let server = setup.env("NO_REQUEUE", "").start();
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
