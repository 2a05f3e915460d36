//! Jobs of both tiers, their quota, and requests under load.

use super::{
    FREE, PREMIUM, QUOTA_BACKOFF, SOON, config, create, empty_cluster, expected_config, image, in_phase, items, jobs,
    kubeconfig, kubectl, kubectl_ok, manifest, names, own_cluster, owners, pods, post, post_ok, server, text, within,
};
use crate::support::http::Connection;
use crate::support::server::{Server, Setup};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::thread;

#[test]
fn posted_job_runs_its_dataset_and_network_under_its_cpu_limit() {
    empty_cluster();
    let server = server("short");
    for (tier, dataset, namespace, network) in [("free", "mnist", FREE, "ff"), ("premium", "kmnist", PREMIUM, "cnn")] {
        let job = post_ok(&server, tier, dataset);
        within(SOON, "the Job's success", || {
            let text = kubectl_ok(&["get", "job", &job, "-n", namespace, "-o", "jsonpath={.status.succeeded}"]);
            (text == "1").then_some(())
        });
        let log = kubectl_ok(&["logs", &format!("job/{job}"), "-n", namespace]);
        for line in [format!("dataset: {dataset}"), format!("type: {network}"), "cpu limit: 0.9".to_owned()] {
            assert!(log.lines().any(|found| found == line), "no {line:?} in\n{log}");
        }
        assert!(log.lines().last().unwrap().starts_with("Accuracy of the network"), "{log}");
        let pods = pods(namespace);
        let pod = pods.iter().find(|pod| text(pod, "/metadata/labels/job-name") == job).unwrap();
        assert_eq!(text(pod, "/status/phase"), "Succeeded");
        assert_eq!(text(pod, "/spec/containers/0/resources/limits/cpu"), "900m");
        assert_eq!(text(pod, "/spec/containers/0/resources/requests/cpu"), "900m");
        assert_eq!(pod.pointer("/spec/volumes").and_then(Value::as_array).map_or(0, Vec::len), 0, "a token is mounted");
    }
}

#[test]
fn two_of_four_free_jobs_run_and_the_others_follow() {
    empty_cluster();
    let server = server("long");
    let posted: BTreeSet<String> = (0..4).map(|_| post_ok(&server, "free", "mnist")).collect();
    assert_eq!(names(&jobs(FREE)), posted, "four Jobs");
    // The Job controller reports the quota for the other two.
    let refused = within(SOON, "two Jobs that the quota refuses", || {
        let events = items(&["get", "events", "-n", FREE]);
        let over = events.iter().filter(|event| text(event, "/message").contains("exceeded quota: free-cpu"));
        let refused: BTreeSet<_> = over.map(|event| text(event, "/involvedObject/name").to_owned()).collect();
        let ours: BTreeSet<_> = refused.intersection(&posted).cloned().collect();
        (ours.len() == 2).then_some(ours)
    });
    let running = within(SOON, "two running pods", || Some(pods(FREE)).filter(|pods| in_phase(pods, "Running") == 2));
    assert_eq!(running.len(), 2, "exactly two pods");
    assert!(owners(&running).is_disjoint(&refused));

    let first = owners(&running).pop_first().unwrap();
    kubectl_ok(&["delete", "job", &first, "-n", FREE]);
    let running = within(QUOTA_BACKOFF, "the third Job's pod", || {
        let pods = pods(FREE);
        (in_phase(&pods, "Running") == 2 && !owners(&pods).contains(&first)).then_some(pods)
    });
    assert!(!owners(&running).is_disjoint(&refused), "one of those that waited");
}

#[test]
fn finished_free_jobs_make_room_for_waiting_ones() {
    empty_cluster();
    let server = server("short");
    let posted: BTreeSet<String> = (0..3).map(|_| post_ok(&server, "free", "kmnist")).collect();
    within(QUOTA_BACKOFF, "three successes", || {
        let pods = pods(FREE);
        let live = pods.len() - in_phase(&pods, "Succeeded") - in_phase(&pods, "Failed");
        assert!(live <= 2, "{live} pods at a time");
        (in_phase(&pods, "Succeeded") == 3 && owners(&pods) == posted).then_some(())
    });
}

#[test]
fn four_premium_jobs_have_four_pods_and_config_matches_kubectl() {
    empty_cluster();
    let server = server("long");
    let posted: BTreeSet<String> = (0..4).map(|_| post_ok(&server, "premium", "mnist")).collect();
    let running =
        within(SOON, "four running pods", || Some(pods(PREMIUM)).filter(|pods| in_phase(pods, "Running") == 4));
    assert_eq!(owners(&running), posted);
    // An unschedulable pod has neither node nor IP.
    let lonely = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lonely", "namespace": FREE},
        "spec": {
            "nodeSelector": {"no-node": "has-this"},
            "containers": [{"name": "c", "image": image("long"), "resources": {"requests": {"cpu": "1m"}, "limits": {"cpu": "1m"}}}],
        },
    });
    create(&lonely);

    let seen = within(SOON, "/config as kubectl has it", || {
        let expected = expected_config();
        Some(config(&server)).filter(|seen| *seen == expected)
    });
    for pod in names(&running) {
        let row = &seen[&format!("{PREMIUM}/{pod}")];
        assert!(row["node"].is_string() && row["ip"].is_string(), "{row}");
    }
    let row = &seen[&format!("{FREE}/lonely")];
    assert_eq!((&row["node"], &row["ip"], &row["status"]), (&Value::Null, &Value::Null, &json!("Pending")));
}

