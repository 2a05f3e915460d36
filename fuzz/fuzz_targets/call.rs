//! Parsing of a request line and a body into a route and a dataset. The input is `METHOD TARGET`, a line feed, and the body.

#![no_main]

use img_classification_fuzz::api::error::ApiError;
use img_classification_fuzz::api::jobs::dataset;
use img_classification_fuzz::api::response::Body;
use img_classification_fuzz::api::route::Route;
use img_classification_fuzz::job::{Dataset, Tier};
use img_classification_fuzz::keys;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(2, |byte| *byte == b'\n');
    let (line, body) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let Ok(line) = std::str::from_utf8(line) else { return };
    let (method, target) = line.split_once(' ').unwrap_or((line, ""));
    let path = target.find(['?', '#']).map_or(target, |end| &target[..end]);
    let route = match Route::parse(method, target) {
        Ok(route) => route,
        Err(error) => return refused(error, &[404, 405, 501]),
    };
    let expected = match route {
        Route::CreateJob(Tier::Free) => "POST /img-classification/free".to_owned(),
        Route::CreateJob(Tier::Premium) => "POST /img-classification/premium".to_owned(),
        Route::ListPods => "GET /config".to_owned(),
        Route::ListJobs => "GET /jobs".to_owned(),
        Route::ShowJob(name) => format!("GET /jobs/{}", name.text),
        Route::ShowLog(name) => format!("GET /jobs/{}/logs", name.text),
        Route::DeleteJob(name) => format!("DELETE /jobs/{}", name.text),
        Route::Queue => "GET /queue".to_owned(),
        Route::Info => "GET /info".to_owned(),
        Route::Page(file) => format!("GET {}", file.path),
        Route::Healthz => "GET /healthz".to_owned(),
        Route::Readyz => "GET /readyz".to_owned(),
        Route::Metrics => "GET /metrics".to_owned(),
        Route::OpenApi => "GET /openapi.json".to_owned(),
        Route::Options(methods) => return assert!(method == "OPTIONS" && methods.contains("OPTIONS"), "{line}"),
    };
    assert_eq!(format!("{} {path}", if method == "HEAD" { "GET" } else { method }), expected);
    if let Route::CreateJob(_) = route {
        match dataset(body) {
            Ok(dataset) => good_body(&object(body), dataset),
            Err(error) => {
                bad_body(&object(body));
                refused(error, &[400]);
            }
        }
    }
});

/// Returns the object of a body that is a form or a JSON string, and any other body without a byte order mark.
fn object(body: &[u8]) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(body) else { return body.to_vec() };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim();
    match text.strip_prefix("dataset=") {
        Some(name) => serde_json::json!({ "dataset": name }).to_string(),
        None => serde_json::from_str(text).unwrap_or_else(|_| text.to_owned()),
    }
    .into_bytes()
}

/// Checks that serde_json's tree has the same dataset. A skipped value may exceed the tree's limits and still be JSON: a number
/// out of range, deep nesting, half a surrogate pair.
fn good_body(body: &[u8], dataset: Dataset) {
    let keys = keys(body).expect("an object");
    assert_eq!(keys.iter().filter(|key| *key == "dataset").count(), 1, "not one dataset");
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(object)) => assert_eq!(object.get("dataset").and_then(Value::as_str), Some(dataset.as_str())),
        Ok(other) => panic!("not an object: {other}"),
        Err(error) => {
            let text = error.to_string();
            let beyond =
                ["number out of range", "recursion limit exceeded", "surrogate", "unexpected end of hex escape"];
            assert!(beyond.iter().any(|problem| text.contains(problem)), "not JSON: {text}");
        }
    }
}

/// Checks that a rejected body has no valid dataset, or names it more than once: without the duplicates it is accepted.
fn bad_body(body: &[u8]) {
    let Ok(Value::Object(object)) = serde_json::from_slice::<Value>(body) else { return };
    let Some(expected) = object.get("dataset").and_then(Value::as_str).and_then(Dataset::parse) else { return };
    let once = Value::Object(object).to_string();
    assert_eq!(dataset(once.as_bytes()).expect("a valid body was rejected"), expected);
}

/// Checks that an error is `{"error": SENTENCE, "code": CODE}` with one of `statuses`.
fn refused(error: ApiError, statuses: &[u16]) {
    let response = error.into_response();
    assert!(statuses.contains(&response.status), "unexpected status {}", response.status);
    let Body::Bytes(bytes) = response.body else { panic!("an error without a length") };
    let body: Value = serde_json::from_slice(&bytes).expect("the response is JSON");
    let object = body.as_object().expect("the response is an object");
    assert_eq!(object.len(), 2, "{body}");
    assert!(["error", "code"].iter().all(|key| object[*key].as_str().is_some_and(|text| !text.is_empty())), "{body}");
    let has = |name: &str| response.headers.iter().any(|(given, _)| *given == name);
    assert_eq!(has("Allow"), response.status == 405);
    assert!(!has("Retry-After"));
}
