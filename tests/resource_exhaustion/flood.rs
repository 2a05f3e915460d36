//! A flood of connections, and the outcome of one request.

use super::{address, connect_from, is_open};
use crate::support::TIMEOUT;
use crate::support::http::Connection;
use crate::support::server::Server;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Duration of the load.
pub const FLOOD_DURATION: Duration = Duration::from_secs(4);

/// Number of connections of a load that is opened once.
pub const CONNECTIONS: usize = 4000;

/// Pause between two connections of one attacker: about a thousand connections a second.
const PACE: Duration = Duration::from_millis(1);

/// Connections of an attacker that reopens each as soon as it is closed.
pub struct Flood {
    pub server: SocketAddr,
    pub streams: Vec<TcpStream>,
    pub opened: usize,
}

impl Flood {
    pub fn new(server: SocketAddr, size: usize) -> Flood {
        let mut flood = Flood { server, streams: Vec::new(), opened: 0 };
        for number in 0..size {
            let stream = flood.open(number);
            flood.streams.push(stream);
        }
        flood
    }

    pub fn open(&mut self, number: usize) -> TcpStream {
        std::thread::park_timeout(PACE);
        self.opened += 1;
        connect_from(address(number), self.server).unwrap()
    }

    /// Calls `act` for each connection and reopens closed ones; stops early on request.
    pub fn go_round(&mut self, stop: &AtomicBool, mut act: impl FnMut(&TcpStream)) {
        for number in 0..self.streams.len() {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            act(&self.streams[number]);
            if !is_open(&self.streams[number]) {
                self.streams[number] = self.open(number);
            }
        }
        std::thread::park_timeout(PACE);
    }
}

/// The results of the good client.
#[derive(Default)]
pub struct Seen {
    pub times: Vec<Duration>,
    /// Attempts without a good response.
    pub failed: Vec<String>,
}

impl Seen {
    /// Repeats one request on new connections until the status is 200.
    pub fn request(&mut self, server: &Server, method: &str, target: &str, body: &str) {
        let start = Instant::now();
        loop {
            match attempt(server.address(), method, target, body) {
                Ok(200) => break,
                Ok(status) => self.failed.push(format!("{method} {target}: {status}")),
                Err(error) => self.failed.push(format!("{method} {target}: {error}")),
            }
            assert!(start.elapsed() < TIMEOUT, "{:?}", self.failed);
        }
        self.times.push(start.elapsed());
    }

    /// The given percentile of the durations.
    pub fn percentile(&mut self, share: usize) -> Duration {
        self.times.sort();
        self.times[(self.times.len() * share / 100).min(self.times.len() - 1)]
    }
}

/// Sends one request on a new connection; returns the status.
pub fn attempt(address: SocketAddr, method: &str, target: &str, body: &str) -> io::Result<u16> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_nodelay(true)?;
    let mut connection = Connection::over(stream);
    connection.stream().set_read_timeout(Some(TIMEOUT))?;
    connection.stream().write_all(request(method, target, body).as_bytes())?;
    connection.response(false).map(|response| response.status)
}

pub fn request(method: &str, target: &str, body: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}
