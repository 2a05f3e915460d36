//! The facts of the running server: its image and its cluster.

use super::port::http;
use super::{check_healthy, cluster, doctor, expect, host, line, no_fault};
use crate::support::api::{ApiServer, Request};
use crate::support::response::{ApiResponse, Behavior};
use crate::support::server::{Finished, Setup};
use serde_json::{Value, json};

/// A server of this program that returns these facts.
fn server(image: &str, cluster: &Value, is_local: bool) -> ApiServer {
    let info = json!({"version": "7.8.9", "image": image, "cluster": cluster, "kubernetes": null, "local": is_local});
    let server = http(ApiResponse::html(404));
    server.script(move |request| match request.path() {
        "/info" => ApiResponse::json(200, &info).into(),
        _ => ApiResponse::html(404).into(),
    });
    server
}

/// Runs `doctor` with the cluster `test` of `api` for this server.
fn doctor_for(server: &ApiServer, api: &ApiServer, args: &[&str]) -> Finished {
    let setup = host(Setup::for_api(api)).args(&["--server", &server.address().to_string()]);
    doctor(setup.args(args))
}

/// The images of the dry runs.
fn images(api: &ApiServer) -> Vec<Value> {
    let dry_runs = api.requests().into_iter().filter(|request: &Request| request.query("dryRun").is_some());
    dry_runs.map(|request| request.json()["spec"]["containers"][0]["image"].clone()).collect()
}

#[test]
fn image_of_the_running_server_is_checked() {
    let api = cluster(no_fault);
    let good = server("r.io/of-the-server:1", &json!("test"), false);
    let end = doctor_for(&good, &api, &[]);
    check_healthy(&end);
    let text = format!("r.io/of-the-server:1, the image of the server at http://{}, is well formed", good.address());
    assert!(line(&end, "ok image: ").contains(&text), "{}", end.stdout);
    assert!(
        line(&end, "warning server: a server").contains("a server of this program (7.8.9) answers"),
        "{}",
        end.stdout
    );
    assert_eq!(images(&api), ["r.io/of-the-server:1"; 2]);

    let end = doctor_for(&good, &api, &["--image", "r.io/new:2"]);
    let other = "warning server: the server at http://";
    expect("another --image", &end, other, "uses the image r.io/of-the-server:1, and not r.io/new:2", "restart");
    let bad = server("r.io/A:1", &json!("test"), false);
    expect("a bad image", &doctor_for(&bad, &api, &[]), "FAIL image: r.io/A:1, the image of", "lower case", "--image");
}

#[test]
fn running_server_of_another_cluster_is_named() {
    let api = cluster(no_fault);
    let other = "warning server: the server at http://";
    let end = doctor_for(&server("r.io/a:1", &json!("mp12"), false), &api, &[]);
    expect("its cluster", &end, other, "uses the cluster mp12, but these checks are about test", "--context");
    let end = doctor_for(&server("r.io/a:1", &json!("local"), true), &api, &[]);
    expect("simulated", &end, other, "uses the simulated cluster local, but", "the path that `serve --local` prints");
    for same_or_unknown in [json!("test"), json!(null)] {
        let end = doctor_for(&server("r.io/a:1", &same_or_unknown, false), &api, &[]);
        assert!(!end.stdout.contains("but these checks are about"), "{}", end.stdout);
    }
}

#[test]
fn default_image_is_checked_where_no_server_returns_its_own() {
    let api = cluster(no_fault);
    let old = http(ApiResponse::html(404));
    old.script(|request| match request.path() {
        "/healthz" => ApiResponse::json(200, &json!({"status": "ok"})).into(),
        _ => ApiResponse::json(404, &json!({"error": "no such path", "code": "not_found"})).into(),
    });
    let end = doctor_for(&old, &api, &[]);
    check_healthy(&end);
    assert!(
        line(&end, "warning server: a server").contains("(an old version, without GET /info) answers"),
        "{}",
        end.stdout
    );
    let start = "warning server: the server at http://";
    expect("old", &end, start, "too old to return its image: mp12-classifier:1.0 of --image is checked", "restart");
    line(&end, "warning image: mp12-classifier:1.0 has no registry");

    let foreign: [(&str, Behavior, &str); 3] = [
        (
            "JSON of another program",
            ApiResponse::json(200, &json!({"status": "ok", "version": "1"})).into(),
            "is another",
        ),
        ("a redirect", ApiResponse::html(302).into(), "is another"),
        ("a hung server", Behavior::Hang, "does not respond to GET /info (no response in time)"),
    ];
    for (what, behavior, words) in foreign {
        let end = doctor_for(&http(behavior), &api, &[]);
        expect(what, &end, "FAIL server: ", words, "start the server");
        line(&end, "warning image: mp12-classifier:1.0 has no registry");
    }
}
