//! DELETE /jobs/NAME.

use super::job_list::ours;
use super::{JOBS, Tier};
use crate::support::eventually;
use crate::support::http::Response;
use crate::support::response::{ApiResponse, Behavior};
use crate::support::server::{Server, Setup};
use serde_json::{Value, json};

const TOKEN: &str = "admin-s3cret";

fn delete(server: &Server, name: &str, token: &str) -> Response {
    let header = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    server.connect().request_with("DELETE", &format!("/jobs/{name}"), &header, b"")
}

/// A server with an admin token.
fn with_token(setup: Setup) -> Setup {
    let path = setup.file("admin-token", format!("{TOKEN}\n"));
    setup.env("NO_WATCH", "").args(&["--admin-token-file", path.to_str().unwrap()])
}

/// A server that shows these Jobs, each with its name as its uid.
fn serve(tier: &Tier, names: &[&str]) -> Server {
    for name in names {
        let mut job = ours(name, 1, &json!({"active": 1}));
        job["metadata"]["uid"] = json!(format!("uid-{name}"));
        tier.put_job(name, &job);
    }
    let server = with_token(Setup::for_api(&tier.api)).start();
    // Of both tiers.
    eventually("all Jobs", || server.get("/jobs").status == 200);
    eventually("the Jobs", || names.iter().all(|name| server.get(&format!("/jobs/{name}")).status == 200));
    server
}

fn deleted() -> ApiResponse {
    ApiResponse::json(200, &json!({"kind": "Job", "metadata": {"name": "x"}}))
}

#[test]
fn job_is_deleted_once_with_its_pods_and_only_as_it_was_seen() {
    let tier = Tier::full();
    let server = serve(&tier, &["free-mnist-a"]);
    let path = format!("{JOBS}/free-mnist-a");
    tier.instead("DELETE", &path, deleted());
    let response = delete(&server, "free-mnist-a", TOKEN);
    assert_eq!((response.status, response.text()), (202, r#"{"job":"free-mnist-a","state":"deleted"}"#));
    let request = tier.api.requests().into_iter().find(|request| request.method == "DELETE").unwrap();
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground",
                         "preconditions": {"uid": "uid-free-mnist-a"}});
    assert_eq!((request.path(), request.json()), (path.as_str(), options));
    // At once, before the event of the watch.
    assert_eq!(server.get("/jobs/free-mnist-a").status, 404);
    assert_eq!(server.get("/jobs").json()["jobs"], json!([]));
    for name in ["free-mnist-a", "free-mnist-none", "premium-mnist-a", "x"] {
        let response = delete(&server, name, TOKEN);
        assert_eq!((response.status, response.code().as_str()), (404, "job_not_found"), "{name}");
    }
    assert_eq!(tier.api.requests().iter().filter(|request| request.method == "DELETE").count(), 1);
    let log = server.log_until_now();
    assert!(log.contains("DELETE /jobs/free-mnist-a 202 ") && !log.contains(TOKEN), "{log}");
}

#[test]
fn token_is_needed_and_without_one_deletion_is_off() {
    let tier = Tier::full();
    let server = serve(&tier, &["free-mnist-a"]);
    for token in ["", "wrong", "admin-s3cre"] {
        let response = delete(&server, "free-mnist-a", token);
        assert_eq!((response.status, response.code().as_str()), (401, "unauthorized"));
        assert_eq!(response.header("WWW-Authenticate"), Some("Bearer"));
        assert!(response.error().starts_with("deleting a Job needs the admin token"), "{}", response.text());
    }
    let off = tier.serve();
    for token in ["", TOKEN] {
        let response = delete(&off, "free-mnist-a", token);
        assert_eq!((response.status, response.code().as_str()), (403, "deletion_disabled"));
    }
    assert!(tier.api.requests().iter().all(|request| request.method != "DELETE"));
    let response = server.connect().request("POST", "/jobs/free-mnist-a", Some(b"{}"));
    assert_eq!((response.status, response.header("Allow")), (405, Some("GET, HEAD, DELETE, OPTIONS")));
    let refusal = Setup::for_api(&tier.api).args(&["--admin-token-file", "/nowhere"]).refused();
    assert!(refusal.contains("--admin-token-file") && refusal.contains("/nowhere"), "{refusal}");
}

