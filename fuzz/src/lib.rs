//! The program's modules for the fuzz targets: the program itself is a binary and has no library.
//!
//! They stand under their own names, because they refer to one another by them.

#![allow(dead_code)] // most of what opens a socket is not fuzzed

#[path = "../../src/api/mod.rs"]
pub mod api;
pub mod front;
#[path = "../../src/job.rs"]
pub mod job;
pub mod kube;
#[path = "../../src/queue/mod.rs"]
pub mod queue;

use std::fmt;
use std::io::{self, Read};

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

/// Gives a byte at a time.
pub struct OneByOne<'a>(pub &'a [u8]);

impl Read for OneByOne<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(1);
        self.0.read(&mut buffer[..most])
    }
}

/// A connection that breaks.
pub struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

/// The keys of a JSON object, those that come twice, too; of which serde_json's tree has only the last.
///
/// # Errors
/// It is not a JSON object.
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
