//! systemd integration: socket activation, readiness and the watchdog. Without systemd all of it does nothing.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

/// Longest time of a watchdog probe: /healthz answers from memory within a millisecond.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns the first socket of LISTEN_FDS, on which connections wait during a restart.
///
/// # Errors
/// The descriptor is not a listening TCP socket.
pub fn inherited_socket() -> io::Result<Option<TcpListener>> {
    let Some(listener) = listenfd::ListenFd::from_env().take_tcp_listener(0)? else { return Ok(None) };
    if rustix::net::sockopt::socket_acceptconn(&listener)? {
        return Ok(Some(listener));
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        "the socket does not listen; fix: set Accept=no in the socket unit",
    ))
}

/// Notifies systemd that the server is ready (Type=notify).
pub fn ready() {
    notify(NotifyState::Ready);
}

/// Notifies systemd that the server is stopping.
pub fn stopping() {
    notify(NotifyState::Stopping);
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        log::warn!("cannot notify systemd: {error}");
    }
}

/// Starts a thread that pings the watchdog of WatchdogSec=, if systemd has set one. A ping needs a successful probe through the
/// public address, and `is_alive` for the requests to Kubernetes, which the probe does not cover.
///
/// The thread ends once `is_closing` returns true, since a server that no longer accepts cannot be probed.
///
/// # Errors
/// The thread cannot be created.
pub fn start_watchdog(
    address: SocketAddr,
    is_alive: impl Fn() -> bool + Send + 'static,
    is_closing: impl Fn() -> bool + Send + 'static,
) -> io::Result<()> {
    let Some(interval) = sd_notify::watchdog_enabled() else { return Ok(()) };
    thread::Builder::new().name("watchdog".into()).spawn(move || {
        while !is_closing() {
            match probe(address) {
                Err(_) if is_closing() => return,
                Ok(()) if is_alive() => notify(NotifyState::Watchdog),
                Ok(()) => log::error!("no Kubernetes request finished recently; skipping the watchdog ping"),
                Err(error) => log::error!("the probe of this server failed ({error}); skipping the watchdog ping"),
            }
            // systemd advises half of the interval; a third leaves time for a slow probe.
            thread::sleep(interval / 3);
        }
    })?;
    Ok(())
}

fn probe(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&reachable(address), PROBE_TIMEOUT)?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut status = [0; b"HTTP/1.1 200".len()];
    stream.read_exact(&mut status)?;
    if &status == b"HTTP/1.1 200" { Ok(()) } else { Err(io::Error::other("not 200")) }
}

/// Returns the address to connect to: loopback if `address` is the wildcard address.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