#[test]
fn finished_job_is_deleted_after_its_ttl() {
    empty_cluster();
    let setup = Setup::new().args(&["--kubeconfig", kubeconfig().to_str().unwrap(), "--image", &image("fails")]);
    let server = setup.args(&["--job-ttl", "1"]).start();
    let job = post_ok(&server, "premium", "mnist");
    within(SOON, "the failure of the Job's one pod", || {
        let output = kubectl(&["get", "job", &job, "-n", PREMIUM]);
        (!output.status.success()).then_some(())
    });
    assert_eq!(names(&jobs(PREMIUM)), BTreeSet::new());
}

#[test]
fn manifests_create_the_same_jobs_with_kubectl_alone() {
    empty_cluster();
    // kubectl before 1.26 does not support podFailurePolicy.
    for (file, namespace, network) in [("free-job.yaml", FREE, "ff"), ("premium-job.yaml", PREMIUM, "cnn")] {
        let created = kubectl_ok(&["create", "--validate=false", "-f", &manifest(file), "-o", "json"]);
        let created: Value = serde_json::from_str(&created).unwrap();
        assert_eq!(text(&created, "/metadata/namespace"), namespace);
        let env = created.pointer("/spec/template/spec/containers/0/env").and_then(Value::as_array).unwrap();
        assert!(env.contains(&json!({"name": "TYPE", "value": network})), "{env:?}");
    }
}

#[test]
fn full_queue_is_429() {
    empty_cluster();
    let server = server("long");
    kubectl_ok(&[
        "patch",
        "resourcequota",
        "free-jobs",
        "-n",
        FREE,
        "-p",
        r#"{"spec":{"hard":{"count/jobs.batch":"3"}}}"#,
    ]);
    within(SOON, "the quota in force", || {
        let hard = kubectl_ok(&[
            "get",
            "resourcequota",
            "free-jobs",
            "-n",
            FREE,
            "-o",
            "jsonpath={.status.hard.count/jobs\\.batch}",
        ]);
        (hard == "3").then_some(())
    });
    for _ in 0..3 {
        post_ok(&server, "free", "mnist");
    }
    let response = post(&server, "free", "mnist");
    assert_eq!(response.status, 429, "{}", response.text());
    assert!(response.header("Retry-After").is_some());
    assert_eq!(jobs(FREE).len(), 3);
    post_ok(&server, "premium", "mnist");
}

/// Posts `count` premium Jobs at once, from four addresses; returns the names confirmed with 200 and the statuses of the others.
fn post_at_once(server: &Server, count: usize, mut meanwhile: impl FnMut(usize)) -> (BTreeSet<String>, Vec<u16>) {
    let (sender, responses) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        for number in 0..count {
            let sender = sender.clone();
            scope.spawn(move || {
                // The requests of one address may take only a quarter of the waiting places.
                let ip = Ipv4Addr::new(127, 0, 0, 2 + u8::try_from(number % 4).unwrap());
                let mut connection = Connection::open_from(ip, server.address());
                let response =
                    connection.request("POST", "/img-classification/premium", Some(br#"{"dataset":"mnist"}"#));
                sender.send(response).unwrap();
            });
        }
        drop(sender);
        let (mut named, mut others) = (BTreeSet::new(), Vec::new());
        for (number, response) in responses.iter().enumerate() {
            match response.status {
                200 => assert!(named.insert(response.json()["job"].as_str().unwrap().to_owned()), "a name came twice"),
                status => others.push(status),
            }
            meanwhile(number);
        }
        (named, others)
    })
}

#[test]
fn two_hundred_concurrent_posts_create_exactly_two_hundred_jobs() {
    empty_cluster();
    let server = server("long");
    let (named, others) = post_at_once(&server, 200, |_| {});
    assert_eq!((named.len(), others.as_slice()), (200, &[][..]), "{}", server.stderr());
    assert_eq!(names(&jobs(PREMIUM)), named);
}

#[test]
fn api_server_restart_loses_and_duplicates_no_job() {
    let Some(state) = own_cluster() else { return };
    empty_cluster();
    let server = server("long");
    let control = |what: &str| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/apiserver");
        assert!(Command::new(script).arg(&state).arg(what).status().unwrap().success(), "apiserver {what}");
    };
    let (named, others) = post_at_once(&server, 200, |number| {
        if number == 40 {
            control("kill");
            control("start");
        }
    });
    within(SOON, "the API server's return", || (server.get("/readyz").status == 200).then_some(()));
    println!("200: {}, errors: {others:?}", named.len());
    let stored = names(&jobs(PREMIUM));
    assert!(named.len() >= 40, "those before the kill");
    assert!(stored.is_superset(&named), "lost: {:?}", named.difference(&stored));
    // A request that failed may have created its Job, but never two.
    assert!(stored.len() <= named.len() + others.len(), "{} Jobs of 200 requests", stored.len());
    assert!(others.iter().all(|status| [502, 503, 504].contains(status)), "{others:?}");
    post_ok(&server, "premium", "mnist");
}
