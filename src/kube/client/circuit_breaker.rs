//! The circuit breaker: fail fast while the cluster is unreachable.
//!
//! The circuit opens when an operation reaches its deadline, and has only failed to connect for half of its time or more.
//! An API server that restarts within that time therefore opens no circuit. While the circuit is open every operation
//! fails at once, and one thread probes the cluster. The first response to a probe closes the circuit and ends the thread.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::kube::client::retry::{exponential, jitter};

/// Pauses between probes: an API server's return is found within seconds, and its absence costs a connection attempt
/// every few seconds.
const INITIAL_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The state shared by all operations of a client.
#[derive(Default)]
pub struct Circuit {
    state: Mutex<State>,
    opened: Condvar,
}

#[derive(Default)]
struct State {
    is_open: bool,
    /// The last time when the circuit closed.
    closed_at: Option<Instant>,
}

impl Circuit {
    pub fn is_open(&self) -> bool {
        self.lock().is_open
    }

    /// Opens the circuit and starts the thread that calls `probe` until it returns `true`. Does nothing if the circuit
    /// is open, or has closed since the failed attempt started at `started`: the cluster was reachable later.
    pub fn open(self: &Arc<Self>, started: Instant, probe: impl Fn() -> bool + Send + 'static) {
        let mut state = self.lock();
        if state.is_open || state.closed_at.is_some_and(|closed| closed >= started) {
            return;
        }
        // Nothing would close a circuit without the thread.
        if let Err(error) = self.start(probe) {
            log::error!("cluster unreachable; no thread for the circuit breaker: {error}");
            return;
        }
        state.is_open = true;
        log::error!("cluster unreachable; circuit breaker open: requests that need it get 503 at once");
        drop(state);
        self.opened.notify_all();
    }

    /// Sleeps; returns `false` at once if the circuit is open or opens meanwhile.
    pub fn pause(&self, pause: Duration) -> bool {
        let wait = self.opened.wait_timeout_while(self.lock(), pause, |state| !state.is_open);
        !wait.unwrap_or_else(PoisonError::into_inner).0.is_open
    }

    fn start(self: &Arc<Self>, probe: impl Fn() -> bool + Send + 'static) -> io::Result<()> {
        let circuit = Arc::clone(self);
        let run = move || {
            let mut probes = 0;
            loop {
                thread::sleep(probe_pause(probes));
                // A panic must not leave the circuit open for ever.
                if catch_unwind(AssertUnwindSafe(&probe)).unwrap_or(false) {
                    break;
                }
                probes += 1;
            }
            *circuit.lock() = State { is_open: false, closed_at: Some(Instant::now()) };
            log::warn!("cluster reachable again; circuit breaker closed");
        };
        thread::Builder::new().name("probe".into()).spawn(run).map(drop)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the pause before the next probe: 0.5 to 5 s, with jitter.
fn probe_pause(probes: u32) -> Duration {
    jitter(exponential(INITIAL_PAUSE, probes, MAX_PAUSE)).clamp(INITIAL_PAUSE, MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn an_open_circuit_has_one_probe_at_a_time_and_closes_at_its_success() {
        let circuit = Arc::new(Circuit::default());
        let (began, begins) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let start = Instant::now();
        circuit.open(start, move || {
            began.send(()).expect("the test waits");
            answers.recv().expect("the test answers")
        });
        circuit.open(start, || unreachable!("the circuit has a thread"));
        for is_reachable in [false, true] {
            begins.recv().expect("a probe");
            assert!(circuit.is_open() && !circuit.pause(Duration::from_secs(3600)));
            answer.send(is_reachable).expect("the probe waits");
        }
        while circuit.is_open() {
            thread::yield_now();
        }
        assert!(circuit.pause(Duration::ZERO));
        circuit.open(start, || unreachable!("the attempt is older than the end of the outage"));
        assert!(!circuit.is_open());
        circuit.open(Instant::now(), || false);
        assert!(circuit.is_open());
    }

    #[test]
    fn the_pauses_of_probes_grow_from_half_a_second_to_five() {
        for (probes, from, to) in [(0, 500, 625), (1, 750, 1250), (2, 1500, 2500), (4, 3750, 5000), (100, 3750, 5000)] {
            let pause = probe_pause(probes).as_millis();
            assert!((from..=to).contains(&pause), "{pause} ms before probe {probes}");
        }
    }
}
