//! A load generator: sends a fixed number of requests over kept-alive or new connections and checks each response.
//!
//! usage: load run --url URL [OPTION VALUE]... [--close]     prints one line of JSON
//!        load echo FILE     prints a free port and responds to every request there with the bytes of FILE
//!
//! wrk and similar tools send for a fixed time and cut off the last requests, so that the number of Jobs is not known. They
//! also do not check responses and do not support client certificates.

mod http;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use http::{Connection, Response, Target};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Placeholder in a path or a body for `--tag` and the request's number: 10 characters with a tag of 4, as long as the random
/// end of a Job's name.
const NUMBER: &str = "{n}";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((command, rest)) if command == "run" => run(&Options::parse(rest)?),
        Some((command, [file])) if command == "echo" => echo(&std::fs::read(file)?),
        _ => Err("usage: load run --url URL [OPTION VALUE]... [--close] | load echo FILE".into()),
    }
}

/// Options of `run`. Requests are numbered; those of the warm-up come first and are checked, not timed.
struct Options {
    target: Target,
    method: String,
    body: String,
    /// Concurrent connections, each with a thread of its own.
    clients: usize,
    /// Requests of all clients together, without the warm-up.
    requests: usize,
    /// Warm-up requests of each client.
    warm_up: usize,
    tag: String,
    status: u16,
    /// Number of pods that each response must list.
    pods: Option<usize>,
    /// Text before the object's name in each response. `names` is the file to write the names to.
    name_after: Option<String>,
    names: Option<String>,
    /// Opens a new connection for each request.
    close: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let (mut values, mut headers, mut close) = (HashMap::new(), String::new(), false);
        let mut arguments = arguments.iter();
        while let Some(name) = arguments.next() {
            if name == "--close" {
                close = true;
                continue;
            }
            let value = arguments.next().ok_or_else(|| format!("{name} has no value"))?;
            match name.as_str() {
                "--header" => write!(headers, "{value}\r\n")?,
                _ => _ = values.insert(name.as_str(), value.as_str()),
            }
        }
        let text = |name| values.get(name).map(|value| (*value).to_owned());
        let number = |name, default| values.get(name).map_or(Ok(default), |value| value.parse::<usize>());
        let tls = ["--ca", "--cert", "--key"].map(|name| values.get(name).copied());
        Ok(Self {
            target: Target::new(values.get("--url").ok_or("--url is missing")?, headers, tls)?,
            method: text("--method").unwrap_or_else(|| "GET".to_owned()),
            body: text("--body").map(std::fs::read_to_string).transpose()?.unwrap_or_default(),
            clients: number("--clients", 1)?,
            requests: number("--requests", 1)?,
            warm_up: number("--warm-up", 0)?,
            tag: text("--tag").unwrap_or_default(),
            status: u16::try_from(number("--status", 200)?)?,
            pods: text("--pods").map(|value| value.parse()).transpose()?,
            name_after: text("--name-after"),
            names: text("--names"),
            close,
        })
    }
}

/// Measurements of one client.
#[derive(Default)]
struct Seen {
    micros: Vec<u128>,
    names: Vec<String>,
    failures: Vec<String>,
    sent: u64,
    received: u64,
}

