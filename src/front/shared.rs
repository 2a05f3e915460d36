//! The state that the acceptor and all client connections share.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::front::backend::{Backend, Class};
use crate::front::connections::Connections;
use crate::front::limits::Limits;
use crate::front::rate_limiter::Rates;
use crate::front::stats::Stats;
use crate::front::upstream::{Pool, Size};

/// The shared state of the front.
pub struct Shared {
    /// The listening address with the real port.
    pub address: SocketAddr,
    /// The server behind.
    pub backend: Backend,
    /// The rates of each client network; `None` without a limit.
    pub rates: Option<Rates>,
    /// The table of client connections.
    pub connections: Arc<Connections>,
    /// The refusals.
    pub stats: Stats,
    kubernetes: Pool,
    memory: Pool,
    stream: Pool,
    is_closing: AtomicBool,
    last_logged: Mutex<Option<Instant>>,
}

impl Shared {
    /// The state of a front that listens at `address`.
    pub fn new(address: SocketAddr, limits: Limits, backend: Backend) -> Self {
        Self {
            address,
            backend,
            rates: (limits.posts_per_minute > 0).then(|| Rates::new(limits.posts_per_minute)),
            connections: Arc::new(Connections::new(limits.connections)),
            stats: Stats::default(),
            kubernetes: Pool::new(Size {
                max: limits.kubernetes,
                max_reads: limits.kubernetes_reads(),
                max_per_network: limits.kubernetes,
                max_waiting: limits.kubernetes_waiting,
                max_waiting_reads: limits.kubernetes_waiting_reads(),
            }),
            memory: Pool::new(Size {
                max: limits.memory,
                max_reads: limits.memory,
                max_per_network: limits.memory,
                max_waiting: limits.memory_waiting,
                max_waiting_reads: limits.memory_waiting,
            }),
            // A stream may last for any time, so no request waits for one.
            stream: Pool::new(Size {
                max: limits.stream,
                max_reads: limits.stream,
                max_per_network: limits.streams_per_network(),
                max_waiting: 0,
                max_waiting_reads: 0,
            }),
            is_closing: AtomicBool::new(false),
            last_logged: Mutex::default(),
        }
    }

    /// The private connections of a class.
    pub fn pool(&self, class: Class) -> &Pool {
        match class {
            Class::Kubernetes => &self.kubernetes,
            Class::Memory => &self.memory,
            Class::Stream => &self.stream,
        }
    }

    /// Closes private connections that were idle for too long.
    pub fn close_idle(&self) {
        [&self.kubernetes, &self.memory, &self.stream].into_iter().for_each(Pool::close_idle);
    }

    /// Returns true once no more connections are accepted.
    pub fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::SeqCst)
    }

    /// Ends the accepting of connections.
    pub fn start_closing(&self) {
        self.is_closing.store(true, Ordering::SeqCst);
    }

    /// Logs an error at most once a second, so that a flood of clients cannot fill the log.
    pub fn log_throttled(&self, text: &str) {
        let mut last = self.last_logged.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            *last = Some(Instant::now());
            log::error!("{text}");
        }
    }
}
