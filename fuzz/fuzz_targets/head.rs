//! Parsing of a request head: another reader finds the same framing, and the parsed values contain no control characters.

#![no_main]

use img_classification_fuzz::front::error::RequestError;
use img_classification_fuzz::front::request::{Framing, RequestHead};
use libfuzzer_sys::fuzz_target;

/// The headers to keep.
const FORWARD: &[&str] = &["Authorization"];

/// Largest number of tested prefixes; those of a longer head are evenly spread.
const PREFIXES: usize = 256;

fuzz_target!(|input: &[u8]| {
    match RequestHead::parse(input, FORWARD) {
        Ok(Some((head, length))) => complete(input, &head, length),
        Ok(None) => {}
        Err(error) => refused(input, error),
    }
});

/// Checks that later bytes do not change a rejection.
fn refused(input: &[u8], error: RequestError) {
    let longer = [input, b"\r\n\r\n"].concat();
    let status = error.to_status().0;
    let again = RequestHead::parse(&longer, FORWARD).map_err(|error| error.to_status().0);
    assert_eq!(again, Err(status), "later bytes change the status");
    assert!([400, 413, 414, 417, 431, 501, 505].contains(&status), "unexpected status {status}");
}

fn complete(input: &[u8], head: &RequestHead, length: usize) {
    let bytes = input.get(..length).expect("a head is not longer than its input");
    let (again, again_length) = RequestHead::parse(bytes, FORWARD).expect("still good").expect("still complete");
    assert_eq!((&again, again_length), (head, length), "later bytes change the head");
    for end in (0..length).step_by(length / PREFIXES + 1).chain([length - 1]) {
        assert!(
            matches!(RequestHead::parse(&bytes[..end], FORWARD), Ok(None)),
            "complete or rejected {} bytes earlier",
            length - end
        );
    }
    let authorization = framing(bytes, head);
    check_values(head, authorization);
}

/// Checks the framing with a reader that only splits lines at colons. Returns the Authorization if there is exactly one.
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
                assert!(value.eq_ignore_ascii_case(b"chunked"), "another coding was accepted");
                assert_eq!(head.framing, Framing::Chunked);
            }
            b"content-length" => {
                let Framing::Length(length) = head.framing else { panic!("the parser missed a Content-Length") };
                let zeros = value.iter().take_while(|byte| **byte == b'0').count().min(value.len() - 1);
                assert_eq!(value[zeros..], *length.to_string().as_bytes(), "another Content-Length");
            }
            _ => {}
        }
    }
    let min_hosts = usize::from(request_line.ends_with(b"HTTP/1.1"));
    assert!((min_hosts..=1).contains(&hosts), "{hosts} Host headers");
    match authorizations.as_slice() {
        [one] if one.iter().all(|byte| (b' '..=b'~').contains(byte)) => Some(*one),
        _ => None,
    }
}

/// Checks that the parsed values are visible text without line ends and extra spaces.
fn check_values(head: &RequestHead, authorization: Option<&[u8]>) {
    assert_eq!(head.forwarded.first().map(|(_, value)| value.as_bytes()), authorization);
    let line = format!("{} {}", head.method, head.target);
    assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?}");
    assert_eq!(line.split(' ').collect::<Vec<_>>(), [&head.method, &head.target]);
}
