//! The front door under attack: raw bytes that a client may send, and clients that behave badly.
//!
//! Every case of the table says what the answers must be and whether the connection goes on; after each one the server must
//! still serve, and must have made exactly the Jobs that were asked for.

use crate::support::answer::{Answer, Gate, Reply, pod_list};
use crate::support::api::ApiServer;
use crate::support::cluster::pod;
use crate::support::eventually;
use crate::support::http::{Connection, Response};
use crate::support::server::{Server, Setup};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const FREE: &str = "/img-classification/free";
const MNIST: &str = r#"{"dataset":"mnist"}"#;

/// Longest time from the last byte of a case to its last answer; none of them has a reason to wait.
const PROMPT: Duration = Duration::from_secs(5);

/// Longest request line with its CR LF, longest head with its empty line, and most headers that are taken.
const LINE: usize = 4096;
const HEAD: usize = 16 * 1024;
const HEADERS: usize = 64;

/// Cases up to this length are also sent one byte at a time.
const SHORT: usize = 1500;

/// In a list of acceptable statuses: the answer may be missing.
const OR_NONE: u16 = 0;

/// Bytes on a connection of their own, and what must come back.
struct Case {
    what: String,
    bytes: Vec<u8>,
    /// Nothing more is sent after the bytes, and the server is told so.
    half_close: bool,
    /// For each answer the statuses that are right.
    answers: Vec<Vec<u16>>,
    /// Which answer is to a HEAD.
    to_head: Option<usize>,
    /// The connection goes on after the answers; else the server must close it.
    open: bool,
    /// Fewest and most interim answers, all together.
    interim: (usize, usize),
    jobs: usize,
}

impl Case {
    fn new(what: impl Into<String>, bytes: impl Into<Vec<u8>>, answers: &[&[u16]], open: bool) -> Case {
        let answers = answers.iter().map(|statuses| statuses.to_vec()).collect();
        let (half_close, to_head, interim, jobs) = (false, None, (0, 0), 0);
        Case { what: what.into(), bytes: bytes.into(), half_close, answers, to_head, open, interim, jobs }
    }

    fn half_close(mut self) -> Case {
        self.half_close = true;
        self
    }

    fn answering_head(mut self, answer: usize) -> Case {
        self.to_head = Some(answer);
        self
    }

    fn interim(mut self, fewest: usize, most: usize) -> Case {
        self.interim = (fewest, most);
        self
    }

    fn jobs(mut self, jobs: usize) -> Case {
        self.jobs = jobs;
        self
    }

    /// Sends the bytes, whole or one by one, and compares what comes back; the error says what is wrong.
    fn run(&self, server: &Server, bytewise: bool) -> Result<(), String> {
        let mut connection = server.connect();
        connection.stream().set_read_timeout(Some(PROMPT)).unwrap();
        let mut stream = connection.stream();
        // The server may have refused and closed before all is sent.
        let sent = if bytewise {
            self.bytes.chunks(1).try_for_each(|byte| stream.write_all(byte))
        } else {
            stream.write_all(&self.bytes)
        };
        if sent.is_err() && self.open {
            return Err(format!("cannot send: {sent:?}"));
        }
        if self.half_close {
            let _ = stream.shutdown(Shutdown::Write);
        }
        let start = Instant::now();
        let mut interim = 0;
        for (number, statuses) in self.answers.iter().enumerate() {
            let to_head = self.to_head == Some(number);
            let (answer, before) = match connection.answer_and_interim(to_head) {
                Ok(answer) => answer,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && statuses.contains(&OR_NONE) => break,
                Err(error) => return Err(format!("no answer {number}, {statuses:?}: {error}")),
            };
            interim += before;
            if !statuses.contains(&answer.status) {
                return Err(format!(
                    "answer {number} is {} instead of {statuses:?}: {:?}",
                    answer.status,
                    answer.text()
                ));
            }
            if let Some(wrong) = wrong_form(&answer, to_head) {
                return Err(format!("answer {number}, {}: {wrong}", answer.status));
            }
            let says_close = answer.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
            if self.open && says_close {
                return Err(format!("answer {number} says that the connection ends"));
            }
            let last = number + 1 == self.answers.len();
            if last && !self.open && !self.half_close && !says_close {
                return Err("the last answer does not say that the connection ends".to_owned());
            }
        }
        if !(self.interim.0..=self.interim.1).contains(&interim) {
            return Err(format!("{interim} interim answers"));
        }
        if self.open && !self.half_close {
            let answer = connection.request("GET", "/healthz", None);
            if answer.status != 200 {
                return Err(format!("then {} on the same connection", answer.status));
            }
        } else {
            match connection.rest() {
                Ok(rest) if rest.is_empty() => {}
                Ok(rest) => return Err(format!("more came: {:?}", String::from_utf8_lossy(&rest))),
                // What was sent after the refusal was not read by anybody.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset && sent.is_err() => {}
                Err(error) => return Err(format!("not closed by the server: {error}")),
            }
        }
        match start.elapsed() {
            long if long > PROMPT => Err(format!("took {long:?}")),
            _ => Ok(()),
        }
    }
}

/// What is wrong with the form of an answer: errors are JSON of one sentence, and every answer says its length.
fn wrong_form(answer: &Response, to_head: bool) -> Option<&'static str> {
    if answer.header("Content-Type") != Some("application/json") {
        return Some("its content type is not JSON");
    }
    let length: Option<usize> = answer.header("Content-Length").and_then(|length| length.parse().ok());
    if to_head {
        return length.is_none().then_some("it has no length");
    }
    if length != Some(answer.body.len()) {
        return Some("its length is wrong");
    }
    if answer.status < 400 {
        return None;
    }
    let Ok(Value::Object(object)) = serde_json::from_slice(&answer.body) else { return Some("it is no JSON object") };
    let sentence = object.get("error").and_then(Value::as_str).unwrap_or_default();
    (object.len() != 1 || sentence.trim().is_empty() || sentence.contains('\n')).then_some("it is not one sentence")
}

/// Answered, and the connection goes on.
fn open(what: impl Into<String>, bytes: impl Into<Vec<u8>>, answers: &[&[u16]]) -> Case {
    Case::new(what, bytes, answers, true)
}

/// Answered, and the connection is closed by the server.
fn closed(what: impl Into<String>, bytes: impl Into<Vec<u8>>, answers: &[&[u16]]) -> Case {
    Case::new(what, bytes, answers, false)
}

/// GET /healthz with these further header lines.
fn get(headers: &str) -> String {
    format!("GET /healthz HTTP/1.1\r\nHost: h\r\n{headers}\r\n")
}

/// POST of a good body with these header lines, which are to give its length.
fn post(headers: &str) -> String {
    format!("POST {FREE} HTTP/1.1\r\nHost: h\r\n{headers}\r\n{MNIST}")
}

/// A whole good POST.
fn good_post() -> String {
    post("Content-Length: 19\r\n")
}

fn line(line: impl AsRef<[u8]>) -> Vec<u8> {
    [line.as_ref(), b"\r\nHost: h\r\n\r\n"].concat()
}

