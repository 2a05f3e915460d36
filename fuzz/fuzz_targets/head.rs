//! A request's head: what is taken for one is one in every other reading, too, and what is taken of it holds no control characters.

#![no_main]

use img_classification_fuzz::front::error::RequestError;
use img_classification_fuzz::front::request::{Framing, RequestHead};
use libfuzzer_sys::fuzz_target;

/// The headers to keep.
const FORWARD: &[&str] = &["Authorization"];

/// Prefixes that are tried one by one; of a longer head only as many, evenly spread.
const PREFIXES: usize = 256;

fuzz_target!(|input: &[u8]| {
    match RequestHead::parse(input, FORWARD) {
        Ok(Some((head, length))) => complete(input, &head, length),
        Ok(None) => {}
        Err(error) => refused(input, error),
    }
});

/// More bytes never turn a refusal into anything else.
fn refused(input: &[u8], error: RequestError) {
    let longer = [input, b"\r\n\r\n"].concat();
    let status = error.to_status().0;
    let again = RequestHead::parse(&longer, FORWARD).map_err(|error| error.to_status().0);
    assert_eq!(again, Err(status), "another answer to more of it");
    assert!([400, 413, 414, 417, 431, 501, 505].contains(&status), "{status} is not in the contract");
}

fn complete(input: &[u8], head: &RequestHead, length: usize) {
    let bytes = input.get(..length).expect("a head is no longer than what it was read from");
    let (again, again_length) = RequestHead::parse(bytes, FORWARD).expect("still good").expect("still complete");
    assert_eq!((&again, again_length), (head, length), "another head without what follows it");
    for end in (0..length).step_by(length / PREFIXES + 1).chain([length - 1]) {
        assert!(
            matches!(RequestHead::parse(&bytes[..end], FORWARD), Ok(None)),
            "it was complete, or refused, {} bytes ago",
            length - end
        );
    }
    let authorization = framing(bytes, head);
    taken(head, authorization);
}

/// The same framing for a reader that goes line by line and knows nothing of HTTP but its colons. Gives the
/// Authorization, if there is one and no more.
fn framing<'a>(bytes: &'a [u8], head: &RequestHead) -> Option<&'a [u8]> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let request_line = lines.next().expect("there is a first line").trim_ascii();
    let (mut hosts, mut authorizations) = (0, Vec::new());
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (line[..colon].trim_ascii().to_ascii_lowercase(), line[colon + 1..].trim_ascii());
        match name.as_slice() {
            b"host" => hosts += 1,
            b"authorization" => authorizations.push(value),
            b"transfer-encoding" => {
                assert!(value.eq_ignore_ascii_case(b"chunked"), "another coding got through");
                assert_eq!(head.framing, Framing::Chunked);
            }
            b"content-length" => {
                let Framing::Length(length) = head.framing else { panic!("an unseen Content-Length") };
                let zeros = value.iter().take_while(|byte| **byte == b'0').count().min(value.len() - 1);
                assert_eq!(value[zeros..], *length.to_string().as_bytes(), "another Content-Length");
            }
            _ => {}
        }
    }
    let hosts_least = usize::from(request_line.ends_with(b"HTTP/1.1"));
    assert!((hosts_least..=1).contains(&hosts), "{hosts} Host headers");
    match authorizations.as_slice() {
        [one] if one.iter().all(|byte| (b' '..=b'~').contains(byte)) => Some(*one),
        _ => None,
    }
}

/// What is taken of it is text without anything that ends a line or a field of one.
fn taken(head: &RequestHead, authorization: Option<&[u8]>) {
    assert_eq!(head.forwarded.first().map(|(_, value)| value.as_bytes()), authorization);
    let line = format!("{} {}", head.method, head.target);
    assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?}");
    assert_eq!(line.split(' ').collect::<Vec<_>>(), [&head.method, &head.target]);
}
