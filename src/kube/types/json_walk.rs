//! A JSON text as a sequence of leaves, each with its path.
//!
//! One small walker serves lists, events and every kind of object. Types of serde's derive would add 250 KB to the
//! binary.

use std::fmt::{self, Display};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Calls `leaf` with the path and the text of every string, number and boolean of a JSON text. List items have their
/// index as the key.
///
/// # Errors
/// The text is not JSON.
pub fn walk(text: &[u8], leaf: &mut dyn FnMut(&[&str], &str)) -> Result<(), serde_json::Error> {
    let mut json = serde_json::Deserializer::from_slice(text);
    Walk { path: &mut Vec::new(), leaf }.deserialize(&mut json)?;
    json.end()
}

struct Walk<'a> {
    path: &'a mut Vec<String>,
    leaf: &'a mut dyn FnMut(&[&str], &str),
}

impl Walk<'_> {
    fn report(self, leaf: &dyn Display) {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        (self.leaf)(&path, &leaf.to_string());
    }

    /// Descends one level.
    fn descend(&mut self, key: String) -> Walk<'_> {
        self.path.push(key);
        Walk { path: self.path, leaf: self.leaf }
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
        self.report(&leaf);
        Ok(())
    }

    fn visit_i64<E>(self, leaf: i64) -> Result<(), E> {
        self.report(&leaf);
        Ok(())
    }

    fn visit_u64<E>(self, leaf: u64) -> Result<(), E> {
        self.report(&leaf);
        Ok(())
    }

    fn visit_f64<E>(self, leaf: f64) -> Result<(), E> {
        self.report(&leaf);
        Ok(())
    }

    fn visit_str<E>(self, leaf: &str) -> Result<(), E> {
        self.report(&leaf);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<S: SeqAccess<'de>>(mut self, mut seq: S) -> Result<(), S::Error> {
        let mut index = 0;
        while seq.next_element_seed(self.descend(index.to_string()))?.is_some() {
            self.path.pop();
            index += 1;
        }
        self.path.pop();
        Ok(())
    }

    fn visit_map<M: MapAccess<'de>>(mut self, mut map: M) -> Result<(), M::Error> {
        while let Some(key) = map.next_key()? {
            map.next_value_seed(self.descend(key))?;
            self.path.pop();
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
        let text = br#" {"a":[1,{},{"b/c":null,"d":-1.5}],"e":true,"f":"\u00e4"} "#;
        walk(text, &mut |path, leaf| seen.push(format!("{}={leaf}", path.join(" ")))).expect("JSON");
        assert_eq!(seen, ["a 0=1", "a 2 d=-1.5", "e=true", "f=\u{e4}"]);
        for text in ["", "{", "{\"a\":", "<html>", "{\"a\" 1}", "{} {}", &"[".repeat(1000)] {
            assert!(walk(text.as_bytes(), &mut |_, _| {}).is_err(), "{text}");
        }
    }
}
