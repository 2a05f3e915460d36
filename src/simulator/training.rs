//! What a simulated classifier writes: its log and its termination message.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::store::{items, text};
use crate::kube::quantity;

/// Lines of a training's log, as the classifier writes them: 5 epochs of 600 batches, one line per 100.
const STEPS: u32 = 30;

/// A line of a log without its end, and when it was written.
pub type Line = (SystemTime, String);

/// Returns the log of a container in this state. Returns `None` if it has not started.
pub fn log(pod: &Value, state: &Value, job_time: Duration) -> Option<Vec<Line>> {
    let started = text(state, "/running/startedAt").to_owned() + text(state, "/terminated/startedAt");
    let started = humantime::parse_rfc3339(&started).ok()?;
    let finished = humantime::parse_rfc3339(text(state, "/terminated/finishedAt"));
    let end = finished.unwrap_or_else(|_| SystemTime::now());
    let exit_code = state["terminated"]["exitCode"].as_u64();
    let mut log: Vec<Line> = header(pod).into_iter().map(|line| (started, line)).collect();
    let time = |step: u32| started + job_time / STEPS * (step + 1);
    // A classifier with another exit code was stopped before its end.
    let is_done = |step: u32| matches!(exit_code, Some(0 | 1)) || time(step) <= end;
    for step in (0..STEPS).take_while(|step| is_done(*step)) {
        let (epoch, batch, loss) = (step / 6 + 1, (step % 6 + 1) * 100, 1.2 / f64::from(step + 4));
        log.push((time(step).min(end), format!("Epoch [{epoch}/5], Step [{batch}/600], Loss: {loss:.4}")));
    }
    match exit_code {
        Some(0) => log.push((end, format!("Accuracy of the network on the 10K test images: {} %", accuracy(pod) / 10))),
        Some(1) => log.push((end, "classifier: the training has failed".to_owned())),
        _ => {}
    }
    Some(log)
}

/// Returns the termination message of a container in this state: the classifier's accuracy, or, where the container has that
/// policy, the log of a failed classifier. The log is shorter than 80 lines and 2048 bytes, of which a kubelet takes the last.
pub fn termination_message(pod: &Value, state: &Value, job_time: Duration) -> Option<String> {
    if state["terminated"]["exitCode"] == 0 {
        return Some(format!("{{\"accuracy\":0.{}}}", accuracy(pod)));
    }
    let policy = text(pod, "/spec/containers/0/terminationMessagePolicy");
    let log = log(pod, state, job_time).filter(|_| policy == "FallbackToLogsOnError")?;
    Some(log.into_iter().map(|(_, line)| line + "\n").collect())
}

/// Returns the lines before the training.
fn header(pod: &Value) -> [String; 3] {
    let limit = quantity::parse(text(pod, "/spec/containers/0/resources/limits/cpu"));
    let limit = limit.map_or_else(|| "none".to_owned(), |milli| format!("{}.{}", milli / 1000, milli % 1000 / 100));
    [
        format!("dataset: {}", variable(pod, "DATASET")),
        format!("type: {}", variable(pod, "TYPE")),
        format!("cpu limit: {limit}"),
    ]
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
