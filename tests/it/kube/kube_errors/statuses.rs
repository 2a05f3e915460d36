//! The HTTP status and sentence for each Kubernetes error.

use super::{check_retry_after, check_sentence, creates, started};
use crate::support::LONG_KUBE_TIMEOUT;
use crate::support::api::ApiServer;
use crate::support::eventually;
use crate::support::kubeconfig::TOKEN;
use crate::support::response::{ApiResponse, Behavior, no_permission, quota_full, unauthorized, unavailable};
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[test]
fn kubernetes_errors_map_to_the_documented_status_at_once() {
    let namespace_missing = || ApiResponse::failure(404, "NotFound", "namespaces \"free-service\" not found");
    let invalid = || ApiResponse::failure(422, "Invalid", "Job.batch \"x\" is invalid: spec.template: Required value");
    let forbidden = |why: &str| ApiResponse::failure(403, "Forbidden", &format!("jobs.batch is forbidden: {why}"));
    let misleading = || forbidden("User \"quota\" cannot create resource \"jobs\" in API group \"batch\"");
    let quota_not_computed = || forbidden("status unknown for quota: free-jobs, resources: count/jobs.batch");
    let must_specify = || forbidden("failed quota: free: must specify limits.cpu");
    let cases = [
        ("quota", quota_full(), 429),
        ("RBAC", no_permission(), 502),
        ("RBAC for one of a misleading name", misleading(), 502),
        ("a quota that wants more said", must_specify(), 502),
        ("credentials", unauthorized(), 502),
        ("namespace", namespace_missing(), 502),
        ("a quota just created", quota_not_computed(), 503),
        ("invalid", invalid(), 502),
        ("bad request", ApiResponse::failure(400, "BadRequest", "cannot be handled as a Job"), 502),
        ("method", ApiResponse::failure(405, "MethodNotAllowed", "not here"), 502),
    ];
    for (what, reply, status) in cases {
        let (api, server) = started(LONG_KUBE_TIMEOUT);
        api.always(reply);
        let response = server.post_job();
        assert_eq!(response.status, status, "{what}: {}", response.text());
        check_sentence(&response);
        assert!(creates(&api).len() <= 2, "{what}: {} creates", creates(&api).len());
        if status == 429 || status == 503 {
            check_retry_after(&response);
        }
    }
}

#[test]
fn forbidden_for_another_reason_does_not_blame_rbac() {
    check_not_rbac(&[
        "jobs.batch \"x\" is forbidden: unable to create new content in namespace free-service because it is being \
         terminated",
        "admission webhook \"policy.example.com\" denied the request: no owner label",
        "jobs.batch \"x\" is forbidden: failed quota: free: must specify limits.cpu",
    ]);
}

#[test]
fn admission_error_with_cannot_does_not_blame_rbac() {
    check_not_rbac(&[
        "admission webhook \"policy.example.com\" denied the request: the container cannot run without a limit",
        "jobs.batch \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: a Job cannot \
         create pods of this image",
    ]);
}

/// Checks that this 403 is 502 at once, without RBAC in the sentence, and with the message in the log.
fn check_not_rbac(messages: &[&str]) {
    let (api, server) = started(LONG_KUBE_TIMEOUT);
    for message in messages {
        api.always(ApiResponse::failure(403, "Forbidden", message));
        let response = server.post_job();
        assert_eq!(response.status, 502, "{message}: {}", response.text());
        let sentence = check_sentence(&response).to_lowercase();
        assert!(!sentence.contains("permission") && !sentence.contains("rbac"), "{sentence:?} for {message:?}");
        server.wait_for_log(message, |line| line.replace('\\', "").contains(message));
    }
}

#[test]
fn error_names_the_fix_and_the_log_quotes_kubernetes() {
    let (api, server) = started(5);
    let namespace_missing = ApiResponse::failure(404, "NotFound", "namespaces \"free-service\" not found");
    let terminated = "jobs.batch \"x\" is forbidden: unable to create new content in namespace free-service because it is \
                      being terminated";
    for (reply, nouns, message) in [
        (
            namespace_missing,
            &["does not exist; run img-classification setup"][..],
            "namespaces \"free-service\" not found",
        ),
        (
            ApiResponse::failure(403, "Forbidden", terminated),
            &["free-service is being deleted; run img-classification setup"],
            terminated,
        ),
        (
            no_permission(),
            &["permission to create jobs in free-service; run img-classification setup"],
            "User \"nobody\" cannot create resource",
        ),
        (unauthorized(), &["credential", "token", "kubeconfig"], "Unauthorized"),
        (quota_full(), &["quota", "queue"], "exceeded quota: jobs"),
    ] {
        api.always(reply);
        let sentence = check_sentence(&server.post_job()).to_lowercase();
        assert!(nouns.iter().any(|noun| sentence.contains(noun)), "none of {nouns:?} in {sentence:?}");
        let unescaped = |line: &str| line.replace('\\', "");
        server.wait_for_log(message, |line| unescaped(line).contains(message));
    }
}

