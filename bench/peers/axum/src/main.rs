//! The same service with axum and kube-rs, for comparison.
//!
//! usage: axum-peer ADDR:PORT K8S_FOLDER       (KUBECONFIG names the cluster)

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

#[derive(Clone)]
struct App {
    kube: Client,
    free: Value,
    premium: Value,
}

type Response = Result<Json<Value>, (StatusCode, String)>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, listen, folder] = &arguments[..] else { return Err("usage: axum-peer ADDR:PORT K8S_FOLDER".into()) };
    let manifest = |tier| -> Result<Value, Box<dyn std::error::Error>> {
        Ok(serde_yaml::from_reader(std::fs::File::open(format!("{folder}/{tier}-job.yaml"))?)?)
    };
    let app = App { kube: Client::try_default().await?, free: manifest("free")?, premium: manifest("premium")? };
    let routes =
        Router::new().route("/img-classification/{tier}", post(classify)).route("/config", get(config)).with_state(app);
    axum::serve(tokio::net::TcpListener::bind(listen).await?, routes).await?;
    Ok(())
}

async fn classify(State(app): State<App>, Path(tier): Path<String>, body: String) -> Response {
    let bad = |error: &str| (StatusCode::BAD_REQUEST, error.to_owned());
    // Any Content-Type, because the course's clients send none or another.
    let body: Value = serde_json::from_str(&body).map_err(|error| bad(&error.to_string()))?;
    let dataset = match body["dataset"].as_str() {
        Some(dataset @ ("mnist" | "kmnist")) => dataset,
        _ => return Err(bad("unknown dataset")),
    };
    let mut manifest = match tier.as_str() {
        "free" => app.free,
        "premium" => app.premium,
        _ => return Err((StatusCode::NOT_FOUND, "unknown tier".to_owned())),
    };
    // generateName's five random characters collide after some thousand Jobs, and Kubernetes then responds with 500.
    let suffix = &uuid::Uuid::new_v4().simple().to_string()[..10];
    manifest["metadata"]["name"] = json!(format!("{tier}-{dataset}-{suffix}"));
    for pointer in ["/metadata/labels", "/spec/template/metadata/labels"] {
        manifest.pointer_mut(pointer).ok_or_else(|| bad("no labels"))?["img-classification/dataset"] = json!(dataset);
    }
    manifest["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"] = json!(dataset);
    let job: Job = serde_json::from_value(manifest).map_err(|error| bad(&error.to_string()))?;
    let (name, namespace) = (job.name_any(), job.namespace().unwrap_or_default());
    Api::namespaced(app.kube, &namespace).create(&PostParams::default(), &job).await.map_err(refused)?;
    Ok(Json(json!({ "job": name, "namespace": namespace, "tier": tier, "dataset": dataset })))
}

async fn config(State(app): State<App>) -> Response {
    let pods = Api::<Pod>::all(app.kube).list(&ListParams::default()).await.map_err(refused)?;
    let row = |pod: Pod| {
        let (spec, status) = (pod.spec.unwrap_or_default(), pod.status.unwrap_or_default());
        let (namespace, name) = (pod.metadata.namespace, pod.metadata.name);
        json!({ "node": spec.node_name, "ip": status.pod_ip, "namespace": namespace, "name": name, "status": status.phase })
    };
    Ok(Json(json!({ "pods": pods.into_iter().map(row).collect::<Vec<_>>() })))
}

fn refused(error: kube::Error) -> (StatusCode, String) {
    (StatusCode::BAD_GATEWAY, error.to_string())
}
