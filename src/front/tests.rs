//! The front with a scripted server behind it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::{Backend, Class, Front, Limits, PrivateConnection, Socket};

const LONG: Duration = Duration::from_secs(60);

/// Serves one private connection, request by request.
type Script = Box<dyn FnOnce(UnixStream) + Send>;

/// A front with at most one private connection of each class at a time. The scripts serve the connections in order.
fn start(scripts: Vec<Script>) -> Front {
    start_with(scripts, LONG)
}

fn start_with(scripts: Vec<Script>, response_timeout: Duration) -> Front {
    let scripts = Mutex::new(scripts.into_iter());
    let connect = move || {
        let (stream, other) = UnixStream::pair()?;
        let script = scripts.lock().expect("no panic").next().ok_or(io::ErrorKind::ConnectionRefused)?;
        thread::spawn(move || script(other));
        Ok(PrivateConnection { stream, number: None, count: Box::new(()) })
    };
    let backend = Backend {
        connect: Box::new(connect),
        classify: Box::new(|_, target| if target == "/stream" { Class::Stream } else { Class::Memory }),
        headers: &[],
        acquire_timeout: LONG,
        response_timeout,
        hold: Box::new(|_, _, _| false),
        log: Box::new(|_| {}),
    };
    let limits = Limits {
        connections: 8,
        kubernetes: 1,
        memory: 1,
        stream: 1,
        kubernetes_waiting: 8,
        memory_waiting: 8,
        posts_per_minute: 0,
    };
    let socket = Socket::Own(TcpListener::bind("127.0.0.1:0").expect("a port"));
    let (front, acceptor) = Front::new(socket, limits, backend).expect("a front");
    acceptor.spawn().expect("a thread");
    front
}

/// Reads a request without a body.
fn read_request(stream: &UnixStream) {
    let mut lines = BufReader::with_capacity(1, stream).lines();
    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
}

fn send_response(mut stream: &UnixStream, bytes: &[u8]) {
    read_request(stream);
    // The client of a test may have left.
    let _ = stream.write_all(bytes);
}

/// Connects and sends a GET.
fn get(front: &Front, target: &str, version: &str) -> TcpStream {
    let mut client = TcpStream::connect(front.address()).expect("connected");
    client.set_read_timeout(Some(LONG)).expect("a timeout");
    client.write_all(format!("GET {target} {version}\r\nHost: h\r\n\r\n").as_bytes()).expect("sent");
    client
}

fn read_until(mut client: &TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let mut byte = [0; 1];
        client.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error} after {:?}", &text[..text.len().min(300)]));
        text.push(char::from(byte[0]));
    }
    text
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn a_stream_is_relayed_piece_by_piece() {
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        let (sender, pieces) = mpsc::channel::<&str>();
        let script = move |mut stream: UnixStream| {
            send_response(&stream, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n");
            for piece in pieces {
                stream.write_all(piece.as_bytes()).expect("relayed");
            }
            send_response(&stream, OK);
        };
        let front = start(vec![Box::new(script)]);
        let mut client = get(&front, "/stream", version);
        let head = read_until(&client, "\r\n\r\n");
        let is_chunked = version == "HTTP/1.1";
        assert_eq!(head.contains("Transfer-Encoding: chunked\r\n"), is_chunked, "{head}");
        assert_eq!(head.contains("Connection: close\r\n"), !is_chunked, "{head}");
        for (piece, data) in [("3\r\none\r\n", "one"), ("3\r\ntwo\r\n", "two")] {
            sender.send(piece).expect("the script runs");
            let expected = if is_chunked { piece } else { data };
            assert_eq!(read_until(&client, expected), expected);
        }
        sender.send("0\r\n\r\n").expect("the script runs");
        drop(sender);
        if is_chunked {
            assert_eq!(read_until(&client, "0\r\n\r\n"), "0\r\n\r\n");
        } else {
            assert_eq!(client.read_to_end(&mut Vec::new()).expect("the end"), 0);
        }
        // The private connection is free again.
        assert!(read_until(&get(&front, "/stream", "HTTP/1.1"), "ok").starts_with("HTTP/1.1 200 "));
    }
}

