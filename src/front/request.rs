//! A request's head, from bytes to what counts of it. Pure: this module never opens a socket.
//!
//! Framing follows RFC 9112 to the letter where leniency would let two readers see different requests.

use crate::api::ApiError;

/// Longest request line, in bytes, as RFC 9112 (section 3) advises at least 8000 for general servers; our paths have 27.
const LINE_LIMIT: usize = 4 * 1024;

/// Longest head, in bytes, request line included: a browser with cookies of its other sites sends 4 KB.
const HEAD_LIMIT: usize = 16 * 1024;

/// Most headers: browsers send about 20.
const HEADERS_MOST: usize = 64;

/// RFC 9112, section 2.2: empty lines before a request line are ignored.
pub fn skip_empty_lines(input: &mut Vec<u8>) {
    while input.starts_with(b"\r\n") {
        input.drain(..2);
    }
}

/// What counts of a request's head.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    pub method: String,
    /// The path, with its query.
    pub target: String,
    pub content_length: Option<usize>,
    /// The value of Authorization, if there is one that can be a token's.
    pub authorization: Option<String>,
    transfer_encoding: bool,
    pub expect_continue: bool,
    pub keep_alive: bool,
}

impl Head {
    /// A head and its length in bytes; none if it is not complete yet.
    pub fn parse(input: &[u8]) -> Result<Option<(Self, usize)>, ApiError> {
        let Some(length) = head_length(input)? else { return Ok(None) };
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MOST];
        let mut parsed = httparse::Request::new(&mut headers);
        parsed.parse(&input[..length]).map_err(|error| match error {
            httparse::Error::TooManyHeaders => ApiError::HeadTooLarge,
            httparse::Error::Version => ApiError::Version,
            _ => ApiError::BadRequest("its head is not HTTP/1.1"),
        })?;
        let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(ApiError::BadRequest("its request line is not complete"));
        };
        if !target.is_ascii() {
            return Err(ApiError::BadRequest("its target is not ASCII"));
        }
        let mut head = Self {
            method: method.to_owned(),
            target: path_of(target).to_owned(),
            content_length: None,
            authorization: None,
            transfer_encoding: false,
            expect_continue: false,
            keep_alive: minor == 1,
        };
        let mut hosts = parsed.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
        match (hosts.next(), hosts.next()) {
            (Some(host), None) if host.value.iter().all(|byte| is_host(*byte)) => {}
            (None, _) if minor == 0 => {}
            _ => return Err(ApiError::BadRequest("it needs exactly one Host header, with a host in it")),
        }
        let mut given = parsed.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("authorization"));
        // Two of them are none, and so is one with other than visible ASCII, of which tokens are made.
        if let (Some(one), None) = (given.next(), given.next()) {
            let text = std::str::from_utf8(one.value).ok();
            head.authorization =
                text.filter(|text| text.bytes().all(|byte| (b' '..=b'~').contains(&byte))).map(str::to_owned);
        }
        for header in parsed.headers.iter() {
            head.take(header.name, header.value, minor)?;
        }
        if head.transfer_encoding {
            // With a Content-Length beside it, or from HTTP/1.0, it is an attempt at smuggling.
            let alone = head.content_length.is_none() && minor == 1;
            return Err(if alone {
                ApiError::TransferEncoding
            } else {
                ApiError::BadRequest("its framing is ambiguous")
            });
        }
        Ok(Some((head, length)))
    }

    fn take(&mut self, name: &str, value: &[u8], minor: u8) -> Result<(), ApiError> {
        if name.eq_ignore_ascii_case("content-length") {
            let length = content_length(value)?;
            if self.content_length.is_some_and(|other| other != length) {
                return Err(ApiError::BadRequest("it has two Content-Lengths"));
            }
            self.content_length = Some(length);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            self.transfer_encoding = true;
        } else if name.eq_ignore_ascii_case("connection") {
            let mut options = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            self.keep_alive &= !options.any(|option| option.eq_ignore_ascii_case(b"close"));
        } else if name.eq_ignore_ascii_case("expect") && minor == 1 {
            if !value.trim_ascii().eq_ignore_ascii_case(b"100-continue") {
                return Err(ApiError::Expectation);
            }
            self.expect_continue = true;
        }
        Ok(())
    }

    /// Method and path, for the log.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }
}

