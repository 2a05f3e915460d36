//! The front's HTTP parser and its limits: raw bytes of any kind, and clients that misbehave.
//!
//! Every case of the table lists the expected statuses, and whether the connection stays open. After each case the
//! server must still serve, and must have created exactly the requested Jobs.

mod body_cases;
mod connections;
mod head_cases;
mod slow_clients;

use crate::support::api::ApiServer;
use crate::support::http::{Response, error_problem};
use crate::support::server::{Server, Setup};
use body_cases::{bodies, chunks, encodings, expectations, lengths, pipelines, smuggling};
use head_cases::{connection_options, headers, hosts, limits, lines, methods, other_protocols, targets, versions};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::Shutdown;

const FREE: &str = "/img-classification/free";
const MNIST: &str = r#"{"dataset":"mnist"}"#;

/// Cases up to this length are also sent byte by byte.
const SHORT: usize = 1500;

/// In a list of accepted statuses: the response may be missing.
const OR_NONE: u16 = 0;

/// Bytes for a new connection, and the expected responses.
struct Case {
    what: String,
    bytes: Vec<u8>,
    /// The client shuts down its sending side after the bytes.
    half_close: bool,
    /// Accepted statuses, one list per response.
    responses: Vec<Vec<u16>>,
    /// Index of the response to a HEAD.
    is_head: Option<usize>,
    /// The connection stays open after the responses; otherwise the server must close it.
    open: bool,
    /// Minimum and maximum of interim responses in total.
    interim: (usize, usize),
    jobs: usize,
}

impl Case {
    fn new(what: impl Into<String>, bytes: impl Into<Vec<u8>>, responses: &[&[u16]], open: bool) -> Case {
        let responses = responses.iter().map(|statuses| statuses.to_vec()).collect();
        let (half_close, is_head, interim, jobs) = (false, None, (0, 0), 0);
        Case { what: what.into(), bytes: bytes.into(), half_close, responses, is_head, open, interim, jobs }
    }

    fn half_close(mut self) -> Case {
        self.half_close = true;
        self
    }

    fn for_head(mut self, response: usize) -> Case {
        self.is_head = Some(response);
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

    /// Sends the bytes, at once or one by one, and compares the responses; the error names the difference.
    fn run(&self, server: &Server, bytewise: bool) -> Result<(), String> {
        let mut connection = server.connect();
        let mut stream = connection.stream();
        // The server may have refused and closed before the last byte.
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
        let mut interim = 0;
        for (number, statuses) in self.responses.iter().enumerate() {
            let is_head = self.is_head == Some(number);
            let (response, before) = match connection.response_and_interim(is_head) {
                Ok(response) => response,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && statuses.contains(&OR_NONE) => break,
                Err(error) => return Err(format!("no response {number}, {statuses:?}: {error}")),
            };
            interim += before;
            if !statuses.contains(&response.status) {
                return Err(format!(
                    "response {number} is {} instead of {statuses:?}: {:?}",
                    response.status,
                    response.text()
                ));
            }
            if let Some(wrong) = format_error(&response, is_head) {
                return Err(format!("response {number}, {}: {wrong}", response.status));
            }
            let says_close = response.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
            if self.open && says_close {
                return Err(format!("response {number} announces a close"));
            }
            let last = number + 1 == self.responses.len();
            if last && !self.open && !self.half_close && !says_close {
                return Err("the last response does not announce the close".to_owned());
            }
        }
        if !(self.interim.0..=self.interim.1).contains(&interim) {
            return Err(format!("{interim} interim responses"));
        }
        if self.open && !self.half_close {
            let response = connection.request("GET", "/healthz", None);
            if response.status != 200 {
                return Err(format!("then {} on the same connection", response.status));
            }
        } else {
            match connection.rest() {
                Ok(rest) if rest.is_empty() => {}
                Ok(rest) => return Err(format!("more came: {:?}", String::from_utf8_lossy(&rest))),
                // The server did not read the bytes after the refused request.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset && sent.is_err() => {}
                Err(error) => return Err(format!("not closed by the server: {error}")),
            }
        }
        Ok(())
    }
}

/// Returns the format error of a response: errors are JSON with one sentence, and every response has its length.
fn format_error(response: &Response, is_head: bool) -> Option<&'static str> {
    if response.status == 204 {
        return response.header("Content-Length").map(|_| "a 204 has a length");
    }
    if response.header("Content-Type") != Some("application/json") {
        return Some("its content type is not JSON");
    }
    let length: Option<usize> = response.header("Content-Length").and_then(|length| length.parse().ok());
    if is_head {
        return length.is_none().then_some("it has no length");
    }
    if length != Some(response.body.len()) {
        return Some("its length is wrong");
    }
    if response.status < 400 {
        return None;
    }
    error_problem(&response.body)
}

/// Gets responses; the connection stays open.
fn open(what: impl Into<String>, bytes: impl Into<Vec<u8>>, responses: &[&[u16]]) -> Case {
    Case::new(what, bytes, responses, true)
}

/// Gets responses, then the server closes the connection.
fn closed(what: impl Into<String>, bytes: impl Into<Vec<u8>>, responses: &[&[u16]]) -> Case {
    Case::new(what, bytes, responses, false)
}

/// GET /healthz with these additional header lines.
fn get(headers: &str) -> String {
    format!("GET /healthz HTTP/1.1\r\nHost: h\r\n{headers}\r\n")
}

/// POST of a valid body with these header lines, which set its length.
fn post(headers: &str) -> String {
    format!("POST {FREE} HTTP/1.1\r\nHost: h\r\n{headers}\r\n{MNIST}")
}

/// A complete valid POST.
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
        chunks(),
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

/// The head of a POST with a body of this length.
fn post_of(length: usize) -> String {
    format!("POST {FREE} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n")
}

fn started() -> (ApiServer, Server) {
    let api = ApiServer::start();
    // These tests send more POSTs than the rate limit allows.
    let server = Setup::for_api(&api).env("POSTS_PER_MINUTE", "0").start();
    (api, server)
}

/// Runs each case on a new connection and reports every failure.
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
    let log = server.log_until_now();
    assert!(!log.contains("bug: "), "{log}");
}

#[test]
fn every_case_gets_its_responses_and_does_no_harm() {
    let cases = table();
    assert!(cases.len() >= 150, "{} cases", cases.len());
    println!("{} cases", cases.len());
    let names: BTreeSet<&str> = cases.iter().map(|case| case.what.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    run_table(&cases, false);
}

#[test]
fn cases_sent_byte_by_byte_get_the_same_responses() {
    let cases: Vec<Case> = table().into_iter().filter(|case| case.bytes.len() <= SHORT).collect();
    println!("{} cases", cases.len());
    run_table(&cases, true);
}

/// The head of a valid POST that expects 100 Continue.
fn expecting() -> String {
    format!("POST {FREE} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 19\r\n\r\n")
}
