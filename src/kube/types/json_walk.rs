//! A JSON text as a sequence of leaves, each with its path.
//!
//! One small walker serves lists, events and every kind of object. Types of serde's derive would add 250 KB to the
//! binary.

use std::fmt::{self, Write};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Maximum length of a leaf's path; the paths in use have up to 10 keys. Deeper leaves are not reported.
const MAX_DEPTH: usize = 16;

/// A key whose value is skipped: half of an object, and not in use. It tells which client has set which field.
const SKIPPED: &str = "managedFields";

/// Calls `leaf` with the path and the text of every string, number and boolean of a JSON text. List items have their
/// index as the key.
///
/// # Errors
/// The text is not JSON.
pub fn walk(text: &[u8], leaf: &mut dyn FnMut(&[&str], &str)) -> Result<(), serde_json::Error> {
    let mut json = serde_json::Deserializer::from_slice(text);
    Walk { path: &mut Path::default(), leaf }.deserialize(&mut json)?;
    json.end()
}

/// The keys above a value. A key's memory is used again by the next one at its level.
#[derive(Default)]
struct Path {
    keys: Vec<String>,
    depth: usize,
}

impl Path {
    /// Adds an empty key and returns it.
    fn push(&mut self) -> &mut String {
        if self.keys.len() == self.depth {
            self.keys.push(String::new());
        }
        let key = &mut self.keys[self.depth];
        self.depth += 1;
        key.clear();
        key
    }
}

struct Walk<'a> {
    path: &'a mut Path,
    leaf: &'a mut dyn FnMut(&[&str], &str),
}

impl Walk<'_> {
    fn report(self, leaf: &str) {
        let Path { keys, depth } = self.path;
        let mut path = [""; MAX_DEPTH];
        if let Some(path) = path.get_mut(..*depth) {
            path.iter_mut().zip(keys).for_each(|(slot, key)| *slot = key);
            (self.leaf)(path, leaf);
        }
    }

    /// Returns the walk of a value below the last key.
    fn descend(&mut self) -> Walk<'_> {
        Walk { path: self.path, leaf: self.leaf }
    }
}

/// Adds a key to a path.
struct Key<'a>(&'a mut Path);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<(), E> {
        self.0.push().push_str(key);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, leaf: bool) -> Result<(), E> {
        self.report(if leaf { "true" } else { "false" });
        Ok(())
    }

    fn visit_i64<E>(self, leaf: i64) -> Result<(), E> {
        self.report(&leaf.to_string());
        Ok(())
    }

    fn visit_u64<E>(self, leaf: u64) -> Result<(), E> {
        self.report(&leaf.to_string());
        Ok(())
    }

    fn visit_f64<E>(self, leaf: f64) -> Result<(), E> {
        self.report(&leaf.to_string());
        Ok(())
    }

    fn visit_str<E>(self, leaf: &str) -> Result<(), E> {
        self.report(leaf);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<S: SeqAccess<'de>>(mut self, mut seq: S) -> Result<(), S::Error> {
        for index in 0.. {
            write!(self.path.push(), "{index}").expect("a String takes all texts");
            let element = seq.next_element_seed(self.descend())?;
            self.path.depth -= 1;
            if element.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<M: MapAccess<'de>>(mut self, mut map: M) -> Result<(), M::Error> {
        while map.next_key_seed(Key(self.path))?.is_some() {
            if self.path.keys[self.path.depth - 1] == SKIPPED {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value_seed(self.descend())?;
            }
            self.path.depth -= 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walk_reports_each_leaf_with_its_path() {
        let mut seen = Vec::new();
        let text = br#" {"a":[1,{},{"b/c":null,"d":-1.5}],"managedFields":[{"a":1}],"e":true,"f":"\u00e4"} "#;
        walk(text, &mut |path, leaf| seen.push(format!("{}={leaf}", path.join(" ")))).expect("JSON");
        assert_eq!(seen, ["a 0=1", "a 2 d=-1.5", "e=true", "f=\u{e4}"]);
        let deep = format!("{}1{}", r#"{"a":"#.repeat(MAX_DEPTH + 1), "}".repeat(MAX_DEPTH + 1));
        walk(deep.as_bytes(), &mut |path, _| panic!("{path:?}")).expect("JSON");
        for text in ["", "{", "{\"a\":", "<html>", "{\"a\" 1}", "{} {}", &"[".repeat(1000)] {
            assert!(walk(text.as_bytes(), &mut |_, _| {}).is_err(), "{text}");
        }
    }
}
