//! systemd integration without systemd: the notification socket, the watchdog, passed sockets, and the signals that
//! stop a service.

mod socket_activation;
mod stop;
mod watchdog;

use crate::support::TIMEOUT;
use crate::support::server::Setup;
use std::io::{self};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const READY: &str = "READY=1";
const STOPPING: &str = "STOPPING=1";
const WATCHDOG: &str = "WATCHDOG=1";

/// The watchdog interval: systemd stops the service after this time without a ping.
const INTERVAL: Duration = Duration::from_millis(600);

/// The receiver of service notifications, as in systemd.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Manager {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        Manager { socket, folder }
    }

    /// Passes the notification socket to the process.
    fn watches(&self, setup: Setup) -> Setup {
        setup.env("NOTIFY_SOCKET", self.folder.path().join("notify").to_str().unwrap())
    }

    /// Returns the next message within this time, or `None`.
    fn within(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).unwrap();
        self.receive()
    }

    fn receive(&self) -> Option<String> {
        let mut bytes = [0; 256];
        match self.socket.recv(&mut bytes) {
            Ok(length) => Some(String::from_utf8(bytes[..length].to_vec()).unwrap().trim_end().to_owned()),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
                None
            }
        }
    }

    fn next(&self) -> String {
        self.within(TIMEOUT).expect("a message of the service")
    }

    /// Skips messages until the wanted one.
    fn wait_for(&self, message: &str) {
        let deadline = Instant::now() + TIMEOUT;
        while self.next() != message {
            assert!(Instant::now() < deadline, "no {message}");
        }
    }

    /// All messages so far: a sent message is received at once.
    fn messages(&self) -> Vec<String> {
        self.socket.set_nonblocking(true).unwrap();
        let messages = std::iter::from_fn(|| self.receive()).collect();
        self.socket.set_nonblocking(false).unwrap();
        messages
    }
}

fn request(post: bool) -> &'static str {
    if post {
        "POST /img-classification/free HTTP/1.1\r\nHost: test\r\nContent-Length: 19\r\n\r\n{\"dataset\":\"mnist\"}"
    } else {
        "GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n"
    }
}
