//! The program's modules for the fuzz targets, because the program is a binary and has no library.
//!
//! They keep their names, by which they import one another.

#![allow(dead_code)] // the targets do not call the code that opens sockets

#[path = "../../src/api/mod.rs"]
pub mod api;
pub mod front;
#[path = "../../src/job.rs"]
pub mod job;
pub mod kube;
#[path = "../../src/metrics.rs"]
pub mod metrics;
#[path = "../../src/queue/mod.rs"]
pub mod queue;
#[path = "../../src/state/mod.rs"]
pub mod state;

use std::fmt;
use std::io::{self, Read};

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

/// A reader that returns one byte at a time.
pub struct OneByOne<'a>(pub &'a [u8]);

impl Read for OneByOne<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(1);
        self.0.read(&mut buffer[..length])
    }
}

/// A reader that fails with a connection reset.
pub struct BrokenConnection;

impl Read for BrokenConnection {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

/// Returns the keys of a JSON object, duplicates included. serde_json's tree keeps only the last duplicate.
///
/// # Errors
/// The text is not a JSON object.
pub fn keys(json: &[u8]) -> Result<Vec<String>, serde_json::Error> {
    serde_json::Deserializer::from_slice(json).deserialize_map(Keys)
}

struct Keys;

impl<'de> Visitor<'de> for Keys {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Vec<String>, M::Error> {
        let mut keys = Vec::new();
        while let Some((key, IgnoredAny)) = map.next_entry()? {
            keys.push(key);
        }
        Ok(keys)
    }
}
