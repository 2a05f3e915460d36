//! What a simulated classifier writes: its log and its termination message.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::resources::{PODS, Target};
use super::response::Response;
use super::status::ApiStatus;
use super::store::{Store, items, text};
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
    log(pod, state, job_time).map_or_else(|| not_started(pod), |log| Ok(Response::text(log)))
}

/// Returns the termination message of a container in this state: the classifier's accuracy, or, where the container has that
/// policy, the log of a failed classifier. The log is shorter than 80 lines and 2048 bytes, of which a kubelet takes the last.
pub fn termination_message(pod: &Value, state: &Value, job_time: Duration) -> Option<String> {
    if state["terminated"]["exitCode"] == 0 {
        return Some(format!("{{\"accuracy\":0.{}}}", accuracy(pod)));
    }
    let policy = text(pod, "/spec/containers/0/terminationMessagePolicy");
    if policy == "FallbackToLogsOnError" { log(pod, state, job_time) } else { None }
}

/// Returns the log of a container in this state. Returns `None` if it has not started.
fn log(pod: &Value, state: &Value, job_time: Duration) -> Option<String> {
    let started = text(state, "/running/startedAt").to_owned() + text(state, "/terminated/startedAt");
    let started = humantime::parse_rfc3339(&started).ok()?;
    let finished = humantime::parse_rfc3339(text(state, "/terminated/finishedAt"));
    let ran = finished.unwrap_or_else(|_| SystemTime::now()).duration_since(started).unwrap_or_default();
    let exit_code = state["terminated"]["exitCode"].as_u64();
    let mut log = header(pod);
    // A classifier with another exit code was stopped before its end.
    let is_done = |step: u32| matches!(exit_code, Some(0 | 1)) || ran >= job_time / STEPS * (step + 1);
    for step in (0..STEPS).take_while(|step| is_done(*step)) {
        let (epoch, batch, loss) = (step / 6 + 1, (step % 6 + 1) * 100, 1.2 / f64::from(step + 4));
        log.push_str(&format!("Epoch [{epoch}/5], Step [{batch}/600], Loss: {loss:.4}\n"));
    }
    match exit_code {
        Some(0) => log.push_str(&format!("Accuracy of the network on the 10K test images: {} %\n", accuracy(pod) / 10)),
        Some(1) => log.push_str("classifier: the training has failed\n"),
        _ => {}
    }
    Some(log)
}

/// Returns the lines before the training.
fn header(pod: &Value) -> String {
    let limit = quantity::parse(text(pod, "/spec/containers/0/resources/limits/cpu"));
    let limit = limit.map_or_else(|| "none".to_owned(), |milli| format!("{}.{}", milli / 1000, milli % 1000 / 100));
    format!("dataset: {}\ntype: {}\ncpu limit: {limit}\n", variable(pod, "DATASET"), variable(pod, "TYPE"))
}

/// Returns how many of a thousand images are classified correctly, near the goals for the real data in classifier/README.md.
fn accuracy(pod: &Value) -> u32 {
    match (variable(pod, "DATASET"), variable(pod, "TYPE")) {
        ("mnist", "cnn") => 989,
        ("kmnist", "ff") => 903,
        ("kmnist", "cnn") => 948,
        _ => 978,
    }
}

/// Returns the value of an environment variable of the first container, or an empty one.
fn variable<'a>(pod: &'a Value, name: &str) -> &'a str {
    let variables = items(&pod["spec"]["containers"][0]["env"]);
    variables.iter().find(|pair| pair["name"] == name).map_or("", |pair| text(pair, "/value"))
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
