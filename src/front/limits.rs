//! The numbers of client and private connections that the descriptors of the process allow.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Longest request body, in bytes: forty times a valid one. tiny_http reads a body of this size before its handler runs.
pub const MAX_BODY: usize = 1024;

/// Send buffer of a client connection, in bytes. Without it the kernel lets a slow reader's grow to 4 MB, outside any budget.
pub const SEND_BUFFER: usize = 32 * 1024;

/// Send buffer during a larger response, in bytes: the most that Linux allows by default (net.core.wmem_max). A small buffer waits
/// for each acknowledgement.
pub const LARGE_SEND_BUFFER: usize = 208 * 1024;

/// Memory that the kernel takes for a send buffer, in bytes: socket(7), twice the buffer's size.
pub const KERNEL_SEND_BUFFER: usize = 2 * SEND_BUFFER;

/// Receive buffer of a client connection, in bytes: the longest head.
pub const RECEIVE_BUFFER: usize = 16 * 1024;

/// Largest number of client connections, descriptors permitting. Each is a thread with 20 KB in use, so 10 MB of a t2.nano's 512.
const MAX_CONNECTIONS: usize = 512;

/// Smallest number of client connections, however few descriptors there are.
const MIN_CONNECTIONS: usize = 8;

/// One in this many client connections may wait for a private connection of class `Kubernetes`, and of class `Memory`. Together
/// with the private connections these are less than all, so that a new client always finds a place.
const KUBERNETES_WAITING_SHARE: usize = 2;
const MEMORY_WAITING_SHARE: usize = 4;

/// Private connections by class, at most. The quotas of Kubernetes store Jobs that arrive together in one transaction: with 32 it
/// stored 2,375 a second, with 16 1,714, with 64 no more.
const MAX_KUBERNETES: usize = 32;
/// Requests answered from memory take microseconds.
const MAX_MEMORY: usize = 8;
/// Followed logs: each holds a thread and a connection to Kubernetes.
const MAX_STREAM: usize = 16;

/// One in this many private connections of class `Kubernetes` is kept for POSTs, so that no number of reads delays a Job.
const POST_SHARE: usize = 4;

/// One in this many waiting places of class `Kubernetes` is kept for POSTs. Three client networks that fill their shares with reads
/// still leave places to the reads of others.
const POST_WAITING_SHARE: usize = 8;

/// One in this many descriptors may become a private connection of the class, so that few descriptors shrink the pool first.
const KUBERNETES_SHARE: usize = 16;
const MEMORY_SHARE: usize = 32;
const STREAM_SHARE: usize = 64;

/// Descriptors of a private connection: the front's end, and the server's twice, for reading and for writing.
const PRIVATE_DESCRIPTORS: usize = 3;

/// Descriptors for everything else: 35 connections to Kubernetes, their name look-ups, a credential plugin's pipes, closing sockets.
const OTHER_DESCRIPTORS: usize = 96;

/// The limits of the front.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Client connections at a time.
    pub connections: usize,
    /// Private connections of class `Kubernetes`.
    pub kubernetes: usize,
    /// Private connections of class `Memory`.
    pub memory: usize,
    /// Private connections of class `Stream`.
    pub stream: usize,
    /// Requests of class `Kubernetes` that wait for a private connection.
    pub kubernetes_waiting: usize,
    /// Requests of class `Memory` that wait for a private connection.
    pub memory_waiting: usize,
    /// POSTs of one client network; 0 disables the limits of POSTs and of reads.
    pub posts_per_minute: u32,
}

impl Limits {
    /// Shares out the descriptors that the process may open (`ulimit -n`), after raising their number as far as needed and
    /// allowed: the usual soft limit of 1024 is for programs that use select().
    pub fn from_descriptors(posts_per_minute: u32) -> Self {
        let private = MAX_KUBERNETES + MAX_MEMORY + MAX_STREAM;
        let wanted = (MAX_CONNECTIONS + OTHER_DESCRIPTORS + PRIVATE_DESCRIPTORS * private) as u64;
        let limit = getrlimit(Resource::Nofile);
        let allowed = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
        let mut current = limit.current.unwrap_or(wanted);
        if current < allowed && setrlimit(Resource::Nofile, Rlimit { current: Some(allowed), ..limit }).is_ok() {
            current = allowed;
        }
        Self { posts_per_minute, ..Self::of(usize::try_from(current).unwrap_or(usize::MAX)) }
    }

    /// Most private connections of class `Kubernetes` for requests that change nothing.
    pub fn kubernetes_reads(&self) -> usize {
        (self.kubernetes - self.kubernetes / POST_SHARE).max(1)
    }

    /// Most waiting requests of class `Kubernetes` that change nothing.
    pub fn kubernetes_waiting_reads(&self) -> usize {
        (self.kubernetes_waiting - self.kubernetes_waiting / POST_WAITING_SHARE).max(1)
    }

    /// Most streams of one client network. Half and not a quarter, because the students behind one NAT share an address.
    pub fn streams_per_network(&self) -> usize {
        self.stream.div_ceil(2)
    }

    fn of(descriptors: usize) -> Self {
        let kubernetes = (descriptors / KUBERNETES_SHARE).clamp(1, MAX_KUBERNETES);
        let memory = (descriptors / MEMORY_SHARE).clamp(1, MAX_MEMORY);
        let stream = (descriptors / STREAM_SHARE).clamp(1, MAX_STREAM);
        let kept = OTHER_DESCRIPTORS + PRIVATE_DESCRIPTORS * (kubernetes + memory + stream);
        let connections = descriptors.saturating_sub(kept).clamp(MIN_CONNECTIONS, MAX_CONNECTIONS);
        // With few descriptors the private connections take more of the places.
        let free = connections - (kubernetes + memory + stream).min(connections);
        let kubernetes_waiting = (connections / KUBERNETES_WAITING_SHARE).min(free * 2 / 3).max(1);
        let memory_waiting = (connections / MEMORY_WAITING_SHARE).min(free / 3).max(1);
        Self { connections, kubernetes, memory, stream, kubernetes_waiting, memory_waiting, posts_per_minute: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_leave_connections_of_every_kind() {
        for descriptors in [0, 64, 256, 512, 1024, usize::MAX] {
            let limits = Limits::of(descriptors);
            assert!(limits.connections >= MIN_CONNECTIONS && limits.memory_waiting >= 1, "{limits:?}");
            assert!(limits.kubernetes > 0 && limits.memory > 0 && limits.stream > 0, "{limits:?}");
            let waiting = limits.kubernetes_waiting + limits.memory_waiting;
            let admitted = waiting + limits.kubernetes + limits.memory + limits.stream;
            assert!(limits.connections == MIN_CONNECTIONS || admitted <= limits.connections, "{limits:?}");
            let private = PRIVATE_DESCRIPTORS * (limits.kubernetes + limits.memory + limits.stream);
            let used = limits.connections + private + OTHER_DESCRIPTORS;
            assert!(descriptors < 256 || used <= descriptors, "{limits:?} of {descriptors}");
        }
        let usual = Limits::of(1024);
        assert_eq!(
            (
                usual.connections,
                usual.kubernetes,
                usual.memory,
                usual.stream,
                usual.kubernetes_waiting,
                usual.memory_waiting
            ),
            (512, 32, 8, 16, 256, 128)
        );
    }
}
