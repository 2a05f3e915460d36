//! Rate limit and authentication: --posts-per-minute and --premium-token-file.

use crate::support::api::ApiServer;
use crate::support::eventually;
use crate::support::http::{Connection, Response};
use crate::support::kubeconfig::{Kubeconfig, TOKEN};
use crate::support::server::{Server, Setup};
use rustix::net::{AddressFamily, SocketType};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Barrier;
use std::time::{Duration, Instant};

const FREE: &str = "/img-classification/free";
const PREMIUM: &str = "/img-classification/premium";
const MNIST: &str = r#"{"dataset":"mnist"}"#;

/// The premium token; a value that appears nowhere else.
const SECRET: &str = "prem1um.S3cret_t0ken~for+the/tests=";

/// Default of --posts-per-minute.
const DEFAULT: usize = 120;

/// A limit far below the number of requests in a test. The next token comes after half a minute, and no test takes so long.
const FEW: usize = 2;

fn limited(per_minute: usize) -> Server {
    Setup::local().args(&["--posts-per-minute", &per_minute.to_string()]).start()
}

fn with_token_file(api: &ApiServer, file: impl AsRef<[u8]>) -> Setup {
    let setup = Setup::for_api(api);
    let path = setup.file("premium-token", file);
    setup.args(&["--premium-token-file", path.to_str().unwrap()])
}

/// A connection from another loopback address.
fn connect_from(ip: [u8; 4], server: SocketAddr) -> Connection {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::from(ip), 0))).unwrap();
    rustix::net::connect(&socket, &server).unwrap();
    Connection::over(TcpStream::from(socket))
}

/// A request head with these header lines, each with its CRLF.
fn head(method: &str, target: &str, headers: &str, body: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

fn send(connection: &mut Connection, method: &str, target: &str, headers: &str, body: &str) -> Response {
    connection.send(head(method, target, headers, body).as_bytes());
    connection.response(method == "HEAD").unwrap()
}

fn post(connection: &mut Connection, target: &str, headers: &str) -> Response {
    send(connection, "POST", target, headers, MNIST)
}

/// Sends `count` bad POSTs at once on one connection; returns how many were not rate limited, and the duration.
fn flood(server: &Server, posts: usize) -> (usize, Duration) {
    let start = Instant::now();
    let mut connection = server.connect();
    let mut sender = connection.stream().try_clone().unwrap();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let all = head("POST", FREE, "", "{}").repeat(posts);
        scope.spawn(move || std::io::Write::write_all(&mut sender, all.as_bytes()).unwrap());
        (0..posts).map(|_| connection.response(false).unwrap().status).collect()
    });
    let took = start.elapsed();
    assert!(statuses.iter().all(|status| [400, 429].contains(status)), "{statuses:?}");
    (statuses.iter().filter(|status| **status == 400).count(), took)
}

/// Checks a 429 and returns its Retry-After in seconds.
fn retry_after(response: &Response, per_minute: usize) -> u64 {
    assert_eq!(response.status, 429, "{}", response.text());
    let sentence = response.error();
    assert!(sentence.contains("too often"), "same sentence as for a full queue: {sentence}");
    let retry_after: u64 = response.header("Retry-After").unwrap().parse().unwrap();
    let longest = 60_u64.div_ceil(per_minute as u64) + 1;
    assert!((1..=longest).contains(&retry_after), "{retry_after} s, and a post comes back every {} s", 60 / per_minute);
    retry_after
}

#[test]
fn posts_over_the_limit_of_an_address_create_no_job() {
    let server = limited(FEW);
    let mut client = server.connect();
    for tier in [FREE, PREMIUM] {
        assert_eq!(post(&mut client, tier, "").status, 200);
    }
    retry_after(&post(&mut client, FREE, ""), FEW);
    // The same limit holds for another connection, the other tier and a forged client address.
    for tier in [FREE, PREMIUM] {
        retry_after(&post(&mut client, tier, ""), FEW);
        retry_after(&server.post(tier, MNIST), FEW);
    }
    for tale in ["X-Forwarded-For: 192.0.2.7", "X-Real-IP: 192.0.2.7", "Forwarded: for=192.0.2.7", "Via: 1.1 elsewhere"]
    {
        retry_after(&post(&mut server.connect(), FREE, &format!("{tale}\r\n")), FEW);
    }
    assert_eq!(server.jobs().len(), FEW);
    let refused = server.wait_for_log("of a refusal", |line| line.starts_with(&format!("POST {FREE} 429 ")));
    assert!(refused.contains("too often"), "{refused}");
}

