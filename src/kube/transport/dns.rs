//! Look-ups of one host name: one at a time, with a deadline, and with the last addresses while the name server is silent.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Maximum wait for a look-up if there are addresses of an earlier one. A name server that works answers within this
/// time, and most of a connection attempt's 4 s remain.
const MAX_WAIT_WITH_ADDRESSES: Duration = Duration::from_secs(1);

/// Age of a look-up that is given up as lost: four times what the system's resolver takes by default with two silent name
/// servers. Another one may start then, and at most [`MAX_LOOKUPS`] run.
const LOST_AFTER: Duration = Duration::from_secs(60);

/// Maximum number of look-ups that run at a time, each on its own thread.
const MAX_LOOKUPS: usize = 2;

/// Resolves (host, port). The system's function has no timeout.
type Resolve = Box<dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// The host of the first connection: the cluster's or a proxy's.
pub struct HostLookup {
    host: String,
    port: u16,
    resolve: Resolve,
    state: Mutex<State>,
    finished: Condvar,
}

#[derive(Default)]
struct State {
    /// Number of look-ups that run.
    running: usize,
    /// Start of the last look-up.
    began: Option<Instant>,
    /// Number of finished look-ups.
    finished: u64,
    /// The addresses of the last look-up that found some.
    last_good: Vec<SocketAddr>,
    /// The error of the last look-up.
    error: Option<(io::ErrorKind, String)>,
}

impl HostLookup {
    pub fn new(host: &str, port: u16) -> Self {
        Self::with_resolver(host, port, Box::new(|host, port| Ok((host, port).to_socket_addrs()?.collect())))
    }

    fn with_resolver(host: &str, port: u16, resolve: Resolve) -> Self {
        let host = host.trim_matches(['[', ']']).to_owned();
        Self { host, port, resolve, state: Mutex::default(), finished: Condvar::new() }
    }