fn run(options: &Options) -> Result<()> {
    let next = AtomicUsize::new(options.clients * options.warm_up);
    let end = options.clients * options.warm_up + options.requests;
    // All clients are warm before the main thread starts the clock.
    let barrier = Barrier::new(options.clients + 1);
    let (seconds, all) = std::thread::scope(|scope| {
        let client = |index: usize| {
            let (mut seen, mut connection) = (Seen::default(), None);
            for number in index * options.warm_up..(index + 1) * options.warm_up {
                request(options, &mut connection, number, &mut seen);
            }
            seen = Seen { names: seen.names, failures: seen.failures, ..Seen::default() };
            barrier.wait();
            loop {
                match next.fetch_add(1, Ordering::Relaxed) {
                    number if number < end => request(options, &mut connection, number, &mut seen),
                    _ => return seen,
                }
            }
        };
        let clients: Vec<_> = (0..options.clients).map(|index| scope.spawn(move || client(index))).collect();
        barrier.wait();
        let began = Instant::now();
        let all: Vec<Seen> =
            clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect();
        (began.elapsed().as_secs_f64(), all)
    });
    let mut micros: Vec<u128> = all.iter().flat_map(|seen| seen.micros.iter().copied()).collect();
    micros.sort_unstable();
    let quantile = |percent: usize| micros.get(micros.len() * percent / 100).copied().unwrap_or_default();
    let failures: Vec<&String> = all.iter().flat_map(|seen| &seen.failures).collect();
    println!(
        r#"{{"requests":{},"failures":{},"seconds":{seconds:.6},"p50":{},"p99":{},"sent":{},"received":{}}}"#,
        micros.len(),
        failures.len(),
        quantile(50),
        quantile(99),
        all.iter().map(|seen| seen.sent).sum::<u64>(),
        all.iter().map(|seen| seen.received).sum::<u64>(),
    );
    if let Some(first) = failures.first() {
        eprintln!("load: {} failures, the first: {first}", failures.len());
    }
    if let Some(file) = &options.names {
        let names: Vec<&str> = all.iter().flat_map(|seen| seen.names.iter().map(String::as_str)).collect();
        std::fs::write(file, names.join("\n"))?;
    }
    Ok(())
}

/// Sends one request and checks its response. Times it from its first byte (with a new connection: from the connect) to the
/// last byte of the response.
fn request(options: &Options, connection: &mut Option<Connection>, number: usize, seen: &mut Seen) {
    let number = format!("{}{:06}", options.tag, number);
    let head = options.target.head(&options.method, options.close).replace(NUMBER, &number);
    let body = options.body.replace(NUMBER, &number);
    let bytes = match body.len() {
        0 => format!("{head}\r\n"),
        length => format!("{head}Content-Length: {length}\r\n\r\n{body}"),
    };
    let began = Instant::now();
    if options.close {
        *connection = None;
    }
    let response = match connection {
        Some(open) => open.exchange(bytes.as_bytes()),
        None => options.target.connect().and_then(|new| connection.insert(new).exchange(bytes.as_bytes())),
    };
    let took = began.elapsed().as_micros();
    let checked = response.and_then(|response| check(options, &response, seen).map(|()| response.length));
    match checked {
        Ok(length) => {
            seen.micros.push(took);
            seen.sent += bytes.len() as u64;
            seen.received += length;
        }
        Err(error) => {
            *connection = None;
            seen.failures.push(error.to_string());
        }
    }
}

fn check(options: &Options, response: &Response, seen: &mut Seen) -> Result<()> {
    if response.status != options.status {
        return Err(format!("{} {}", response.status, String::from_utf8_lossy(&response.body)).into());
    }
    if let Some(mark) = &options.name_after {
        let text = std::str::from_utf8(&response.body)?;
        let rest = text.split_once(mark.as_str()).ok_or_else(|| format!("no {mark} in {text}"))?.1;
        seen.names.push(rest.split('"').next().unwrap_or_default().to_owned());
    }
    if let Some(wanted) = options.pods {
        let found = response.pods()?;
        if found != wanted {
            return Err(format!("{found} pods, not {wanted}").into());
        }
    }
    Ok(())
}

/// Responds at once without parsing, which shows the generator's own limit.
fn echo(body: &[u8]) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let response = [head.as_bytes(), body].concat();
    std::thread::scope(|scope| {
        for stream in listener.incoming() {
            let (mut stream, response) = (stream?, &response);
            scope.spawn(move || {
                // The generator writes each request in one go and then waits, so one read returns one request.
                while stream.read(&mut [0; 4096]).is_ok_and(|length| length > 0) && stream.write_all(response).is_ok() {
                }
            });
        }
        Ok(())
    })
}