#[test]
fn each_address_has_its_own_bucket() {
    let server = limited(FEW);
    let addresses = [[127, 0, 0, 1], [127, 0, 0, 2], [127, 9, 9, 9]];
    for ip in addresses {
        let mut client = connect_from(ip, server.address());
        for _ in 0..FEW {
            assert_eq!(post(&mut client, FREE, "").status, 200, "{ip:?}");
        }
        retry_after(&post(&mut client, FREE, ""), FEW);
    }
    for ip in addresses {
        retry_after(&post(&mut connect_from(ip, server.address()), FREE, ""), FEW);
    }
    assert_eq!(server.jobs().len(), FEW * addresses.len());
}

#[test]
fn only_posts_are_counted() {
    let server = limited(1);
    let mut client = server.connect();
    let looks = |client: &mut Connection| {
        for target in ["/healthz", "/readyz", "/config"] {
            for method in ["GET", "HEAD"] {
                assert_eq!(send(client, method, target, "", "").status, 200, "{method} {target}");
            }
        }
        for method in ["GET", "PUT", "DELETE"] {
            assert_eq!(send(client, method, FREE, "", MNIST).status, 405, "{method}");
        }
        assert_eq!(send(client, "post", FREE, "", MNIST).status, 501);
    };
    (0..5).for_each(|_| looks(&mut client));
    assert_eq!(post(&mut client, FREE, "").status, 200);
    retry_after(&post(&mut client, FREE, ""), 1);
    (0..5).for_each(|_| looks(&mut client));
    assert_eq!(server.jobs().len(), 1);
}

#[test]
fn bad_posts_are_counted() {
    let bad = [
        (FREE, "{}", 400),
        (PREMIUM, "nonsense", 400),
        (FREE, "", 400),
        ("/nothing", MNIST, 404),
        ("/config", "", 405),
    ];
    for (target, body, status) in bad {
        let server = limited(1);
        let mut client = server.connect();
        assert_eq!(send(&mut client, "POST", target, "", body).status, status, "{target} {body}");
        retry_after(&post(&mut client, FREE, ""), 1);
        assert_eq!(server.jobs().len(), 0);
    }
}

#[test]
fn tokens_return_at_the_configured_rate() {
    // One token a second.
    const RATE: usize = 60;
    let server = limited(RATE);
    let start = Instant::now();
    let (passed, took) = flood(&server, RATE + 20);
    let back = usize::try_from(took.as_secs()).unwrap() + 1;
    assert!((RATE..=RATE + back).contains(&passed), "{passed} passed in {took:?}");
    let mut client = server.connect();
    for _ in 0..2 {
        let mut pause = None;
        eventually("the bucket is empty", || {
            let response = post(&mut client, FREE, "");
            pause = (response.status != 200).then(|| retry_after(&response, RATE));
            pause.is_some()
        });
        // The client obeys, and the token is there; not before the rate allows it.
        std::thread::sleep(Duration::from_secs(pause.unwrap()));
        assert_eq!(post(&mut client, FREE, "").status, 200);
        let (more, most) = (server.jobs().len(), RATE + usize::try_from(start.elapsed().as_secs()).unwrap() + 1);
        assert!(passed + more <= most, "{passed} and {more} passed in {:?}", start.elapsed());
    }
}

#[test]
fn concurrent_posts_up_to_the_default_limit_pass() {
    const CLIENTS: usize = 30;
    const EACH: usize = DEFAULT / CLIENTS;
    let api = ApiServer::start();
    let server = Setup::for_api(&api).env("POSTS_PER_MINUTE", "").start();
    let start = Barrier::new(CLIENTS);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = server.connect();
                start.wait();
                for _ in 0..EACH {
                    assert_eq!(post(&mut client, FREE, "").status, 200);
                }
            });
        }
    });
    assert_eq!(api.jobs().len(), CLIENTS * EACH);
}

