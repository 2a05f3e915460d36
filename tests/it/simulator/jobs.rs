//! Jobs, pods, quotas and nodes.

use super::{FREE_JOBS, FREE_PODS, JOBS, PODS, job, names, pod, start, start_with, text};
use crate::support::eventually;
use crate::support::kubernetes::MERGE;
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[test]
fn job_runs_to_its_end_and_its_pod_shows_it() {
    let local = start("short");
    let path = local.post("free");
    eventually("a pod that runs", || local.phases(FREE_PODS) == ["Running"]);
    let running = &local.kube.items(FREE_PODS)[0];
    assert!(!text(running, "/status/podIP").is_empty() && !text(running, "/spec/nodeName").is_empty(), "{running}");
    assert_eq!(running["metadata"]["ownerReferences"][0]["kind"], "Job");
    eventually("a Job that succeeds", || local.kube.get(&path).1["status"]["succeeded"] == 1);
    let done = local.kube.get(&path).1;
    assert_eq!(done["status"]["conditions"][0]["type"], "Complete");
    let pod = &local.kube.items(FREE_PODS)[0];
    assert_eq!(text(pod, "/status/phase"), "Succeeded");
    let log = local.kube.get(&format!("{FREE_PODS}/{}/log", text(pod, "/metadata/name"))).1;
    let log = log.as_str().unwrap();
    assert!(log.starts_with("dataset: mnist\ntype: ff\ncpu limit: 0.9\nEpoch [1/5], Step [100/600], Loss: "), "{log}");
    assert!(log.ends_with("\nAccuracy of the network on the 10K test images: 97 %\n"), "{log}");
    let events = local.kube.items("/api/v1/namespaces/free-service/events");
    let reasons: BTreeSet<String> = events.iter().map(|event| text(event, "/reason")).collect();
    for reason in ["SuccessfulCreate", "Scheduled", "Started", "Completed"] {
        assert!(reasons.contains(reason), "no {reason} in {reasons:?}");
    }
}

#[test]
fn pod_that_succeeds_has_the_accuracy_of_its_log_as_termination_message() {
    let local = start_with("short", &["--local-nodes", "4"]);
    let kinds =
        [("free", "mnist", 978), ("free", "kmnist", 903), ("premium", "mnist", 989), ("premium", "kmnist", 948)];
    let jobs = kinds.map(|(tier, dataset, _)| local.post_dataset(tier, dataset));
    for (job, (tier, _, permille)) in jobs.iter().zip(kinds) {
        eventually("a Job that succeeds", || local.kube.get(job).1["status"]["succeeded"] == 1);
        let pods = if tier == "free" { FREE_PODS } else { PODS };
        let name = job.rsplit('/').next().unwrap();
        let pod = local.kube.items(&format!("{pods}?labelSelector=job-name={name}")).remove(0);
        let state = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        assert_eq!((&state["exitCode"], &state["reason"]), (&json!(0), &json!("Completed")));
        assert_eq!(text(state, "/message"), format!("{{\"accuracy\":0.{permille}}}"));
        let time = |key: &str| humantime::parse_rfc3339(state[key].as_str().unwrap()).unwrap();
        assert!(time("startedAt") < time("finishedAt"), "{state}");
        let log = local.kube.get(&format!("{pods}/{}/log", text(&pod, "/metadata/name"))).1;
        let last = format!("\nAccuracy of the network on the 10K test images: {} %\n", permille / 10);
        assert!(log.as_str().unwrap().ends_with(&last), "{log}");
    }
}

#[test]
fn job_fails_after_its_active_deadline_and_its_pod_is_deleted() {
    let local = start("long");
    let mut object = job("overdue", "long");
    object["spec"]["activeDeadlineSeconds"] = json!(1);
    assert_eq!(local.kube.post(JOBS, &object).0, 201);
    let path = format!("{JOBS}/overdue");
    eventually("a Job that fails", || local.kube.get(&path).1["status"]["failed"] == 1);
    let failed = local.kube.get(&path).1;
    let condition = &failed["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["reason"]), (&json!("Failed"), &json!("DeadlineExceeded")), "{failed}");
    assert_eq!(text(condition, "/message"), "Job was active longer than specified deadline");
    eventually("no pod", || local.kube.items(PODS).is_empty());
}

#[test]
fn job_and_pod_have_the_labels_of_new_and_of_old_versions() {
    let local = start("long");
    let path = local.post("premium");
    eventually("a pod", || !local.kube.items(PODS).is_empty());
    let (job, pod) = (local.kube.get(&path).1, local.kube.items(PODS).remove(0));
    let (id, name) = (&job["metadata"]["uid"], &job["metadata"]["name"]);
    assert_eq!(job["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": id}}));
    for labels in [&pod["metadata"]["labels"], &job["spec"]["template"]["metadata"]["labels"]] {
        for (key, value) in [("controller-uid", id), ("job-name", name)] {
            assert_eq!((&labels[key], &labels[format!("batch.kubernetes.io/{key}")]), (value, value), "{labels}");
        }
    }
}

