//! The fields of Kubernetes objects that this program reads.

pub mod job;
pub mod job_pod;
pub mod json_walk;
pub mod pod;
pub mod protobuf;
pub mod quota;
pub mod watched;
