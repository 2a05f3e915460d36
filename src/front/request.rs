//! A client's request: the head, from bytes to the fields that count, and its form on a private connection. Pure: this module never
//! opens a socket.
//!
//! Framing follows RFC 9112 to the letter where leniency would let two readers see different requests.

use std::time::Duration;

use crate::front::error::RequestError;

/// Longest request line, in bytes. RFC 9112, section 3, advises at least 8000 for general servers; the paths here have 27.
const MAX_LINE: usize = 4 * 1024;

/// Longest head, in bytes, request line included: a browser with cookies of its other sites sends 4 KB.
const MAX_HEAD: usize = 16 * 1024;

/// Most headers: browsers send about 20.
const MAX_HEADERS: usize = 64;

/// The header of a private request with the milliseconds that it has waited for its private connection, if any. A client's header
/// of this name is not forwarded.
pub const WAITED: &str = "Private-Waited";

/// The header of a private request with the server's number of its private connection.
pub const CONNECTION: &str = "Private-Connection";

/// A whole request.
pub struct Request {
    /// The head.
    pub head: RequestHead,
    /// The body, decoded; `None` if the request has neither Content-Length nor a chunked body.
    pub body: Option<Vec<u8>>,
}

impl Request {
    /// The bytes to send on a private connection, with its number if the server needs it, for which the request has `waited`: the request
    /// line, the forwarded headers, and the body with its length.
    pub fn to_private(&self, connection: Option<u64>, waited: Duration) -> Vec<u8> {
        let RequestHead { method, target, forwarded, .. } = &self.head;
        let mut bytes = Vec::with_capacity(256);
        for part in [method, " ", target, " HTTP/1.1\r\n"] {
            bytes.extend_from_slice(part.as_bytes());
        }
        for (name, value) in forwarded {
            for part in [name, ": ", value, "\r\n"] {
                bytes.extend_from_slice(part.as_bytes());
            }
        }
        if let Some(number) = connection {
            bytes.extend_from_slice(format!("{CONNECTION}: {number}\r\n").as_bytes());
        }
        if waited.as_millis() > 0 {
            bytes.extend_from_slice(format!("{WAITED}: {}\r\n", waited.as_millis()).as_bytes());
        }
        match &self.body {
            Some(body) => {
                bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
                bytes.extend_from_slice(body);
            }
            None => bytes.extend_from_slice(b"\r\n"),
        }
        bytes
    }
}

/// The fields of a request's head that count.
#[derive(Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// The method as sent.
    pub method: String,
    /// The path with its query.
    pub target: String,
    /// The framing of the body.
    pub framing: Framing,
    /// The headers to forward. One that is repeated, or not in printable ASCII, is empty, so that a handler can refuse it.
    pub forwarded: Vec<(&'static str, String)>,
    /// The client waits for 100 Continue.
    pub expect_continue: bool,
    /// The client may send another request.
    pub keep_alive: bool,
    /// HTTP/1.0: the response cannot be chunked.
    pub is_http10: bool,
}

/// The framing of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// A Content-Length.
    Length(usize),
    /// Transfer-Encoding: chunked.
    Chunked,
}

/// Removes empty lines before a request line, which RFC 9112, section 2.2, ignores.
pub fn skip_empty_lines(input: &mut Vec<u8>) {
    let lines = input.chunks_exact(2).take_while(|pair| pair == b"\r\n").count();
    input.drain(..2 * lines);
}

impl RequestHead {
    /// Parses a head and returns it with its length in bytes; `None` if it is incomplete. `forward` names the headers to keep.
    ///
    /// # Errors
    /// Any head that two readers could understand differently, or that exceeds a limit.
    pub fn parse(input: &[u8], forward: &[&'static str]) -> Result<Option<(Self, usize)>, RequestError> {
        let Some(length) = head_length(input)? else { return Ok(None) };
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        parsed.parse(&input[..length]).map_err(|error| match error {
            httparse::Error::TooManyHeaders => RequestError::HeadTooLarge,
            httparse::Error::Version => RequestError::Version,
            _ => RequestError::Malformed("its head is not HTTP/1.1"),
        })?;
        let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(RequestError::Malformed("its request line is not complete"));
        };
        if !target.is_ascii() {
            return Err(RequestError::Malformed("its target is not ASCII"));
        }
        let is_http10 = minor == 0;
        check_host(parsed.headers, is_http10)?;
        let mut head = Self {
            method: method.to_owned(),
            target: path_of(target).to_owned(),
            framing: framing(parsed.headers, is_http10)?,
            forwarded: forward.iter().filter_map(|name| Some((*name, value_of(parsed.headers, name)?))).collect(),
            expect_continue: false,
            keep_alive: !is_http10,
            is_http10,
        };
        for header in parsed.headers.iter() {
            head.apply(header, is_http10)?;
        }
        Ok(Some((head, length)))
    }

