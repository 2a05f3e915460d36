//! What systemd gives and wants, without systemd: its notification socket, its watchdog, sockets that it passes, and the
//! signals with which it ends a service.

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
const ALIVE: &str = "WATCHDOG=1";

/// The watchdog's interval: without a sign of life for so long, systemd ends the service.
const INTERVAL: Duration = Duration::from_millis(600);

/// Enough for a message that is under way.
const A_MOMENT: Duration = Duration::from_millis(150);

/// What a stop may take beyond what it waits for.
const SLACK: Duration = Duration::from_secs(3);

/// The side of systemd that hears what services say of themselves.
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

    /// The process tells us.
    fn watches(&self, setup: Setup) -> Setup {
        setup.env("NOTIFY_SOCKET", self.folder.path().join("notify").to_str().unwrap())
    }

    /// The next message, if there is one within this time.
    fn within(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).unwrap();
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
        self.within(TIMEOUT).expect("the service says something")
    }

    /// Passes over other messages.
    fn wait_for(&self, message: &str) {
        let deadline = Instant::now() + TIMEOUT;
        while self.next() != message {
            assert!(Instant::now() < deadline, "no {message}");
        }
    }

    /// All that was said until now.
    fn said(&self) -> Vec<String> {
        std::iter::from_fn(|| self.within(A_MOMENT)).collect()
    }
}

fn request(post: bool) -> &'static str {
    if post {
        "POST /img-classification/free HTTP/1.1\r\nHost: test\r\nContent-Length: 19\r\n\r\n{\"dataset\":\"mnist\"}"
    } else {
        "GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n"
    }
}
