//! The front door under attack: raw bytes that a client may send, and clients that behave badly.
//!
//! Every case of the table says what the answers must be and whether the connection goes on; after each one the server must
//! still serve, and must have made exactly the Jobs that were asked for.

mod body_cases;
mod connections;
mod head_cases;
mod slow_clients;

use crate::support::api::ApiServer;
use crate::support::http::Response;
use crate::support::server::{Server, Setup};
use body_cases::{bodies, encodings, expectations, lengths, pipelines, smuggling};
use head_cases::{connection_options, headers, hosts, limits, lines, methods, other_protocols, targets, versions};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

const FREE: &str = "/img-classification/free";
const MNIST: &str = r#"{"dataset":"mnist"}"#;

/// Longest time from the last byte of a case to its last answer; none of them has a reason to wait.
const PROMPT: Duration = Duration::from_secs(5);

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
    responses: Vec<Vec<u16>>,
    /// Which answer is to a HEAD.
    is_head: Option<usize>,
    /// The connection goes on after the answers; else the server must close it.
    open: bool,
    /// Fewest and most interim answers, all together.
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
        for (number, statuses) in self.responses.iter().enumerate() {
            let is_head = self.is_head == Some(number);
            let (response, before) = match connection.response_and_interim(is_head) {
                Ok(response) => response,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && statuses.contains(&OR_NONE) => break,
                Err(error) => return Err(format!("no answer {number}, {statuses:?}: {error}")),
            };
            interim += before;
            if !statuses.contains(&response.status) {
                return Err(format!(
                    "answer {number} is {} instead of {statuses:?}: {:?}",
                    response.status,
                    response.text()
                ));
            }
            if let Some(wrong) = format_error(&response, is_head) {
                return Err(format!("answer {number}, {}: {wrong}", response.status));
            }
            let says_close = response.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
            if self.open && says_close {
                return Err(format!("answer {number} says that the connection ends"));
            }
            let last = number + 1 == self.responses.len();
            if last && !self.open && !self.half_close && !says_close {
                return Err("the last answer does not say that the connection ends".to_owned());
            }
        }
        if !(self.interim.0..=self.interim.1).contains(&interim) {
            return Err(format!("{interim} interim answers"));
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
fn format_error(response: &Response, is_head: bool) -> Option<&'static str> {
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
    let Ok(Value::Object(object)) = serde_json::from_slice(&response.body) else { return Some("it is no JSON object") };
    let sentence = object.get("error").and_then(Value::as_str).unwrap_or_default();
    (object.len() != 1 || sentence.trim().is_empty() || sentence.contains('\n')).then_some("it is not one sentence")
}

/// Answered, and the connection goes on.
fn open(what: impl Into<String>, bytes: impl Into<Vec<u8>>, responses: &[&[u16]]) -> Case {
    Case::new(what, bytes, responses, true)
}

/// Answered, and the connection is closed by the server.
fn closed(what: impl Into<String>, bytes: impl Into<Vec<u8>>, responses: &[&[u16]]) -> Case {
    Case::new(what, bytes, responses, false)
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

/// The head of a POST with a body of that length.
fn post_of(length: usize) -> String {
    format!("POST {FREE} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n")
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
