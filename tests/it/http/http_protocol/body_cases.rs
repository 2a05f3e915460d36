//! Cases of message length, encoding, pipelining and request smuggling.

use super::head_cases::HEAD;
use super::{Case, FREE, MNIST, OR_NONE, closed, get, good_post, line, open, post, post_of};

pub fn lengths() -> Vec<Case> {
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
    // RFC 9112, section 6.3: a server may accept or refuse repeated equal lengths.
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

pub fn encodings() -> Vec<Case> {
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
        open("a GET that is encoded", format!("{}0\r\n\r\n", get("Transfer-Encoding: chunked\r\n")), &[&[200]]),
        closed("a folded encoding", with("Transfer-Encoding:\r\n chunked\r\n"), &[&[400]]),
        closed("an encoding after a fold", with("X: y\r\n Transfer-Encoding: chunked\r\n"), &[&[400]]),
        closed("a space before its colon", with("Transfer-Encoding : chunked\r\n"), &[&[400]]),
        closed("an encoding behind a bare LF", with("X: y\nTransfer-Encoding: chunked\r\n"), &[&[400]]),
        closed("an encoding behind a bare CR", with("X: y\rTransfer-Encoding: chunked\r\n"), &[&[400]]),
        closed("twice encoded", with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), &[&[400, 501]]),
        open("TE describes no request", get("TE: trailers, chunked\r\n"), &[&[200]]),
        open("Content-Encoding is ignored", post("Content-Encoding: gzip\r\nContent-Length: 19\r\n"), &[&[200]])
            .jobs(1),
        open("Trailer without chunks", post("Trailer: X\r\nContent-Length: 19\r\n"), &[&[200]]).jobs(1),
    ];
    for encoding in ["chunked", "Chunked", "CHUNKED", "\tchunked "] {
        let headers = format!("Transfer-Encoding: {encoding}\r\n");
        cases.push(open(format!("encoding {encoding:?}"), with(&headers), &[&[200]]).jobs(1));
    }
    for encoding in [
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

/// Chunked bodies. A well-formed one is treated like any other body; the bytes after it are the next request.
pub fn chunks() -> Vec<Case> {
    let with = |body: &str| format!("POST {FREE} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    let mut cases = Vec::new();
    for body in [
        "13\r\n{\"dataset\":\"mnist\"}\r\n0\r\n\r\n",
        "2\r\n{\"\r\n11\r\ndataset\":\"mnist\"}\r\n000\r\n\r\n",
        "013 ; name=\"value\"\r\n{\"dataset\":\"mnist\"}\r\n0;last\r\nX-Trailer: y\r\n\r\n",
    ] {
        cases.push(open(format!("chunks {body:?}"), with(body), &[&[200]]).jobs(1));
        let two = with(body) + &get("");
        cases.push(open(format!("chunks {body:?}, GET"), two, &[&[200], &[200]]).jobs(1));
        let last = with(body).replace("Host: h", "Host: h\r\nConnection: close");
        cases.push(closed(format!("chunks {body:?}, close"), last, &[&[200]]).jobs(1));
    }
    for body in [
        "13\n{\"dataset\":\"mnist\"}\r\n0\r\n\r\n",
        "13\r{\"dataset\":\"mnist\"}\r\n0\r\n\r\n",
        "+13\r\n{\"dataset\":\"mnist\"}\r\n0\r\n\r\n",
        "0x13\r\n{\"dataset\":\"mnist\"}\r\n0\r\n\r\n",
        " 13\r\n{\"dataset\":\"mnist\"}\r\n0\r\n\r\n",
        "13 13\r\n{\"dataset\":\"mnist\"}\r\n0\r\n\r\n",
        "12\r\n{\"dataset\":\"mnist\"}\r\n0\r\n\r\n",
        "14\r\n{\"dataset\":\"mnist\"}\r\n0\r\n\r\n",
        "13;a\nb\r\n{\"dataset\":\"mnist\"}\r\n0\r\n\r\n",
        "13\r\n{\"dataset\":\"mnist\"}\r\n0\r\nX : y\r\n\r\n",
        "13\r\n{\"dataset\":\"mnist\"}\r\n0\r\n\n",
        "\r\n\r\n",
    ] {
        cases.push(closed(format!("chunks {body:?}"), with(body), &[&[400]]));
    }
    cases.push(closed("a chunk of 128 KiB", with("20000\r\n"), &[&[413]]));
    cases.push(closed("a chunk size beyond 64 bits", with("100000000000000013\r\n"), &[&[413]]));
    let two = with("13\r\n{\"dataset\":\"mnist\"}\r\n0\r\n\r\n")
        + &post("Content-Length: 21\r\n").replace(MNIST, "{\n\"dataset\":\"mnist\"\n}");
    cases.push(open("chunks, then a body with line feeds", two, &[&[200], &[200]]).jobs(2));
    let long = format!("401\r\n{}\r\n0\r\n\r\n", " ".repeat(0x401));
    cases.push(closed("1,025 bytes in one chunk", with(&long), &[&[413]]));
    cases.push(closed("1,025 bytes in chunks of one", with(&"1\r\n \r\n".repeat(0x401)), &[&[413]]));
    cases.push(open("an empty chunked body", with("0\r\n\r\n"), &[&[400]]));
    cases.push(closed("half a chunk, and the end", with("13\r\n{"), &[&[400]]).half_close());
    cases
}

pub fn expectations() -> Vec<Case> {
    let expecting = |value: &str| post(&format!("Expect: {value}\r\nContent-Length: 19\r\n"));
    vec![
        // The body has already arrived: 100 Continue is optional.
        open("100-continue with the body", expecting("100-continue"), &[&[200]]).interim(0, 1).jobs(1),
        open("100-Continue with the body", expecting("100-Continue"), &[&[200]]).interim(0, 1).jobs(1),
        open("100-continue twice", expecting("100-continue\r\nExpect: 100-continue"), &[&[200]]).interim(0, 1).jobs(1),
        open("100-continue without a body", get("Expect: 100-continue\r\n"), &[&[200]]),
        open("100-continue with length 0", get("Expect: 100-continue\r\nContent-Length: 0\r\n"), &[&[200]]),
        closed("100-continue and a large body", get("Expect: 100-continue\r\nContent-Length: 1025\r\n"), &[&[413]]),
        open(
            "100-continue and an encoding",
            get("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n",
            &[&[200]],
        )
        .interim(0, 1),
        closed("another expectation", expecting("200-ok"), &[&[417]]),
        closed("100-continue and another", expecting("100-continue, x"), &[&[417]]),
        closed("100-continue with a parameter", expecting("100-continue;q=1"), &[&[417]]),
        closed("an empty expectation", expecting(""), &[&[417]]),
        closed("another expectation of a GET", get("Expect: tea\r\n"), &[&[417]]),
        closed("HTTP/1.0 cannot expect", expecting("100-continue").replace("HTTP/1.1", "HTTP/1.0"), &[&[200]]).jobs(1),
        closed("any Expect in HTTP/1.0", expecting("tea").replace("HTTP/1.1", "HTTP/1.0"), &[&[200]]).jobs(1),
    ]
}

pub fn pipelines() -> Vec<Case> {
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
        open("HEAD, GET", [line("HEAD /healthz HTTP/1.1"), get("").into()].concat(), &[&[200], &[200]]).for_head(0),
        open("GET, HEAD", [get("").into(), line("HEAD /nothing HTTP/1.1")].concat(), &[&[200], &[404]]).for_head(1),
        closed("good, good, bad", [get(""), get(""), "nonsense\r\n\r\n".into()].concat(), &[&[200], &[200], &[400]]),
        closed("good, bad, good", [get(""), "nonsense\r\n\r\n".into(), get("")].concat(), &[&[200], &[400]]),
        closed("bad, good", format!("GET / HTTP/1.1\r\n\r\n{}", get("")), &[&[400]]),
        closed("bad, POST", format!("GET / HTTP/1.1\r\nX : y\r\n\r\n{}", good_post()), &[&[400]]),
        closed("POST, bad", format!("{}GET /\0\r\n\r\n", good_post()), &[&[200], &[400]]).jobs(1),
        closed("too large, POST", format!("{}{}", get("Content-Length: 2000\r\n"), good_post()), &[&[413]]),
        open(
            "chunked, POST",
            format!("{}0\r\n\r\n{}", get("Transfer-Encoding: chunked\r\n"), good_post()),
            &[&[200], &[200]],
        )
        .jobs(1),
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

pub fn bodies() -> Vec<Case> {
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
        closed("a body longer than its Content-Length", format!("{}{MNIST}", post_of(18)), &[&[400], &[400]])
            .half_close(),
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

pub fn smuggling() -> Vec<Case> {
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
        .for_head(0),
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
