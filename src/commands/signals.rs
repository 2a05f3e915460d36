//! The signals that end a command.

use std::fs;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

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