#[test]
fn default_limit_stops_a_flood_and_zero_disables_the_limit() {
    const POSTS: usize = DEFAULT + 20;
    let api = ApiServer::start();
    let (passed, took) = flood(&Setup::for_api(&api).env("POSTS_PER_MINUTE", "").start(), POSTS);
    // Tokens that return during the test.
    let most = DEFAULT + usize::try_from(took.as_millis()).unwrap() * DEFAULT / 60_000 + 1;
    assert!((DEFAULT..=most).contains(&passed), "{passed} passed in {took:?}");
    let (passed, _) = flood(&Setup::for_api(&api).env("POSTS_PER_MINUTE", "0").start(), POSTS);
    assert_eq!(passed, POSTS);
}

#[test]
fn invalid_limit_is_a_usage_error() {
    for value in ["-1", "1.5", "many", "", "1000001", "99999999999999999999"] {
        let end = Setup::new().args(&["--posts-per-minute", value]).run(&["serve"]);
        assert!(end.refusal(2).contains("--posts-per-minute"), "{end:?}");
    }
}

/// Checks a 401 for a missing or wrong token.
fn check_unauthorized(response: &Response, what: &str) {
    assert_eq!(response.status, 401, "{what}: {}", response.text());
    assert_eq!(response.header("WWW-Authenticate"), Some("Bearer"), "{what}");
    assert!(response.error().contains("token"), "{what}: {}", response.text());
    assert!(!response.text().contains(SECRET), "{what}: {}", response.text());
}

#[test]
fn premium_needs_no_token_without_the_option() {
    let api = ApiServer::start();
    let server = Setup::for_api(&api).env("PREMIUM_TOKEN_FILE", "").start();
    let mut client = server.connect();
    for headers in ["", "Authorization: Bearer whatever\r\n", "Authorization: nonsense\r\n"] {
        assert_eq!(post(&mut client, PREMIUM, headers).status, 200, "{headers}");
    }
    assert_eq!(api.jobs().len(), 3);
    // The server must not forward a caller's token to Kubernetes.
    for request in api.requests() {
        assert_eq!(request.header("Authorization"), Some(format!("Bearer {TOKEN}").as_str()));
    }
}

#[test]
fn premium_needs_the_token_and_free_does_not() {
    let api = ApiServer::start();
    let server = with_token_file(&api, SECRET).start();
    let (short, long) = (&SECRET[..SECRET.len() - 1], format!("{SECRET}="));
    let wrong = [
        String::new(),
        "Authorization:\r\n".into(),
        "Authorization: Bearer\r\n".into(),
        "Authorization: Bearer \r\n".into(),
        "Authorization: Bearer wrong\r\n".into(),
        format!("Authorization: Bearer {short}\r\n"),
        format!("Authorization: Bearer {long}\r\n"),
        format!("Authorization: Bearer {}\r\n", &SECRET[1..]),
        format!("Authorization: Bearer {}\r\n", SECRET.to_uppercase()),
        format!("Authorization: Bearer {SECRET} {SECRET}\r\n"),
        format!("Authorization: Bearer {SECRET},\r\n"),
        format!("Authorization: Bearer \"{SECRET}\"\r\n"),
        format!("Authorization: Bearer{SECRET}\r\n"),
        format!("Authorization: {SECRET}\r\n"),
        format!("Authorization: Basic {SECRET}\r\n"),
        format!("Authorization: Basic {}\r\n", crate::support::tls::encode(format!("user:{SECRET}").as_bytes())),
        format!("Authorization: Token {SECRET}\r\n"),
        format!("Authorization: Bearer {SECRET}\u{e9}\r\n"),
        format!("Proxy-Authorization: Bearer {SECRET}\r\n"),
        format!("X-Authorization: Bearer {SECRET}\r\n"),
        format!("Cookie: token={SECRET}\r\n"),
        format!("Authorization: Bearer {SECRET}\r\nAuthorization: Bearer wrong\r\n"),
        format!("Authorization: Bearer wrong\r\nAuthorization: Bearer {SECRET}\r\n"),
        format!("Authorization: Bearer {SECRET}\r\nAuthorization: Bearer {SECRET}\r\n"),
    ];
    for headers in &wrong {
        check_unauthorized(&post(&mut server.connect(), PREMIUM, headers), headers);
    }
    // A bad body is not reported before the token is checked.
    check_unauthorized(&send(&mut server.connect(), "POST", PREMIUM, "", "nonsense"), "a bad body");
    check_unauthorized(&post(&mut server.connect(), &format!("{PREMIUM}?token={SECRET}"), ""), "in the target");
    assert_eq!(api.requests().len(), 0, "a request reached Kubernetes");

    let right = [
        format!("Authorization: Bearer {SECRET}\r\n"),
        format!("authorization: bearer {SECRET}\r\n"),
        format!("AUTHORIZATION:BEARER   {SECRET}  \r\n"),
    ];
    for headers in &right {
        assert_eq!(post(&mut server.connect(), PREMIUM, headers).status, 200, "{headers}");
        assert_eq!(send(&mut server.connect(), "POST", PREMIUM, headers, "nonsense").status, 400, "{headers}");
    }
    assert_eq!(api.jobs().len(), right.len());

    for headers in &wrong {
        assert_eq!(post(&mut server.connect(), FREE, headers).status, 200, "{headers}");
    }
    assert_eq!(api.jobs().len(), right.len() + wrong.len());
    for target in ["/healthz", "/readyz", "/config"] {
        assert_eq!(server.get(target).status, 200, "{target}");
    }
    let response = server.get(PREMIUM);
    assert_eq!((response.status, response.header("WWW-Authenticate")), (405, None));
}

