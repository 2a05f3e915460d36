//! One client connection: requests in, responses out, one after the other, until either side ends it.
//!
//! After any doubt about the end of a request the connection is closed. This module never looks into a target or a body.

use std::io;
use std::time::{Duration, Instant};

use crate::front::backend::{Class, LogEntry};
use crate::front::chunked;
use crate::front::client::Client;
use crate::front::connections::Phase;
use crate::front::error::RequestError;
use crate::front::io::{ReadOutcome, is_ended, lingering_close, read_some, wait_closed};
use crate::front::limits::MAX_BODY;
use crate::front::relay::{self, RelayError};
use crate::front::request::{self, Framing, Request, RequestHead};
use crate::front::shared::Shared;
use crate::front::upstream::{AcquireError, Origin, Permit};

/// Time to a complete head from its first byte: three lost packets on a bad line.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Time to a complete body from the end of the head.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Time between requests of a kept-alive connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Time after a refusal for lack of places or tokens before the connection's next request is read. Connections that are refused again
/// and again would keep both cores of a small host busy.
const REFUSAL_PAUSE: Duration = Duration::from_millis(200);

/// The reason why no request was read.
enum ReadError {
    Io(io::Error),
    Refused(RequestError),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<RequestError> for ReadError {
    fn from(error: RequestError) -> Self {
        Self::Refused(error)
    }
}

/// Serves a connection until it ends.
///
/// # Errors
/// The client went away.
pub fn serve(shared: &Shared, client: &Client<'_>) -> io::Result<()> {
    client.stream.set_nodelay(true)?;
    let mut input = Vec::with_capacity(1024);
    let mut timeout = HEAD_TIMEOUT;
    loop {
        let request = match read_request(shared, client, &mut input, timeout) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(ReadError::Io(error)) => return Err(error),
            Err(ReadError::Refused(error)) => {
                log_refusal(shared, ("-", "-"), &error, Duration::ZERO);
                client.send(&error.to_response(input.starts_with(b"HEAD "), true))?;
                return lingering_close(client.stream);
            }
        };
        let close = !request.head.keep_alive || shared.is_closing();
        respond(shared, client, &request, close)?;
        client.guard.set_phase(Phase::Idle);
        if close {
            return lingering_close(client.stream);
        }
        // The thread that closes the front waits for idle connections.
        if shared.is_closing() {
            shared.connections.notify();
        }
        client.wait_until_taken()?;
        timeout = IDLE_TIMEOUT;
    }
}

/// Forwards the request and relays its response, or responds with the front's own error.
fn respond(shared: &Shared, client: &Client<'_>, request: &Request, close: bool) -> io::Result<()> {
    let arrived = Instant::now();
    let relayed = acquire(shared, client, request).and_then(|permit| relay::exchange(permit, request, client, close));
    match relayed {
        Ok(()) => Ok(()),
        Err(RelayError::Broken(error)) => Err(error),
        Err(RelayError::NoResponse(error)) => {
            log_refusal(shared, (&request.head.method, &request.head.target), &error, arrived.elapsed());
            client.send(&error.to_response(request.head.method == "HEAD", close))?;
            if !close && matches!(error, RequestError::Overloaded | RequestError::RateLimited(_)) {
                client.guard.set_phase(Phase::Idle);
                wait_closed(client.stream, REFUSAL_PAUSE)?;
            }
            Ok(())
        }
    }
}

/// Counts the request against the rates of its network, and takes a private connection.
fn acquire<'a>(shared: &'a Shared, client: &Client<'_>, request: &Request) -> Result<Permit<'a>, RelayError> {
    let RequestHead { method, target, .. } = &request.head;
    let backend = &shared.backend;
    let class = (backend.classify)(method, target);
    let is_read = !matches!(method.as_str(), "POST" | "DELETE");
    let mut origin = Origin { network: client.guard.peer, is_read, is_held: false };
    if let Some(rates) = &shared.rates
        && (method == "POST" || class != Class::Memory)
    {
        rates.count(origin.network, origin.is_read).map_err(RequestError::RateLimited)?;
    }
    // The phase is that of an idle connection, which can be evicted.
    let is_over = || shared.is_closing() || is_ended(client.stream);
    origin.is_held = (backend.hold)((method, target), origin.network, &is_over);
    let place = shared.pool(class).enter(origin).ok_or(RequestError::Overloaded)?;
    // Only now, so that the connections of refused requests can be evicted. An evicted client gets no response, so its request must
    // not create a Job.
    if !client.guard.set_phase(Phase::Handling) {
        return Err(RelayError::Broken(io::ErrorKind::ConnectionAborted.into()));
    }
    let connect = || {
        let mut connection = (backend.connect)()?;
        // Only a stream may have to be stopped, and the header costs each request 2 µs.
        connection.number = connection.number.filter(|_| class == Class::Stream);
        // A stream may pause for any time.
        let timeout = (class != Class::Stream).then_some(backend.response_timeout);
        connection.stream.set_read_timeout(timeout)?;
        connection.stream.set_write_timeout(Some(backend.response_timeout))?;
        Ok(connection)
    };
    let permit = place.wait(backend.acquire_timeout, connect).map_err(|error| match error {
        AcquireError::Overloaded => RequestError::Overloaded,
        AcquireError::Connect(error) => {
            shared.log_throttled(&format!("cannot open a private connection: {error}"));
            RequestError::Unavailable
        }
    });
    Ok(permit?)
}

