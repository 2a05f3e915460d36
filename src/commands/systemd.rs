//! What systemd gives and wants: a socket, and word that we are ready and alive. Without systemd nothing of it happens.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

/// Longest time for a probe of the watchdog: /healthz asks nobody and takes a millisecond.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The first socket of LISTEN_FDS, so that connections wait there while we are restarted.
///
/// # Errors
/// What was passed is no listening TCP socket.
pub fn inherited_socket() -> io::Result<Option<TcpListener>> {
    let Some(listener) = listenfd::ListenFd::from_env().take_tcp_listener(0)? else { return Ok(None) };
    if rustix::net::sockopt::socket_acceptconn(&listener)? {
        return Ok(Some(listener));
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen; the socket unit needs Accept=no"))
}

/// Says that requests are served (Type=notify).
pub fn ready() {
    notify(NotifyState::Ready);
}

/// Says that we are about to end.
pub fn stopping() {
    notify(NotifyState::Stopping);
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        log::warn!("cannot notify systemd: {error}");
    }
}

/// Feeds the watchdog (WatchdogSec=), if there is one, after a probe that went the way of every request: accepted at the
/// public address and through the gate, and with `alive` for what a probe does not meet, those that ask Kubernetes.
///
/// It ends when `closing` says so: who stops accepting cannot be probed.
///
/// # Errors
/// No thread.
pub fn feed_watchdog(
    address: SocketAddr,
    alive: impl Fn() -> bool + Send + 'static,
    closing: impl Fn() -> bool + Send + 'static,
) -> io::Result<()> {
    let Some(interval) = sd_notify::watchdog_enabled() else { return Ok(()) };
    thread::Builder::new().name("watchdog".into()).spawn(move || {
        while !closing() {
            match probe(address) {
                Err(_) if closing() => return,
                Ok(()) if alive() => notify(NotifyState::Watchdog),
                Ok(()) => log::error!("the requests at Kubernetes do not get on; the watchdog is not fed"),
                Err(error) => log::error!("no answer from ourselves ({error}); the watchdog is not fed"),
            }
            // systemd advises half of its interval; a third leaves room for a slow probe.
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

/// An address that is bound to all interfaces is reached on loopback.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