#[test]
fn job_is_deleted_without_a_watch() {
    let tier = Tier::full();
    let mut job = ours("free-mnist-a", 1, &json!({"active": 1}));
    job["metadata"]["uid"] = json!("uid-a");
    tier.put_job("free-mnist-a", &job);
    let mut theirs = ours("free-mnist-theirs", 2, &json!({"active": 1}));
    theirs["metadata"]["labels"]["app.kubernetes.io/managed-by"] = json!("argo");
    tier.put_job("free-mnist-theirs", &theirs);
    let server = with_token(Setup::for_api(&tier.api)).env("NO_WATCH", "1").start();
    tier.instead("DELETE", &format!("{JOBS}/free-mnist-a"), deleted());
    assert_eq!(delete(&server, "free-mnist-a", TOKEN).status, 202);
    for name in ["free-mnist-none", "free-mnist-theirs"] {
        let response = delete(&server, name, TOKEN);
        assert_eq!((response.status, response.code().as_str()), (404, "job_not_found"), "{name}");
    }
    let deletions: Vec<_> = tier.api.requests().into_iter().filter(|request| request.method == "DELETE").collect();
    assert_eq!((deletions.len(), &deletions[0].json()["preconditions"]["uid"]), (1, &json!("uid-a")));
}

#[test]
fn deletions_count_as_posts() {
    let tier = Tier::full();
    let server = with_token(Setup::for_api(&tier.api)).env("POSTS_PER_MINUTE", "2").start();
    let statuses = [(); 3].map(|()| delete(&server, "free-mnist-a", "wrong").status);
    assert_eq!((statuses, server.post_job().status), ([401, 401, 429], 429));
}

#[test]
fn answers_of_kubernetes_are_told_apart() {
    let tier = Tier::full();
    let denied = r#"jobs.batch "x" is forbidden: User "x" cannot delete resource "jobs" in API group "batch" in the namespace "free-service""#;
    let gone = || ApiResponse::failure(404, "NotFound", "jobs.batch \"x\" not found");
    let other =
        || ApiResponse::failure(409, "Conflict", "the UID in the precondition does not match the UID in record");
    let table: [(&str, Vec<Behavior>, u16, Value); 4] = [
        ("free-mnist-p", vec![ApiResponse::failure(403, "Forbidden", denied).into()], 502, json!("permission_missing")),
        ("free-mnist-g", vec![gone().into()], 404, json!("job_not_found")),
        ("free-mnist-o", vec![other().into()], 404, json!("job_not_found")),
        // The answer was lost, and the repeat finds nothing.
        ("free-mnist-l", vec![Behavior::Close, gone().into()], 202, Value::Null),
    ];
    let names: Vec<&str> = table.iter().map(|(name, ..)| *name).collect();
    let server = serve(&tier, &names);
    for (name, behaviors, status, code) in table {
        let path = format!("{JOBS}/{name}");
        behaviors.into_iter().for_each(|behavior| tier.instead("DELETE", &path, behavior));
        let response = delete(&server, name, TOKEN);
        assert_eq!((response.status, &response.json()["code"]), (status, &code), "{name}: {}", response.text());
        let is_shown = server.get(&format!("/jobs/{name}")).status == 200;
        assert_eq!(is_shown, status == 502, "{name}");
    }
    assert!(server.get("/jobs").text().contains("free-mnist-p"));
}

#[test]
fn deletion_of_a_running_job_starts_the_next() {
    let server = with_token(Setup::local()).args(&["--local-job-seconds", "3600"]).start();
    eventually("the watches are connected", || server.get("/jobs").status == 200);
    let post = || server.post_job().json()["job"].as_str().unwrap().to_owned();
    let state = |name: &str| server.get(&format!("/jobs/{name}")).json()["state"].clone();
    let mut posted = vec![post(), post()];
    eventually("two run", || state(&posted[0]) == "running" && state(&posted[1]) == "running");
    posted.push(post());
    eventually("the third waits", || state(&posted[2]) == "queued");
    assert_eq!(delete(&server, &posted[0], TOKEN).status, 202);
    assert_eq!(server.get(&format!("/jobs/{}", posted[0])).status, 404);
    eventually("the third runs", || state(&posted[2]) == "running");
    let pods = server.kubernetes().items("/api/v1/namespaces/free-service/pods");
    assert!(pods.iter().all(|pod| pod["metadata"]["labels"]["job-name"] != posted[0].as_str()), "{pods:?}");
    assert_eq!(server.jobs().len(), 2);
}