#[test]
fn suspended_job_has_no_pod_until_it_is_resumed() {
    let local = start("short");
    let suspend = |is: bool| local.kube.patch(&format!("{JOBS}/j"), MERGE, &json!({"spec": {"suspend": is}}));
    let condition = || local.kube.get(&format!("{JOBS}/j")).1["status"]["conditions"][0].clone();
    assert_eq!(local.kube.post(JOBS, &job("j", "long")).0, 201);
    eventually("a pod that runs", || local.phases(PODS) == ["Running"]);
    assert_eq!(suspend(true).0, 200);
    eventually("a suspended Job without a pod", || {
        local.kube.items(PODS).is_empty() && condition()["reason"] == "JobSuspended"
    });
    let tables = local.kube.with("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let shown = || tables.get(JOBS).1["rows"][0]["cells"][1].clone();
    assert_eq!(shown(), "Suspended");
    assert_eq!(suspend(false).0, 200);
    eventually("a pod that runs", || local.phases(PODS) == ["Running"]);
    assert_eq!((condition()["reason"].clone(), shown()), (json!("JobResumed"), json!("Running")));

    for (name, tag, end) in [("done", "short", "Complete"), ("failed", "fails", "Failed")] {
        local.kube.delete(&format!("{JOBS}/j"), &json!({}));
        assert_eq!(local.kube.post(JOBS, &job(name, tag)).0, 201);
        eventually(end, || tables.get(&format!("{JOBS}/{name}")).1["rows"][0]["cells"][1] == end);
    }
}

#[test]
fn third_free_job_waits_for_the_quota() {
    let local = start("short");
    let paths: Vec<String> = (0..3).map(|_| local.post("free")).collect();
    let refused = "exceeded quota: free-cpu, requested: limits.cpu=900m,requests.cpu=900m, \
                   used: limits.cpu=1800m,requests.cpu=1800m, limited: limits.cpu=2,requests.cpu=2";
    eventually("the refusal of the third", || {
        let events = local.kube.items("/api/v1/namespaces/free-service/events");
        events.iter().any(|event| event["reason"] == "FailedCreate" && text(event, "/message").ends_with(refused))
    });
    eventually("three successes", || {
        let live = local.phases(FREE_PODS).iter().filter(|phase| *phase != "Succeeded").count();
        assert!(live <= 2, "{live} pods at a time");
        paths.iter().all(|path| local.kube.get(path).1["status"]["succeeded"] == 1)
    });
    let quota = local.kube.get("/api/v1/namespaces/free-service/resourcequotas/free-cpu").1;
    assert_eq!(quota["status"]["used"], json!({"limits.cpu": "0", "requests.cpu": "0"}));
}

#[test]
fn changed_job_is_retried_at_once() {
    let local = start("long");
    let mut paths: Vec<String> = (0..3).map(|_| local.post("free")).collect();
    eventually("two pods", || local.phases(FREE_PODS).len() == 2);
    let tries = || {
        let events = local.kube.items("/api/v1/namespaces/free-service/events");
        events.iter().filter(|event| event["reason"] == "FailedCreate").count()
    };
    eventually("three refusals", || tries() == 3);
    paths.retain(|path| local.kube.get(path).1["status"]["active"].is_null());
    // The regular retries alone, after 4, 8, 16 and 32 s, would not end within the time of an event.
    for number in 0..5 {
        let before = tries();
        local.kube.patch(&paths[0], MERGE, &json!({"metadata": {"annotations": {"try": number.to_string()}}}));
        eventually("one more", || tries() > before);
    }
}

#[test]
fn quota_errors_have_the_text_of_kubernetes() {
    let local = start("long");
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"limits.memory": "1Gi", "count/jobs.batch": "1"}}});
    assert_eq!(local.kube.post("/api/v1/namespaces/default/resourcequotas", &quota).0, 201);
    let table = [
        (PODS, pod("a", "long", "1m"), "pods \"a\" is forbidden: failed quota: q: must specify limits.memory"),
        (
            FREE_PODS,
            pod("b", "long", "2500m"),
            "pods \"b\" is forbidden: exceeded quota: free-cpu, requested: limits.cpu=2500m,requests.cpu=2500m, \
             used: limits.cpu=0,requests.cpu=0, limited: limits.cpu=2,requests.cpu=2",
        ),
    ];
    for (path, object, message) in table {
        let (status, body) = local.kube.post(path, &object);
        assert_eq!(
            (status, text(&body, "/reason"), text(&body, "/message")),
            (403, "Forbidden".into(), message.into())
        );
    }
    assert_eq!(local.kube.post(JOBS, &job("one", "long")).0, 201);
    let (status, body) = local.kube.post(JOBS, &job("two", "long"));
    let message = "jobs.batch \"two\" is forbidden: exceeded quota: q, requested: count/jobs.batch=1, \
                   used: count/jobs.batch=1, limited: count/jobs.batch=1";
    assert_eq!((status, text(&body, "/message").as_str()), (403, message));
}

