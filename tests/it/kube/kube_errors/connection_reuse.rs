//! Reuse of connections to Kubernetes.

use super::started;
use crate::support::response::{Behavior, Latch, quota_full};

#[test]
fn sequential_requests_share_one_connection() {
    let (api, server) = started(10);
    for _ in 0..20 {
        assert_eq!(server.post_job().status, 200);
        assert_eq!(server.get("/config").status, 200);
    }
    assert_eq!(api.connections(), 1);
}

#[test]
fn kubernetes_errors_keep_the_connection_open() {
    let (api, server) = started(10);
    api.always(quota_full());
    for _ in 0..10 {
        assert_eq!(server.post_job().status, 429);
    }
    assert_eq!(api.connections(), 1);
}

#[test]
fn burst_reuses_the_connections_of_the_previous_burst() {
    let (api, server) = started(10);
    let burst = || {
        std::thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| assert_eq!(server.post_job().status, 200));
            }
        });
    };
    burst();
    let after_one = api.connections();
    for _ in 0..4 {
        burst();
    }
    assert!(after_one <= 33, "{after_one} connections for 32 requests");
    assert!(api.connections() < 4 * 32, "{} connections: none is used again", api.connections());
    assert_eq!(api.jobs().len(), 160);
}

#[test]
fn stale_connection_causes_no_error() {
    let (api, server) = started(10);
    for _ in 0..10 {
        // Closed right after the response without `Connection: close`, as load balancers do.
        api.queue([Behavior::ThenClose(Box::new(Behavior::Default))]);
        assert_eq!(server.post_job().status, 200);
        assert_eq!(server.get("/config").status, 200);
        // Closed at the moment of its next use.
        api.queue([Behavior::Close]);
        assert_eq!(server.post_job().status, 200);
        api.queue([Behavior::Close]);
        assert_eq!(server.get("/config").status, 200);
        // Closed while idle.
        api.close_connections();
        assert_eq!(server.post_job().status, 200);
    }
    assert_eq!(api.jobs().len(), 30);
}

#[test]
fn idle_connections_to_a_vanished_endpoint_are_not_tried_in_turn() {
    const IDLE: usize = 8;
    let (api, server) = started(2);
    let latch = Latch::default();
    let held = latch.clone();
    api.script(move |_| Behavior::After(held.clone(), Box::new(Behavior::Default)));
    std::thread::scope(|scope| {
        for _ in 0..IDLE {
            scope.spawn(|| assert_eq!(server.post_job().status, 200));
        }
        api.wait_for_requests(IDLE);
        latch.open();
    });
    assert_eq!(api.connections(), IDLE);
    // Their packets vanish, and new connections lead to another endpoint.
    api.script(|request| if request.connection < IDLE { Behavior::Hang } else { Behavior::Default });
    assert_eq!(server.post_job().status, 504);
    for _ in 0..IDLE {
        assert_eq!(server.post_job().status, 200);
    }
    assert_eq!(api.connections(), IDLE + 1);
}
