//! Objects in protocol buffers, as kubectl 1.32 and later sends those that it makes itself (`create job`, `auth can-i`), by the table of
//! [`schema`].

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::schema::{self, Field};

/// Prefix of every message, see k8s.io/apimachinery/pkg/runtime/serializer/protobuf.
const MAGIC: &[u8] = b"k8s\0";

/// Decodes an object. Returns `None` if it is malformed, or has a field that the table does not describe.
pub fn read(body: &[u8]) -> Option<Value> {
    // runtime.Unknown of k8s.io/apimachinery/pkg/runtime/generated.proto
    let mut unknown = Fields(body.strip_prefix(MAGIC)?);
    let (mut type_meta, mut raw) = (&[][..], &[][..]);
    while let Some((number, content)) = unknown.next()? {
        match (number, content) {
            (1, Content::Bytes(bytes)) => type_meta = bytes,
            (2, Content::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let (version, kind) = (text_field(type_meta, 1)?, text_field(type_meta, 2)?);
    let mut object = structure(&kind, raw)?;
    object.insert("apiVersion".to_owned(), json!(version));
    object.insert("kind".to_owned(), json!(kind));
    Some(Value::Object(object))
}

/// Decodes a message of a type of the table.
fn structure(ty: &str, message: &[u8]) -> Option<Map<String, Value>> {
    let known: Vec<Field> = schema::fields(ty)?.collect();
    let (mut object, mut fields) = (Map::new(), Fields(message));
    while let Some((number, content)) = fields.next()? {
        let field = known.iter().find(|field| field.number == number)?;
        let Some(value) = value(field.ty, content)? else { continue };
        match (object.get_mut(field.name), value) {
            (Some(Value::Array(items)), Value::Array(more)) => items.extend(more),
            (Some(Value::Object(map)), Value::Object(more)) => map.extend(more),
            (_, value) => drop(object.insert(field.name.to_owned(), value)),
        }
    }
    Some(object)
}

/// Decodes the content of a field. Returns `Some(None)` for one that is not set: Go writes empty strings and times.
fn value(ty: &str, content: Content<'_>) -> Option<Option<Value>> {
    Some(match (ty, content) {
        ("status", _) => None,
        ("bool", Content::Number(number)) => Some(json!(number != 0)),
        ("int32" | "int64", Content::Number(number)) => Some(json!(number.cast_signed())),
        ("string", Content::Bytes(bytes)) => Some(text(bytes)?).filter(|text| !text.is_empty()).map(Value::String),
        ("[]string", Content::Bytes(bytes)) => Some(json!([text(bytes)?])),
        ("strings", Content::Bytes(entry)) => Some(json!({ text_field(entry, 1)?: text_field(entry, 2)? })),
        ("bytes", Content::Bytes(entry)) => {
            Some(json!({ text_field(entry, 1)?: STANDARD.encode(bytes_field(entry, 2)?) }))
        }
        ("quantities", Content::Bytes(entry)) => {
            // A Quantity is a message with its text.
            Some(json!({ text_field(entry, 1)?: text_field(bytes_field(entry, 2)?, 1)? }))
        }
        ("", Content::Bytes([])) => None,
        ("", _) => return None,
        (ty, Content::Bytes(message)) => match ty.strip_prefix("[]") {
            Some(item) => Some(json!([structure(item, message)?])),
            None => Some(Value::Object(structure(ty, message)?)),
        },
        _ => return None,
    })
}

/// Returns the last content of a field of bytes, empty without the field.
fn bytes_field(message: &[u8], wanted: u64) -> Option<&[u8]> {
    let (mut found, mut fields) = (&[][..], Fields(message));
    while let Some((number, content)) = fields.next()? {
        if let (true, Content::Bytes(bytes)) = (number == wanted, content) {
            found = bytes;
        }
    }
    Some(found)
}

fn text_field(message: &[u8], number: u64) -> Option<String> {
    text(bytes_field(message, number)?)
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

/// The content of a field.
#[derive(Clone, Copy)]
enum Content<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message that are not read yet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Reads a field: its number and its content. Returns `Some(None)` at the end, and `None` if the message is malformed.
    fn next(&mut self) -> Option<Option<(u64, Content<'a>)>> {
        if self.0.is_empty() {
            return Some(None);
        }
        let key = self.varint()?;
        // These messages contain only strings and messages (2) and numbers (0).
        let content = match key & 7 {
            0 => Content::Number(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Content::Bytes(bytes)
            }
            _ => return None,
        };
        Some(Some((key >> 3, content)))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(content.len()).expect("short")], content].concat()
    }

    fn object(version: &[u8], kind: &[u8], raw: &[u8]) -> Vec<u8> {
        let meta = [message(1, version), message(2, kind)].concat();
        [MAGIC, &message(1, &meta), &message(2, raw)].concat()
    }

    #[test]
    fn a_review_is_decoded_and_a_truncated_or_unknown_message_is_not() {
        let attributes = [message(2, b"list"), message(5, b"pods")].concat();
        let raw = [message(1, b""), message(2, &message(1, &attributes))].concat();
        let bytes = object(b"authorization.k8s.io/v1", b"SelfSubjectAccessReview", &raw);
        let attributes = &read(&bytes).expect("a review")["spec"]["resourceAttributes"];
        assert_eq!(*attributes, json!({"verb": "list", "resource": "pods"}));
        assert_eq!(read(&object(b"apps/v1", b"Deployment", &raw)), None);
        assert_eq!(read(&object(b"v1", b"Namespace", &message(15, b"x"))), None, "an unknown field");
        for end in 0..bytes.len() {
            // A truncated message may decode to a shorter review, but must not panic.
            let _ = read(&bytes[..end]);
        }
        assert_eq!(read(&[MAGIC, &[0xff; 40]].concat()), None);
    }

    #[test]
    fn lists_maps_numbers_and_quantities_are_decoded() {
        let entry = |key: &[u8], value: &[u8]| [message(1, key), message(2, value)].concat();
        let requests = message(2, &entry(b"cpu", &message(1, b"900m")));
        let container =
            [message(1, b"c"), message(2, b""), message(3, b"a"), message(3, b"b"), message(8, &requests)].concat();
        let spec = [message(2, &container), message(2, &message(1, b"d")), vec![4 << 3, 30]].concat();
        let meta = [message(11, &entry(b"k", b"v")), message(11, &entry(b"l", b"")), message(8, b"")].concat();
        let read =
            read(&object(b"v1", b"Pod", &[message(1, &meta), message(2, &spec), message(3, b"\x08\x01")].concat()));
        let container = json!({"name": "c", "command": ["a", "b"], "resources": {"requests": {"cpu": "900m"}}});
        let expected = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"k": "v", "l": ""}},
            "spec": {"containers": [container, {"name": "d"}], "terminationGracePeriodSeconds": 30}});
        assert_eq!(read, Some(expected));
    }
}
