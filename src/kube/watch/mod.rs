//! Lists and watches of Kubernetes objects.

pub mod event;
pub mod watcher;
