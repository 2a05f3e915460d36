//! Logs of pods.

use super::{PODS, container, pod, start, start_with, text};
use crate::support::eventually;
use serde_json::json;
use std::time::{Duration, SystemTime};

#[test]
fn log_is_followed_until_the_container_ends() {
    let local = start("short");
    let job = local.post("premium");
    eventually("a pod that runs", || local.phases(PODS) == ["Running"]);
    let pod = local.kube.items(PODS)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let log = |query: &str| local.kube.get(&format!("{PODS}/{pod}/log{query}"));
    let followed = ["?follow=true&limitBytes=40&container=classifier", "?container=classifier&follow=True"].map(log);
    eventually("the success", || local.kube.get(&job).1["status"]["succeeded"] == 1);
    let whole = log("?follow=False").1;
    let whole = whole.as_str().unwrap();
    assert_eq!(followed, [(200, json!(whole[..40])), (200, json!(whole))]);
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let last = lines[lines.len() - 2..].concat();
    for (query, expected) in [
        ("?tailLines=2", last.as_str()),
        ("?tailLines=2&follow=1", &last),
        ("?tailLines=2&limitBytes=5", &last[..5]),
        ("?tailLines=0", ""),
        ("?limitBytes=7", "dataset"),
        ("?limitBytes=7&follow=1", "dataset"),
        ("?sinceSeconds=3600&previous=false", whole),
        ("?sinceTime=2020-01-01T00:00:00%2B02:00", whole),
        ("?sinceTime=2100-01-01T00:00:00Z", ""),
        ("?sinceTime=2100-01-01T00:00:00Z&follow=1", ""),
    ] {
        assert_eq!(log(query).1, expected, "{query}");
    }
    let previous = format!("previous terminated container \"classifier\" in pod \"{pod}\" not found");
    let not_valid = format!("container other is not valid for pod {pod}");
    for (query, status, message) in [
        ("?previous=true", 400, previous.as_str()),
        ("?container=other", 400, &not_valid),
        ("?tailLines=x", 400, "strconv.ParseInt: parsing \"x\": invalid syntax"),
        ("?stream=Stdout", 400, "the simulator does not support the log parameter stream"),
        ("?sinceTime=now", 400, "parsing time \"now\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"now\""),
        ("?tailLines=-1", 422, "tailLines: Invalid value: -1: must be greater than or equal to 0"),
        ("?limitBytes=0", 422, "limitBytes: Invalid value: 0: must be greater than 0"),
        ("?sinceSeconds=0", 422, "sinceSeconds: Invalid value: 0: must be greater than 0"),
        (
            "?sinceSeconds=1&sinceTime=2020-01-01T00:00:00Z",
            422,
            "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
        ),
    ] {
        let (found, body) = log(query);
        assert_eq!(found, status, "{query}");
        assert!(text(&body, "/message").ends_with(message), "{query}: {body}");
    }
}

#[test]
fn timestamps_are_those_of_the_lines_and_select_them() {
    let local = start_with("short", &["--local-job-seconds", "3"]);
    let job = local.post("premium");
    eventually("the success", || local.kube.get(&job).1["status"]["succeeded"] == 1);
    let name = text(&local.kube.items(PODS)[0], "/metadata/name");
    let log = |query: &str| local.kube.get(&format!("{PODS}/{name}/log{query}")).1.as_str().unwrap().to_owned();
    let stamped = log("?timestamps=true");
    let lines: Vec<(&str, &str)> = stamped.lines().map(|line| line.split_once(' ').unwrap()).collect();
    let plain: Vec<&str> = lines.iter().map(|(_, line)| *line).collect();
    assert_eq!(plain.join("\n") + "\n", log(""));
    let times: Vec<SystemTime> = lines.iter().map(|(time, _)| humantime::parse_rfc3339(time).unwrap()).collect();
    assert!(times.is_sorted(), "{stamped}");
    assert!(times[times.len() - 1].duration_since(times[0]).unwrap() >= Duration::from_secs(2), "{stamped}");
    let middle = lines[lines.len() / 2].0;
    let later: String = lines.iter().filter(|(time, _)| *time >= middle).map(|(_, line)| format!("{line}\n")).collect();
    assert!(later.len() < log("").len());
    assert_eq!(log(&format!("?sinceTime={middle}")), later);
}

#[test]
fn pod_with_several_containers_needs_the_name_of_one() {
    let local = start("long");
    let mut two = pod("two", "long", "1m");
    let mut second = container("long", "1m");
    second["name"] = json!("second");
    two["spec"]["containers"].as_array_mut().unwrap().push(second);
    assert_eq!(local.kube.post(PODS, &two).0, 201);
    eventually("a pod that runs", || local.phases(PODS) == ["Running"]);
    let log = |query: &str| local.kube.get(&format!("{PODS}/two/log{query}"));
    let (status, body) = log("");
    let message = "a container name must be specified for pod two, choose one of: [c second]";
    assert_eq!((status, text(&body, "/message").as_str()), (400, message));
    assert_eq!((log("?container=c").0, log("?container=second").0), (200, 400));
}