#[test]
fn duplicate_authorization_headers_are_unauthorized() {
    let api = ApiServer::start();
    let server = with_token_file(&api, SECRET).start();
    let (wrong, right) = ("Authorization: Bearer wrong\r\n", format!("Authorization: Bearer {SECRET}\r\n"));
    let unreadable = "Authorization: Bearer \u{e9}\r\n";
    let cases = [
        format!("{wrong}{wrong}{right}"),
        format!("{right}{right}{right}"),
        format!("{right}{wrong}{right}"),
        format!("{wrong}{wrong}{wrong}{wrong}{right}"),
        format!("{unreadable}{right}"),
        format!("{right}{unreadable}"),
    ];
    let passed: Vec<&String> =
        cases.iter().filter(|headers| post(&mut server.connect(), PREMIUM, headers).status != 401).collect();
    assert!(passed.is_empty(), "{passed:#?}");
    assert_eq!(api.jobs().len(), 0);
}

#[test]
fn each_request_of_a_kept_alive_connection_is_authorized_separately() {
    let api = ApiServer::start();
    let server = with_token_file(&api, SECRET).start();
    let mut client = server.connect();
    let right = format!("Authorization: Bearer {SECRET}\r\n");
    let mut good = 0;
    for headers in [&right, "", &right, "Authorization: Bearer wrong\r\n", "", &right] {
        let response = post(&mut client, PREMIUM, headers);
        if headers == right {
            assert_eq!(response.status, 200, "{}", response.text());
            good += 1;
        } else {
            check_unauthorized(&response, headers);
        }
    }
    // The same with pipelined requests.
    let all = [head("POST", PREMIUM, &right, MNIST), head("POST", PREMIUM, "", MNIST)].concat().repeat(3);
    client.send(all.as_bytes());
    for status in [200, 401].repeat(3) {
        assert_eq!(client.response(false).unwrap().status, status);
    }
    assert_eq!(api.jobs().len(), good + 3);
}

#[test]
fn wrong_tokens_are_rate_limited() {
    let api = ApiServer::start();
    let server = with_token_file(&api, SECRET).args(&["--posts-per-minute", &FEW.to_string()]).start();
    for _ in 0..FEW {
        check_unauthorized(&server.post(PREMIUM, MNIST), "no token");
    }
    let right = format!("Authorization: Bearer {SECRET}\r\n");
    retry_after(&post(&mut server.connect(), PREMIUM, &right), FEW);
    assert_eq!(api.requests().len(), 0);
}