    /// Returns the host's addresses. Callers during a look-up share its result. After a failed or slow look-up these are
    /// the last good addresses.
    ///
    /// # Errors
    /// The look-up failed, or has not ended after `timeout`, and there are no earlier addresses.
    pub fn addresses(self: &Arc<Self>, timeout: Duration) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, self.port)]);
        }
        let now = Instant::now();
        let mut state = self.lock();
        let seen = state.finished;
        if state.may_start(now) {
            // Without a thread there is no look-up, but there may be addresses.
            if let Err(error) = self.start(&mut state, now) {
                return if state.last_good.is_empty() { Err(error) } else { Ok(state.last_good.clone()) };
            }
        }
        let began = state.began.unwrap_or(now);
        let deadline = if state.last_good.is_empty() { now + timeout } else { began + MAX_WAIT_WITH_ADDRESSES };
        let wait = deadline.min(now + timeout).saturating_duration_since(now);
        let waited = self.finished.wait_timeout_while(state, wait, |state| state.finished == seen);
        let state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if !state.last_good.is_empty() {
            return Ok(state.last_good.clone());
        }
        match &state.error {
            Some((kind, text)) if state.finished > seen => Err(io::Error::new(*kind, text.clone())),
            _ => Err(io::Error::new(io::ErrorKind::NotConnected, "name look-up timed out")),
        }
    }

    /// Starts a look-up on a separate thread, which may outlast the callers.
    fn start(self: &Arc<Self>, state: &mut State, now: Instant) -> io::Result<()> {
        let lookup = Arc::clone(self);
        thread::Builder::new().name("dns".into()).spawn(move || lookup.run())?;
        state.running += 1;
        state.began = Some(now);
        Ok(())
    }

    fn run(&self) {
        let found = (self.resolve)(&self.host, self.port);
        let mut state = self.lock();
        state.error = match found {
            Ok(addresses) if addresses.is_empty() => Some((io::ErrorKind::NotFound, "no address found".to_owned())),
            Ok(addresses) => {
                state.last_good = addresses;
                None
            }
            Err(error) => Some((error.kind(), error.to_string())),
        };
        state.running -= 1;
        state.finished += 1;
        drop(state);
        self.finished.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Tests if no look-up runs but one that is lost.
    fn may_start(&self, now: Instant) -> bool {
        let is_lost = |began| now.saturating_duration_since(began) >= LOST_AFTER;
        self.running == 0 || (self.running < MAX_LOOKUPS && self.began.is_some_and(is_lost))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    type Answer = io::Result<Vec<SocketAddr>>;

    /// A look-up whose name server answers when the test sends, the test's end, and a message for each query.
    fn lookup() -> (Arc<HostLookup>, mpsc::Sender<Answer>, mpsc::Receiver<()>) {
        let (answer, answers) = mpsc::channel();
        let (query, queries) = mpsc::channel();
        let answers = Mutex::new(answers);
        let resolve = move |_: &str, _| {
            query.send(()).map_err(io::Error::other)?;
            answers.lock().expect("no panic").recv().map_err(io::Error::other)?
        };
        (Arc::new(HostLookup::with_resolver("host.test", 443, Box::new(resolve))), answer, queries)
    }

    fn address(last: u8) -> Vec<SocketAddr> {
        vec![SocketAddr::from(([127, 0, 0, last], 443))]
    }

    #[test]
    fn a_silent_name_server_is_a_failure_to_connect_and_gets_one_query() {
        let (lookup, answer, queries) = lookup();
        for _ in 0..20 {
            let error = lookup.addresses(Duration::from_millis(1)).expect_err("no answer");
            assert_eq!(error.kind(), io::ErrorKind::NotConnected);
        }
        queries.recv().expect("the first query");
        assert!(queries.try_recv().is_err(), "one look-up at a time");
        answer.send(Ok(address(1))).expect("the look-up runs");
        assert_eq!(lookup.addresses(LONG).expect("found"), address(1));
    }

    #[test]
    fn the_last_good_addresses_are_used_until_the_name_server_answers_again() {
        let (lookup, answer, queries) = lookup();
        answer.send(Ok(address(1))).expect("taken by the first query");
        assert_eq!(lookup.addresses(LONG).expect("found"), address(1));
        answer.send(Err(io::Error::other("server failure"))).expect("taken by the second query");
        assert_eq!(lookup.addresses(LONG).expect("the last good one"), address(1));
        // The name server is silent: no caller waits for the timeout.
        for _ in 0..20 {
            assert_eq!(lookup.addresses(LONG).expect("the last good one"), address(1));
        }
        assert_eq!(queries.iter().take(3).count(), 3);
        assert!(queries.try_recv().is_err(), "one look-up at a time");
        answer.send(Ok(address(2))).expect("the look-up runs");
        while lookup.lock().running > 0 {
            thread::yield_now();
        }
        answer.send(Ok(address(2))).expect("taken by the next query");
        assert_eq!(lookup.addresses(LONG).expect("found"), address(2));
    }

    #[test]
    fn a_lost_look_up_is_replaced_once() {
        let (lookup, answer, queries) = lookup();
        for expected in [1, MAX_LOOKUPS, MAX_LOOKUPS] {
            lookup.addresses(Duration::ZERO).expect_err("no answer");
            assert_eq!(lookup.lock().running, expected);
            let mut state = lookup.lock();
            state.began = state.began.and_then(|began| began.checked_sub(LOST_AFTER));
        }
        assert_eq!(queries.iter().take(MAX_LOOKUPS).count(), MAX_LOOKUPS);
        answer.send(Ok(address(1))).expect("a look-up runs");
        assert_eq!(lookup.addresses(LONG).expect("found"), address(1));
    }

    #[test]
    fn a_failed_look_up_is_an_error_if_there_are_no_addresses() {
        let (lookup, answer, _queries) = lookup();
        for result in [Err(io::Error::other("server failure")), Ok(Vec::new())] {
            answer.send(result).expect("taken by the query");
            assert_ne!(lookup.addresses(LONG).expect_err("nothing").kind(), io::ErrorKind::NotConnected);
        }
        let literal = Arc::new(HostLookup::new("[::1]", 443));
        assert_eq!(
            literal.addresses(Duration::ZERO).expect("no look-up"),
            [SocketAddr::from(([0u16, 0, 0, 0, 0, 0, 0, 1], 443))]
        );
    }
}
