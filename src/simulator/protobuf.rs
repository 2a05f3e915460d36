//! The few objects that kubectl 1.32 and later sends only as protocol buffers: access reviews and token requests. Other
//! objects in this format are refused.
//!
//! The field numbers are from k8s.io/apimachinery/pkg/runtime/generated.proto and k8s.io/api/authorization/v1/generated.proto.

use serde_json::{Value, json};

/// Prefix of every message.
const MAGIC: &[u8] = b"k8s\0";

/// Fields of ResourceAttributes, numbered from 1.
const ATTRIBUTES: [&str; 7] = ["namespace", "verb", "group", "version", "resource", "subresource", "name"];

/// Decodes a message. Returns `None` if it is malformed or another object.
pub fn read(body: &[u8]) -> Option<Value> {
    let unknown = body.strip_prefix(MAGIC)?;
    let (type_meta, raw) = (field(unknown, 1)?, field(unknown, 2).unwrap_or_default());
    let (version, kind) = (text(type_meta, 1), text(type_meta, 2));
    if !["SelfSubjectAccessReview", "SelfSubjectReview", "TokenRequest"].contains(&kind.as_str()) {
        return None;
    }
    // In a TokenRequest these are audiences and lifetime, which the simulator ignores.
    let attributes = field(raw, 2).and_then(|spec| field(spec, 1)).unwrap_or_default();
    let named = ATTRIBUTES.iter().zip(1..).map(|(name, number)| ((*name).to_owned(), json!(text(attributes, number))));
    let attributes = Value::Object(named.collect());
    Some(json!({"apiVersion": version, "kind": kind, "metadata": {}, "spec": {"resourceAttributes": attributes}}))
}

fn text(message: &[u8], number: u64) -> String {
    String::from_utf8_lossy(field(message, number).unwrap_or_default()).into_owned()
}

/// Returns the content of the first field with this number.
fn field(mut message: &[u8], number: u64) -> Option<&[u8]> {
    loop {
        let key = varint(&mut message)?;
        // These messages contain only strings and messages (2) and numbers (0).
        let length = if key & 7 == 2 { usize::try_from(varint(&mut message)?).ok()? } else { 0 };
        if key & 7 == 0 {
            varint(&mut message)?;
        }
        let (content, rest) = message.split_at_checked(length)?;
        if key >> 3 == number {
            return Some(content);
        }
        message = rest;
    }
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_is_decoded_and_other_or_truncated_messages_are_not() {
        let message = |number: u8, content: &[u8]| {
            [&[number << 3 | 2, u8::try_from(content.len()).expect("short")], content].concat()
        };
        let review = |kind: &[u8]| {
            let attributes = [message(2, b"list"), message(5, b"pods")].concat();
            let raw = [message(1, b""), message(2, &message(1, &attributes))].concat();
            let meta = [message(1, b"authorization.k8s.io/v1"), message(2, kind)].concat();
            [MAGIC, &message(1, &meta), &message(2, &raw)].concat()
        };
        let bytes = review(b"SelfSubjectAccessReview");
        let read_back = read(&bytes).expect("a review");
        let attributes = &read_back["spec"]["resourceAttributes"];
        assert_eq!((&attributes["verb"], &attributes["resource"]), (&json!("list"), &json!("pods")));
        assert_eq!(read(&review(b"Job")), None);
        for end in 0..bytes.len() {
            // A truncated message may decode to a shorter review, but must not panic.
            let _ = read(&bytes[..end]);
        }
        assert_eq!(read(&[MAGIC, &[0xff; 40]].concat()), None);
    }
}
