//! What a simulated classifier writes: its log and its termination message.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::cluster::Cluster;
use super::request::Request;
use super::resources::{PODS, Target};
use super::response::{NextBytes, Response};
use super::status::ApiStatus;
use super::store::{Store, items, name, namespace, text, uid};
use crate::kube::quantity;

/// Lines of a training's log, as the classifier writes them: 5 epochs of 600 batches, one line per 100.
const STEPS: u32 = 30;

/// Parameters of a log that are understood.
const PARAMETERS: [&str; 4] = ["container", "follow", "limitBytes", "tailLines"];

/// Returns the log that the classifier would have written by now, or with `follow` a stream of it.
///
/// # Errors
/// 404, or 400 for a container that has not started and for an unknown parameter.
pub fn read(
    cluster: &Arc<Cluster>,
    store: &Store,
    request: &Request,
    target: &Target<'_>,
) -> Result<Response, ApiStatus> {
    let Target { namespace, name, .. } = *target;
    let (tail, limit) = (number(request, "tailLines")?, number(request, "limitBytes")?);
    if let Some((parameter, _)) = request.query.iter().find(|(name, _)| !PARAMETERS.contains(&name.as_str())) {
        return Err(ApiStatus::bad_request(format!("the simulator does not support the log parameter {parameter}")));
    }
    let pod = store.get(&PODS, namespace, name).ok_or_else(|| ApiStatus::not_found(&PODS, name))?;
    check_container(pod, request.query("container"))?;
    let Some(log) = log(pod, state_of(pod), cluster.job_time()) else { return not_started(pod) };
    let start = tail.map_or(0, |lines| start_of_tail(&log, lines));
    match (request.flag("follow"), limit) {
        (false, limit) => {
            Ok(Response::text(log[start..].bytes().take(limit.unwrap_or(usize::MAX)).collect::<Vec<_>>()))
        }
        (true, None) => Ok(Response::Stream("text/plain", follow(cluster, pod, start))),
        _ => Err(ApiStatus::bad_request("the simulator does not support follow with limitBytes")),
    }
}

/// Returns the number in a parameter.
fn number(request: &Request, parameter: &str) -> Result<Option<usize>, ApiStatus> {
    let text = request.query(parameter);
    let invalid = |_| ApiStatus::bad_request(format!("{parameter}: Invalid value: \"{text}\""));
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(invalid) }
}

fn check_container(pod: &Value, wanted: &str) -> Result<(), ApiStatus> {
    if wanted.is_empty() || text(pod, "/spec/containers/0/name") == wanted {
        return Ok(());
    }
    Err(ApiStatus::bad_request(format!("container {wanted} is not valid for pod {}", text(pod, "/metadata/name"))))
}

fn state_of(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["state"]
}

/// Returns the start of the last `lines` lines.
fn start_of_tail(log: &str, lines: usize) -> usize {
    let skipped = log.lines().count().saturating_sub(lines);
    log.split_inclusive('\n').take(skipped).map(str::len).sum()
}

/// Returns the log of a pod from the byte `sent` on, until its container has ended or the pod is gone.
fn follow(cluster: &Arc<Cluster>, pod: &Value, mut sent: usize) -> NextBytes {
    let cluster = Arc::clone(cluster);
    let (namespace, pod_name, id) = (namespace(pod).to_owned(), name(pod).to_owned(), uid(pod).to_owned());
    let mut version = None;
    Box::new(move |timeout| {
        // The first call returns what there is.
        let wait = version.map_or(Duration::ZERO, |_| timeout);
        let store = cluster.wait(version.unwrap_or_default(), Instant::now() + wait)?;
        version = Some(store.version());
        let pod = store.get(&PODS, &namespace, &pod_name).filter(|pod| uid(pod) == id)?;
        let log = log(pod, state_of(pod), cluster.job_time())?;
        let piece = log.as_bytes()[sent..].to_vec();
        sent = log.len();
        let is_over = piece.is_empty() && !state_of(pod)["terminated"].is_null();
        (!is_over).then_some(piece)
    })
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