#[test]
fn a_malformed_chunk_ends_the_client_connection() {
    let script = |mut stream: UnixStream| {
        send_response(&stream, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
        stream.write_all(b"failed\r\n").expect("sent");
        let _ = stream.read(&mut [0; 1]);
    };
    let front = start(vec![Box::new(script), Box::new(|stream| send_response(&stream, OK))]);
    let mut text = String::new();
    get(&front, "/stream", "HTTP/1.1").read_to_string(&mut text).expect("the end");
    assert!(text.ends_with("3\r\none\r\n"), "{text}");
    assert!(read_until(&get(&front, "/stream", "HTTP/1.1"), "ok").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_private_connection_that_breaks_is_a_500_and_is_replaced() {
    for broken in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart", "nonsense\r\n\r\n"] {
        let script = move |stream: UnixStream| send_response(&stream, broken.as_bytes());
        let front = start(vec![Box::new(script), Box::new(|stream| send_response(&stream, OK))]);
        let client = get(&front, "/", "HTTP/1.1");
        assert!(read_until(&client, "}").starts_with("HTTP/1.1 500 "), "{broken:?}");
        // The client's connection also stays open.
        (&client).write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
        assert!(read_until(&client, "ok").starts_with("HTTP/1.1 200 "), "{broken:?}");
    }
}

#[test]
fn a_server_that_cannot_be_reached_is_a_503() {
    let front = start(Vec::new());
    let response = read_until(&get(&front, "/", "HTTP/1.1"), "}");
    assert!(response.starts_with("HTTP/1.1 503 ") && response.contains("Retry-After: "), "{response}");
}

#[test]
fn a_large_response_that_breaks_off_ends_the_client_connection() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
    let script = move |stream: UnixStream| send_response(&stream, format!("{head}part").as_bytes());
    let front = start(vec![Box::new(script)]);
    let mut text = String::new();
    get(&front, "/", "HTTP/1.1").read_to_string(&mut text).expect("the end");
    assert_eq!(text, format!("{head}part"));
}

#[test]
fn a_client_that_reads_nothing_holds_no_private_connection() {
    // More than the buffers of a socket take.
    const LARGE: usize = 16 * 1024 * 1024;
    let script = |mut stream: UnixStream| {
        send_response(&stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n").as_bytes());
        stream.write_all(&vec![b'a'; LARGE]).expect("taken");
        send_response(&stream, OK);
    };
    let front = start(vec![Box::new(script)]);
    let slow = get(&front, "/", "HTTP/1.1");
    // Its request is the first.
    read_until(&slow, "\r\n\r\n");
    assert!(read_until(&get(&front, "/", "HTTP/1.1"), "ok").starts_with("HTTP/1.1 200 "));
    slow.shutdown(Shutdown::Write).expect("open");
    let mut whole = Vec::new();
    (&slow).read_to_end(&mut whole).expect("the whole response");
    assert!(whole.len() == LARGE && whole.ends_with(b"aaaa"));
}

#[test]
fn a_late_response_reaches_no_other_client() {
    let (sender, late) = mpsc::channel();
    let script = move |mut stream: UnixStream| {
        read_request(&stream);
        late.recv().expect("the test sends");
        // The front has closed its end.
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate");
    };
    let mut scripts: Vec<Script> = vec![Box::new(script)];
    // On a busy machine these may be late as well.
    scripts.extend((0..1000).map(|_| Box::new(|stream: UnixStream| send_response(&stream, OK)) as Script));
    let front = start_with(scripts, Duration::from_millis(20));
    assert!(read_until(&get(&front, "/", "HTTP/1.0"), "}").starts_with("HTTP/1.1 500 "));
    sender.send(()).expect("the script runs");
    loop {
        let mut text = String::new();
        get(&front, "/", "HTTP/1.0").read_to_string(&mut text).expect("the end");
        assert!(!text.contains("late"), "{text}");
        if text.starts_with("HTTP/1.1 200 ") {
            break;
        }
    }
}

#[test]
fn a_private_connection_with_stray_bytes_serves_no_other_request() {
    let ((go, gone), (sender, sent)) = (mpsc::channel(), mpsc::channel());
    let script = move |mut stream: UnixStream| {
        send_response(&stream, OK);
        gone.recv().expect("the test sends");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray").expect("sent");
        sender.send(()).expect("the test receives");
        let _ = stream.read(&mut [0; 1]);
    };
    let front = start(vec![Box::new(script), Box::new(|stream| send_response(&stream, OK))]);
    let client = get(&front, "/", "HTTP/1.1");
    assert!(read_until(&client, "ok").starts_with("HTTP/1.1 200 "));
    go.send(()).expect("the script runs");
    sent.recv().expect("the script sends");
    (&client).write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
    assert!(read_until(&client, "ok").ends_with("\r\n\r\nok"));
}
