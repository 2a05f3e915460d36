//! The commands, one file each, and what they share.

pub mod clean;
pub mod client;
pub mod doctor;
pub mod output;
pub mod scoped_client;
pub mod selftest;
pub mod serve;
pub mod setup;
pub mod signals;
pub mod systemd;
