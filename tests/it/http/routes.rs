//! The HTTP contract: routes, methods, bodies, response formats and the access log.

use crate::support::api::ApiServer;
use crate::support::http::Response;
use crate::support::server::{Server, Setup};
use serde_json::json;

const FREE: &str = "/img-classification/free";
const PREMIUM: &str = "/img-classification/premium";
const MNIST: &[u8] = br#"{"dataset":"mnist"}"#;

fn scripted() -> (ApiServer, Server) {
    let api = ApiServer::start();
    let server = Setup::for_api(&api).start();
    (api, server)
}

/// Sends bytes on a new connection and reads one response.
fn raw(server: &Server, bytes: &[u8]) -> Response {
    let mut connection = server.connect();
    connection.send(bytes);
    connection.response(false).unwrap_or_else(|error| panic!("{}: {error}", String::from_utf8_lossy(bytes)))
}

#[test]
fn valid_post_returns_the_job_with_fields_in_order() {
    let server = Setup::local().start();
    for (target, namespace, tier, kind) in
        [(FREE, "free-service", "free", "ff"), (PREMIUM, "default", "premium", "cnn")]
    {
        for dataset in ["mnist", "kmnist"] {
            let response = server.post(target, format!(r#"{{"dataset":"{dataset}"}}"#));
            assert_eq!(response.status, 200, "{}", response.text());
            let name = response.json()["job"].as_str().unwrap().to_owned();
            let promised = format!(
                r#"{{"job":"{name}","namespace":"{namespace}","tier":"{tier}","dataset":"{dataset}","type":"{kind}"}}"#
            );
            assert_eq!(response.text().trim_end(), promised);
            assert!(server.jobs().iter().any(|job| job["metadata"]["name"] == name.as_str()), "{name}");
        }
    }
    assert_eq!(server.jobs().len(), 4);
}

#[test]
fn invalid_bodies_are_400_and_create_nothing() {
    let server = Setup::local().start();
    // The word that each sentence must contain.
    let cases: [(&str, &[&[u8]]); 7] = [
        ("empty", &[b"", b" ", b" \r\n\t"]),
        (
            "single JSON object",
            &[
                b"not json",
                b"x=1&dataset=mnist",
                b"{",
                br#"{"dataset":"mnist""#,
                b"[]",
                br#"["mnist"]"#,
                br#"[{"dataset":"mnist"}]"#,
                br#""mnist""#,
                b"null",
                b"7",
                b"true",
                br#"{"dataset":"mnist"}{"dataset":"mnist"}"#,
                br#"{"dataset":"mnist"} {"dataset":"kmnist"}"#,
                br#"{"dataset":"mnist"} trailing"#,
                br#"{"dataset":"mnist",}"#,
                br#"{'dataset':'mnist'}"#,
            ],
        ),
        ("no dataset", &[b"{}", br#"{"data":"mnist"}"#, br#"{"Dataset":"mnist"}"#, br#"{"x":{"dataset":"mnist"}}"#]),
        (
            "not a string",
            &[
                br#"{"dataset":null}"#,
                br#"{"dataset":1}"#,
                br#"{"dataset":true}"#,
                br#"{"dataset":["mnist"]}"#,
                br#"{"dataset":{"mnist":null}}"#,
                br#"{"dataset":{}}"#,
            ],
        ),
        (
            "unknown dataset",
            &[
                br#"{"dataset":"cifar"}"#,
                br#"{"dataset":""}"#,
                b"dataset=cifar",
                b"dataset=mnist&dataset=mnist",
                br#""{\"dataset\":\"cifar\"}""#,
                br#"{"dataset":"MNIST"}"#,
                br#"{"dataset":" mnist"}"#,
                br#"{"dataset":"mnist\u0000"}"#,
            ],
        ),
        (
            "more than once",
            &[
                br#"{"dataset":"mnist","dataset":"kmnist"}"#,
                br#"{"dataset":"mnist","dataset":"mnist"}"#,
                br#"{"dataset":7,"dataset":"mnist"}"#,
                br#"{"dataset":"mnist","x":1,"d\u0061taset":"mnist"}"#,
            ],
        ),
        ("UTF-8", &[b"{\"dataset\":\"mnist\xff\"}", b"{\"dataset\":\"mnist\",\"x\":\"\xc3\x28\"}", b"\xff\xfe{\x00"]),
    ];
    let known = cases.map(|(words, _)| words);
    for (words, bodies) in cases {
        for body in bodies {
            for target in [FREE, PREMIUM] {
                let response = server.post(target, body);
                assert_eq!(response.status, 400, "{}", String::from_utf8_lossy(body));
                let sentence = response.error();
                let found: Vec<&str> = known.into_iter().filter(|words| sentence.contains(words)).collect();
                assert_eq!(found, [words], "{sentence:?} for {}", String::from_utf8_lossy(body));
                assert!(sentence.contains(r#"{"dataset":"#) || sentence.contains("mnist"), "what to do: {sentence:?}");
            }
        }
    }
    assert_eq!(server.jobs().len(), 0, "a bad request made a Job");
}

#[test]
fn unknown_dataset_error_lists_the_known_datasets() {
    let server = Setup::local().start();
    let sentence = server.post(FREE, r#"{"dataset":"cifar"}"#).error();
    assert!(sentence.contains("mnist") && sentence.contains("kmnist"), "{sentence}");
}

#[test]
fn error_has_a_stable_code() {
    let server = Setup::local().start();
    for (request, code) in [
        ("POST /img-classification/free HTTP/1.1\r\nContent-Length: 0", "bad_body"),
        ("POST /img-classification/free HTTP/1.1\r\nContent-Length: 2000", "body_too_large"),
        ("POST /img-classification/free HTTP/1.1", "length_required"),
        ("GET /nothing HTTP/1.1", "not_found"),
        ("GET /jobs/free-mnist-none HTTP/1.1", "job_not_found"),
        ("GET /jobs HTTP/1.1", "not_watched"),
        ("GET /jobs?state=lost HTTP/1.1", "bad_query"),
        ("PUT /config HTTP/1.1", "method_not_allowed"),
        ("BREW /config HTTP/1.1", "unknown_method"),
        ("GET /config HTTP/2.0", "unknown_http_version"),
        ("GET /config HTTP/1.1\r\nTransfer-Encoding: gzip", "unknown_transfer_coding"),
        ("GET /config HTTP/1.1\r\nExpect: x", "unknown_expectation"),
        ("GET /config HTTP/1.1\r\nContent-Length: x", "malformed_request"),
    ] {
        let mut connection = server.connect();
        connection.send(format!("{request}\r\nHost: x\r\n\r\n").as_bytes());
        assert_eq!(connection.response(false).expect("a response").code(), code, "{request}");
    }
}

#[test]
fn unknown_keys_and_white_space_are_accepted() {
    let server = Setup::local().start();
    let bodies = [
        r#"{"dataset":"mnist","extra":{"a":[1,null,{"dataset":7}]},"n":1e3}"#,
        r#"{"x":"dataset","dataset":"mnist"}"#,
        " \r\n\t{ \"dataset\" :\n\"mnist\" }\n ",
        r#"{"dataset":"\u006dnist"}"#,
        r#"{"dataset":"mnist","text":"äöü ☃ 🦀"}"#,
    ];
    for body in bodies {
        let response = server.post(FREE, body);
        assert_eq!((response.status, &response.json()["dataset"]), (200, &json!("mnist")), "{body}");
    }
    assert_eq!(server.jobs().len(), bodies.len());
}

#[test]
fn bodies_of_common_client_mistakes_are_accepted() {
    let server = Setup::local().start();
    let bodies: [&[u8]; 5] = [
        // requests.post(url, json=json.dumps({"dataset": "kmnist"}))
        br#""{\"dataset\": \"kmnist\"}""#,
        // requests.post(url, data={"dataset": "kmnist"}), curl -d dataset=kmnist
        b"dataset=kmnist",
        // PowerShell and editors of Windows put a byte order mark first.
        b"\xef\xbb\xbf{\"dataset\":\"kmnist\"}",
        b"\xef\xbb\xbfdataset=kmnist\r\n",
        b"\xef\xbb\xbf\"{\\\"dataset\\\":\\\"kmnist\\\"}\"",
    ];
    for body in bodies {
        let response = server.post(FREE, body);
        assert_eq!((response.status, &response.json()["dataset"]), (200, &json!("kmnist")), "{}", response.text());
    }
    assert_eq!(server.jobs().len(), bodies.len());
}

#[test]
fn expect_100_continue_is_answered() {
    let server = Setup::local().start();
    let length = MNIST.len();
    let head = format!("POST {FREE} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n");
    assert_eq!(raw(&server, &[head.as_bytes(), MNIST].concat()).status, 200);
    assert_eq!(server.jobs().len(), 1);
}

#[test]
fn deeply_nested_unknown_key_does_no_harm() {
    let server = Setup::local().start();
    let deep = format!(r#"{{"dataset":"mnist","x":{}1{}}}"#, "[".repeat(490), "]".repeat(490));
    // The key is unknown and ignored; a parser with a depth limit may respond 400.
    assert!([200, 400].contains(&server.post(FREE, deep).status));
    assert_eq!(server.post(FREE, format!(r#"{{"dataset":"mnist","x":{}"#, "[".repeat(900))).status, 400);
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn content_type_is_ignored() {
    let server = Setup::local().start();
    let types = ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-8", "nonsense", ""];
    for kind in types {
        let head = format!(
            "POST {FREE} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            MNIST.len()
        );
        assert_eq!(raw(&server, &[head.as_bytes(), MNIST].concat()).status, 200, "{kind}");
    }
}

#[test]
fn body_limit_is_1_kib() {
    let server = Setup::local().start();
    let body = |length: usize| format!("{}{}", r#"{"dataset":"mnist"}"#, " ".repeat(length - MNIST.len()));
    assert_eq!(server.post(FREE, body(1024)).status, 200);
    for length in [1025, 5000, 100_000] {
        let response = server.post(FREE, body(length));
        assert_eq!(response.status, 413, "{length}");
        response.error();
    }
    assert_eq!(server.jobs().len(), 1);
}

#[test]
fn post_without_a_body_is_411_and_a_chunked_one_is_decoded() {
    let server = Setup::local().start();
    let response = raw(&server, format!("POST {FREE} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    assert_eq!(response.status, 411);
    response.error();
    let post = |coding: &str| {
        let head = format!("POST {FREE} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {coding}\r\n\r\n");
        raw(&server, format!("{head}13\r\n{{\"dataset\":\"mnist\"}}\r\n0\r\n\r\n").as_bytes())
    };
    let response = post("gzip, chunked");
    assert_eq!(response.status, 501);
    response.error();
    assert_eq!(server.jobs().len(), 0);
    assert_eq!(post("chunked").status, 200);
    assert_eq!(server.jobs().len(), 1);
}

#[test]
fn unknown_paths_are_404_for_every_method() {
    let server = Setup::local().start();
    let paths = [
        "/config/",
        "/Config",
        "/configs",
        "//config",
        "/healthz/",
        "/readyz/x",
        "/img-classification",
        "/img-classification/",
        "/img-classification/free/",
        "/img-classification/gold",
        "/img-classification/FREE",
        "/img-classification//free",
        "/free",
        "/metrics/",
        "/../config",
        "/config%00",
        "/page/",
    ];
    for path in paths {
        for (method, body) in [("GET", None), ("POST", Some(MNIST)), ("DELETE", None)] {
            let response = server.connect().request(method, path, body);
            assert_eq!(response.status, 404, "{method} {path}");
            response.error();
        }
    }
    assert_eq!(server.jobs().len(), 0);
}

#[test]
fn known_path_with_another_method_is_405_with_allow() {
    let server = Setup::local().start();
    let sorted = |response: &Response| {
        let mut allowed: Vec<String> =
            response.header("Allow").unwrap().split(',').map(|word| word.trim().to_owned()).collect();
        allowed.sort();
        allowed
    };
    let [get, post] = [vec!["GET", "HEAD", "OPTIONS"], vec!["OPTIONS", "POST"]]
        .map(|list| list.into_iter().map(str::to_owned).collect::<Vec<_>>());
    for path in [FREE, PREMIUM] {
        for method in ["GET", "PUT", "DELETE", "PATCH"] {
            let response = server.connect().request(method, path, Some(b""));
            assert_eq!((response.status, sorted(&response)), (405, post.clone()), "{method} {path}");
            response.error();
        }
        let response = server.connect().request("HEAD", path, None);
        assert_eq!((response.status, sorted(&response)), (405, post.clone()), "HEAD {path}");
    }
    for path in ["/config", "/healthz", "/readyz", "/metrics"] {
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let response = server.connect().request(method, path, Some(b""));
            assert_eq!((response.status, sorted(&response)), (405, get.clone()), "{method} {path}");
            response.error();
        }
    }
    assert_eq!(server.jobs().len(), 0);
}

#[test]
fn options_of_a_known_path_is_204_with_allow_and_without_a_body() {
    let server = Setup::local().start();
    let mut connection = server.connect();
    for (path, allowed) in [(FREE, "POST, OPTIONS"), (PREMIUM, "POST, OPTIONS"), ("/config", "GET, HEAD, OPTIONS")] {
        let response = connection.request("OPTIONS", path, None);
        assert_eq!((response.status, response.header("Allow")), (204, Some(allowed)), "{path}");
        // RFC 9110, section 8.6: a 204 has no Content-Length.
        assert_eq!((response.header("Content-Length"), response.text()), (None, ""), "{path}");
    }
    assert_eq!(connection.request("OPTIONS", "/nothing", None).status, 404);
    assert_eq!(connection.request("GET", "/healthz", None).status, 200);
    assert_eq!(server.jobs().len(), 0);
}

#[test]
fn unknown_method_is_501() {
    let server = Setup::local().start();
    for method in ["BREW", "get", "PROPFIND"] {
        let response = server.connect().request(method, "/healthz", None);
        assert_eq!(response.status, 501, "{method}");
        response.error();
    }
}

#[test]
fn head_returns_the_headers_of_get_without_a_body() {
    let (api, server) = scripted();
    api.set_pods(vec![crate::support::cluster::pod("default", "p", "Running", Some(("n", "10.0.0.1")))]);
    for path in ["/config", "/healthz", "/readyz"] {
        let mut connection = server.connect();
        let head = connection.request("HEAD", path, None);
        assert_eq!(head.status, 200, "{path}");
        // On the same connection a body after the head would be read as a status line.
        let get = connection.request("GET", path, None);
        assert_eq!(get.status, 200, "{path}");
        assert!(!get.body.is_empty(), "{path}");
        assert_eq!(head.header("Content-Type"), get.header("Content-Type"), "{path}");
        if let Some(length) = head.header("Content-Length") {
            assert_eq!(length, get.body.len().to_string(), "{path}");
        }
    }
}

#[test]
fn query_strings_are_not_logged() {
    let server = Setup::local().args(&["--log-level", "debug"]).start();
    // Answered by the handler, the router, the front, and refused before it is parsed.
    for target in
        ["/healthz?token=s3cret", "/nowhere?token=s3cret", "/healthz#s3cret", "/img-classification/free?s3cret"]
    {
        server.get(target);
        server.post(target, "{}");
    }
    raw(&server, b"POST /healthz?token=s3cret HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n");
    raw(&server, b"GET /healthz?token=s3cret HTTP/1.1\r\n\r\n");
    server.get("/marker");
    server.wait_for_log("of the last request", |line| line.starts_with("GET /marker "));
    assert!(!server.stderr().contains("s3cret"), "{}", server.stderr());
}

#[test]
fn query_strings_are_ignored() {
    let server = Setup::local().start();
    assert_eq!(server.get("/config?watch=1").status, 200);
    assert_eq!(server.get("/healthz?").status, 200);
    assert_eq!(server.get("/readyz?verbose").status, 200);
    let response = server.post(&format!("{FREE}?dataset=kmnist"), MNIST);
    assert_eq!((response.status, &response.json()["dataset"]), (200, &json!("mnist")));
}

#[test]
fn every_response_is_json_with_its_length() {
    let server = Setup::local().start();
    let responses = [
        server.get("/healthz"),
        server.get("/readyz"),
        server.get("/config"),
        server.post(FREE, MNIST),
        server.get("/nowhere"),
        server.get(FREE),
        server.post(FREE, "x"),
    ];
    for response in responses {
        assert!(response.json().is_object(), "{}", response.text());
        assert_eq!(
            response.header("Content-Length").map(|length| length.parse().ok()),
            Some(Some(response.body.len()))
        );
    }
}

#[test]
fn healthz_and_metrics_send_no_kubernetes_request() {
    let (api, server) = scripted();
    let before = api.requests().len();
    for path in ["/healthz", "/metrics"].repeat(5) {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    assert_eq!(api.requests().len(), before);
}

#[test]
fn one_connection_carries_requests_of_every_kind() {
    let server = Setup::local().start();
    let mut connection = server.connect();
    for round in 0..20 {
        assert_eq!(connection.request("GET", "/healthz", None).status, 200, "{round}");
        assert_eq!(connection.request("POST", FREE, Some(MNIST)).status, 200, "{round}");
        assert_eq!(connection.request("POST", FREE, Some(b"nonsense")).status, 400, "{round}");
        assert_eq!(connection.request("GET", "/nowhere", None).status, 404, "{round}");
        assert_eq!(connection.request("PUT", "/config", Some(b"")).status, 405, "{round}");
        assert_eq!(connection.request("GET", "/config", None).status, 200, "{round}");
        assert_eq!(connection.request("GET", "/healthz", Some(b"an ignored body")).status, 200, "{round}");
    }
    assert_eq!(server.jobs().len(), 20);
}

#[test]
fn http_1_0_and_connection_close_end_the_connection_after_the_response() {
    let server = Setup::local().start();
    for request in ["GET /healthz HTTP/1.0\r\n\r\n", "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"] {
        let mut connection = server.connect();
        connection.send(request.as_bytes());
        assert_eq!(connection.response(false).unwrap().status, 200);
        assert!(connection.is_closed_by_peer(), "{request}");
    }
}

/// `METHOD PATH STATUS MSms ...`
fn is_access_line(line: &str, method: &str, path: &str, status: u16) -> bool {
    let mut words = line.split(' ');
    let head = [words.next(), words.next(), words.next()];
    let elapsed = words.next().and_then(|word| word.strip_suffix("ms")).unwrap_or_default();
    head == [Some(method), Some(path), Some(&status.to_string())] && elapsed.parse::<f64>().is_ok()
}

#[test]
fn every_request_is_one_log_line() {
    let server = Setup::local().start();
    server.get("/healthz");
    server.post(FREE, MNIST);
    server.post(PREMIUM, "nonsense");
    server.get("/nowhere");
    server.connect().request("HEAD", "/config", None);
    for (method, path, status) in [
        ("GET", "/healthz", 200),
        ("POST", FREE, 200),
        ("POST", PREMIUM, 400),
        ("GET", "/nowhere", 404),
        ("HEAD", "/config", 200),
    ] {
        let what = format!("{method} {path} {status} MSms");
        server.wait_for_log(&what, |line| is_access_line(line, method, path, status));
    }
}

#[test]
fn requests_cannot_inject_log_lines() {
    let server = Setup::local().start();
    let long = format!("/{}", "long".repeat(1000));
    let targets: Vec<Vec<u8>> = vec![
        b"/%0aINJECTED%0d%0a".to_vec(),
        b"/\x1b[2JINJECTED".to_vec(),
        b"/\x01\x02\x7fINJECTED".to_vec(),
        b"/a\tINJECTED".to_vec(),
        b"/a\rINJECTED".to_vec(),
        b"/\xff\xfeINJECTED".to_vec(),
        b"/\"INJECTED\\n'".to_vec(),
        "/\u{2028}INJECTED\u{85}".into(),
        long.into_bytes(),
    ];
    for target in &targets {
        let mut connection = server.connect();
        connection.send(&[b"GET ", target.as_slice(), b" HTTP/1.1\r\nHost: x\r\n\r\n"].concat());
        // The response does not matter here, only the log.
        if let Ok(response) = connection.response(false) {
            assert!((400..500).contains(&response.status), "{}", response.status);
        }
    }
    let sentence = server.post(FREE, "{\"dataset\":\"x\\nINJECTED\\u001b\"}").error();
    assert!(!sentence.contains('\n'));
    for line in server.log_until_now().lines() {
        assert!(!line.starts_with("INJECTED"), "{line}");
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{2028}'), "{line:?}");
    }
}

#[test]
fn parallel_requests_get_one_response_and_one_job_each() {
    let server = Setup::local().start();
    let names: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..32)
            .map(|_| {
                scope.spawn(|| {
                    let response = server.post_job();
                    assert_eq!(response.status, 200, "{}", response.text());
                    response.json()["job"].as_str().unwrap().to_owned()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!((distinct.len(), server.jobs().len()), (32, 32));
}
