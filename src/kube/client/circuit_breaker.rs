//! When the cluster is down, so that callers are told at once and nobody waits for nothing.
//!
//! The circuit opens when an operation has spent its whole time on failures to connect: an API server that restarts within
//! that time goes unnoticed. While it is open one operation at a time goes on trying, the others fail at once; the first
//! answer closes it.

use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by all operations of a client.
#[derive(Default)]
pub struct Circuit {
    open: AtomicBool,
    probing: AtomicBool,
}

/// The right to try.
pub struct Pass<'a> {
    circuit: &'a Circuit,
    probe: bool,
}

impl Circuit {
    /// The right to try; none while the circuit is open and another operation tries.
    pub fn enter(&self) -> Option<Pass<'_>> {
        if !self.open.load(Ordering::SeqCst) {
            return Some(Pass { circuit: self, probe: false });
        }
        let free = self.probing.compare_exchange(false, true, Ordering::SeqCst, Ordering::SeqCst);
        free.ok().map(|_| Pass { circuit: self, probe: true })
    }
}

impl Pass<'_> {
    /// Something was heard from the cluster.
    pub fn answered(&self) {
        if self.circuit.open.load(Ordering::SeqCst) && self.circuit.open.swap(false, Ordering::SeqCst) {
            log::warn!("the cluster can be reached again");
        }
    }

    /// The whole time was spent in vain.
    pub fn gave_up(&self) {
        if !self.circuit.open.swap(true, Ordering::SeqCst) {
            log::error!(
                "the cluster cannot be reached; until it can, requests that need it are answered with 503 at once"
            );
        }
    }

    /// Another operation has given up, and this one is not the one that goes on trying.
    pub fn is_over(&self) -> bool {
        !self.probe && self.circuit.open.load(Ordering::SeqCst)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.probe {
            self.circuit.probing.store(false, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_circuit_lets_one_at_a_time_try_until_one_is_answered() {
        let circuit = Circuit::default();
        let (first, second) = (circuit.enter().expect("closed"), circuit.enter().expect("closed"));
        first.gave_up();
        assert!(first.is_over() && second.is_over());
        drop((first, second));

        let probe = circuit.enter().expect("one may try");
        assert!(!probe.is_over());
        assert!(circuit.enter().is_none(), "but only one");
        drop(probe);
        let probe = circuit.enter().expect("the next one may try");
        probe.answered();
        assert!(circuit.enter().is_some() && circuit.enter().is_some(), "closed for good");
    }
}