fn header(line: impl AsRef<[u8]>) -> Vec<u8> {
    [b"GET /healthz HTTP/1.1\r\nHost: h\r\n", line.as_ref(), b"\r\n\r\n"].concat()
}

fn table() -> Vec<Case> {
    [
        lines(),
        headers(),
        versions(),
        methods(),
        targets(),
        hosts(),
        limits(),
        lengths(),
        encodings(),
        expectations(),
        connection_options(),
        pipelines(),
        bodies(),
        other_protocols(),
        smuggling(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn lines() -> Vec<Case> {
    vec![
        open("a good GET", get(""), &[&[200]]),
        open("a good POST", good_post(), &[&[200]]).jobs(1),
        open("empty lines first", format!("\r\n\r\n{}", get("")), &[&[200]]),
        closed("bare LF everywhere", get("").replace("\r\n", "\n"), &[&[400]]),
        closed("bare LF after the request line", "GET /healthz HTTP/1.1\nHost: h\r\n\r\n", &[&[400]]),
        closed("bare LF after a header", "GET /healthz HTTP/1.1\r\nHost: h\n\r\n", &[&[400]]),
        closed("bare LF as the empty line", "GET /healthz HTTP/1.1\r\nHost: h\r\n\n", &[&[400]]),
        closed("bare LF first", format!("\n{}", get("")), &[&[400]]),
        closed("bare CR everywhere", get("").replace("\r\n", "\r"), &[&[400]]),
        closed("bare CR in a value", header("X: a\rb"), &[&[400]]),
        closed("bare CR in the target", line("GET /heal\rthz HTTP/1.1"), &[&[400]]),
        closed("CR CR LF", get("").replace("\r\n", "\r\r\n"), &[&[400]]),
        closed("LF CR", get("").replace("\r\n", "\n\r"), &[&[400]]),
        closed("NUL in the method", line("GE\0T /healthz HTTP/1.1"), &[&[400]]),
        closed("NUL in the target", line("GET /healthz\0 HTTP/1.1"), &[&[400]]),
        closed("NUL in the version", line("GET /healthz HTTP/1.1\0"), &[&[400]]),
        closed("NUL in a name", header("X\0: y"), &[&[400]]),
        closed("NUL in a value", header("X: y\0z"), &[&[400]]),
        closed("a space first", format!(" {}", get("")), &[&[400]]),
        closed("two spaces before the target", line("GET  /healthz HTTP/1.1"), &[&[400]]),
        closed("two spaces before the version", line("GET /healthz  HTTP/1.1"), &[&[400, 505]]),
        closed("a space after the version", line("GET /healthz HTTP/1.1 "), &[&[400, 505]]),
        closed("tabs between the words", line("GET\t/healthz\tHTTP/1.1"), &[&[400]]),
        closed("a vertical tab between the words", line("GET\x0b/healthz\x0bHTTP/1.1"), &[&[400]]),
        closed("four words", line("GET /healthz x HTTP/1.1"), &[&[400, 505]]),
        closed("no target", line("GET HTTP/1.1"), &[&[400, 505]]),
        closed("no version", line("GET /healthz"), &[&[400, 505]]),
        closed("one word", line("GET"), &[&[400]]),
        closed("a header instead of the request line", "Host: h\r\n\r\n", &[&[400, 505]]),
        closed("an answer instead of a request", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", &[&[400, 505]]),
    ]
}

fn headers() -> Vec<Case> {
    vec![
        closed("folded with a space", header("X: y\r\n z"), &[&[400]]),
        closed("folded with a tab", header("X: y\r\n\tz"), &[&[400]]),
        closed("folded into nothing", header("X: y\r\n "), &[&[400]]),
        closed("space before the first header", "GET /healthz HTTP/1.1\r\n Host: h\r\n\r\n", &[&[400]]),
        closed("a space before the colon", header("X : y"), &[&[400]]),
        closed("a tab before the colon", header("X\t: y"), &[&[400]]),
        closed("a space in a name", header("X y: z"), &[&[400]]),
        closed("no name", header(": y"), &[&[400]]),
        closed("no colon", header("X"), &[&[400]]),
        closed("brackets in a name", header("X(y): z"), &[&[400]]),
        closed("a slash in a name", header("X/y: z"), &[&[400]]),
        closed("quotes around a name", header("\"X\": z"), &[&[400]]),
        closed("a name that is not ASCII", header(b"X\xe9: z"), &[&[400]]),
        closed("DEL in a value", header(b"X: \x7f"), &[&[400]]),
        closed("ESC in a value", header(b"X: \x1b[2J"), &[&[400]]),
        open("Latin-1 in a value", header(b"X: caf\xe9"), &[&[200]]),
        open("UTF-8 in a value", header("X: ☃"), &[&[200]]),
        open("a tab in a value", header("X: y\tz"), &[&[200]]),
        open("white space around a value", header("X: \t y \t "), &[&[200]]),
        open("no space after the colon", header("X:y"), &[&[200]]),
        open("an empty value", header("X:"), &[&[200]]),
        open("colons in a value", header("X: y: z:"), &[&[200]]),
        open("every character of a name", header("!#$%&'*+-.^_`|~09azAZ: y"), &[&[200]]),
        open("the same header often", header("X: y\r\nX: z\r\nx: y"), &[&[200]]),
        open("names in capitals", get("").replace("Host", "HOST"), &[&[200]]),
        open("an underscore instead of the hyphen", post("Content_Length: 1\r\nContent-Length: 19\r\n"), &[&[200]])
            .jobs(1),
    ]
}

fn versions() -> Vec<Case> {
    let mut cases = vec![
        closed("HTTP/1.0", "GET /healthz HTTP/1.0\r\n\r\n", &[&[200]]),
        closed("HTTP/1.0 with Host", "GET /healthz HTTP/1.0\r\nHost: h\r\n\r\n", &[&[200]]),
        closed("HTTP/1.0 that would go on", "GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", &[&[200]]),
        closed("HTTP/1.0 POST", format!("POST {FREE} HTTP/1.0\r\nContent-Length: 19\r\n\r\n{MNIST}"), &[&[200]])
            .jobs(1),
        closed("HTTP/1.0 POST without a length", format!("POST {FREE} HTTP/1.0\r\n\r\n"), &[&[411, 400]]),
        closed("HTTP/0.9 as it was", "GET /healthz\r\n", &[&[400, 505]]).half_close(),
        closed("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", &[&[505, 400]]),
    ];
    for version in ["HTTP/0.9", "HTTP/2.0", "HTTP/3.0", "HTTP/1.2", "HTTP/1.9", "HTTP/9.9", "HTTP/2", "HTTP/3"] {
        cases.push(closed(version, line(format!("GET /healthz {version}")), &[&[505, 400]]));
    }
    for version in [
        "http/1.1",
        "Http/1.1",
        "HTTP/1.10",
        "HTTP/01.1",
        "HTTP/1.01",
        "HTTP/1",
        "HTTP/1.",
        "HTTP/.1",
        "HTTP/1,1",
        "HTTP/1.1x",
        "HTTP/1.1/",
        "HTTP/-1.1",
        "HTTP 1.1",
        "HTTP/ 1.1",
        "HTTPS/1.1",
        "XTTP/1.1",
        "HTTP",
        "ICY",
        "RTSP/1.0",
        "HTTP/1.\u{661}",
    ] {
        let case = closed(format!("version {version}"), line(format!("GET /healthz {version}")), &[&[400, 505]]);
        cases.push(case);
    }
    cases
}

fn methods() -> Vec<Case> {
    let mut cases = vec![
        open("HEAD", line("HEAD /healthz HTTP/1.1"), &[&[200]]).answering_head(0),
        open("HEAD of nothing", line("HEAD /nothing HTTP/1.1"), &[&[404]]).answering_head(0),
        open("HEAD of a POST path", line(format!("HEAD {FREE} HTTP/1.1")), &[&[405]]).answering_head(0),
        open("a method of 200 letters", line(format!("{} /healthz HTTP/1.1", "A".repeat(200))), &[&[501]]),
        open("a method of 3000 letters", line(format!("{} /healthz HTTP/1.1", "A".repeat(3000))), &[&[501]]),
        closed(
            "a method of 8000 letters",
            line(format!("{} /healthz HTTP/1.1", "A".repeat(8000))),
            &[&[501, 414, 431]],
        ),
        closed("brackets in the method", line("G(E)T /healthz HTTP/1.1"), &[&[400, 501]]),
        closed("a method that is not ASCII", line("G\u{c9}T /healthz HTTP/1.1"), &[&[400, 501]]),
        closed("a colon in the method", line("GET: /healthz HTTP/1.1"), &[&[400, 501]]),
        closed("a quoted method", line("\"GET\" /healthz HTTP/1.1"), &[&[400, 501]]),
        open("OPTIONS of the server", line("OPTIONS * HTTP/1.1"), &[&[404, 200, 204]]),
        open("CONNECT", line("CONNECT h:443 HTTP/1.1"), &[&[404, 405, 400]]),
        open("a POST path with GET", line(format!("GET {FREE} HTTP/1.1")), &[&[405]]),
        open("a GET with a body", format!("{}hello", get("Content-Length: 5\r\n")), &[&[200]]),
        open("a DELETE with a body", "DELETE /config HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", &[&[405]]),
        open(
            "an unknown method with a body",
            "BREW /config HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
            &[&[501]],
        ),
    ];
    for method in ["get", "Get", "gET", "post", "BREW", "PROPFIND", "QUERY", "GETT", "GE", "G", "!#$%&'*+-.^_`|~"] {
        cases.push(open(format!("method {method}"), line(format!("{method} /healthz HTTP/1.1")), &[&[501]]));
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"] {
        let request = format!("{method} /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
        cases.push(open(format!("method {method}"), request, &[&[405]]));
    }
    cases
}

fn targets() -> Vec<Case> {
    let mut cases = vec![
        open("absolute form", line("GET http://h/healthz HTTP/1.1"), &[&[200]]),
        open("absolute form of another host", line("GET http://elsewhere:81/healthz?x HTTP/1.1"), &[&[200]]),
        open("absolute form in capitals", line("GET HTTP://h/healthz HTTP/1.1"), &[&[200]]),
        open("absolute form with https", line("GET https://h/healthz HTTP/1.1"), &[&[200]]),
        open("absolute form of an IPv6 address", line("GET http://[::1]:5000/healthz HTTP/1.1"), &[&[200]]),
        open("absolute form without a path", line("GET http://h HTTP/1.1"), &[&[404]]),
        open("absolute form with a query alone", line("GET http://h?x HTTP/1.1"), &[&[404]]),
        open("a query", line("GET /healthz?a=b&c=/config#x HTTP/1.1"), &[&[200]]),
        open("an empty query", line("GET /healthz? HTTP/1.1"), &[&[200]]),
        open("a broken escape in the query", line("GET /healthz?%zz%0 HTTP/1.1"), &[&[200]]),
        open("a query with escaped line ends", line("GET /healthz?%0d%0aX:%20y HTTP/1.1"), &[&[200]]),
        closed("a control character", line("GET /heal\x01thz HTTP/1.1"), &[&[400]]),
        closed("DEL", line("GET /healthz\x7f HTTP/1.1"), &[&[400]]),
        closed("Latin-1", [&b"GET /caf\xe9 HTTP/1.1\r\nHost: h\r\n\r\n"[..]].concat(), &[&[400]]),
        closed("UTF-8", line("GET /☃ HTTP/1.1"), &[&[400]]),
        closed(
            "overlong UTF-8",
            [&b"GET /\xc0\xae\xc0\xae/healthz HTTP/1.1\r\nHost: h\r\n\r\n"[..]].concat(),
            &[&[400]],
        ),
        closed("a space in the target", line("GET /heal thz HTTP/1.1"), &[&[400, 505]]),
        open("a target of 4000 bytes", line(format!("GET /{} HTTP/1.1", "a".repeat(4000))), &[&[404]]),
        closed("a target of 8000 bytes", line(format!("GET /{} HTTP/1.1", "a".repeat(8000))), &[&[414]]),
        closed("a query of 8000 bytes", line(format!("GET /healthz?{} HTTP/1.1", "a".repeat(8000))), &[&[414]]),
        closed("a target of 200,000 bytes", line(format!("GET /{} HTTP/1.1", "a".repeat(200_000))), &[&[414]]),
        open("absolute form without a host", line("GET http:///healthz HTTP/1.1"), &[&[400, 404, 200]]),
        open("a fragment", line("GET /healthz#x HTTP/1.1"), &[&[200, 400, 404]]),
    ];
    for target in [
        "/",
        "*",
        "h:443",
        "healthz",
        "?/healthz",
        "#/healthz",
        "//healthz",
        "/healthz/",
        "/healthz//",
        "/./healthz",
        "/x/../healthz",
        "/../healthz",
        "/healthz/.",
        "/healthz/..",
        "/%68ealthz",
        "/healthz%00",
        "/healthz%20",
        "/healthz%2f",
        "/%2e%2e/healthz",
        "/healthz;x=1",
        "/HEALTHZ",
        "\\healthz",
        "/\\healthz",
        "/heal\"thz",
        "/<healthz>",
        "/{healthz}",
        "/healthz|",
        "/^",
        "/`",
        "ftp://h/healthz",
        "file:///healthz",
        "http:/healthz",
        "http:healthz",
        "http//h/healthz",
        "unix:/healthz",
        "/etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/proc/self/environ",
        "@h/healthz",
    ] {
        cases.push(open(format!("target {target}"), line(format!("GET {target} HTTP/1.1")), &[&[404]]));
    }
    for target in [
        "/img-classification/%66ree",
        "/img-classification/free/",
        "/img-classification//free",
        "/img-classification/FREE",
    ] {
        cases.push(open(format!("POST {target}"), good_post().replace(FREE, target), &[&[404]]));
    }
    cases
}

fn hosts() -> Vec<Case> {
    let with = |hosts: &str| format!("GET /healthz HTTP/1.1\r\n{hosts}\r\n");
    let mut cases = vec![
        closed("no Host", with(""), &[&[400]]),
        closed("two Hosts", with("Host: h\r\nHost: i\r\n"), &[&[400]]),
        closed("the same Host twice", with("Host: h\r\nhost: h\r\n"), &[&[400]]),
        closed("two Hosts and an absolute target", line("GET http://h/healthz HTTP/1.1\r\nHost: h"), &[&[400]]),
        closed("no Host and an absolute target", "GET http://h/healthz HTTP/1.1\r\n\r\n", &[&[400]]),
        closed("two Hosts in HTTP/1.0", "GET /healthz HTTP/1.0\r\nHost: h\r\nHost: h\r\n\r\n", &[&[400]]),
        closed("a POST without Host", good_post().replace("Host: h\r\n", ""), &[&[400]]),
        open("an empty Host", with("Host:\r\n"), &[&[200]]),
    ];
    for host in
        ["h", "h:5000", "127.0.0.1:5000", "[::1]:5000", "[fe80::1%25eth0]", "a-b.example.com.", "h_1", "%41", "H"]
    {
        cases.push(open(format!("Host {host}"), with(&format!("Host: {host}\r\n")), &[&[200]]));
    }
    // RFC 9112, section 3.2: a server MUST answer 400 to an invalid Host.
    for host in ["a b", "h/config", "u@h", "h?x", "h#x", "a,b", "h\\", "<h>"] {
        cases.push(closed(format!("Host {host}"), with(&format!("Host: {host}\r\n")), &[&[400]]));
    }
    cases
}

fn limits() -> Vec<Case> {
    let of_line = |length: usize| line(format!("GET /{} HTTP/1.1", "a".repeat(length - "GET / HTTP/1.1\r\n".len())));
    let of_head = |length: usize| {
        let rest = length - get("X: \r\n").len();
        get(&format!("X: {}\r\n", "a".repeat(rest)))
    };
    let of_headers = |count: usize| get(&"X: y\r\n".repeat(count - 1));
    vec![
        open("a request line at the limit", of_line(LINE), &[&[404]]),
        closed("a request line over the limit", of_line(LINE + 1), &[&[414]]),
        open("a head at the limit", of_head(HEAD), &[&[200]]),
        closed("a head over the limit", of_head(HEAD + 1), &[&[431]]),
        closed("a head of 250,000 bytes", of_head(250_000), &[&[431]]),
        open("headers at the limit", of_headers(HEADERS), &[&[200]]),
        closed("one header too many", of_headers(HEADERS + 1), &[&[431]]),
        closed("a thousand headers", of_headers(1000), &[&[431]]),
        closed("a name of 20,000 bytes", get(&format!("{}: y\r\n", "X".repeat(20_000))), &[&[431]]),
        closed("an endless request line", "a".repeat(LINE + 1), &[&[414]]),
        closed("an endless header", format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(HEAD)), &[&[431]]),
        open(
            "a head at the limit behind empty lines",
            [b"\r\n\r\n".to_vec(), of_head(HEAD).into()].concat(),
            &[&[200]],
        ),
        open("two heads at the limit", format!("{0}{0}", of_head(HEAD)), &[&[200], &[200]]),
    ]
}

fn lengths() -> Vec<Case> {
    let with = |value: &str| post(&format!("Content-Length: {value}\r\n"));
    let mut cases = vec![
        open("white space around the length", with(" \t19\t "), &[&[200]]).jobs(1),
        open("no space before the length", post("content-length:19\r\n"), &[&[200]]).jobs(1),
        open("leading zeros", with("0000000000000000000000000000000019"), &[&[200]]).jobs(1),
        closed("a length too long by zeros alone", with(&"0".repeat(HEAD)), &[&[431, 400]]),
        open("no body", "POST /img-classification/free HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", &[&[400]]),
        open("no length", format!("POST {FREE} HTTP/1.1\r\nHost: h\r\n\r\n"), &[&[411]]),
        closed("no length, but a body", post(""), &[&[411], &[400, OR_NONE]]).half_close(),
        open(
            "no length, then a request",
            format!("POST {FREE} HTTP/1.1\r\nHost: h\r\n\r\n{}", get("")),
            &[&[411], &[200]],
        ),
        closed("two lengths", post("Content-Length: 19\r\nContent-Length: 20\r\n"), &[&[400]]),
        closed("two lengths, the first empty", post("Content-Length:\r\nContent-Length: 19\r\n"), &[&[400]]),
        closed("the length and zero", post("Content-Length: 19\r\nContent-Length: 0\r\n"), &[&[400]]),
        closed("a space before the colon of the length", post("Content-Length : 19\r\n"), &[&[400]]),
        closed("a folded length", post("Content-Length:\r\n 19\r\n"), &[&[400]]),
        closed("a huge length for a GET", get("Content-Length: 1000000000000000\r\n"), &[&[413]]),
    ];
    // RFC 9112, section 6.3: equal lengths may be taken for one, or refused.
    for headers in ["Content-Length: 19\r\nContent-Length: 19\r\n", "Content-Length: 19\r\nContent-Length: 019\r\n"] {
        cases.push(open(format!("equal lengths {headers:?}"), post(headers), &[&[200]]).jobs(1));
    }
    for length in [
        "+19", "-19", "-0", "0x13", "19.0", "1e1", "1 9", "19,19", "19, 20", "19;", "19 bytes", "nineteen", "\"19\"",
        "", " ", "\u{ff11}", "19\x0b", "\u{b2}", "NaN", "0b10011", "019h", ",19", "19,",
    ] {
        cases.push(closed(format!("length {length:?}"), with(length), &[&[400]]));
    }
    for length in [
        "1025",
        "2000000",
        "2147483648",
        "4294967296",
        "4294967315",
        "1000000000000000",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "18446744073709551635",
        "99999999999999999999999999999999999999999999999999",
    ] {
        cases.push(closed(format!("length {length}"), with(length), &[&[413]]));
    }
    cases
}

fn encodings() -> Vec<Case> {
    const CHUNKS: &str = "13\r\n{\"dataset\":\"mnist\"}\r\n0\r\n\r\n";
    let with = |headers: &str| format!("POST {FREE} HTTP/1.1\r\nHost: h\r\n{headers}\r\n{CHUNKS}");
    let mut cases = vec![
        closed("encoded and with a length", with("Transfer-Encoding: chunked\r\nContent-Length: 19\r\n"), &[&[400]]),
        closed("with a length and encoded", with("Content-Length: 19\r\nTransfer-Encoding: chunked\r\n"), &[&[400]]),
        closed("encoded with length 0", with("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"), &[&[400]]),
        closed("identity and a length", post("Transfer-Encoding: identity\r\nContent-Length: 19\r\n"), &[&[400, 501]]),
        closed(
            "encoded in HTTP/1.0",
            with("Transfer-Encoding: chunked\r\n").replace("HTTP/1.1", "HTTP/1.0"),
            &[&[400]],
        ),
        closed("a GET that is encoded", format!("{}0\r\n\r\n", get("Transfer-Encoding: chunked\r\n")), &[&[501]]),
        closed("a folded encoding", with("Transfer-Encoding:\r\n chunked\r\n"), &[&[400]]),
        closed("an encoding after a fold", with("X: y\r\n Transfer-Encoding: chunked\r\n"), &[&[400]]),
        closed("a space before its colon", with("Transfer-Encoding : chunked\r\n"), &[&[400]]),
        closed("an encoding behind a bare LF", with("X: y\nTransfer-Encoding: chunked\r\n"), &[&[400]]),
        closed("an encoding behind a bare CR", with("X: y\rTransfer-Encoding: chunked\r\n"), &[&[400]]),
        closed("twice encoded", with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), &[&[400, 501]]),
        open("TE says nothing of the request", get("TE: trailers, chunked\r\n"), &[&[200]]),
        open(
            "Content-Encoding is nobody's business",
            post("Content-Encoding: gzip\r\nContent-Length: 19\r\n"),
            &[&[200]],
        )
        .jobs(1),
        open("Trailer without chunks", post("Trailer: X\r\nContent-Length: 19\r\n"), &[&[200]]).jobs(1),
    ];
    for encoding in [
        "chunked",
        "Chunked",
        "CHUNKED",
        "identity",
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, identity",
        "xchunked",
        "chunked;q=1",
        "\"chunked\"",
        "",
        ",",
        "chunked,",
        "nonsense",
    ] {
        let headers = format!("Transfer-Encoding: {encoding}\r\n");
        cases.push(closed(format!("encoding {encoding:?}"), with(&headers), &[&[501, 400]]));
    }
    for encoding in ["\x0bchunked", "chunked\x0c", "chun\0ked"] {
        let headers = format!("Transfer-Encoding: {encoding}\r\n");
        cases.push(closed(format!("encoding {encoding:?}"), with(&headers), &[&[400]]));
    }
    cases
}

fn expectations() -> Vec<Case> {
    let expecting = |value: &str| post(&format!("Expect: {value}\r\nContent-Length: 19\r\n"));
    vec![
        // The body is here already: whether it is still asked for is the server's choice.
        open("100-continue with the body", expecting("100-continue"), &[&[200]]).interim(0, 1).jobs(1),
        open("100-Continue with the body", expecting("100-Continue"), &[&[200]]).interim(0, 1).jobs(1),
        open("100-continue twice", expecting("100-continue\r\nExpect: 100-continue"), &[&[200]]).interim(0, 1).jobs(1),
        open("100-continue without a body", get("Expect: 100-continue\r\n"), &[&[200]]),
        open("100-continue with length 0", get("Expect: 100-continue\r\nContent-Length: 0\r\n"), &[&[200]]),
        closed("100-continue and a large body", get("Expect: 100-continue\r\nContent-Length: 1025\r\n"), &[&[413]]),
        closed(
            "100-continue and an encoding",
            get("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n"),
            &[&[501]],
        ),
        closed("another expectation", expecting("200-ok"), &[&[417]]),
        closed("100-continue and another", expecting("100-continue, x"), &[&[417]]),
        closed("100-continue with a parameter", expecting("100-continue;q=1"), &[&[417]]),
        closed("an empty expectation", expecting(""), &[&[417]]),
        closed("another expectation of a GET", get("Expect: tea\r\n"), &[&[417]]),
        closed("HTTP/1.0 cannot expect", expecting("100-continue").replace("HTTP/1.1", "HTTP/1.0"), &[&[200]]).jobs(1),
        closed("whatever HTTP/1.0 expects", expecting("tea").replace("HTTP/1.1", "HTTP/1.0"), &[&[200]]).jobs(1),
    ]
}

fn connection_options() -> Vec<Case> {
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n";
    vec![
        open("a websocket", get(websocket), &[&[200]]),
        open("h2c", get(h2c), &[&[200]]),
        open("h2c with a POST", post(&format!("{h2c}Content-Length: 19\r\n")), &[&[200]]).jobs(1),
        open("an upgrade to TLS", get("Connection: Upgrade\r\nUpgrade: TLS/1.2, HTTP/1.1\r\n"), &[&[200]]),
        open("keep-alive", get("Connection: keep-alive\r\nKeep-Alive: timeout=5, max=1000\r\n"), &[&[200]]),
        open("an empty option", get("Connection:\r\n"), &[&[200]]),
        open("a word that holds close", get("Connection: not-close, closed\r\n"), &[&[200]]),
        open(
            "options that name other headers",
            post("Connection: Content-Length, Host\r\nContent-Length: 19\r\n"),
            &[&[200]],
        )
        .jobs(1),
        open("Proxy-Connection", get("Proxy-Connection: close\r\n"), &[&[200]]),
        closed("close", get("Connection: close\r\n"), &[&[200]]),
        closed("Close in a list", get("Connection: keep-alive ,\tCLOSE\r\n"), &[&[200]]),
        closed("close in a second header", get("Connection: keep-alive\r\nConnection: close\r\n"), &[&[200]]),
        closed("close on a refusal", get("Connection: close\r\n").replace("healthz", "nothing"), &[&[404]]),
        closed("close on a Job", post("Connection: close\r\nContent-Length: 19\r\n"), &[&[200]]).jobs(1),
    ]
}

fn pipelines() -> Vec<Case> {
    let nothing = get("").replace("healthz", "nothing");
    let bad_json = good_post().replace("mnist\"", "cifar\"");
    let last = get("Connection: close\r\n");
    let many: Vec<&[u16]> = vec![&[200]; 100];
    vec![
        open("three good ones", get("").repeat(3), &[&[200], &[200], &[200]]),
        open("three kinds", [get(""), nothing.clone(), get("")].concat(), &[&[200], &[404], &[200]]),
        open("a hundred", get("").repeat(100), &many),
        open("POST, GET", [good_post(), get("")].concat(), &[&[200], &[200]]).jobs(1),
        open("GET, POST", [get(""), good_post()].concat(), &[&[200], &[200]]).jobs(1),
        open("four POSTs", good_post().repeat(4), &[&[200], &[200], &[200], &[200]]).jobs(4),
        open("a bad body, a good one", [bad_json, good_post()].concat(), &[&[400], &[200]]).jobs(1),
        open("empty lines between", [good_post(), get("")].join("\r\n\r\n"), &[&[200], &[200]]).jobs(1),
        open("HEAD, GET", [line("HEAD /healthz HTTP/1.1"), get("").into()].concat(), &[&[200], &[200]])
            .answering_head(0),
        open("GET, HEAD", [get("").into(), line("HEAD /nothing HTTP/1.1")].concat(), &[&[200], &[404]])
            .answering_head(1),
        closed("good, good, bad", [get(""), get(""), "nonsense\r\n\r\n".into()].concat(), &[&[200], &[200], &[400]]),
        closed("good, bad, good", [get(""), "nonsense\r\n\r\n".into(), get("")].concat(), &[&[200], &[400]]),
        closed("bad, good", format!("GET / HTTP/1.1\r\n\r\n{}", get("")), &[&[400]]),
        closed("bad, POST", format!("GET / HTTP/1.1\r\nX : y\r\n\r\n{}", good_post()), &[&[400]]),
        closed("POST, bad", format!("{}GET /\0\r\n\r\n", good_post()), &[&[200], &[400]]).jobs(1),
        closed("too large, POST", format!("{}{}", get("Content-Length: 2000\r\n"), good_post()), &[&[413]]),
        closed(
            "chunked, POST",
            format!("{}0\r\n\r\n{}", get("Transfer-Encoding: chunked\r\n"), good_post()),
            &[&[501]],
        ),
        closed("expecting too much, POST", format!("{}{}", get("Expect: x\r\n"), good_post()), &[&[417]]),
        closed("close, POST", format!("{last}{}", good_post()), &[&[200]]),
        closed("HTTP/1.0, POST", format!("GET /healthz HTTP/1.0\r\n\r\n{}", good_post()), &[&[200]]),
        closed(
            "GET, last POST",
            [get(""), post("Connection: close\r\nContent-Length: 19\r\n")].concat(),
            &[&[200], &[200]],
        )
        .jobs(1),
        closed("POST, half a GET", format!("{}GET /heal", good_post()), &[&[200], &[400]]).half_close().jobs(1),
        closed("GET, end", get("").repeat(2), &[&[200], &[200]]).half_close(),
        open("the body is a request", format!("{}{}", post_of(get("").len()), get("")), &[&[400]]),
        open("the body is a good POST", format!("{}{}", post_of(good_post().len()), good_post()), &[&[400]]),
    ]
}

/// The head of a POST with a body of that length.
fn post_of(length: usize) -> String {
    format!("POST {FREE} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n")
}

fn bodies() -> Vec<Case> {
    let filled = |length: usize| format!("{}{MNIST}{}", post_of(length), " ".repeat(length - MNIST.len()));
    let cut = good_post()[..good_post().len() - 1].to_owned();
    vec![
        open("a body of 1024 bytes", filled(1024), &[&[200]]).jobs(1),
        closed("a body of 1025 bytes", filled(1025), &[&[413]]),
        closed("a body of 200,000 bytes", filled(200_000), &[&[413]]),
        closed("1025 bytes are announced", post_of(1025), &[&[413]]),
        closed("a body cut short", cut.clone(), &[&[400]]).half_close(),
        closed("a body that never came", post_of(19), &[&[400]]).half_close(),
        closed("a body shorter by far", format!("{}{MNIST}", post_of(1024)), &[&[400]]).half_close(),
        closed("a body longer than it says", format!("{}{MNIST}", post_of(18)), &[&[400], &[400]]).half_close(),
        closed(
            "a body of one byte and a request in one",
            format!("{}{}", post_of(1), good_post()),
            &[&[400], &[400, 501, 505]],
        )
        .half_close(),
        closed("whole, and the end", good_post(), &[&[200]]).half_close().jobs(1),
        closed("a GET, and the end", get(""), &[&[200]]).half_close(),
        open("NULs in the body", format!("{}{}", post_of(5), "\0".repeat(5)), &[&[400]]),
        open("line ends in the body", format!("{}\r\n\r\n\n", post_of(5)), &[&[400]]),
        closed("half a head, and the end", "GET /healthz HTTP/1.1\r\nHos", &[&[400]]).half_close(),
        closed("a head without its empty line, and the end", "GET /healthz HTTP/1.1\r\nHost: h\r\n", &[&[400]])
            .half_close(),
        closed("nothing, and the end", "", &[]).half_close(),
        closed("an empty line, and the end", "\r\n", &[]).half_close(),
        closed("a thousand empty lines, and the end", "\r\n".repeat(1000), &[]).half_close(),
        closed("a CR, and the end", "\r", &[&[400, OR_NONE]]).half_close(),
        closed("one byte, and the end", "G", &[&[400]]).half_close(),
    ]
}

fn other_protocols() -> Vec<Case> {
    let hello = [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &noise(7, 505)].concat();
    let mut cases = vec![
        closed("a TLS ClientHello", hello, &[&[400]]),
        closed("an SSLv2 hello", b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10".to_vec(), &[&[400]]),
        closed("PROXY protocol", format!("PROXY TCP4 1.2.3.4 5.6.7.8 11 22\r\n{}", get("")), &[&[400, 505]]),
        closed("PROXY protocol 2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec(), &[&[400]]),
        closed("SOCKS 4", b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00".to_vec(), &[&[400]]),
        closed("SOCKS 5", b"\x05\x01\x00".to_vec(), &[&[400]]),
        closed(
            "RDP",
            b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x0b\x00\x00\x00".to_vec(),
            &[&[400]],
        ),
        closed("SSH", "SSH-2.0-OpenSSH_9.2\r\n", &[&[400]]).half_close(),
        closed("SMTP", "EHLO x\r\nMAIL FROM:<a@b>\r\n", &[&[400]]).half_close(),
        closed("Redis", "*1\r\n$4\r\nPING\r\n", &[&[400]]).half_close(),
        closed("memcached", "get x\r\n", &[&[400]]).half_close(),
        closed("telnet", "hello\n", &[&[400]]),
        closed("a NUL", "\0", &[&[400]]),
        closed("letters without end", "A".repeat(100_000), &[&[414]]),
        closed("line ends without end", "\n".repeat(10_000), &[&[400]]),
        closed("NULs without end", vec![0; 100_000], &[&[400]]),
        closed("all bytes there are", (0..=255).collect::<Vec<u8>>(), &[&[400]]),
    ];
    for seed in 1..=16 {
        // Any of the three may come first in it.
        cases.push(closed(format!("noise {seed}"), noise(seed, 6000), &[&[400, 414, 431]]));
    }
    cases
}

fn smuggling() -> Vec<Case> {
    let inner = "GET /config HTTP/1.1\r\nHost: h\r\n\r\n";
    let post = |headers: &str, body: &str| format!("POST {FREE} HTTP/1.1\r\nHost: h\r\n{headers}\r\n{body}");
    let mut cases = vec![
        closed("CL.TE", post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nG"), &[&[400]]),
        closed(
            "TE.CL",
            post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", &format!("5c\r\n{inner}\r\n0\r\n\r\n")),
            &[&[400]],
        ),
        closed("CL.CL", post("Content-Length: 0\r\nContent-Length: 35\r\n", inner), &[&[400]]),
        closed("CL.0 by a plus", post("Content-Length: +0\r\n", inner), &[&[400]]),
        closed("a length in a fold", post("X: y\r\n Content-Length: 35\r\n", inner), &[&[400]]),
        closed("a length behind a NUL", post("X: y\0\r\nContent-Length: 35\r\n", inner), &[&[400]]),
        open(
            "a GET with a request in its body",
            format!("{}{inner}", get(&format!("Content-Length: {}\r\n", inner.len()))),
            &[&[200]],
        ),
        open(
            "a HEAD with a request in its body",
            format!("HEAD /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{inner}", inner.len()),
            &[&[200]],
        )
        .answering_head(0),
    ];
    for obfuscated in [
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:\tchunked",
        "X: y\nTransfer-Encoding: chunked",
        " Transfer-Encoding: chunked",
        "Transfer-Encoding\n: chunked",
        "Transfer-Encoding: \x0bchunked",
        "transfer-encoding: CHUNKED",
        "Transfer-Encoding: identity, chunked",
        "X: y\r\n\tTransfer-Encoding: chunked",
    ] {
        let bytes = post(&format!("Content-Length: 4\r\n{obfuscated}\r\n"), "0\r\n\r\n");
        cases.push(closed(format!("TE.TE {obfuscated:?}"), bytes, &[&[400]]));
    }
    cases
}

/// Bytes that look random and are the same every time.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

fn started() -> (ApiServer, Server) {
    let api = ApiServer::start();
    // Whatever limit there may be on the POSTs of one address: these tests send many.
    let server = Setup::for_api(&api).env("POSTS_PER_MINUTE", "0").start();
    (api, server)
}

/// Runs all these cases, each on a connection of its own, and tells of every one that went wrong.
fn run_table(cases: &[Case], bytewise: bool) {
    let (api, server) = started();
    let mut wrong = Vec::new();
    for case in cases {
        let before = api.jobs().len();
        let seen = case.run(&server, bytewise);
        let made = api.jobs().len() - before;
        let seen = seen.and_then(|()| match made == case.jobs {
            true => Ok(()),
            false => Err(format!("{made} Jobs instead of {}", case.jobs)),
        });
        if let Err(error) = seen {
            wrong.push(format!("{}: {error}", case.what));
        }
        assert_eq!(server.get("/healthz").status, 200, "after {}", case.what);
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(!server.stderr().contains("bug: "), "{}", server.stderr());
}

#[test]
fn whatever_is_sent_gets_its_answers_and_harms_nobody() {
    let cases = table();
    assert!(cases.len() >= 150, "{} cases", cases.len());
    println!("{} cases", cases.len());
    let names: BTreeSet<&str> = cases.iter().map(|case| case.what.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    run_table(&cases, false);
}

#[test]
fn whatever_is_sent_byte_by_byte_gets_the_same_answers() {
    let cases: Vec<Case> = table().into_iter().filter(|case| case.bytes.len() <= SHORT).collect();
    println!("{} cases", cases.len());
    run_table(&cases, true);
}

/// The head of a good POST, which then waits for its body.
fn expecting() -> String {
    format!("POST {FREE} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 19\r\n\r\n")
}

#[test]
fn a_client_that_waits_before_its_body_is_told_to_go_on() {
    let (api, server) = started();
    let mut connection = server.connect();
    for round in 1..=3 {
        connection.send(expecting().as_bytes());
        let mut interim = [0; 25];
        connection.stream().read_exact(&mut interim).unwrap();
        assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        connection.send(MNIST.as_bytes());
        let (answer, more) = connection.answer_and_interim(false).unwrap();
        assert_eq!((answer.status, more, api.jobs().len()), (200, 0, round));
    }
}

#[test]
fn a_client_that_expects_and_never_sends_its_body_makes_no_job() {
    let (api, server) = started();
    let mut connection = server.connect();
    connection.send(expecting().as_bytes());
    connection.stream().shutdown(Shutdown::Write).unwrap();
    let (answer, interim) = connection.answer_and_interim(false).unwrap();
    assert_eq!((answer.status, interim), (400, 1));
    assert_eq!(connection.rest().unwrap(), b"");
    assert_eq!(api.requests().len(), 0);
}

#[test]
fn one_connection_serves_a_thousand_requests() {
    let (api, server) = started();
    let mut connection = server.connect();
    for round in 0..500 {
        let (method, target, status) =
            [("GET", "/healthz", 200), ("HEAD", "/healthz", 200), ("GET", "/x", 404)][round % 3];
        assert_eq!(connection.request(method, target, None).status, status, "{round}");
        if round % 10 == 0 {
            assert_eq!(connection.request("POST", FREE, Some(MNIST.as_bytes())).status, 200, "{round}");
        }
        assert_eq!(connection.request("POST", FREE, Some(b"nonsense")).status, 400, "{round}");
    }
    assert_eq!(api.jobs().len(), 50);
}

#[test]
fn a_refusal_of_a_head_has_no_body() {
    let (_api, server) = started();
    let table = [
        ("/nothing", "Host: h\r\n", 404),
        (FREE, "Host: h\r\n", 405),
        ("/healthz", "", 400),
        ("/healthz", "Host: h\r\nHost: h\r\n", 400),
        ("/healthz", "Host: h\r\nContent-Length: x\r\n", 400),
        ("/healthz", "Host: h\r\nContent-Length: 1025\r\n", 413),
        ("/healthz", "Host: h\r\nContent-Length: 99999999999999999999\r\n", 413),
        ("/healthz", "Host: h\r\nTransfer-Encoding: chunked\r\n", 501),
        ("/healthz", "Host: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n", 400),
        ("/healthz", "Host: h\r\nExpect: tea\r\n", 417),
        ("/healthz", "Host: h\r\nContent-Length: 9\r\n", 400),
    ];
    let mut wrong = Vec::new();
    for (target, headers, status) in table {
        let mut connection = server.connect();
        connection.send(format!("HEAD {target} HTTP/1.1\r\n{headers}\r\n").as_bytes());
        connection.stream().shutdown(Shutdown::Write).unwrap();
        let answer = connection.answer(true).unwrap();
        let rest = connection.rest().unwrap();
        if answer.status != status || wrong_form(&answer, true).is_some() || !rest.is_empty() {
            wrong.push(format!("{target} {headers:?}: {answer:?}, then {:?}", String::from_utf8_lossy(&rest)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Enough pods for an answer that fits into no buffer.
const PODS: usize = 8000;

/// From now on GET /config is an answer of over a megabyte.
fn fill(api: &ApiServer) {
    let pods: Vec<Value> = (0..PODS)
        .map(|number| pod("default", &format!("{number:060}"), "Running", Some(("node", "10.0.0.1"))))
        .collect();
    let list = Reply::json(200, &pod_list(&pods, ""));
    api.script(move |request| match request.path() {
        "/api/v1/pods" => list.clone().into(),
        _ => Answer::Honest,
    });
}

/// A client whose kernel takes little before anybody reads.
fn narrow(address: SocketAddr) -> Connection {
    use rustix::net::{
        AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt::set_socket_recv_buffer_size,
    };
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    set_socket_recv_buffer_size(&socket, 4096).unwrap();
    connect(&socket, &address).unwrap();
    Connection::over(TcpStream::from(socket))
}

#[test]
fn an_answer_over_a_megabyte_arrives_whole_at_a_slow_reader() {
    let (api, server) = started();
    fill(&api);
    let mut connection = narrow(server.address());
    connection.send(get("Connection: close\r\n").replace("healthz", "config").as_bytes());
    let (mut bytes, mut piece) = (Vec::new(), [0; 32 * 1024]);
    loop {
        let count = connection.stream().read(&mut piece).unwrap();
        if count == 0 {
            break;
        }
        bytes.extend_from_slice(&piece[..count]);
        // The pace of a slow reader.
        std::thread::park_timeout(Duration::from_millis(2));
    }
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let json: Value = serde_json::from_slice(&bytes[head..]).unwrap();
    assert!(bytes.len() > 1_000_000, "{} bytes", bytes.len());
    assert_eq!(json["pods"].as_array().unwrap().len(), PODS);
}

#[test]
fn readers_that_take_nothing_hold_nobody_up() {
    const READERS: usize = 20;
    let (api, server) = started();
    fill(&api);
    let readers: Vec<Connection> = (0..READERS)
        .map(|_| {
            let mut connection = narrow(server.address());
            connection.send(get("").replace("healthz", "config").as_bytes());
            connection
        })
        .collect();
    let answered = || server.stderr().lines().filter(|line| line.starts_with("GET /config 200 ")).count();
    eventually("every reader has an answer waiting", || answered() == READERS);
    // More than may ask Kubernetes at a time.
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                assert_eq!(server.post_job().status, 200);
                assert_eq!(server.get("/healthz").status, 200);
            });
        }
        scope.spawn(|| assert_eq!(server.get("/config").json()["pods"].as_array().unwrap().len(), PODS));
    });
    assert_eq!(api.jobs().len(), READERS);
    drop(readers);
}

/// The time that the server gives a head and a body.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// What a client of the test below does, and which status ends it: none is a close without a word.
struct Slow {
    what: &'static str,
    first: Vec<u8>,
    /// Sent byte by byte, one every so often, over and over.
    then: &'static [u8],
    answers: &'static [u16],
}

#[test]
fn whoever_is_too_slow_is_told_so_and_whoever_is_silent_is_let_go() {
    let (api, server) = started();
    let table = [
        Slow { what: "silent", first: Vec::new(), then: b"", answers: &[] },
        Slow { what: "half a head", first: b"GET /healthz HT".to_vec(), then: b"", answers: &[408] },
        Slow {
            what: "an endless head",
            first: b"GET /healthz HTTP/1.1\r\n".to_vec(),
            then: b"X: y\r\n",
            answers: &[408],
        },
        Slow { what: "an endless request line", first: b"GET /".to_vec(), then: b"a", answers: &[408] },
        Slow { what: "empty lines", first: b"\r\n".to_vec(), then: b"\r\n", answers: &[408] },
        Slow { what: "no body", first: post_of(19).into(), then: b"", answers: &[408] },
        Slow { what: "half a body", first: format!("{}{{", post_of(19)).into(), then: b"", answers: &[408] },
        Slow { what: "a dripping body", first: post_of(1024).into(), then: b" ", answers: &[408] },
        Slow { what: "a body that was asked for", first: expecting().into(), then: b"", answers: &[408] },
        Slow { what: "half a second head", first: format!("{}GET", get("")).into(), then: b"", answers: &[200, 408] },
        Slow {
            what: "a second body",
            first: format!("{}{}", get(""), post_of(19)).into(),
            then: b"",
            answers: &[200, 408],
        },
    ];
    let gap = Duration::from_millis(250);
    std::thread::scope(|scope| {
        for Slow { what, first, then, answers } in &table {
            let server = &server;
            scope.spawn(move || {
                let mut connection = server.connect();
                let start = Instant::now();
                connection.send(first);
                let mut drops = then.iter().cycle();
                if !then.is_empty() {
                    connection.stream().set_read_timeout(Some(gap)).unwrap();
                    // Until there is something to read. Sending fails only once the server has closed.
                    while connection.stream().peek(&mut [0]).is_err() && start.elapsed() < HEAD_TIME * 2 {
                        let _ = connection.stream().write_all(&[*drops.next().unwrap()]);
                    }
                    connection.stream().set_read_timeout(Some(HEAD_TIME)).unwrap();
                }
                for status in *answers {
                    let answer = connection.answer(false).unwrap_or_else(|error| panic!("{what}: {error}"));
                    assert_eq!(answer.status, *status, "{what}");
                    if *status == 408 {
                        answer.error();
                    }
                }
                assert_eq!(connection.rest().unwrap(), b"", "{what}");
                let took = start.elapsed();
                assert!(took > HEAD_TIME / 2 && took < HEAD_TIME + PROMPT, "{what}: {took:?}");
            });
        }
        // All the while others are served.
        let start = Instant::now();
        while start.elapsed() < HEAD_TIME {
            assert_eq!(server.get("/healthz").status, 200);
            std::thread::park_timeout(gap);
        }
    });
    assert_eq!(api.requests().len(), 0);
}

/// Closes with a TCP reset.
fn reset(connection: &Connection) {
    rustix::net::connect_unspec(connection.stream()).unwrap();
}

/// Descriptors and threads of the server.
fn held(server: &Server) -> (usize, usize) {
    let count = |what: &str| {
        let folder = format!("/proc/{}/{what}", server.pid().as_raw_nonzero());
        std::fs::read_dir(folder).unwrap().count()
    };
    (count("fd"), count("task"))
}

#[test]
fn clients_that_reset_at_any_moment_leave_nothing_behind() {
    const EACH: usize = 20;
    let (api, server) = started();
    fill(&api);
    // What the first requests make and keep, such as a connection to Kubernetes, is no leftover.
    let config = get("").replace("healthz", "config");
    assert_eq!((server.post_job().status, server.get("/config").status), (200, 200));
    let before = held(&server);
    let jobs = api.jobs().len();
    for bytes in [
        "",
        "\r\n",
        "GET",
        "GET /healthz HTTP/1.1\r\nHo",
        &post_of(19),
        &post_of(19)[..40],
        &format!("{}{{", post_of(19)),
    ] {
        for _ in 0..EACH {
            let mut connection = server.connect();
            connection.send(bytes.as_bytes());
            reset(&connection);
        }
        assert_eq!(server.get("/healthz").status, 200, "{bytes:?}");
    }
    for _ in 0..EACH {
        // While the body is awaited.
        let mut connection = server.connect();
        connection.send(expecting().as_bytes());
        connection.stream().read_exact(&mut [0; 25]).unwrap();
        reset(&connection);
        // Between two requests.
        let mut connection = server.connect();
        assert_eq!(connection.request("GET", "/healthz", None).status, 200);
        reset(&connection);
        // After a refusal.
        let mut connection = server.connect();
        connection.send(b"nonsense\r\n\r\n");
        connection.stream().read_exact(&mut [0; 12]).unwrap();
        reset(&connection);
        // In the middle of an answer.
        let mut connection = narrow(server.address());
        connection.send(config.as_bytes());
        connection.stream().read_exact(&mut [0; 100]).unwrap();
        reset(&connection);
    }
    assert_eq!(api.jobs().len(), jobs);
    // Before the answer, which Kubernetes keeps waiting.
    let (gate, seen) = (Gate::default(), api.requests().len());
    api.always(Answer::After(gate.clone(), Box::new(Answer::Honest)));
    let waiting: Vec<Connection> = (0..10)
        .map(|_| {
            let mut connection = server.connect();
            connection.send(good_post().as_bytes());
            connection
        })
        .collect();
    api.wait_for_requests(seen + waiting.len());
    waiting.iter().for_each(reset);
    gate.open();
    // These were good requests: each made its Job, though nobody heard of it.
    eventually("the Jobs are made", || api.jobs().len() == jobs + waiting.len());
    drop(waiting);
    // Connections to Kubernetes that such a rush has opened are not the clients' leftovers.
    api.hang_up();
    assert_eq!(server.post_job().status, 200);
    eventually("descriptors and threads are given back", || {
        let now = held(&server);
        now.0 <= before.0 && now.1 <= before.1
    });
    assert_eq!(server.get("/healthz").status, 200);
    assert!(!server.stderr().contains("bug: "), "{}", server.stderr());
}
