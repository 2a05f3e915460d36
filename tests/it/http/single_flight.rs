//! GET /config from many clients at once: one list of Kubernetes for all who wait, and nobody gets an older one than he
//! would have got alone.

use crate::support::api::ApiServer;
use crate::support::cluster::pod;
use crate::support::eventually;
use crate::support::http::Response;
use crate::support::response::{ApiResponse, Behavior, Latch, pod_list};
use crate::support::server::{Server, Setup};
use std::thread;
use std::time::Duration;

const PODS: &str = "/api/v1/pods";

/// Clients that come while a list is under way.
const CLIENTS: usize = 40;

fn lists(api: &ApiServer) -> usize {
    api.requests().iter().filter(|request| request.path() == PODS).count()
}

/// Connections whose request the server has read: it has a thread for each, and does nothing else.
fn taken(server: &Server) -> usize {
    let folder = std::fs::read_dir(format!("/proc/{}/task", server.pid().as_raw_nonzero())).unwrap();
    let waits = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let read = |file| std::fs::read_to_string(path.join(file)).unwrap_or_default();
        // futex_wait: it waits for another thread, and no longer for its client.
        read("comm").trim_end() == "connection" && read("syscall").split(' ').next() == Some(FUTEX)
    };
    folder.map(waits).filter(|waits| *waits).count()
}

/// futex(2)
#[cfg(target_arch = "x86_64")]
const FUTEX: &str = "202";
#[cfg(target_arch = "aarch64")]
const FUTEX: &str = "98";

/// One client whose list waits at the gate, and a crowd that comes meanwhile, after `between`.
fn during_a_list(api: &ApiServer, server: &Server, latch: &Latch, between: impl FnOnce()) -> (Response, Vec<Response>) {
    thread::scope(|scope| {
        let first = scope.spawn(|| server.get("/config"));
        api.wait_for_requests(1);
        between();
        let others: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| server.get("/config"))).collect();
        eventually("the crowd waits", || taken(server) >= CLIENTS);
        assert_eq!(lists(api), 1, "one list at a time");
        latch.open();
        (first.join().unwrap(), others.into_iter().map(|other| other.join().unwrap()).collect())
    })
}

#[test]
fn those_who_come_during_a_list_share_the_next_one_and_see_what_had_happened_by_then() {
    let (api, latch) = (ApiServer::start(), Latch::default());
    let server = Setup::for_api(&api).start();
    api.set_pods(vec![pod("default", "old", "Running", None)]);
    // What the first one is answered with is fixed before it is let go.
    let old = ApiResponse::json(200, &pod_list(&[pod("default", "old", "Running", None)], ""));
    api.queue([Behavior::After(latch.clone(), Box::new(old.into()))]);
    let new = || api.set_pods(vec![pod("default", "new", "Running", None)]);
    let (first, others) = during_a_list(&api, &server, &latch, new);
    assert!(first.text().contains("\"old\""), "{}", first.text());
    for other in others {
        assert_eq!(other.status, 200);
        assert!(other.text().contains("\"new\""), "an older list than this one's request: {}", other.text());
    }
    assert_eq!(lists(&api), 2);
    // Nothing is kept: the next one asks again.
    assert_eq!(server.get("/config").status, 200);
    assert_eq!(lists(&api), 3);
}

#[test]
fn a_failure_is_shared_too_and_the_next_list_is_a_new_one() {
    let (api, latch) = (ApiServer::start(), Latch::default());
    let server = Setup::for_api(&api).start();
    let forbidden =
        ApiResponse::failure(403, "Forbidden", "pods is forbidden: User \"u\" cannot list resource \"pods\"");
    api.queue([Behavior::After(latch.clone(), Box::new(Behavior::Default)), forbidden.into()]);
    let (first, others) = during_a_list(&api, &server, &latch, || {});
    assert_eq!(first.status, 200);
    for other in &others {
        assert_eq!((other.status, other.text()), (502, others[0].text()));
    }
    assert_eq!(lists(&api), 2);
    assert_eq!(server.get("/config").status, 200);
}

#[test]
fn a_refusal_in_protocol_buffers_says_what_one_in_json_does() {
    let api = ApiServer::start();
    let server = Setup::for_api(&api).start();
    for path in ["/config", "/readyz"] {
        for (code, reason) in [(403, "Forbidden"), (401, "Unauthorized")] {
            let forbidden = format!("pods is forbidden: User \"u\" cannot list resource \"pods\" ({code} for {path})");
            let refusal = |message: &str| ApiResponse::failure(code, reason, message);
            api.always(refusal(&forbidden));
            let in_json = server.get(path);
            let words = format!("{forbidden}, in protocol buffers");
            api.always(refusal(&words).into_protobuf_status());
            let in_protobuf = server.get(path);
            assert_eq!((in_protobuf.status, in_protobuf.text()), (in_json.status, in_json.text()), "{path} {code}");
            server.wait_for_log("with Kubernetes' own words", |line| line.contains(&words));
        }
    }
    // Of one that is cut or of something else at least the status counts.
    api.always(ApiResponse::new(403, "application/vnd.kubernetes.protobuf", &b"k8s\0\x0a"[..]));
    assert_eq!(server.get("/config").status, 502);
}

#[test]
fn clients_that_leave_while_they_wait_harm_nobody() {
    let (api, latch) = (ApiServer::start(), Latch::default());
    let server = Setup::for_api(&api).start();
    api.queue([Behavior::After(latch.clone(), Box::new(Behavior::Default))]);
    thread::scope(|scope| {
        let first = scope.spawn(|| server.get("/config"));
        api.wait_for_requests(1);
        for _ in 0..CLIENTS {
            let mut leaving = server.connect();
            leaving.send(b"GET /config HTTP/1.1\r\nHost: h\r\n\r\n");
        }
        eventually("they wait", || taken(&server) >= CLIENTS);
        let staying = scope.spawn(|| server.get("/config"));
        eventually("one more waits", || taken(&server) > CLIENTS);
        latch.open();
        assert_eq!((first.join().unwrap().status, staying.join().unwrap().status), (200, 200));
    });
    assert_eq!(server.post_job().status, 200);
}

#[test]
fn a_list_that_hangs_ends_for_all_who_share_it_and_healthz_goes_on() {
    let api = ApiServer::start();
    let server = Setup::for_api(&api).args(&["--kube-timeout", "1"]).start();
    api.always(Behavior::Hang);
    thread::scope(|scope| {
        let during_a_list: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| server.get("/config"))).collect();
        api.wait_for_requests(1);
        assert_eq!(server.get("/healthz").status, 200);
        let start = std::time::Instant::now();
        let statuses: Vec<u16> = during_a_list.into_iter().map(|one| one.join().unwrap().status).collect();
        // Whoever shared a list that had no answer, and whoever had waited for too long by then.
        assert!(statuses.iter().all(|status| [503, 504].contains(status)), "{statuses:?}");
        assert!(statuses.contains(&504), "{statuses:?}");
        // The first list and the one that the others share, a deadline each.
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    });
    api.always(Behavior::Default);
    eventually("lists work again", || server.get("/config").status == 200);
}