fn log_refusal(shared: &Shared, (method, target): (&str, &str), error: &RequestError, took: Duration) {
    shared.stats.record(error);
    let (status, _, detail, _) = error.to_status();
    (shared.backend.log)(&LogEntry { method, target, status, took, detail: &detail });
}

/// Reads a whole request; `None` if the client left, or sent nothing within `timeout`. `input` keeps the bytes after it, and all
/// bytes of a refused one.
fn read_request(
    shared: &Shared,
    client: &Client<'_>,
    input: &mut Vec<u8>,
    timeout: Duration,
) -> Result<Option<Request>, ReadError> {
    let Some((head, used)) = read_head(shared, client, input, timeout)? else { return Ok(None) };
    let body = match head.framing {
        Framing::None => None,
        Framing::Length(length) if length > MAX_BODY => return Err(RequestError::BodyTooLarge.into()),
        Framing::Length(length) => Some(read_body(shared, client, input, (&head, used), |input| {
            Ok(input.get(..length).map(|body| (body.to_vec(), length)))
        })?),
        Framing::Chunked => Some(read_body(shared, client, input, (&head, used), chunked::decode)?),
    };
    if body.is_none() {
        input.drain(..used);
    }
    Ok(Some(Request { head, body }))
}

fn read_head(
    shared: &Shared,
    client: &Client<'_>,
    input: &mut Vec<u8>,
    timeout: Duration,
) -> Result<Option<(RequestHead, usize)>, ReadError> {
    let idle = Instant::now() + timeout;
    let mut deadline = input.first().map(|_| Instant::now() + HEAD_TIMEOUT);
    let mut is_first_part = true;
    loop {
        request::skip_empty_lines(input);
        if let Some(found) = RequestHead::parse(input, shared.backend.headers)? {
            return Ok(Some(found));
        }
        if deadline.is_some() && std::mem::take(&mut is_first_part) {
            client.guard.restart_idle();
        }
        match read_some(client.stream, input, deadline.unwrap_or(idle))? {
            ReadOutcome::Data => deadline = deadline.or_else(|| Some(Instant::now() + HEAD_TIMEOUT)),
            ReadOutcome::Eof if input.is_empty() => return Ok(None),
            ReadOutcome::TimedOut if deadline.is_none() => return Ok(None),
            ReadOutcome::Eof => return Err(cut_off(shared, "it ends in the middle of its head").into()),
            ReadOutcome::TimedOut => return Err(RequestError::RequestTimeout.into()),
        }
    }
}

/// Reads a body after a head of `used` bytes until `decode` returns it with its length as sent.
fn read_body(
    shared: &Shared,
    client: &Client<'_>,
    input: &mut Vec<u8>,
    (head, used): (&RequestHead, usize),
    decode: impl Fn(&[u8]) -> Result<Option<(Vec<u8>, usize)>, RequestError>,
) -> Result<Vec<u8>, ReadError> {
    let deadline = Instant::now() + BODY_TIMEOUT;
    let mut is_first_read = true;
    loop {
        if let Some((body, length)) = decode(&input[used..])? {
            input.drain(..used + length);
            return Ok(body);
        }
        if std::mem::take(&mut is_first_read) {
            client.guard.restart_idle();
            if head.expect_continue {
                client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
        }
        match read_some(client.stream, input, deadline)? {
            ReadOutcome::Data => {}
            ReadOutcome::Eof => return Err(cut_off(shared, "it ends in the middle of its body").into()),
            ReadOutcome::TimedOut => return Err(RequestError::RequestTimeout.into()),
        }
    }
}

/// The error of a request that ends too early. At a stop the server itself ends the reading.
fn cut_off(shared: &Shared, problem: &'static str) -> RequestError {
    if shared.is_closing() { RequestError::RequestTimeout } else { RequestError::Malformed(problem) }
}
