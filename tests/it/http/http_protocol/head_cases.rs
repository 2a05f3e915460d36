//! Cases of the request line and the headers.

use super::{Case, FREE, MNIST, closed, get, good_post, header, line, open, post};

/// Limits: request line with its CR LF, head with its empty line, number of headers.
const LINE: usize = 4096;
pub const HEAD: usize = 16 * 1024;
const HEADERS: usize = 64;

pub fn lines() -> Vec<Case> {
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
        closed("a response instead of a request", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", &[&[400, 505]]),
    ]
}

pub fn headers() -> Vec<Case> {
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

pub fn versions() -> Vec<Case> {
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

pub fn methods() -> Vec<Case> {
    let mut cases = vec![
        open("HEAD", line("HEAD /healthz HTTP/1.1"), &[&[200]]).for_head(0),
        open("HEAD of nothing", line("HEAD /nothing HTTP/1.1"), &[&[404]]).for_head(0),
        open("HEAD of a POST path", line(format!("HEAD {FREE} HTTP/1.1")), &[&[405]]).for_head(0),
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
    for method in ["get", "Get", "gET", "post", "BREW", "PROPFIND", "GETT", "GE", "G", "!#$%&'*+-.^_`|~"] {
        cases.push(open(format!("method {method}"), line(format!("{method} /healthz HTTP/1.1")), &[&[501]]));
    }
    cases.push(open("method OPTIONS", "OPTIONS /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", &[&[204]]));
    for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "QUERY"] {
        let request = format!("{method} /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
        cases.push(open(format!("method {method}"), request, &[&[405]]));
    }
    cases
}

pub fn targets() -> Vec<Case> {
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

pub fn hosts() -> Vec<Case> {
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
    // RFC 9112, section 3.2: a server MUST respond 400 to an invalid Host.
    for host in ["a b", "h/config", "u@h", "h?x", "h#x", "a,b", "h\\", "<h>"] {
        cases.push(closed(format!("Host {host}"), with(&format!("Host: {host}\r\n")), &[&[400]]));
    }
    cases
}

pub fn limits() -> Vec<Case> {
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

pub fn connection_options() -> Vec<Case> {
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

pub fn other_protocols() -> Vec<Case> {
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
        // Any of the three errors may be found first.
        cases.push(closed(format!("noise {seed}"), noise(seed, 6000), &[&[400, 414, 431]]));
    }
    cases
}

/// Pseudorandom bytes, the same in every run.
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
