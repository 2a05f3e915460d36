//! The log of a simulated classifier.

use std::time::Duration;

use serde_json::Value;

use super::resources::{PODS, Target};
use super::response::Response;
use super::status::ApiStatus;
use super::store::{Store, has_ended, items, text};
use crate::kube::quantity;

/// Lines of a training's log, as the classifier writes them: 5 epochs of 600 batches, one line per 100.
const STEPS: u32 = 30;

/// Returns the log that the classifier would have written by now.
///
/// # Errors
/// 404, or 400 for a container that has not started.
pub fn read(store: &Store, target: &Target<'_>, job_time: Duration) -> Result<Response, ApiStatus> {
    let Target { namespace, name, .. } = *target;
    let pod = store.get(&PODS, namespace, name).ok_or_else(|| ApiStatus::not_found(&PODS, name))?;
    let state = &pod["status"]["containerStatuses"][0]["state"];
    let started = text(state, "/running/startedAt").to_owned() + text(state, "/terminated/startedAt");
    let Ok(started) = humantime::parse_rfc3339(&started) else { return not_started(pod) };
    let mut log = header(pod);
    let per_step = job_time / STEPS;
    let is_done = |step: u32| has_ended(pod) || started.elapsed().unwrap_or_default() >= per_step * (step + 1);
    for step in (0..STEPS).take_while(|step| is_done(*step)) {
        let (epoch, batch, loss) = (step / 6 + 1, (step % 6 + 1) * 100, 1.2 / f64::from(step + 4));
        log.push_str(&format!("Epoch [{epoch}/5], Step [{batch}/600], Loss: {loss:.4}\n"));
    }
    match text(pod, "/status/phase") {
        "Succeeded" => log.push_str("Accuracy of the network on the 10K test images: 98 %\n"),
        "Failed" => log.push_str("classifier: the training has failed\n"),
        _ => {}
    }
    Ok(Response::text(log))
}

/// Returns the lines before the training.
fn header(pod: &Value) -> String {
    let env = |key: &str| {
        let env = items(&pod["spec"]["containers"][0]["env"]);
        env.iter().find(|pair| pair["name"] == key).map_or("", |pair| text(pair, "/value")).to_owned()
    };
    let limit = quantity::parse(text(pod, "/spec/containers/0/resources/limits/cpu"));
    let limit = limit.map_or_else(|| "none".to_owned(), |milli| format!("{}.{}", milli / 1000, milli % 1000 / 100));
    format!("dataset: {}\ntype: {}\ncpu limit: {limit}\n", env("DATASET"), env("TYPE"))
}

fn not_started(pod: &Value) -> Result<Response, ApiStatus> {
    // Without a node there is no kubelet to ask, and Kubernetes returns an empty log.
    if text(pod, "/spec/nodeName").is_empty() {
        return Ok(Response::text(""));
    }
    let is_waiting = !pod["status"]["containerStatuses"][0]["state"]["waiting"].is_null();
    let state = if is_waiting { "image can't be pulled" } else { "ContainerCreating" };
    let (container, name) = (text(pod, "/spec/containers/0/name"), text(pod, "/metadata/name"));
    Err(ApiStatus::bad_request(format!("container \"{container}\" in pod \"{name}\" is waiting to start: {state}")))
}
