//! Lists and watches of Kubernetes objects.

pub mod watcher;
