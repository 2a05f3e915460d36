//! GET /openapi.json against the routes of the running server. tests/openapi/run checks the responses against it.

use crate::support::server::Setup;
use std::collections::BTreeSet;

#[test]
fn openapi_document_has_the_paths_and_methods_of_the_server() {
    let server = Setup::local().start();
    let mut connection = server.connect();
    let response = connection.request("GET", "/openapi.json", None);
    let document = response.json();
    assert_eq!((response.status, &document["openapi"]), (200, &"3.1.0".into()));
    let paths = document["paths"].as_object().unwrap();
    for (path, item) in paths {
        let mut documented: BTreeSet<String> = item.as_object().unwrap().keys().map(|key| key.to_uppercase()).collect();
        documented.remove("PARAMETERS");
        documented.insert("OPTIONS".to_owned());
        if documented.contains("GET") {
            documented.insert("HEAD".to_owned());
        }
        let options = connection.request("OPTIONS", &path.replace("{name}", "free-mnist-x"), None);
        let allowed = options.header("Allow").unwrap_or_else(|| panic!("{path}: {}", options.text()));
        assert_eq!(allowed.split(", ").map(str::to_owned).collect::<BTreeSet<_>>(), documented, "{path}");
    }
    // The sentence of 404 names every path but that of the page, which is for browsers.
    let sentence = server.get("/").error();
    let words = sentence.split([' ', ',', ';']).filter(|word| word.starts_with('/'));
    let named: BTreeSet<String> = words.map(|word| word.replace("NAME", "{name}")).collect();
    assert_eq!(named, paths.keys().filter(|path| *path != "/").cloned().collect());
    let etag = format!("If-None-Match: {}\r\n", response.header("ETag").unwrap());
    assert_eq!(connection.request_with("GET", "/openapi.json", &etag, b"").status, 304);
}
