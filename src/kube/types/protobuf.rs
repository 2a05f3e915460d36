//! A PodList in Kubernetes' protocol buffers, read as it arrives: the five fields in use, everything else is passed over; and the
//! Status that may come in its place. For the API server it is half the work of JSON, and on the wire two thirds of the bytes.
//!
//! The encoding is protobuf.dev/programming-guides/encoding, the envelope kubernetes.io/docs/reference/using-api/api-concepts
//! (Protobuf encoding), the numbers of the fields are those of k8s.io/api/core/v1/generated.proto and
//! k8s.io/apimachinery/pkg/{runtime,apis/meta/v1}/generated.proto, where a number never changes its meaning.

use std::io::{self, BufRead, Read};

use crate::kube::types::pod::{DecodeError, Pod};

/// What asks for it, and what an answer in it says of itself.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// The first bytes of every object.
const MAGIC: &[u8; 4] = b"k8s\0";

/// Longest text that is kept, in bytes: a continue token has a few hundred, names 253.
const TEXT_LIMIT: u64 = 64 * 1024;

/// Reads one page of a PodList as it arrives and hands each pod to `pods`.
///
/// Returns the token of the next page; empty on the last.
///
/// # Errors
/// [`DecodeError`]; what `pods` got by then is of no use.
pub fn read_pod_list<C: Extend<Pod>>(from: impl BufRead, pods: &mut C) -> Result<String, DecodeError> {
    read("PodList", from, |object| list(object, pods))
}

/// The reason and the message of a Status: 4 reason, 3 message.
///
/// # Errors
/// [`DecodeError`]
pub fn read_status(from: &[u8]) -> Result<(String, String), DecodeError> {
    let [reason, message] = read("Status", from, |object| object.texts([4, 3]))?;
    Ok((reason.unwrap_or_default(), message.unwrap_or_default()))
}

/// Reads the object of this kind to the very end, where gzip keeps its checksum.
fn read<R: BufRead, T>(
    wanted: &str,
    mut from: R,
    mut object: impl FnMut(&mut Message<'_, R>) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let mut magic = [0; MAGIC.len()];
    from.read_exact(&mut magic)?;
    if &magic != MAGIC {
        return Err(DecodeError::Malformed);
    }
    // runtime.Unknown, which goes on to the end: 1 the type, 2 the object.
    let mut envelope = Message { from: &mut from, left: None };
    let (mut kind, mut found) = (String::new(), None);
    while let Some(field) = envelope.field()? {
        match field {
            Field::Bytes(1, length) => kind = kind_of(&mut envelope.nested(length)?)?,
            // The type comes first: nothing of another one is taken for it.
            Field::Bytes(2, length) if kind == wanted && found.is_none() => {
                found = Some(object(&mut envelope.nested(length)?)?);
            }
            Field::Bytes(2, _) => return Err(DecodeError::Malformed),
            other => envelope.skip(other)?,
        }
    }
    found.ok_or(DecodeError::Malformed)
}

/// TypeMeta: 2 kind.
fn kind_of(of: &mut Message<'_, impl BufRead>) -> Result<String, DecodeError> {
    let [kind] = of.texts([2])?;
    Ok(kind.unwrap_or_default())
}

/// PodList: 1 metadata, with 3 continue; 2 items.
fn list<C: Extend<Pod>>(of: &mut Message<'_, impl BufRead>, pods: &mut C) -> Result<String, DecodeError> {
    let mut next = None;
    while let Some(field) = of.field()? {
        match field {
            Field::Bytes(1, length) => [next] = of.nested(length)?.texts([3])?,
            Field::Bytes(2, length) => pods.extend([pod(&mut of.nested(length)?)?]),
            other => of.skip(other)?,
        }
    }
    Ok(next.unwrap_or_default())
}

/// Pod: 1 metadata, with 1 name and 3 namespace; 2 spec, with 10 nodeName; 3 status, with 1 phase and 6 podIP.
fn pod(of: &mut Message<'_, impl BufRead>) -> Result<Pod, DecodeError> {
    let (mut name, mut namespace, mut node, mut phase, mut ip) = (None, None, None, None, None);
    while let Some(field) = of.field()? {
        match field {
            Field::Bytes(1, length) => [name, namespace] = of.nested(length)?.texts([1, 3])?,
            Field::Bytes(2, length) => [node] = of.nested(length)?.texts([10])?,
            Field::Bytes(3, length) => [phase, ip] = of.nested(length)?.texts([1, 6])?,
            other => of.skip(other)?,
        }
    }
    let name = name.ok_or(DecodeError::Malformed)?;
    Ok(Pod::new(node, ip, namespace.unwrap_or_default(), name, phase))
}

/// A message of which so many bytes are left; the outermost has no length and goes on to the end.
struct Message<'a, R> {
    from: &'a mut R,
    left: Option<u64>,
}

