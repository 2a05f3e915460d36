//! The tiny_http loop by itself, on its private connections.

use std::net::Shutdown;
use std::sync::mpsc::{self, Receiver};

use super::*;

/// Answers /panic with a panic, /stream with the pieces that come, and anything else with its body.
fn server(pieces: Receiver<io::Result<&'static str>>) -> Server {
    server_with(pieces, Box::new(|| ()))
}

/// The same with a function that ends the stream.
fn server_with(pieces: Receiver<io::Result<&'static str>>, stop: Stop) -> Server {
    let pieces = Mutex::new(Some((Pieces(pieces), stop)));
    Server::start(Box::new(move |request| match request.target {
        "/panic" => panic!("of the test"),
        "/stream" => {
            let (pieces, stop) = pieces.lock().expect("no panic").take().expect("one stream");
            (request.on_leave)(stop);
            Response { body: Body::Stream(Box::new(pieces)), ..Response::json(200, Arc::default()) }
        }
        _ => Response::json(200, Arc::new(request.body.unwrap_or(b"none").to_vec())),
    }))
    .expect("started")
}

struct Pieces(Receiver<io::Result<&'static str>>);

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Ok(piece) = self.0.recv() else { return Ok(0) };
        let piece = piece?.as_bytes();
        buffer[..piece.len()].copy_from_slice(piece);
        Ok(piece.len())
    }
}

/// Sends a request and reads until the response ends with `end`.
fn exchange(connection: &PrivateConnection, request: &str, end: &str) -> String {
    let mut stream = &connection.stream;
    stream.write_all(request.as_bytes()).expect("sent");
    read_until(stream, end)
}

fn read_until(mut stream: &UnixStream, end: &str) -> String {
    let mut response = String::new();
    while !response.ends_with(end) {
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error} after {response:?}"));
        response.push(char::from(byte[0]));
    }
    response
}

const POST: &str = "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody";

#[test]
fn a_panic_is_a_500_and_the_connection_serves_on() {
    let server = server(mpsc::channel().1);
    let connection = server.connect().expect("connected");
    let response = exchange(&connection, "GET /panic HTTP/1.1\r\n\r\n", "\r\n\r\n");
    assert!(response.starts_with("HTTP/1.1 500 "), "{response}");
    assert!(exchange(&connection, POST, "body").starts_with("HTTP/1.1 200 "));
}

fn get_stream(connection: &PrivateConnection) -> String {
    format!(
        "GET /stream HTTP/1.1\r\nPrivate-Connection: {}\r\n\r\n",
        connection.number.expect("the server numbers its connections")
    )
}

#[test]
fn a_connection_that_closes_ends_its_stream() {
    let (sender, pieces) = mpsc::channel();
    let (stop, stopped) = mpsc::channel();
    let server = server_with(pieces, Box::new(move || stop.send(()).expect("the test receives")));
    let connection = server.connect().expect("connected");
    exchange(&connection, &get_stream(&connection), "\r\n\r\n");
    sender.send(Ok("one")).expect("it reads");
    read_until(&connection.stream, "one\r\n");
    assert!(stopped.try_recv().is_err());
    drop(connection);
    stopped.recv().expect("stopped");
}

#[test]
fn each_read_of_a_stream_is_sent_at_once() {
    let (sender, pieces) = mpsc::channel();
    let server = server(pieces);
    let connection = server.connect().expect("connected");
    let head = exchange(&connection, &get_stream(&connection), "\r\n\r\n");
    assert!(head.contains("Transfer-Encoding: chunked\r\n") && !head.contains("Content-Length"), "{head}");
    for piece in ["one", "two"] {
        sender.send(Ok(piece)).expect("it reads");
        assert_eq!(read_until(&connection.stream, "\r\n"), "3\r\n");
        assert_eq!(read_until(&connection.stream, "\r\n"), format!("{piece}\r\n"));
    }
    sender.send(Err(io::Error::other("of the test"))).expect("it reads");
    assert_eq!(read_until(&connection.stream, "\r\n"), "failed\r\n");
}

#[test]
fn a_connection_opens_after_the_accept_thread_has_ended() {
    let (listener, socket) = private_socket().expect("a private socket");
    let accepting = listener.try_clone().expect("a descriptor");
    let server = server(mpsc::channel().1);
    *server.listening.lock().expect("no panic") = Listening::on(listener, socket).expect("started");
    let before = server.connect().expect("connected");
    rustix::net::shutdown(&accepting, rustix::net::Shutdown::Both).expect("a socket");
    drop(accepting);
    let after = server.connect().expect("another accept thread");
    for connection in [before, after] {
        assert!(exchange(&connection, POST, "body").starts_with("HTTP/1.1 200 "));
    }
}

#[test]
fn a_worker_ends_with_its_connection() {
    let server = server(mpsc::channel().1);
    let shared = Arc::clone(&server.listening.lock().expect("no panic").shared);
    let connections: Vec<_> = (0..8).map(|_| server.connect().expect("connected")).collect();
    connections.iter().for_each(|connection| connection.stream.shutdown(Shutdown::Both).expect("open"));
    drop(connections);
    // Each worker holds the shared state, as do the server and this test.
    while Arc::strong_count(&shared) > 2 {
        thread::yield_now();
    }
}