    /// Applies the headers that change the connection.
    fn apply(&mut self, header: &httparse::Header<'_>, is_http10: bool) -> Result<(), RequestError> {
        if header.name.eq_ignore_ascii_case("connection") {
            let mut options = header.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            self.keep_alive &= !options.any(|option| option.eq_ignore_ascii_case(b"close"));
        } else if header.name.eq_ignore_ascii_case("expect") && !is_http10 {
            if !header.value.trim_ascii().eq_ignore_ascii_case(b"100-continue") {
                return Err(RequestError::Expectation);
            }
            self.expect_continue = true;
        }
        Ok(())
    }
}

/// HTTP/1.1 needs exactly one Host.
fn check_host(headers: &[httparse::Header<'_>], is_http10: bool) -> Result<(), RequestError> {
    let mut hosts = values(headers, "host");
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if host.iter().all(|byte| is_host(*byte)) => Ok(()),
        (None, _) if is_http10 => Ok(()),
        _ => Err(RequestError::Malformed("it needs exactly one Host header, with a host in it")),
    }
}

/// Returns the framing of the body: RFC 9112, section 6.3, without its leniency.
fn framing(headers: &[httparse::Header<'_>], is_http10: bool) -> Result<Framing, RequestError> {
    let mut lengths = values(headers, "content-length").map(content_length);
    let length = lengths.next().transpose()?;
    for other in lengths {
        if Some(other?) != length {
            return Err(RequestError::Malformed("it has two Content-Lengths"));
        }
    }
    let mut codings = values(headers, "transfer-encoding");
    match (codings.next(), length) {
        (None, None) => Ok(Framing::None),
        (None, Some(length)) => Ok(Framing::Length(length)),
        // A Content-Length beside it, HTTP/1.0 or a second header is an attempt at request smuggling.
        (Some(_), Some(_)) => Err(RequestError::Malformed("its framing is ambiguous")),
        (Some(_), None) if is_http10 || codings.next().is_some() => {
            Err(RequestError::Malformed("its framing is ambiguous"))
        }
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (Some(_), None) => Err(RequestError::TransferCoding),
    }
}

/// The values of a header.
fn values<'a>(headers: &'a [httparse::Header<'_>], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// Returns the value of a header, or an empty one if it is repeated or not in printable ASCII; `None` if it is absent.
fn value_of(headers: &[httparse::Header<'_>], name: &str) -> Option<String> {
    let mut given = values(headers, name);
    let (value, is_repeated) = (given.next()?, given.next().is_some());
    let text = std::str::from_utf8(value).unwrap_or_default();
    let is_printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    Some(if is_printable && !is_repeated { text.to_owned() } else { String::new() })
}

/// Returns the length of the head with its empty line; `None` if that has not arrived. Only CRLF ends a line: RFC 9112 also
/// allows a bare LF, which another reader may see as part of the line.
fn head_length(input: &[u8]) -> Result<Option<usize>, RequestError> {
    let mut line = 0;
    for (at, byte) in input.iter().enumerate() {
        if at >= MAX_HEAD {
            return Err(RequestError::HeadTooLarge);
        }
        if line == 0 && at >= MAX_LINE {
            return Err(RequestError::LineTooLong);
        }
        match byte {
            b'\n' if at == 0 || input[at - 1] != b'\r' => {
                return Err(RequestError::Malformed("a line of its head does not end in CR LF"));
            }
            b'\n' if at == line + 1 => return Ok(Some(at + 1)),
            b'\n' => line = at + 1,
            0 => return Err(RequestError::Malformed("its head holds a NUL")),
            _ if at > 0 && input[at - 1] == b'\r' => {
                return Err(RequestError::Malformed("its head holds a CR without LF"));
            }
            _ => {}
        }
    }
    Ok(None)
}

/// The characters of a host and a port, RFC 3986, section 3.2.2, without the comma, which would allow a list of hosts.
fn is_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=:%[]".contains(&byte)
}

/// Parses digits only. A number that overflows is too large in any case.
fn content_length(value: &[u8]) -> Result<usize, RequestError> {
    let text = std::str::from_utf8(value).unwrap_or_default();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(RequestError::Malformed("its Content-Length is not a number"));
    }
    text.parse().map_err(|_| RequestError::BodyTooLarge)
}

/// Returns the path of a target in absolute form, which servers must accept (RFC 9112, section 3.2.2), and any other target as
/// it is.
fn path_of(target: &str) -> &str {
    let rest = ["http://", "https://"].iter().find_map(|scheme| {
        target.get(..scheme.len()).filter(|start| start.eq_ignore_ascii_case(scheme)).map(|_| &target[scheme.len()..])
    });
    match rest {
        Some(rest) => rest.find(['/', '?']).map_or("/", |at| &rest[at..]),
        None => target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<(RequestHead, usize)>, u16> {
        RequestHead::parse(text.as_bytes(), &["Authorization"]).map_err(|error| error.to_status().0)
    }

    #[test]
    fn a_head_is_parsed_once_it_is_complete() {
        let text = "POST http://h:1/a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(parse(&text[..end]), Ok(None), "{:?}", &text[..end]);
        }
        let (head, length) = parse(&format!("{text}abc")).expect("good").expect("complete");
        assert_eq!(length, text.len());
        assert_eq!((head.method.as_str(), head.target.as_str(), head.framing), ("POST", "/a?b", Framing::Length(3)));
        assert!(head.expect_continue && head.keep_alive);
    }

    #[test]
    fn a_head_with_two_readings_is_refused() {
        let table = [
            ("GET / HTTP/1.1\nHost: h\n\n", 400),
            ("GET / HTTP/1.1\r\nHost: h\r\n\n", 400),
            ("GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: h\0\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: h,i\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: u@h/p\r\n\r\n", 400),
            ("GET /\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
            ("GET /\u{e9} HTTP/1.1\r\nHost: h\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x3\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3, 3\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999999\r\n\r\n", 413),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
            ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n", 501),
            ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: h\r\nExpect: tea\r\n\r\n", 417),
        ];
        for (text, status) in table {
            assert_eq!(parse(text).expect_err(text), status, "{text:?}");
        }
        let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(MAX_LINE));
        assert_eq!(parse(&long), Err(414));
        let large = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "a".repeat(MAX_HEAD));
        assert_eq!(parse(&large), Err(431));
        let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(MAX_HEADERS));
        assert_eq!(parse(&many), Err(431));
    }

    #[test]
    fn version_and_headers_decide_keep_alive() {
        let table = [
            ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: h\r\nConnection: Close\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: h\r\nConnection: x ,close\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
        ];
        for (text, open) in table {
            let (head, _) = parse(text).expect(text).expect(text);
            assert_eq!(head.keep_alive, open, "{text:?}");
        }
    }

    #[test]
    fn a_repeated_or_unprintable_header_is_forwarded_empty() {
        let good = "Authorization: Bearer t\r\n";
        for (headers, value) in [
            ("", None),
            (good, Some("Bearer t")),
            (&*good.repeat(2), Some("")),
            (&*good.repeat(3), Some("")),
            ("Authorization: a\tb\r\n", Some("")),
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
            let (head, _) = parse(&text).expect("good").expect("complete");
            assert_eq!(head.forwarded.first().map(|(_, value)| &**value), value, "{headers}");
        }
    }

    #[test]
    fn a_private_request_has_one_length_and_only_the_forwarded_headers() {
        let text = "POST http://h/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\nX: y\r\nAuthorization: Bearer t\r\n\r\n";
        let (head, _) = parse(text).expect("good").expect("complete");
        assert_eq!(head.framing, Framing::Chunked);
        let mut request = Request { head, body: Some(b"{}".to_vec()) };
        let expected =
            "POST /a HTTP/1.1\r\nAuthorization: Bearer t\r\nPrivate-Connection: 7\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(String::from_utf8(request.to_private(Some(7), Duration::ZERO)).expect("ASCII"), expected);
        request.body = None;
        let waited = Duration::from_millis(1500);
        let expected =
            "POST /a HTTP/1.1\r\nAuthorization: Bearer t\r\nPrivate-Connection: 7\r\nPrivate-Waited: 1500\r\n\r\n";
        assert_eq!(String::from_utf8(request.to_private(Some(7), waited)).expect("ASCII"), expected);
    }

    #[test]
    fn an_absolute_target_becomes_its_path() {
        for (target, path) in [
            ("/config", "/config"),
            ("http://h/config?x", "/config?x"),
            ("HTTPS://h:1/config", "/config"),
            ("http://h", "/"),
            ("http://h?x", "?x"),
            ("*", "*"),
            ("h:443", "h:443"),
        ] {
            assert_eq!(path_of(target), path, "{target}");
        }
    }
}
