//! The server's descriptors and threads, read from /proc.

use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::collections::{BTreeSet, HashSet};
use std::os::fd::OwnedFd;

use super::server::Server;

/// Limit of private connections: pool classes kubernetes 32, memory 8, stream 16.
const MAX_PRIVATE: usize = 32 + 8 + 16;

/// The folder of the server's process in /proc.
pub fn folder(server: &Server) -> String {
    format!("/proc/{}", server.pid().as_raw_nonzero())
}

fn entries(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The numbers of the server's open descriptors.
pub fn descriptors(server: &Server) -> BTreeSet<u64> {
    entries(&format!("{}/fd", folder(server))).iter().map(|number| number.parse().unwrap()).collect()
}

/// Copies of these descriptors of the server, which exist as long as the server's own.
pub fn copies(server: &Server, descriptors: BTreeSet<u64>) -> Vec<OwnedFd> {
    let process = pidfd_open(server.pid(), PidfdFlags::empty()).unwrap();
    let copy = |descriptor| pidfd_getfd(&process, i32::try_from(descriptor).unwrap(), PidfdGetfdFlags::empty());
    // A descriptor may have been closed since it was listed.
    descriptors.into_iter().filter_map(|descriptor| copy(descriptor).ok()).collect()
}

/// The number of the server's threads.
pub fn threads(server: &Server) -> usize {
    entries(&format!("{}/task", folder(server))).len()
}

/// The largest amount of memory that the server has had so far, in KiB.
pub fn peak_memory(server: &Server) -> usize {
    let status = std::fs::read_to_string(format!("{}/status", folder(server))).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The descriptors of connected Unix sockets: both ends of the private connections, and a few socket pairs.
pub fn private_descriptors(server: &Server) -> BTreeSet<u64> {
    unix_descriptors(server, |_| true)
}

/// The descriptors of the private connections' ends that tiny_http has accepted, which have the path of its socket.
pub fn accepted_descriptors(server: &Server) -> BTreeSet<u64> {
    unix_descriptors(server, |path| path.is_some())
}

fn unix_descriptors(server: &Server, matches: impl Fn(Option<&str>) -> bool) -> BTreeSet<u64> {
    let folder = folder(server);
    let table = std::fs::read_to_string(format!("{folder}/net/unix")).unwrap();
    // State 03 is SS_CONNECTED, state 01 a listening or unconnected socket.
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let rows = rows.filter(|row| row.get(5) == Some(&"03") && matches(row.get(7).copied()));
    let inodes: HashSet<String> = rows.map(|row| row[6].to_owned()).collect();
    let is_wanted = |descriptor: &u64| {
        let link = std::fs::read_link(format!("{folder}/fd/{descriptor}")).unwrap_or_default();
        let inode = link.to_str().unwrap().strip_prefix("socket:[").map(|rest| rest.trim_end_matches(']'));
        inode.is_some_and(|inode| inodes.contains(inode))
    };
    descriptors(server).into_iter().filter(is_wanted).collect()
}

/// Number of descriptors and of threads, without those of the pooled private connections.
pub fn client_resources(server: &Server) -> (usize, usize) {
    let folder = folder(server);
    let name = |task: &String| std::fs::read_to_string(format!("{folder}/task/{task}/comm")).unwrap_or_default();
    let main = std::fs::read_to_string(format!("{folder}/comm")).unwrap();
    let (private, public): (Vec<_>, Vec<_>) =
        entries(&format!("{folder}/task")).iter().map(name).partition(|name| name == "worker\n" || *name == main);
    let workers = private.iter().filter(|name| *name == "worker\n").count();
    assert!(workers <= MAX_PRIVATE, "{workers} workers");
    (descriptors(server).len() - private_descriptors(server).len(), public.len())
}
