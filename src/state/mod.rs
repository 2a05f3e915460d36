//! The state of the cluster that the server keeps by watching: the pods of all namespaces for GET /config, and the Jobs of both tiers
//! with their pods.
//!
//! The watches write through short locks. Readers ask whether a part is recent enough before they show it.

pub mod job_status;
pub mod job_watch;
pub mod pod_list;
mod pod_record;
mod pod_store;
pub mod pod_watch;
mod rows;
pub mod store;
pub mod tier_jobs;
mod waiters;
pub mod watch_state;

pub use pod_record::{CREATING, PodRecord, Progress};

use crate::kube::{Error, WatchEvent, chain};

/// Returns the causes of a failed watch; empty for any other event.
pub fn failure<T>(event: &WatchEvent<T>) -> String {
    if let WatchEvent::Failed(error) = event { describe(error, "--no-watch") } else { String::new() }
}

/// Returns the causes of a failure, with the fix of a missing permission; `option` turns off what needs it.
pub fn describe(error: &Error, option: &str) -> String {
    let fix = match error.not_permitted() {
        true => {
            format!("; fix: run img-classification setup, or kubectl apply -f k8s/rbac.yaml, or start with {option}")
        }
        false => String::new(),
    };
    format!("{}{fix}", chain(error))
}
