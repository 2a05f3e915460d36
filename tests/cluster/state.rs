//! GET /config from the watched pods, against a list of the same cluster.

use super::queue::requeueing_server;
use super::{
    FREE, PREMIUM, QUOTA_BACKOFF, SOON, empty_cluster, expected_config, jobs, kubectl_ok, pods_of, post_ok, text,
    within,
};
use crate::support::http::Response;
use crate::support::server::Server;

/// The line that tells that the watch is live.
const LIVE: &str = "GET /config is answered from the watched pods";

/// The answer of Kubernetes itself.
fn listed(server: &Server) -> Response {
    server.connect().request_with("GET", "/config", "Cache-Control: no-cache\r\n", b"")
}

#[test]
fn watched_pods_equal_a_list_of_a_changing_cluster_at_each_rest() {
    empty_cluster();
    let (_home, server) = requeueing_server("short", &[]);
    assert_eq!(pods_of(&server.get("/config")), expected_config());
    server.wait_for_log("of the watch", |line| line == LIVE);
    for round in 0..3 {
        let names: Vec<String> = (0..3).map(|_| post_ok(&server, "free", "mnist")).collect();
        post_ok(&server, "premium", "kmnist");
        within(SOON, "a pod in each tier", || {
            let pods = pods_of(&server.get("/config"));
            let has = |namespace: &str| pods.values().any(|pod| text(pod, "/namespace") == namespace);
            (has(FREE) && has(PREMIUM)).then_some(())
        });
        // Two end by themselves, one is deleted.
        kubectl_ok(&["delete", "job", &names[round], "-n", FREE]);
        within(QUOTA_BACKOFF, "every Job has ended", || {
            let has_ended = |job: &serde_json::Value| !text(job, "/status/completionTime").is_empty();
            jobs(FREE).iter().chain(&jobs(PREMIUM)).all(has_ended).then_some(())
        });
        within(SOON, "the same bytes from the watch and from a list", || {
            let (watched, list) = (server.get("/config"), listed(&server));
            let is_same = watched.body == list.body && watched.header("ETag") == list.header("ETag");
            (is_same && watched.status == 200).then_some(())
        });
        assert_eq!(pods_of(&server.get("/config")), expected_config());
    }
    // No failure, so each answer came from the watch.
    let log = server.log_until_now();
    assert_eq!(log.lines().filter(|line| *line == LIVE).count(), 1, "{log}");
}
