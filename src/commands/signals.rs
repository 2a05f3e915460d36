//! The signals that end a command.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::output::one_line;

/// The sentence for a user who interrupts a command.
#[derive(Debug, Clone, Default)]
pub struct Hint(Arc<Mutex<String>>);

impl Hint {
    /// Replaces the sentence.
    pub fn set(&self, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// Returns the sentence.
    pub fn get(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Prints the sentence on stderr when a signal ends the process. Without a signal handler or a thread it is not printed.
    pub fn print_when_interrupted(&self) {
        let hint = self.clone();
        before_end(move |end| {
            // The cursor is behind a live line.
            let start = if io::stdout().is_terminal() { "\n" } else { "" };
            let _ = writeln!(io::stderr(), "{start}img-classification: interrupted; {}", one_line(&hint.get()));
            end();
        });
    }
}

/// Runs `action` when a signal is about to end the process; its parameter ends the process. Without a signal handler or a thread it does
/// not run.
pub fn before_end(action: impl FnOnce(&dyn Fn()) + Send + 'static) {
    let Ok(mut signals) = Signals::new(ending()) else { return };
    let wait = move || {
        if let Some(signal) = signals.forever().next() {
            // The parent sees a process that the signal has ended, as without a handler.
            action(&|| drop(emulate_default_handler(signal)));
        }
    };
    let _ = thread::Builder::new().name("signals".into()).spawn(wait);
}

/// Returns SIGTERM and SIGINT, and SIGHUP unless the process was started with nohup. A closing terminal sends SIGHUP; nohup
/// makes the process ignore it.
pub fn ending() -> Vec<i32> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    // Bit 0 of the mask is signal 1, see proc(5).
    let is_handled = |signal: &i32| ignored & (1 << (signal - 1)) == 0;
    [SIGTERM, SIGINT].into_iter().chain(Some(SIGHUP).filter(is_handled)).collect()
}
