//! Check of the server's address: the program that listens there, and the hosts that can connect to it.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::address::outbound_address;
use super::env_file::FILE;
use super::server::{self, Answer, Server};
use crate::commands::output::Check;
use crate::commands::systemd;

/// Timeout of a connection to an address of this host, which needs no network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The findings on the server's address.
pub struct Port {
    pub checks: Vec<Check>,
    /// The server of this program that runs there.
    pub server: Option<Server>,
    /// Only this host can connect.
    pub is_private: bool,
}

impl From<Check> for Port {
    fn from(check: Check) -> Self {
        Self { checks: vec![check], server: None, is_private: false }
    }
}

/// Checks that `serve` can listen on `listen`, or already does.
pub fn check(listen: &str) -> Port {
    let addresses = listen.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
    let Ok([address, ..]) = addresses.as_deref() else {
        let text = format!("{listen} does not resolve");
        return Check::fail("port", text, "set --listen or LISTEN, such as 0.0.0.0:5000").into();
    };
    match TcpListener::bind(address) {
        Ok(_) => free(listen, *address),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => in_use(listen, *address),
        Err(error) => not_possible(listen, *address, &error).into(),
    }
}

/// Checks the running server at `url`.
pub fn check_url(url: &str) -> Port {
    let server = match server::ask(url) {
        Answer::Server(server) => server,
        Answer::Other(what) => {
            let fix = "start the server, or set --server or IMG_CLASSIFICATION_SERVER to its address; it must listen on an \
                       address that this host reaches, and firewalls and security groups must allow its port";
            return Check::fail("server", format!("the program at {url} {what}"), fix).into();
        }
    };
    let authority = url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let address = authority.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    let text = format!("{} answers at {url}", server.name());
    let private = address.filter(|address| address.ip().is_loopback()).map(Reach::of);
    let check = match private {
        Some(Reach::Loopback(address)) => {
            let text = format!("{text}; it listens on {address} only (no other host can connect)");
            Check::warning("server", text, restart(address.port(), server.is_local()))
        }
        _ => Check::ok("server", text),
    };
    Port { is_private: check.fix.is_some(), checks: vec![check], server: Some(server) }
}

fn free(listen: &str, address: SocketAddr) -> Port {
    let check = match address.port() {
        0 => Check::ok("port", format!("{listen}: any free port, which `serve` prints")),
        _ => Check::ok("port", format!("{listen} is free: no server runs there")),
    };
    if !address.ip().is_loopback() {
        return check.into();
    }
    let text = format!("{listen} accepts connections from this host only");
    let warning = Check::warning("port", text, format!("set --listen or LISTEN to 0.0.0.0:{}", address.port()));
    Port { checks: vec![check, warning], server: None, is_private: true }
}

/// The addresses on which a program listens.
enum Reach {
    /// This address of the host, and loopback as well.
    All(SocketAddr),
    /// This address only.
    One(SocketAddr),
    /// This loopback address only.
    Loopback(SocketAddr),
    /// At least this loopback address: the host has no other that could be tried.
    Unknown(SocketAddr),
}

impl Reach {
    /// Connects to `listen` as clients on this host and on others do.
    fn of(listen: SocketAddr) -> Self {
        let inside = systemd::reachable(listen);
        if !inside.ip().is_loopback() {
            return Self::One(inside);
        }
        let accepts = |address: &SocketAddr| TcpStream::connect_timeout(address, CONNECT_TIMEOUT).is_ok();
        let outside = outbound_address().map(|ip: IpAddr| SocketAddr::new(ip, listen.port()));
        match (outside, accepts(&inside)) {
            (None, _) => Self::Unknown(inside),
            (Some(outside), true) if accepts(&outside) => Self::All(outside),
            (Some(_), true) => Self::Loopback(inside),
            (Some(outside), false) => Self::One(outside),
        }
    }

    /// Returns the address that a client of another host would use, if there is one.
    fn address(&self) -> SocketAddr {
        match self {
            Self::All(address) | Self::One(address) | Self::Loopback(address) | Self::Unknown(address) => *address,
        }
    }

    fn words(&self) -> String {
        match self {
            Self::All(address) => format!("all addresses, as {address} shows"),
            Self::One(address) => address.to_string(),
            Self::Loopback(address) => format!("{address} only (no other host can connect)"),
            Self::Unknown(address) => format!("{address} (other addresses were not tried: no outbound route)"),
        }
    }
}

/// Checks the program that holds the port.
fn in_use(listen: &str, address: SocketAddr) -> Port {
    let (reach, port) = (Reach::of(address), address.port());
    let server = match server::ask(&format!("http://{}", reach.address())) {
        Answer::Server(server) => server,
        Answer::Other(what) => {
            let text = format!("{listen} is in use, and the program that listens on {} {what}", reach.words());
            let fix = format!("find the program with ss -ltnp 'sport = :{port}' and stop it, or set another --listen");
            return Check::fail("port", text, fix).into();
        }
    };
    let text = format!("{} already listens on {}", server.name(), reach.words());
    let is_private = matches!(reach, Reach::Loopback(_));
    let check = match is_private {
        false => Check::ok("port", text),
        // The simulator's default, or as configured.
        true if server.is_local() || address.ip().is_loopback() => {
            Check::warning("port", text, restart(port, server.is_local()))
        }
        true => Check::fail("port", format!("{text}, although --listen is {listen}"), restart(port, server.is_local())),
    };
    Port { checks: vec![check], server: Some(server), is_private }
}

/// Fix for a server that only this host reaches.
fn restart(port: u16, is_local: bool) -> String {
    match is_local {
        true => format!("for clients on other hosts: img-classification serve --local --listen 0.0.0.0:{port}"),
        false => format!("restart it with --listen 0.0.0.0:{port}, for the service LISTEN in {FILE}"),
    }
}

/// Returns the failed check of an address that `serve` could not use.
fn not_possible(listen: &str, address: SocketAddr, error: &io::Error) -> Check {
    let text = format!("cannot listen on {listen}: {error}");
    match error.kind() {
        io::ErrorKind::PermissionDenied => Check::fail(
            "port",
            format!("{text}; ports below 1024 need root"),
            "set --listen to a port above 1023, such as 0.0.0.0:5000, or run it as root",
        ),
        io::ErrorKind::AddrNotAvailable => {
            let text = format!("{text}; this host does not have the address (on EC2 that includes the public address)");
            Check::fail("port", text, format!("set --listen or LISTEN to 0.0.0.0:{}", address.port()))
        }
        _ => Check::fail("port", text, "set --listen or LISTEN, such as 0.0.0.0:5000"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::output::CheckStatus;

    #[test]
    fn each_bind_error_has_its_fix() {
        let address = "192.0.2.7:80".parse().expect("an address");
        for (kind, words, fix) in [
            (io::ErrorKind::PermissionDenied, "below 1024", "0.0.0.0:5000"),
            (io::ErrorKind::AddrNotAvailable, "does not have the address", "0.0.0.0:80"),
            (io::ErrorKind::OutOfMemory, "cannot listen on 192.0.2.7:80", "--listen"),
        ] {
            let check = not_possible("192.0.2.7:80", address, &kind.into());
            assert_eq!(check.status, CheckStatus::Fail);
            assert!(check.text.contains(words), "{}", check.text);
            assert!(check.fix.is_some_and(|found| found.contains(fix)), "{kind}");
        }
    }
}
