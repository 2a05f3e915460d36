//! The private connections between the front and the server behind it.

use crate::support::api::ApiServer;
use crate::support::eventually;
use crate::support::process::{accepted_descriptors, client_resources, copies, folder};
use crate::support::response::{Behavior, Latch};
use crate::support::server::{Server, Setup};
use rustix::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Prefix of the log line of a created Job.
const POST_DONE: &str = "POST /img-classification/free 200 ";

/// Ends every private connection of the server.
fn shut_private_connections_down(server: &Server) {
    // All copies come first: the server closes a connection whose other end was shut down.
    let sockets = copies(server, accepted_descriptors(server));
    sockets.iter().for_each(|socket| rustix::net::shutdown(socket, Shutdown::Both).unwrap());
}

#[test]
fn private_socket_has_no_name_that_another_process_could_connect_to() {
    let server = Setup::local().start();
    assert_eq!(server.post_job().status, 200);
    let links: Vec<_> = std::fs::read_dir(format!("{}/fd", folder(&server))).unwrap().collect();
    let links = links.into_iter().filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    let inodes: Vec<String> = links
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()))
        .collect();
    let table = std::fs::read_to_string(format!("{}/net/unix", folder(&server))).unwrap();
    let names: Vec<&str> = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|row| inodes.iter().any(|inode| row.get(6) == Some(&inode.as_str())))
        .filter_map(|row| row.get(7).copied())
        .collect();
    assert!(!names.is_empty(), "the private socket was bound to some path:\n{table}");
    for name in names {
        assert!(!name.starts_with('@'), "a name in the abstract namespace: {name}");
        assert!(UnixStream::connect(name).is_err(), "{name}");
        assert!(!Path::new(name).parent().unwrap().exists(), "{name}");
    }
}

#[test]
fn private_connection_that_ends_in_mid_answer_is_a_500_and_the_pool_recovers() {
    const REQUESTS: usize = 8;
    let api = ApiServer::start();
    // No request times out before its private connection ends.
    let server = Setup::for_api(&api).args(&["--kube-timeout", "60"]).start();
    assert_eq!(server.post_job().status, 200);
    for _ in 0..3 {
        let before = client_resources(&server);
        let done = server.log_until_now().lines().filter(|line| line.starts_with(POST_DONE)).count();
        let (latch, seen) = (Latch::default(), api.requests().len());
        api.always(Behavior::After(latch.clone(), Box::new(Behavior::Default)));
        std::thread::scope(|scope| {
            let responses: Vec<_> = (0..REQUESTS).map(|_| scope.spawn(|| server.post_job())).collect();
            api.wait_for_requests(seen + REQUESTS);
            shut_private_connections_down(&server);
            for response in responses {
                let response = response.join().unwrap();
                assert_eq!(response.status, 500, "{}", response.text());
                response.error();
            }
        });
        // The workers of the broken connections still wait for Kubernetes.
        api.always(Behavior::Default);
        for _ in 0..2 * REQUESTS {
            assert_eq!(server.post_job().status, 200);
            assert_eq!(server.get("/healthz").status, 200);
        }
        latch.open();
        // Then no response of Kubernetes is on its way when the connections close.
        let handled = || server.stderr().lines().filter(|line| line.starts_with(POST_DONE)).count();
        eventually("the workers finish", || handled() == done + 3 * REQUESTS);
        eventually("descriptors and threads are given back", || {
            // Idle connections to Kubernetes are not part of the comparison: a request drops those that have ended.
            api.close_connections();
            assert_eq!(server.post_job().status, 200);
            let now = client_resources(&server);
            now.0 <= before.0 && now.1 <= before.1
        });
    }
    let log = server.log_until_now();
    assert!(!log.contains("bug: "), "{log}");
}