/// The length of the head with its empty line; none if that has not come yet. Only CRLF ends a line here: RFC 9112 would
/// let a bare LF pass, and with it what another reader takes for one line.
fn head_length(input: &[u8]) -> Result<Option<usize>, ApiError> {
    let mut line = 0;
    for (at, byte) in input.iter().enumerate() {
        if at >= HEAD_LIMIT {
            return Err(ApiError::HeadTooLarge);
        }
        if line == 0 && at >= LINE_LIMIT {
            return Err(ApiError::LineTooLong);
        }
        match byte {
            b'\n' if at == 0 || input[at - 1] != b'\r' => {
                return Err(ApiError::BadRequest("a line of its head does not end in CR LF"));
            }
            b'\n' if at == line + 1 => return Ok(Some(at + 1)),
            b'\n' => line = at + 1,
            0 => return Err(ApiError::BadRequest("its head holds a NUL")),
            _ if at > 0 && input[at - 1] == b'\r' => {
                return Err(ApiError::BadRequest("its head holds a CR without LF"));
            }
            _ => {}
        }
    }
    Ok(None)
}

/// The characters of a host and a port, RFC 3986, section 3.2.2, less the comma: with it a list of hosts would pass.
fn is_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=:%[]".contains(&byte)
}

/// Digits and nothing else. One with too many for a number is too large in any case.
fn content_length(value: &[u8]) -> Result<usize, ApiError> {
    let text = std::str::from_utf8(value).unwrap_or_default();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ApiError::BadRequest("its Content-Length is not a number"));
    }
    text.parse().map_err(|_| ApiError::BodyTooLarge)
}

/// The path of a target in absolute form, which servers must take (RFC 9112, section 3.2.2); any other target as it is.
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

    fn parse(text: &str) -> Result<Option<(Head, usize)>, u16> {
        Head::parse(text.as_bytes()).map_err(|error| error.into_reply().status)
    }

    #[test]
    fn a_head_is_read_only_when_it_is_complete() {
        let text = "POST http://h:1/a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(parse(&text[..end]), Ok(None), "{:?}", &text[..end]);
        }
        let (head, length) = parse(&format!("{text}abc")).expect("good").expect("complete");
        assert_eq!(length, text.len());
        assert_eq!((head.method.as_str(), head.target.as_str(), head.content_length), ("POST", "/a?b", Some(3)));
        assert!(head.expect_continue && head.keep_alive);
    }

    #[test]
    fn whatever_could_be_read_in_two_ways_is_refused() {
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
            ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: h\r\nExpect: tea\r\n\r\n", 417),
        ];
        for (text, status) in table {
            assert_eq!(parse(text).expect_err(text), status, "{text:?}");
        }
        let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(LINE_LIMIT));
        assert_eq!(parse(&long), Err(414));
        let large = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "a".repeat(HEAD_LIMIT));
        assert_eq!(parse(&large), Err(431));
        let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(HEADERS_MOST));
        assert_eq!(parse(&many), Err(431));
    }

    #[test]
    fn a_connection_stays_open_as_its_version_and_headers_say() {
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
    fn one_authorization_counts_and_more_are_none() {
        for (count, passed) in [(0, false), (1, true), (2, false), (3, false)] {
            let text = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "Authorization: Bearer t\r\n".repeat(count));
            let (head, _) = parse(&text).expect("good").expect("complete");
            assert_eq!(head.authorization.is_some(), passed, "{count}");
        }
        let (head, _) =
            parse("GET / HTTP/1.1\r\nHost: h\r\nAuthorization: a\tb\r\n\r\n").expect("good").expect("complete");
        assert_eq!(head.authorization, None);
    }

    #[test]
    fn an_absolute_target_is_its_path() {
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
