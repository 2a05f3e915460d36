//! The standard series of a process, by the names of Prometheus' client libraries, read from /proc. A missing value is left out.

use std::fs;

use rustix::process::{Resource, getrlimit};

use crate::metrics::Text;

/// Clock ticks per second in /proc: part of the kernel's interface on x86_64 and aarch64.
const TICKS: f64 = 100.0;

/// Positions of fields in /proc/self/stat after the command, proc_pid_stat(5): utime, stime and starttime.
const USER_TIME: usize = 11;
const SYSTEM_TIME: usize = 12;
const START_TIME: usize = 19;

/// Writes all series.
pub fn write(text: &mut Text) {
    if let Some((cpu, start)) = times() {
        text.counter("process_cpu_seconds_total", "CPU time of the process, user and system.", cpu);
        text.gauge("process_start_time_seconds", "Start of the process, in seconds since 1970.", start);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = [
        ("process_resident_memory_bytes", "Resident memory of the process.", "VmRSS:"),
        ("process_virtual_memory_bytes", "Virtual memory of the process.", "VmSize:"),
    ];
    for (name, help, key) in memory {
        field(&status, key).iter().for_each(|kilobytes| text.gauge(name, help, kilobytes * 1024));
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        // One of them is the folder itself.
        text.gauge("process_open_fds", "Open descriptors.", files.count().saturating_sub(1));
    }
    let max = getrlimit(Resource::Nofile).current;
    max.iter().for_each(|max| text.gauge("process_max_fds", "Most open descriptors.", max));
}

/// Returns the CPU time, and the start of the process since 1970, in seconds.
fn times() -> Option<(f64, f64)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The command in parentheses may have spaces.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let seconds = |field: usize| Some(fields.get(field)?.parse::<f64>().ok()? / TICKS);
    let boot = field(&fs::read_to_string("/proc/stat").ok()?, "btime")?;
    Some((seconds(USER_TIME)? + seconds(SYSTEM_TIME)?, boot as f64 + seconds(START_TIME)?))
}

/// Returns the number after a key at the start of a line.
fn field(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    value.split_whitespace().next()?.parse().ok()
}
