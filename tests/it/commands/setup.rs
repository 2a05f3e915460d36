//! `setup`.

use super::run;
use crate::support::api::ApiServer;
use crate::support::response::ApiResponse;
use crate::support::server::Setup;
use serde_json::{Value, json};

#[test]
fn setup_prints_its_yaml_without_a_cluster() {
    let end = Setup::new().run(&["setup", "--print"]);
    assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""), "{end:?}");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("k8s");
    for file in ["namespace.yaml", "quota.yaml", "quota-premium.yaml", "rbac.yaml"] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        assert!(end.stdout.contains(&text), "{file} is not in\n{}", end.stdout);
    }
    let documents = serde_yaml::Deserializer::from_str(&end.stdout);
    assert_eq!(documents.count(), 12);
}

/// A cluster with this one object, which accepts every change to any object.
fn with_object(path: &'static str, object: Value) -> ApiServer {
    let api = ApiServer::start();
    let mut stored = Some(object);
    api.script(move |request| match request.method.as_str() {
        "GET" if request.path() == path && stored.is_some() => ApiResponse::json(200, stored.as_ref().unwrap()).into(),
        "GET" => ApiResponse::failure(404, "NotFound", "not found").into(),
        "DELETE" => {
            stored = None;
            ApiResponse::json(200, &json!({"kind": "Status", "status": "Success"})).into()
        }
        _ => ApiResponse::json(200, &request.json()).into(),
    });
    api
}

#[test]
fn setup_replaces_a_quota_whose_scopes_exclude_the_pods() {
    let path = "/api/v1/namespaces/free-service/resourcequotas/free-cpu";
    let hard = json!({"requests.cpu": "2", "limits.cpu": "2"});
    let selector = json!({"matchExpressions": [{"scopeName": "Terminating", "operator": "Exists"}]});
    for scoped in [json!({"hard": hard, "scopes": ["Terminating"]}), json!({"hard": hard, "scopeSelector": selector})] {
        let api = with_object(path, json!({"metadata": {"name": "free-cpu"}, "spec": scoped}));
        let end = run(&api, &["setup"]);
        assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""), "{end:?}");
        let line = "ok resourcequota free-service/free-cpu: replaced: it counted only the pods of some scopes";
        assert!(end.stdout.lines().any(|printed| printed == line), "no {line:?} in\n{}", end.stdout);
        let methods: Vec<String> = api
            .requests()
            .iter()
            .filter(|request| request.path() == path)
            .map(|request| request.method.clone())
            .collect();
        assert_eq!(methods, ["GET", "DELETE", "PATCH"]);
    }
}
