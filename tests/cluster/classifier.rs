//! The real classifier image, and the one that replaces it in the other tests.

use super::{FREE, PREMIUM, SOON, create, empty_cluster, items, kubeconfig, kubectl_ok, post_ok, server, text, within};
use crate::support::server::Setup;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Longest training with the small data of tests/cluster/images/real, on two nodes that share two cores with everything
/// else.
const TRAINING: Duration = Duration::from_secs(180);

/// The image built from Dockerfile.classifier.
fn real_image() -> Option<String> {
    let image = std::env::var("TEST_REAL_CLASSIFIER").ok();
    if image.is_none() {
        println!("skipped: TEST_REAL_CLASSIFIER names no image of Dockerfile.classifier that the nodes have");
    }
    image
}

/// Checks the log of the real classifier from the first line to the last, with an accuracy that only training reaches.
fn assert_trained(pod: &Value, log: &str, dataset: &str, network: &str) {
    let lines: Vec<&str> = log.lines().collect();
    let first = [format!("dataset: {dataset}"), format!("type: {network}"), "cpu limit: 0.9".to_owned()];
    assert!(lines.len() > 3 && lines[..3] == first, "{log}");
    let (last, epochs) = lines[3..].split_last().unwrap();
    for epoch in 1..=5 {
        let beginning = format!("Epoch [{epoch}/5], Step [");
        assert!(epochs.iter().any(|line| line.starts_with(&beginning) && line.contains("], Loss: ")), "{log}");
    }
    assert!(epochs.iter().all(|line| line.starts_with("Epoch [")), "{log}");
    let percent = percent(last);
    assert!((50.0..=100.0).contains(&percent), "ten classes are 10 % by chance: {log}");
    assert_message(pod, percent);
}

/// Returns the accuracy of a log's last line.
fn percent(line: &str) -> f64 {
    let number = line.strip_prefix("Accuracy of the network on the 10K test images: ");
    let number = number.and_then(|rest| rest.strip_suffix(" %")).and_then(|number| number.parse::<u8>().ok());
    number.unwrap_or_else(|| panic!("no accuracy: {line:?}")).into()
}

/// Checks that a pod's termination message is the accuracy that its log has as whole percent.
fn assert_message(pod: &Value, percent: f64) {
    let message: Value = serde_json::from_str(message(pod)).unwrap_or_else(|error| panic!("{error}: {pod:#}"));
    let permille = (message["accuracy"].as_f64().unwrap() * 1000.0).round();
    assert_eq!((permille / 10.0).floor(), percent, "{message}");
}

fn message(pod: &Value) -> &str {
    text(pod, "/status/containerStatuses/0/state/terminated/message")
}

/// Waits for the end of the only pod with this label.
fn ended(namespace: &str, selector: &str, limit: Duration) -> Value {
    within(limit, "the pod's end", || {
        let pods = items(&["get", "pods", "-n", namespace, "-l", selector]);
        pods.into_iter().find(|pod| ["Succeeded", "Failed"].contains(&text(pod, "/status/phase")))
    })
}

#[test]
fn classifier_of_the_other_tests_has_the_termination_message_of_the_real_one() {
    empty_cluster();
    for (tag, phase) in [("short", "Succeeded"), ("fails", "Failed")] {
        let job = post_ok(&server(tag), "premium", "mnist");
        let pod = ended(PREMIUM, &format!("job-name={job}"), SOON);
        assert_eq!(text(&pod, "/status/phase"), phase);
        let log = kubectl_ok(&["logs", &format!("job/{job}"), "-n", PREMIUM]);
        if phase == "Succeeded" {
            assert_message(&pod, percent(log.lines().last().unwrap()));
        } else {
            // terminationMessagePolicy: FallbackToLogsOnError.
            assert_eq!(message(&pod).trim_end(), log.trim_end());
        }
    }
}

#[test]
fn real_classifier_trains_in_each_tier_and_logs_its_accuracy_last() {
    let Some(image) = real_image() else { return };
    empty_cluster();
    let server = Setup::new().args(&["--kubeconfig", kubeconfig().to_str().unwrap(), "--image", &image]).start();
    let tiers = [("free", "mnist", FREE, "ff"), ("premium", "kmnist", PREMIUM, "cnn")];
    let posted = tiers.map(|(tier, dataset, namespace, network)| {
        let begin = Instant::now();
        (post_ok(&server, tier, dataset), begin, dataset, namespace, network)
    });
    for (job, begin, dataset, namespace, network) in posted {
        let pod = ended(namespace, &format!("job-name={job}"), TRAINING);
        let log = kubectl_ok(&["logs", &format!("job/{job}"), "-n", namespace]);
        assert_eq!(text(&pod, "/status/phase"), "Succeeded", "{pod:#}\n{log}");
        assert_trained(&pod, &log, dataset, network);
        println!("{job}: {:?} from the POST to the end", begin.elapsed());
    }
}

#[test]
fn real_classifier_runs_without_root_and_with_a_read_only_file_system() {
    let Some(image) = real_image() else { return };
    empty_cluster();
    for (dataset, network) in [("mnist", "cnn"), ("kmnist", "ff")] {
        let name = format!("strict-{dataset}-{network}");
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": PREMIUM, "labels": {"strict": name}},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "containers": [{
                    "name": "classifier", "image": image, "imagePullPolicy": "IfNotPresent",
                    "env": [{"name": "DATASET", "value": dataset}, {"name": "TYPE", "value": network}],
                    "resources": {"limits": {"cpu": "900m"}},
                    "securityContext": {
                        "runAsNonRoot": true, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }],
            },
        });
        create(&pod);
        let pod = ended(PREMIUM, &format!("strict={name}"), TRAINING);
        let log = kubectl_ok(&["logs", &name, "-n", PREMIUM]);
        assert_eq!(text(&pod, "/status/phase"), "Succeeded", "{pod:#}\n{log}");
        assert_trained(&pod, &log, dataset, network);
    }
}
