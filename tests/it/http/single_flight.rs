//! GET /config from many clients at once: waiting clients share one Kubernetes list, and no client gets an older list
//! than its own request would have returned.

use crate::support::api::ApiServer;
use crate::support::cluster::pod;
use crate::support::eventually;
use crate::support::http::Response;
use crate::support::process::{folder, private_descriptors};
use crate::support::response::{ApiResponse, Behavior, Latch, pod_list};
use crate::support::server::{Server, Setup};
use std::thread;

const PODS: &str = "/api/v1/pods";

/// Number of clients that arrive during a list; with the list's own client, and one more, all get one of
/// 24 permits for reads.
const CLIENTS: usize = 22;

fn lists(api: &ApiServer) -> usize {
    api.requests().iter().filter(|request| request.path() == PODS).count()
}

/// Number of client connections whose request the server handles: their threads read from a private connection.
fn waiting_requests(server: &Server) -> usize {
    let (folder, private) = (folder(server), private_descriptors(server));
    let read = |path: String| std::fs::read_to_string(path).unwrap_or_default();
    let waits = |entry: std::io::Result<std::fs::DirEntry>| {
        let task = entry.unwrap().path().to_string_lossy().into_owned();
        let call = read(format!("{task}/syscall"));
        let mut call = call.split(' ');
        let is_read = call.next() == Some(RECVFROM);
        let descriptor = call.next().and_then(|hex| u64::from_str_radix(hex.trim_start_matches("0x"), 16).ok());
        let is_private = descriptor.is_some_and(|descriptor| private.contains(&descriptor));
        read(format!("{task}/comm")).trim_end() == "connection" && is_read && is_private
    };
    std::fs::read_dir(format!("{folder}/task")).unwrap().map(waits).filter(|waits| *waits).count()
}

/// Number of the system call recvfrom(2).
#[cfg(target_arch = "x86_64")]
const RECVFROM: &str = "45";
#[cfg(target_arch = "aarch64")]
const RECVFROM: &str = "207";

/// Starts a list that waits at the latch, calls `between`, then sends requests from `CLIENTS` clients before the list
/// ends.
fn during_a_list(api: &ApiServer, server: &Server, latch: &Latch, between: impl FnOnce()) -> (Response, Vec<Response>) {
    thread::scope(|scope| {
        let first = scope.spawn(|| server.get("/config"));
        api.wait_for_requests(1);
        between();
        let others: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| server.get("/config"))).collect();
        eventually("the clients wait", || waiting_requests(server) > CLIENTS);
        assert_eq!(lists(api), 1, "one list at a time");
        latch.open();
        (first.join().unwrap(), others.into_iter().map(|other| other.join().unwrap()).collect())
    })
}

#[test]
fn clients_during_a_list_share_the_next_list_and_see_every_earlier_change() {
    let (api, latch) = (ApiServer::start(), Latch::default());
    let server = Setup::for_api(&api).start();
    api.set_pods(vec![pod("default", "old", "Running", None)]);
    // The first response is fixed before the latch opens.
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
    // Nothing is cached: the next request starts a new list.
    assert_eq!(server.get("/config").status, 200);
    assert_eq!(lists(&api), 3);
}

#[test]
fn failure_is_shared_and_the_next_list_is_new() {
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
fn protobuf_error_maps_like_a_json_error() {
    let api = ApiServer::start();
    let server = Setup::for_api(&api).start();
    for path in ["/config", "/readyz"] {
        for (code, reason) in [(403, "Forbidden"), (401, "Unauthorized")] {
            let forbidden = format!("pods is forbidden: User \"u\" cannot list resource \"pods\" ({code} for {path})");
            let refusal = |message: &str| ApiResponse::failure(code, reason, message);
            // The callers of /readyz share an answer for a second.
            let new_answer = |words: &str| {
                let mut response = server.get(path);
                eventually("an answer with this message of Kubernetes in the log", || {
                    response = server.get(path);
                    server.stderr().contains(words)
                });
                response
            };
            api.always(refusal(&forbidden));
            let in_json = new_answer(&forbidden);
            let words = format!("{forbidden}, in protocol buffers");
            api.always(refusal(&words).into_protobuf_status());
            let in_protobuf = new_answer(&words);
            assert_eq!((in_protobuf.status, in_protobuf.text()), (in_json.status, in_json.text()), "{path} {code}");
        }
    }
    // With a truncated or unknown body the status alone decides.
    api.always(ApiResponse::new(403, "application/vnd.kubernetes.protobuf", &b"k8s\0\x0a"[..]));
    assert_eq!(server.get("/config").status, 502);
}

#[test]
fn clients_that_close_while_waiting_do_no_harm() {
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
        eventually("they wait", || waiting_requests(&server) >= CLIENTS);
        let staying = scope.spawn(|| server.get("/config"));
        eventually("one more waits", || waiting_requests(&server) > CLIENTS);
        latch.open();
        assert_eq!((first.join().unwrap().status, staying.join().unwrap().status), (200, 200));
    });
    assert_eq!(server.post_job().status, 200);
}

#[test]
fn hanging_list_ends_for_all_waiters_and_healthz_still_responds() {
    let api = ApiServer::start();
    let server = Setup::for_api(&api).args(&["--kube-timeout", "1"]).start();
    api.always(Behavior::Hang);
    thread::scope(|scope| {
        let during_a_list: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| server.get("/config"))).collect();
        api.wait_for_requests(1);
        assert_eq!(server.get("/healthz").status, 200);
        let statuses: Vec<u16> = during_a_list.into_iter().map(|one| one.join().unwrap().status).collect();
        // Each shared a list without a response, or waited for one.
        assert!(statuses.iter().all(|status| *status == 504), "{statuses:?}");
    });
    api.always(Behavior::Default);
    eventually("lists work again", || server.get("/config").status == 200);
}
