//! The logs of pods, as a kubelet returns them.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::cluster::Cluster;
use super::request::Request;
use super::resources::{PODS, Target};
use super::response::{NextBytes, Response};
use super::status::ApiStatus;
use super::store::{Store, items, name, namespace, text, uid};
use super::training::{self, Line};
use crate::kube::time;

/// Parameters that are understood. The last two change nothing here.
const PARAMETERS: [&str; 10] = [
    "container",
    "follow",
    "limitBytes",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "tailLines",
    "timestamps",
    "insecureSkipTLSVerifyBackend",
    "pretty",
];

/// The part of a log that a request wants.
struct Selection {
    tail: Option<usize>,
    limit: Option<usize>,
    since: Option<SystemTime>,
    timestamps: bool,
}

/// Returns the log that the classifier would have written by now, or with `follow` a stream of it.
///
/// # Errors
/// 404; 400 for a container that has not started and for an unknown parameter; 422 for a number out of its range.
pub fn read(
    cluster: &Arc<Cluster>,
    store: &Store,
    request: &Request,
    target: &Target<'_>,
) -> Result<Response, ApiStatus> {
    let Target { namespace, name, .. } = *target;
    if let Some((parameter, _)) = request.query.iter().find(|(name, _)| !PARAMETERS.contains(&name.as_str())) {
        return Err(ApiStatus::bad_request(format!("the simulator does not support the log parameter {parameter}")));
    }
    let selection = Selection::parse(request, name)?;
    let pod = store.get(&PODS, namespace, name).ok_or_else(|| ApiStatus::not_found(&PODS, name))?;
    let container = check_container(pod, request.query("container"))?;
    if request.flag("previous") {
        let message = format!("previous terminated container {container:?} in pod {name:?} not found");
        return Err(ApiStatus::bad_request(message));
    }
    let Some(log) = training::log(pod, state_of(pod), cluster.job_time()) else { return not_started(pod) };
    let start = selection.start(&log);
    if request.flag("follow") {
        return Ok(Response::Stream("text/plain", follow(cluster, pod, selection, start)));
    }
    let mut limit = selection.limit;
    Ok(Response::text(selection.bytes(&log[start..], &mut limit)))
}

impl Selection {
    fn parse(request: &Request, pod: &str) -> Result<Self, ApiStatus> {
        let invalid =
            |reason: String| ApiStatus::new(422, "Invalid", format!("PodLogOptions {pod:?} is invalid: {reason}"));
        let number = |name: &str, min: usize| {
            let bound = if min == 0 { "greater than or equal to 0" } else { "greater than 0" };
            let check = |number: i64| {
                let found = usize::try_from(number).ok().filter(|found| *found >= min);
                found.ok_or_else(|| invalid(format!("{name}: Invalid value: {number}: must be {bound}")))
            };
            request.number(name)?.map(check).transpose()
        };
        let seconds = number("sinceSeconds", 1)?;
        let since = match (seconds, request.query("sinceTime")) {
            (Some(_), time) if !time.is_empty() => {
                return Err(invalid("Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified".into()));
            }
            (Some(seconds), _) => SystemTime::now().checked_sub(Duration::from_secs(seconds as u64)),
            (None, "") => None,
            (None, time) => Some(parse_time(time)?),
        };
        let timestamps = request.flag("timestamps");
        Ok(Self { tail: number("tailLines", 0)?, limit: number("limitBytes", 1)?, since, timestamps })
    }

    /// Returns the index of the first line.
    fn start(&self, log: &[Line]) -> usize {
        self.tail.map_or(0, |tail| log.len().saturating_sub(tail))
    }

    /// Returns the bytes of these lines, and subtracts them from `limit`.
    fn bytes(&self, lines: &[Line], limit: &mut Option<usize>) -> Vec<u8> {
        let wanted = lines.iter().filter(|(time, _)| self.since.is_none_or(|since| *time >= since));
        let text = wanted.map(|(time, line)| match self.timestamps {
            true => format!("{} {line}\n", humantime::format_rfc3339_nanos(*time)),
            false => format!("{line}\n"),
        });
        let mut bytes = text.collect::<String>().into_bytes();
        if let Some(limit) = limit {
            bytes.truncate(*limit);
            *limit -= bytes.len();
        }
        bytes
    }
}

