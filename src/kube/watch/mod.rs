//! Lists and watches of Kubernetes objects.

pub mod event;
mod read;
pub mod watcher;
