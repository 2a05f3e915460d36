//! The circuit breaker: fail fast while the cluster is unreachable.
//!
//! The circuit opens when an operation has spent its whole deadline on failures to connect. An API server that restarts
//! within that time therefore opens no circuit. While the circuit is open, one operation at a time probes the cluster
//! and the others fail at once. The first response closes the circuit.

use std::sync::atomic::{AtomicBool, Ordering};

/// The state shared by all operations of a client.
#[derive(Default)]
pub struct Circuit {
    open: AtomicBool,
    probing: AtomicBool,
}

/// The permit of one operation.
pub struct BreakerPermit<'a> {
    circuit: &'a Circuit,
    is_probe: bool,
}

impl Circuit {
    /// Returns a permit, or `None` while the circuit is open and another operation probes the cluster.
    pub fn acquire(&self) -> Option<BreakerPermit<'_>> {
        if !self.open.load(Ordering::SeqCst) {
            return Some(BreakerPermit { circuit: self, is_probe: false });
        }
        let probe = self.probing.compare_exchange(false, true, Ordering::SeqCst, Ordering::SeqCst);
        probe.ok().map(|_| BreakerPermit { circuit: self, is_probe: true })
    }
}

impl BreakerPermit<'_> {
    /// Records a response from the cluster, and closes the circuit.
    pub fn record_success(&self) {
        if self.circuit.open.load(Ordering::SeqCst) && self.circuit.open.swap(false, Ordering::SeqCst) {
            log::warn!("cluster reachable again; circuit breaker closed");
        }
    }

    /// Records a deadline spent on failures to connect, and opens the circuit.
    pub fn record_failure(&self) {
        if !self.circuit.open.swap(true, Ordering::SeqCst) {
            log::error!("cluster unreachable; circuit breaker open: requests that need it get 503 at once");
        }
    }

    /// Tests if another operation has opened the circuit and this one is not the probe.
    pub fn is_cancelled(&self) -> bool {
        !self.is_probe && self.circuit.open.load(Ordering::SeqCst)
    }
}

impl Drop for BreakerPermit<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.circuit.probing.store(false, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_circuit_permits_one_probe_at_a_time_until_a_success() {
        let circuit = Circuit::default();
        let (first, second) = (circuit.acquire().expect("closed"), circuit.acquire().expect("closed"));
        first.record_failure();
        assert!(first.is_cancelled() && second.is_cancelled());
        drop((first, second));

        let probe = circuit.acquire().expect("a probe");
        assert!(!probe.is_cancelled());
        assert!(circuit.acquire().is_none(), "only one probe");
        drop(probe);
        let probe = circuit.acquire().expect("the next probe");
        probe.record_success();
        assert!(circuit.acquire().is_some() && circuit.acquire().is_some(), "closed");
    }
}
