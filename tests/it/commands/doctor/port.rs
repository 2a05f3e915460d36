//! The address of the server: the program that listens there, and who can connect.

use super::{GOOD, check_healthy, cluster, doctor, expect, host, line, no_fault};
use crate::support::api::{ApiServer, Listen};
use crate::support::response::{ApiResponse, Behavior};
use crate::support::server::{Finished, Setup};
use std::net::{IpAddr, TcpListener, UdpSocket};

const OURS: &str = concat!("a server of this program (", env!("CARGO_PKG_VERSION"), ")");

/// A plain HTTP server with this behaviour.
pub fn http(behavior: impl Into<Behavior>) -> ApiServer {
    let server = ApiServer::listen(&Listen { identity: None, ..Listen::default() });
    server.always(behavior);
    server
}

/// The address from which this host would reach others. Nothing is sent.
fn outbound_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().unwrap().ip()).filter(|ip| !ip.is_loopback())
}

fn has_address(end: &Finished) -> bool {
    end.stdout.lines().any(|line| line.contains(" address: "))
}

#[test]
fn occupied_port_is_attributed_to_this_program_or_another() {
    let api = cluster(no_fault);
    let port = |listen: &str| doctor(host(Setup::for_api(&api)).args(&["--image", "r.io/a:1", "--listen", listen]));

    let end = port("127.0.0.1:0");
    check_healthy(&end);
    expect("loopback", &end, "warning port: ", "from this host only", "LISTEN to 0.0.0.0:");

    let server = Setup::for_api(&api).start_with(&["serve", "--listen", "0.0.0.0:0"]);
    let listen = format!("0.0.0.0:{}", server.address().port());
    let end = port(&listen);
    check_healthy(&end);
    let found = line(&end, "ok port: ");
    assert!(found.starts_with(&format!("ok port: {OURS} already listens on ")), "{found}");
    if let Some(ip) = outbound_address() {
        assert!(found.ends_with(&format!("all addresses, as {ip}:{} shows", server.address().port())), "{found}");
    }

    let other = http(ApiResponse::html(404));
    let end = port(&other.address().to_string());
    expect("another server", &end, "FAIL port: ", "status 404 and \"<html>", "ss -ltnp 'sport = :");

    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let end = port(&mute.local_addr().unwrap().to_string());
    expect("a mute one", &end, "FAIL port: ", "does not respond to GET /info (no response in time)", "ss -ltnp");

    let end = port("192.0.2.77:5000");
    expect("not ours", &end, "FAIL port: ", "does not have the address", "LISTEN to 0.0.0.0:5000");
    let end = port("no.such.host.invalid:5000");
    expect("no address", &end, "FAIL port: ", "does not resolve", "such as 0.0.0.0:5000");
}

#[test]
fn server_on_loopback_only_is_not_reachable_for_other_hosts() {
    let Some(_) = outbound_address() else { return };
    let api = cluster(no_fault);
    let run = |args: &[&str]| doctor(host(Setup::for_api(&api)).args(&["--image", "r.io/a:1"]).args(args));

    let server = Setup::for_api(&api).start();
    let (listen, everywhere) = (server.address().to_string(), format!("0.0.0.0:{}", server.address().port()));
    let words = format!("listens on {listen} only (no other host can connect), although --listen is {everywhere}");
    let end = run(&["--listen", &everywhere]);
    expect("all addresses wanted", &end, "FAIL port: ", &words, &format!("restart it with --listen {everywhere}"));
    assert!(!has_address(&end), "no address for other hosts exists:\n{}", end.stdout);
    let end = run(&["--listen", &listen]);
    expect("as configured", &end, "warning port: ", "no other host can connect", "restart it with --listen");
    let end = run(&["--server", &format!("http://{listen}")]);
    expect("by its URL", &end, "warning server: a server", "no other host can connect", "restart it with --listen");
    check_healthy(&end);

    let local = Setup::local().start();
    let end = run(&["--listen", &format!("0.0.0.0:{}", local.address().port())]);
    expect(
        "a simulated cluster",
        &end,
        "warning port: ",
        "no other host can connect",
        "serve --local --listen 0.0.0.0:",
    );

    let other = http(ApiResponse::html(404));
    let end = run(&["--listen", &format!("0.0.0.0:{}", other.address().port())]);
    expect("another program", &end, "FAIL port: ", "only (no other host can connect) is another one", "ss -ltnp");
}

#[test]
fn running_server_is_probed_at_its_url() {
    let api = cluster(no_fault);
    let server = Setup::for_api(&api).start_with(&["serve", "--listen", "0.0.0.0:0"]);
    let ip = outbound_address().unwrap_or_else(|| [127, 0, 0, 1].into());
    let url = format!("http://{ip}:{}", server.address().port());
    let end = doctor(host(Setup::for_api(&api)).args(GOOD).args(&["--server", &url]));
    check_healthy(&end);
    assert!(line(&end, "ok server: ").ends_with(&format!("{OURS} answers at {url}")));
    assert!(!has_address(&end) && !end.stdout.contains(" port: "), "{}", end.stdout);
    let by_variable = |url: &str| doctor(host(Setup::for_api(&api)).args(GOOD).env("IMG_CLASSIFICATION_SERVER", url));
    line(&by_variable(&url), "ok server: ");
    let end = by_variable("ftp://a");
    line(&end, "FAIL environment: IMG_CLASSIFICATION_SERVER is \"ftp://a\", but must be ");

    let other = http(ApiResponse::html(404));
    let end = by_variable(&other.address().to_string());
    expect("another program", &end, "FAIL server: ", "is another one: it responds to GET /healthz", "--server");
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute_url = format!("http://{}", mute.local_addr().unwrap());
    let end = by_variable(&mute_url);
    let words = format!("the program at {mute_url} does not respond to GET /info (no response in time)");
    expect("a mute one", &end, "FAIL server: ", &words, "start the server");
    drop(mute);
    expect("nothing", &by_variable(&mute_url), "FAIL server: ", "Connection refused", "start the server");
}
