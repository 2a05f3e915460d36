//! Which signals end a command.

use std::fs;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// SIGTERM, SIGINT, and SIGHUP, with which a terminal ends what was started there: but not after nohup, which has it ignored.
pub fn ending() -> Vec<i32> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    // Bits are counted from signal 1 on, proc(5).
    let is_heard = |signal: &i32| ignored & (1 << (signal - 1)) == 0;
    [SIGTERM, SIGINT].into_iter().chain(Some(SIGHUP).filter(is_heard)).collect()
}