#[test]
fn token_file_is_trimmed() {
    let api = ApiServer::start();
    let right = format!("Authorization: Bearer {SECRET}\r\n");
    for file in [format!("{SECRET}\n"), format!("\r\n\t {SECRET} \t\r\n\n")] {
        let server = with_token_file(&api, &file).start();
        assert_eq!(post(&mut server.connect(), PREMIUM, &right).status, 200, "{file:?}");
        check_unauthorized(&server.post(PREMIUM, MNIST), &file);
    }
    let setup = Setup::for_api(&api);
    let path = setup.file("premium-token", SECRET);
    let server = setup.env("PREMIUM_TOKEN_FILE", path.to_str().unwrap()).start();
    assert_eq!(post(&mut server.connect(), PREMIUM, &right).status, 200);
    check_unauthorized(&server.post(PREMIUM, MNIST), "by the variable");
}

#[test]
fn invalid_token_file_ends_the_start() {
    let api = ApiServer::start();
    let refused = |setup: Setup, what: &str| match setup.start_or_refusal() {
        Ok(_) => Some(what.to_owned()),
        Err(line) => {
            assert!(line.contains("--premium-token-file"), "{what}: {line}");
            assert!(!line.contains("S3cret"), "{what}: {line}");
            None
        }
    };
    let files: [(&str, Vec<u8>); 8] = [
        ("empty", Vec::new()),
        ("white", b" \r\n\t\n".to_vec()),
        ("binary", vec![0x7f, b'E', b'L', b'F', 2, 1, 0, 0xff]),
        ("with a NUL", b"S3cret\0".to_vec()),
        ("of other letters", "S3cret-\u{e9}".into()),
        ("of two words", b"S3cret S3cret".to_vec()),
        ("of two lines", b"S3cret\nS3cret\n".to_vec()),
        ("too long", [b"S3cret".repeat(1000), b"\n".to_vec()].concat()),
    ];
    let mut started: Vec<String> =
        files.iter().filter_map(|(what, file)| refused(with_token_file(&api, file), what)).collect();
    for path in ["/nowhere/token", "/"] {
        started.extend(refused(Setup::for_api(&api).args(&["--premium-token-file", path]), path));
        started.extend(refused(Setup::for_api(&api).env("PREMIUM_TOKEN_FILE", path), path));
    }
    assert!(started.is_empty(), "served with a file that is {started:?}");
}

#[test]
fn caller_tokens_appear_in_no_log_and_no_response() {
    const GUESS: &str = "wrong-token-guess";
    let api = ApiServer::start();
    // The Kubernetes credential is another secret.
    let setup = Setup::new().kubeconfig(Kubeconfig::new(&api.url()).yaml());
    let path = setup.file("premium-token", SECRET);
    let server = setup.args(&[
        "--premium-token-file",
        path.to_str().unwrap(),
        "--log-level",
        "debug",
        "--posts-per-minute",
        "30",
    ]);
    let mut server = server.start();
    let mut responses = Vec::new();
    for token in [SECRET, GUESS, &SECRET[..10]] {
        for scheme in ["Bearer", "Basic"] {
            let headers = format!("Authorization: {scheme} {token}\r\n");
            for (target, body) in [(PREMIUM, MNIST), (PREMIUM, "nonsense"), (FREE, MNIST), ("/nowhere", "")] {
                responses.push(send(&mut server.connect(), "POST", target, &headers, body));
            }
            for target in ["/config", "/readyz", "/healthz", PREMIUM] {
                responses.push(send(&mut server.connect(), "GET", target, &headers, ""));
            }
            // A malformed request is not quoted in the log.
            responses.push(post(&mut server.connect(), PREMIUM, &format!("{headers}Host: again\r\n")));
            responses.push(post(&mut server.connect(), PREMIUM, &format!("{headers} folded\r\n")));
        }
    }
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    let mut texts: Vec<String> =
        responses.iter().map(|response| format!("{:?} {}", response.headers, response.text())).collect();
    texts.push(server.stderr());
    texts.extend(api.requests().iter().map(|request| format!("{:?}", request.headers)));
    for text in texts {
        for token in [SECRET, GUESS, &SECRET[..10], SECRET.to_lowercase().as_str()] {
            assert!(!text.contains(token), "{token} in {text}");
        }
    }
    let statuses: std::collections::BTreeSet<u16> = responses.iter().map(|response| response.status).collect();
    assert!([200, 400, 401, 404, 405].iter().all(|status| statuses.contains(status)), "{statuses:?}");
}