#[test]
fn config_and_readyz_explain_a_kubernetes_error() {
    let (api, server) = started(10);
    for (reply, config) in [(unauthorized(), 502), (no_permission(), 502), (unavailable(), 503)] {
        api.always(reply);
        let response = server.get("/config");
        assert_eq!(response.status, config, "{}", response.text());
        check_sentence(&response);
        let ready = server.get("/readyz");
        assert_eq!(ready.status, 503, "{}", ready.text());
        check_sentence(&ready);
        assert_eq!(server.get("/healthz").status, 200);
    }
    api.always(Behavior::Default);
    // All callers of a second share one answer.
    eventually("ready again", || server.get("/readyz").status == 200);
    assert_eq!(server.get("/config").status, 200);
}

#[test]
fn server_without_a_cpu_quota_is_not_ready() {
    let (api, server) = started(5);
    let quotas =
        |items: Value| ApiResponse::json(200, &json!({"kind": "ResourceQuotaList", "metadata": {}, "items": items}));
    let no_list =
        "resourcequotas is forbidden: User \"nobody\" cannot list resource \"resourcequotas\" in API group \"\"";
    let jobs_only = json!([{"metadata": {"name": "free-jobs"}, "spec": {"hard": {"count/jobs.batch": "300"}}}]);
    for (what, reply, status) in [
        ("no quota", quotas(json!(null)), 503),
        ("a quota of Jobs", quotas(jobs_only), 503),
        (
            "a quota not computed",
            quotas(json!([{"metadata": {"name": "q"}, "spec": {"hard": {"limits.cpu": "2"}}}])),
            200,
        ),
        ("no permission to see it", ApiResponse::failure(403, "Forbidden", no_list), 200),
    ] {
        api.script(
            move |request| {
                if request.path().ends_with("/resourcequotas") { reply.clone().into() } else { Behavior::Default }
            },
        );
        // Callers within a second share an answer.
        eventually(what, || server.get("/readyz").status == status);
        let response = server.get("/readyz");
        if status == 503 {
            assert!(
                check_sentence(&response)
                    .contains("no quota limits the CPU of free-service; run img-classification setup")
            );
        }
    }
}

#[test]
fn callers_get_one_stable_sentence_for_every_kubernetes_text() {
    let (api, server) = started(5);
    let sentences: BTreeSet<String> = ["jane", "joe"]
        .iter()
        .map(|user| {
            api.always(ApiResponse::failure(
                403,
                "Forbidden",
                &format!("User \"{user}\" cannot create resource \"jobs\""),
            ));
            check_sentence(&server.post_job())
        })
        .collect();
    assert_eq!(sentences.len(), 1, "{sentences:?}");
}

#[test]
fn redirects_are_not_followed() {
    for status in [301, 302, 307, 308] {
        let (api, server) = started(1);
        let elsewhere = ApiServer::start();
        let location = format!("{}/apis/batch/v1/namespaces/default/jobs", elsewhere.url());
        api.script(move |request| {
            if request.path().starts_with("/moved") {
                return Behavior::Default;
            }
            let target = if request.method == "GET" { "/moved/api/v1/pods" } else { location.as_str() };
            ApiResponse::new(status, "text/plain", "moved").header("Location", target).into()
        });
        for response in [server.post_job(), server.get("/config")] {
            assert!((502..=504).contains(&response.status), "{status}: {} {}", response.status, response.text());
            check_sentence(&response);
        }
        assert_eq!(elsewhere.connections(), 0, "{status}");
        assert!(!api.requests().iter().any(|request| request.path().starts_with("/moved")), "{status}");
    }
}

#[test]
fn kubernetes_texts_cannot_inject_log_lines() {
    let (api, server) = started(2);
    api.always(ApiResponse::failure(403, "Forbidden", "no\nINJECTED 1\r\n\u{1b}[2JINJECTED 2"));
    check_sentence(&server.post_job());
    for line in server.log_until_now().lines() {
        assert!(!line.starts_with("INJECTED") && !line.contains(|c: char| c.is_control()), "{line:?}");
    }
}

#[test]
fn token_appears_in_no_response_and_no_log_line() {
    let (api, server) = started(1);
    for reply in
        [unauthorized(), no_permission(), ApiResponse::html(200), ApiResponse::failure(400, "BadRequest", "what?")]
    {
        api.always(reply);
        check_sentence(&server.post_job());
        check_sentence(&server.get("/config"));
        check_sentence(&server.get("/readyz"));
    }
    assert_eq!(api.requests()[0].header("Authorization"), Some(format!("Bearer {TOKEN}").as_str()));
    let log = server.log_until_now();
    assert!(!log.contains(TOKEN), "{log}");
}