/// What a field's tag and length say of it.
#[derive(Clone, Copy)]
enum Field {
    Varint,
    /// So many bytes of a number.
    Fixed(u64),
    /// The field's number, and how many bytes of text or of another message.
    Bytes(u64, u64),
}

impl<R: BufRead> Message<'_, R> {
    /// The next field, whose content is then to be read; none at the end.
    fn field(&mut self) -> Result<Option<Field>, DecodeError> {
        let is_over = match self.left {
            Some(left) => left == 0,
            None => self.from.fill_buf()?.is_empty(),
        };
        if is_over {
            return Ok(None);
        }
        let tag = self.varint()?;
        Ok(Some(match tag & 7 {
            0 => Field::Varint,
            1 => Field::Fixed(8),
            2 => Field::Bytes(tag >> 3, self.varint()?),
            5 => Field::Fixed(4),
            _ => return Err(DecodeError::Malformed),
        }))
    }

    /// The message in a field of that length.
    fn nested(&mut self, length: u64) -> Result<Message<'_, R>, DecodeError> {
        self.take(length)?;
        Ok(Message { from: self.from, left: Some(length) })
    }

    /// The texts in the fields of these numbers.
    fn texts<const N: usize>(&mut self, numbers: [u64; N]) -> Result<[Option<String>; N], DecodeError> {
        let mut texts = [const { None }; N];
        while let Some(field) = self.field()? {
            let at = match field {
                Field::Bytes(found, _) => numbers.iter().position(|number| *number == found),
                _ => None,
            };
            match (at, field) {
                (Some(at), Field::Bytes(_, length)) => texts[at] = Some(self.text(length)?),
                (_, other) => self.skip(other)?,
            }
        }
        Ok(texts)
    }

    fn text(&mut self, length: u64) -> Result<String, DecodeError> {
        self.take(length)?;
        if length > TEXT_LIMIT {
            return Err(DecodeError::Malformed);
        }
        let mut text = String::new();
        match self.from.take(length).read_to_string(&mut text) {
            Ok(read) if read as u64 == length => Ok(text),
            Ok(_) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(DecodeError::Malformed),
            Err(error) => Err(error.into()),
        }
    }

    fn skip(&mut self, field: Field) -> Result<(), DecodeError> {
        let (Field::Fixed(length) | Field::Bytes(_, length)) = field else { return self.varint().map(drop) };
        self.take(length)?;
        let mut left = length;
        while left > 0 {
            let there = self.from.fill_buf()?.len();
            if there == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let passed = usize::try_from(left).map_or(there, |left| left.min(there));
            self.from.consume(passed);
            left -= passed as u64;
        }
        Ok(())
    }

    /// Seven bits a byte, the lowest first.
    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::Malformed)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        self.take(1)?;
        let byte = *self.from.fill_buf()?.first().ok_or(io::ErrorKind::UnexpectedEof).map_err(io::Error::from)?;
        self.from.consume(1);
        Ok(byte)
    }

    /// Counts bytes that are about to be read; more than there are in a message is nonsense.
    fn take(&mut self, length: u64) -> Result<(), DecodeError> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(length).ok_or(DecodeError::Malformed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
            value >>= 7;
        }
        bytes.push(u8::try_from(value).expect("seven bits"));
        bytes
    }

    fn bytes(number: u64, content: &[u8]) -> Vec<u8> {
        [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
    }

    fn text(number: u64, content: &str) -> Vec<u8> {
        bytes(number, content.as_bytes())
    }

    fn pod(name: &str, node: &str, ip: &str) -> Vec<u8> {
        let metadata = [text(1, name), text(2, "generated"), text(3, "n"), bytes(17, &[0xff; 5000])].concat();
        let spec = [bytes(2, b"a container"), [varint(4 << 3), varint(30)].concat(), text(10, node)].concat();
        let status = [text(1, "Running"), text(5, "10.0.0.1"), text(6, ip)].concat();
        // A number of eight bytes and one of four, which Kubernetes does not send yet.
        let unknown = [varint(9 << 3 | 1), vec![1; 8], varint(9 << 3 | 5), vec![1; 4]].concat();
        bytes(2, &[unknown, bytes(1, &metadata), bytes(2, &spec), bytes(3, &status)].concat())
    }

    fn envelope(kind: &str, list: &[u8]) -> Vec<u8> {
        let kind = [text(1, "v1"), text(2, kind)].concat();
        [MAGIC.to_vec(), bytes(1, &kind), bytes(2, list), text(3, ""), text(4, "")].concat()
    }

    fn read(from: &[u8]) -> Result<(Vec<Pod>, String), DecodeError> {
        let mut pods = Vec::new();
        read_pod_list(from, &mut pods).map(|next| (pods, next))
    }

    #[test]
    fn of_a_list_the_five_fields_and_the_next_page_are_read() {
        let metadata = bytes(1, &[text(2, "7"), text(3, "a+b")].concat());
        let list = [metadata, pod("p", "w", "10.0.0.2"), pod("q", "", "")].concat();
        let (pods, next) = read(&envelope("PodList", &list)).expect("a good list");
        assert_eq!(next, "a+b");
        assert_eq!((pods[0].name.as_str(), pods[0].namespace.as_str(), pods[0].phase.as_str()), ("p", "n", "Running"));
        assert_eq!((pods[0].node.as_deref(), pods[0].ip.as_deref()), (Some("w"), Some("10.0.0.2")));
        assert_eq!((pods[1].node.as_deref(), pods[1].ip.as_deref()), (None, None));
        assert_eq!(pods.len(), 2);
        assert_eq!(read(&envelope("PodList", b"")).expect("an empty list"), (vec![], String::new()));
    }

    #[test]
    fn what_ends_early_is_an_error_wherever_it_ends() {
        let whole = envelope("PodList", &pod("p", "w", "10.0.0.2"));
        let object = whole.len() - text(3, "").len() - text(4, "").len();
        for end in 0..object {
            assert!(matches!(read(&whole[..end]), Err(DecodeError::Io(_) | DecodeError::Malformed)), "{end}");
        }
    }

    #[test]
    fn what_is_not_a_pod_list_is_an_error() {
        let good = pod("p", "", "");
        let table = [
            b"{\"kind\":\"PodList\"}".to_vec(),
            envelope("Status", &good),
            envelope("PodList", &bytes(2, &bytes(2, b""))),
            // Longer than what it is in; of a wire type that is no more; text that is none, and endless text.
            envelope("PodList", &[varint(2 << 3 | 2), varint(500), vec![0; 5]].concat()),
            envelope("PodList", &varint(2 << 3 | 3)),
            envelope("PodList", &bytes(1, &bytes(3, b"\xff"))),
            envelope("PodList", &bytes(1, &bytes(3, &vec![b'a'; 100_000]))),
            envelope("PodList", &[0xff; 11]),
            // The object before its type, and twice.
            [MAGIC.to_vec(), bytes(2, &good)].concat(),
            [envelope("PodList", &good), bytes(2, &good)].concat(),
            MAGIC.to_vec(),
        ];
        for bytes in table {
            assert!(matches!(read(&bytes), Err(DecodeError::Malformed)), "{bytes:?}");
        }
        // A length without end takes no memory.
        let endless = [MAGIC.to_vec(), varint(9 << 3 | 2), varint(u64::MAX), vec![0; 100]].concat();
        assert!(matches!(read(&endless), Err(DecodeError::Io(_))));
    }
}
