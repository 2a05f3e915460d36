//! The fields of Kubernetes objects that this program reads.

pub mod job;
pub mod pod;
pub mod protobuf;