/// Parses sinceTime. The `+` of an offset is a space if the client has not escaped it.
fn parse_time(text: &str) -> Result<SystemTime, ApiStatus> {
    time::parse(&text.replace(' ', "+")).ok_or_else(|| {
        ApiStatus::bad_request(format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?}"))
    })
}

/// Returns the name of the wanted container. Only the first one has a log.
fn check_container<'a>(pod: &'a Value, wanted: &str) -> Result<&'a str, ApiStatus> {
    let names: Vec<&str> = items(&pod["spec"]["containers"]).iter().map(name_of).collect();
    let first = names.first().copied().unwrap_or_default();
    let message = match wanted {
        "" if names.len() > 1 => {
            let names = names.join(" ");
            format!("a container name must be specified for pod {}, choose one of: [{names}]", name(pod))
        }
        wanted if wanted.is_empty() || wanted == first => return Ok(first),
        wanted if names.contains(&wanted) => format!("the simulator has only the log of the container {first}"),
        _ => format!("container {wanted} is not valid for pod {}", name(pod)),
    };
    Err(ApiStatus::bad_request(message))
}

fn name_of(container: &Value) -> &str {
    text(container, "/name")
}

fn state_of(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["state"]
}

/// Returns the log of a pod from the line `sent` on, until its container has ended, the pod is gone or the limit is reached.
fn follow(cluster: &Arc<Cluster>, pod: &Value, selection: Selection, mut sent: usize) -> NextBytes {
    let cluster = Arc::clone(cluster);
    let (namespace, pod_name, id) = (namespace(pod).to_owned(), name(pod).to_owned(), uid(pod).to_owned());
    let (mut version, mut limit, mut is_over) = (None, selection.limit, false);
    Box::new(move |timeout| {
        if is_over || limit == Some(0) {
            return None;
        }
        // The first call returns what there is.
        let wait = version.map_or(Duration::ZERO, |_| timeout);
        let store = cluster.wait(version.unwrap_or_default(), Instant::now() + wait)?;
        version = Some(store.version());
        let pod = store.get(&PODS, &namespace, &pod_name).filter(|pod| uid(pod) == id)?;
        let log = training::log(pod, state_of(pod), cluster.job_time())?;
        let piece = selection.bytes(log.get(sent..).unwrap_or_default(), &mut limit);
        sent = log.len();
        is_over = !state_of(pod)["terminated"].is_null();
        Some(piece)
    })
}

fn not_started(pod: &Value) -> Result<Response, ApiStatus> {
    // Without a node there is no kubelet to ask, and Kubernetes returns an empty log.
    if text(pod, "/spec/nodeName").is_empty() {
        return Ok(Response::text(""));
    }
    let is_waiting = !state_of(pod)["waiting"].is_null();
    let state = if is_waiting { "image can't be pulled" } else { "ContainerCreating" };
    let (container, name) = (text(pod, "/spec/containers/0/name"), name(pod));
    Err(ApiStatus::bad_request(format!("container \"{container}\" in pod \"{name}\" is waiting to start: {state}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_any_offset() {
        let expected = humantime::parse_rfc3339("2026-01-02T03:04:05Z").expect("a time");
        for text in [
            "2026-01-02T03:04:05Z",
            "2026-01-02T05:34:05+02:30",
            "2026-01-01T22:04:05-05:00",
            "2026-01-02T05:04:05 02:00",
        ] {
            assert_eq!(parse_time(text).ok(), Some(expected), "{text}");
        }
        for text in [
            "",
            "x",
            "2026-01-02",
            "2026-01-02T03:04:05",
            "2026-01-02T03:04:05+0230",
            "2026-01-02T03:04:05\u{e4}+02:00",
        ] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