#[test]
fn node_runs_one_classifier_at_a_time() {
    let local = start_with("long", &["--local-nodes", "1"]);
    let first = local.post("premium");
    eventually("one that runs", || local.phases(PODS) == ["Running"]);
    local.post("premium");
    let condition = |pod: &Value| pod["status"]["conditions"][0].clone();
    eventually("another that waits", || {
        let pods = local.kube.items(PODS);
        pods.iter().any(|pod| condition(pod)["message"] == "0/1 nodes are available: 1 Insufficient cpu.")
    });
    let waiting = local.kube.items(PODS).into_iter().find(|pod| pod["spec"]["nodeName"].is_null()).unwrap();
    assert_eq!((text(&waiting, "/status/phase"), text(&waiting, "/status/podIP")), ("Pending".into(), String::new()));
    assert_eq!(condition(&waiting)["reason"], "Unschedulable");
    assert_eq!(local.kube.delete(&first, &json!({"propagationPolicy": "Background"})).0, 200);
    eventually("its turn", || {
        let pods = local.kube.items(PODS);
        pods.len() == 1
            && names(&pods) == names(std::slice::from_ref(&waiting))
            && pods[0]["status"]["phase"] == "Running"
    });
}

#[test]
fn image_tag_decides_the_outcome_of_a_pod() {
    let local = start("fails");
    let failing = local.post("premium");
    let reason = "/status/conditions/0/reason";
    eventually("a Job that failed", || text(&local.kube.get(&failing).1, reason) == "BackoffLimitExceeded");
    assert_eq!(local.phases(PODS), ["Failed"]);
    assert_eq!(local.kube.get(&failing).1["status"]["failed"], 1);
    let failed = local.kube.items(PODS).remove(0);
    let state = &failed["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&state["exitCode"], &state["reason"]), (&json!(1), &json!("Error")));
    // terminationMessagePolicy: FallbackToLogsOnError.
    let log = local.kube.get(&format!("{PODS}/{}/log", text(&failed, "/metadata/name"))).1;
    assert!(text(state, "/message").ends_with("\nclassifier: the training has failed\n"), "{state}");
    assert_eq!(state["message"], log);
    assert_eq!(local.kube.post(PODS, &pod("gone", "missing", "1m")).0, 201);
    eventually("an image that cannot be pulled", || {
        let pod = local.kube.get(&format!("{PODS}/gone")).1;
        text(&pod, "/status/containerStatuses/0/state/waiting/reason") == "ImagePullBackOff"
    });
    let (status, body) = local.kube.get(&format!("{PODS}/gone/log"));
    assert_eq!((status, text(&body, "/reason")), (400, "BadRequest".into()));
}

#[test]
fn timeout_ends_a_pod_that_cannot_start_and_one_that_does_not_end() {
    for image in ["missing", "long"] {
        let local = start_with(image, &["--job-timeout", "1"]);
        // The third waits for the quota, which only an ended pod frees.
        let jobs = [(); 3].map(|()| local.post("free"));
        for job in jobs {
            eventually("a Job that failed", || {
                text(&local.kube.get(&job).1, "/status/conditions/0/reason") == "BackoffLimitExceeded"
            });
        }
        let pods = local.kube.items("/api/v1/namespaces/free-service/pods");
        assert_eq!(pods.len(), 3);
        assert!(pods.iter().all(|pod| text(pod, "/status/reason") == "DeadlineExceeded"), "{image}: {pods:?}");
        // A pod whose time ended before its container started has no state.
        let state = |pod: &Value| pod["status"]["containerStatuses"][0]["state"].clone();
        assert!(pods.iter().all(|pod| state(pod)["running"].is_null()), "{image}: {pods:?}");
        let mut exit_codes = pods.iter().filter_map(|pod| state(pod)["terminated"]["exitCode"].as_u64());
        assert!(exit_codes.all(|code| code == 143), "{image}: {pods:?}");
    }
}

#[test]
fn finished_job_is_deleted_with_its_pod_after_its_ttl() {
    for ttl in ["0", "1"] {
        let local = start_with("short", &["--job-ttl", ttl]);
        local.post("premium");
        eventually("a Job and a pod that went", || {
            local.kube.items(JOBS).is_empty() && local.kube.items(PODS).is_empty()
        });
    }
}

#[test]
fn deleted_job_deletes_its_pods_and_lost_pods_are_replaced() {
    let local = start("long");
    let path = local.post("premium");
    eventually("a pod", || local.phases(PODS) == ["Running"]);
    let first = names(&local.kube.items(PODS));
    let (status, going) = local.kube.delete(&format!("{PODS}/{}", first.first().unwrap()), &json!({}));
    assert!(status == 200 && going["metadata"]["deletionTimestamp"].is_string(), "{going}");
    eventually("another pod", || {
        let pods = local.kube.items(PODS);
        pods.len() == 1 && names(&pods) != first
    });
    let second = names(&local.kube.items(PODS));
    assert_eq!(local.kube.delete(&path, &json!({"propagationPolicy": "Orphan"})).0, 200);
    assert_eq!(local.kube.get(&path).0, 404);
    assert_eq!(names(&local.kube.items(PODS)), second);
    assert_eq!(
        local.kube.delete(&format!("{PODS}/{}", second.first().unwrap()), &json!({"gracePeriodSeconds": 0})).0,
        200
    );
    assert_eq!(local.kube.items(PODS), [Value::Null; 0]);

    let path = local.post("premium");
    eventually("a pod", || local.phases(PODS) == ["Running"]);
    let (_, going) = local.kube.delete(&path, &json!({"propagationPolicy": "Foreground"}));
    assert!(going["metadata"]["deletionTimestamp"].is_string(), "{going}");
    eventually("the end of both", || {
        // The Job is deleted last.
        local.kube.get(&path).0 == 404 && local.kube.items(PODS).is_empty()
    });
}

#[test]
fn pod_can_be_deleted_in_every_phase() {
    let local = start("short");
    for (name, tag, cpu) in [
        ("waits", "long", "3"),
        ("runs", "long", "1m"),
        ("done", "short", "1m"),
        ("failed", "fails", "1m"),
        ("unpulled", "missing", "1m"),
    ] {
        assert_eq!(local.kube.post(PODS, &pod(name, tag, cpu)).0, 201);
    }
    let reached =
        |name: &str, phase: &str| text(&local.kube.get(&format!("{PODS}/{name}")).1, "/status/phase") == phase;
    eventually("every phase", || {
        reached("done", "Succeeded") && reached("failed", "Failed") && reached("runs", "Running")
    });
    // These pods have just been created.
    for name in ["new", "newer"] {
        assert_eq!(local.kube.post(PODS, &pod(name, "short", "1m")).0, 201);
    }
    for name in ["waits", "runs", "done", "failed", "unpulled", "new", "newer"] {
        assert_eq!(local.kube.delete(&format!("{PODS}/{name}"), &json!({})).0, 200, "{name}");
    }
    // Delete it again while it is terminating.
    assert!([200, 404].contains(&local.kube.delete(&format!("{PODS}/runs"), &json!({})).0));
    eventually("the end of all", || local.kube.items(PODS).is_empty());
    local.is_sound();
}

#[test]
fn deleted_namespace_deletes_its_objects() {
    let local = start("long");
    local.post("free");
    assert_eq!(local.kube.delete("/api/v1/namespaces/free-service", &json!({})).0, 200);
    eventually("its end", || local.kube.get("/api/v1/namespaces/free-service").0 == 404);
    assert!(local.kube.items(FREE_JOBS).is_empty() && local.kube.items(FREE_PODS).is_empty());
    let (status, body) = local.kube.post(FREE_JOBS, &job("late", "short"));
    assert_eq!((status, text(&body, "/message").as_str()), (404, "namespaces \"free-service\" not found"));
    let (status, body) = local.kube.delete("/api/v1/namespaces/default", &json!({}));
    assert_eq!(
        (status, text(&body, "/message").as_str()),
        (403, "namespaces \"default\" is forbidden: this namespace may not be deleted")
    );
}
