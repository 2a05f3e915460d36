//! JSON rows in the order of their keys. Pure.
//!
//! A snapshot shares the rows in chunks: it takes a microsecond for 10,000 rows, and the owner copies only a chunk that changes while
//! a snapshot has it. So a long body is made without a lock.

use std::sync::Arc;

use crate::state::pod_list::Digest;

/// Maximum number of rows in a chunk: about the square root of the number of pods of a large cluster.
const MAX_CHUNK: usize = 128;

/// Rows by key.
#[derive(Default)]
pub struct Rows {
    /// Chunks in order; none is empty.
    chunks: Vec<Arc<Vec<Row>>>,
    totals: Totals,
    /// Number of lists begun.
    generation: u32,
}

#[derive(Clone)]
struct Row {
    key: Box<str>,
    json: Box<[u8]>,
    /// The last list that contained it.
    generation: u32,
}

/// The rows at one time.
pub struct Snapshot {
    chunks: Vec<Arc<Vec<Row>>>,
    pub totals: Totals,
}

/// Sums over all rows.
#[derive(Clone, Copy, Default)]
pub struct Totals {
    pub digest: Digest,
    /// Length of the rows.
    pub bytes: usize,
}

impl Totals {
    fn add(&mut self, json: &[u8]) {
        self.digest.add(json);
        self.bytes += json.len();
    }

    fn remove(&mut self, json: &[u8]) {
        self.digest.remove(json);
        self.bytes -= json.len();
    }
}

impl Snapshot {
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).map(|row| &*row.json)
    }
}

impl Rows {
    /// Begins a list. A row that is not inserted before its end no longer exists.
    pub fn begin_list(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// Completes a list, and removes the rows that it did not contain.
    pub fn finish_list(&mut self) {
        let is_gone = |row: &Row| row.generation != self.generation;
        for chunk in self.chunks.iter_mut().filter(|chunk| chunk.iter().any(is_gone)) {
            chunk.iter().filter(|row| is_gone(row)).for_each(|row| self.totals.remove(&row.json));
            Arc::make_mut(chunk).retain(|row| !is_gone(row));
        }
        self.chunks.retain(|chunk| !chunk.is_empty());
    }

    /// Adds or replaces a row.
    pub fn insert(&mut self, key: Box<str>, json: Box<[u8]>) {
        self.totals.add(&json);
        let index = self.chunk_of(&key);
        let row = Row { key, json, generation: self.generation };
        let Some(chunk) = self.chunks.get_mut(index) else {
            self.chunks.push(Arc::new(vec![row]));
            return;
        };
        let chunk = Arc::make_mut(chunk);
        match chunk.binary_search_by(|other| other.key.cmp(&row.key)) {
            Ok(at) => {
                let previous = std::mem::replace(&mut chunk[at], row);
                self.totals.remove(&previous.json);
            }
            Err(at) => {
                chunk.insert(at, row);
                if chunk.len() > MAX_CHUNK {
                    let rest = chunk.split_off(MAX_CHUNK / 2);
                    self.chunks.insert(index + 1, Arc::new(rest));
                }
            }
        }
    }

    /// Removes a row.
    pub fn remove(&mut self, key: &str) {
        let index = self.chunk_of(key);
        let Some(chunk) = self.chunks.get_mut(index) else { return };
        let Ok(at) = chunk.binary_search_by(|row| (*row.key).cmp(key)) else { return };
        let row = Arc::make_mut(chunk).remove(at);
        if chunk.is_empty() {
            self.chunks.remove(index);
        }
        self.totals.remove(&row.json);
    }

    pub fn digest(&self) -> Digest {
        self.totals.digest
    }

    /// Returns the rows as they are now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { chunks: self.chunks.clone(), totals: self.totals }
    }

    /// Returns the index of the chunk that has the key, or would have it.
    fn chunk_of(&self, key: &str) -> usize {
        self.chunks.partition_point(|chunk| *chunk[0].key <= *key).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A sequence of numbers without a pattern, Knuth's MMIX generator.
    fn numbers() -> impl Iterator<Item = u64> {
        let next = |x: &u64| Some(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
        std::iter::successors(Some(7), next).map(|x| x >> 33)
    }

    #[test]
    fn rows_equal_a_sorted_map_after_any_changes() {
        let (mut rows, mut expected, mut numbers) = (Rows::default(), BTreeMap::new(), numbers());
        let mut next = move |below: u64| numbers.next().expect("it is endless") % below;
        for step in 0..20_000 {
            let key = format!("{:04}", next(2000));
            match next(5) {
                0 | 1 => {
                    rows.remove(&key);
                    expected.remove(&key);
                }
                _ => {
                    let json = format!("{key} {step}");
                    rows.insert(key.as_str().into(), json.as_bytes().into());
                    expected.insert(key, json);
                }
            }
            if step % 1000 == 999 {
                // A list that lacks every third row.
                rows.begin_list();
                let kept = expected.iter().enumerate().filter(|(index, _)| index % 3 != 0);
                expected = kept.map(|(_, (key, json))| (key.clone(), json.clone())).collect();
                expected.iter().for_each(|(key, json)| rows.insert(key.as_str().into(), json.as_bytes().into()));
                rows.finish_list();
            }
            if step % 100 == 99 {
                let snapshot = rows.snapshot();
                assert!(snapshot.iter().eq(expected.values().map(String::as_bytes)), "step {step}");
                assert_eq!(snapshot.totals.bytes, expected.values().map(String::len).sum::<usize>());
                let mut digest = Digest::default();
                expected.values().for_each(|json| digest.add(json.as_bytes()));
                assert_eq!(snapshot.totals.digest, digest);
            }
        }
        assert!(rows.chunks.len() > 5 && rows.chunks.iter().all(|chunk| (1..=MAX_CHUNK).contains(&chunk.len())));
    }

    #[test]
    fn a_snapshot_keeps_its_rows() {
        let mut rows = Rows::default();
        rows.insert("a".into(), b"1".as_slice().into());
        let snapshot = rows.snapshot();
        rows.insert("a".into(), b"2".as_slice().into());
        rows.remove("a");
        assert!(snapshot.iter().eq([b"1"]) && rows.snapshot().iter().next().is_none());
    }
}
