//! The real classifier image.

use super::{FREE, PREMIUM, empty_cluster, items, kubeconfig, kubectl_ok, post_ok, text, within};
use crate::support::server::Setup;
use serde_json::json;
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
fn assert_trained(log: &str, dataset: &str, network: &str) {
    let lines: Vec<&str> = log.lines().collect();
    let first = [format!("dataset: {dataset}"), format!("type: {network}"), "cpu limit: 0.9".to_owned()];
    assert!(lines.len() > 3 && lines[..3] == first, "{log}");
    let (last, epochs) = lines[3..].split_last().unwrap();
    for epoch in 1..=5 {
        let beginning = format!("Epoch [{epoch}/5], Step [");
        assert!(epochs.iter().any(|line| line.starts_with(&beginning) && line.contains("], Loss: ")), "{log}");
    }
    assert!(epochs.iter().all(|line| line.starts_with("Epoch [")), "{log}");
    let number = last.strip_prefix("Accuracy of the network on the 10K test images: ");
    let number = number.and_then(|rest| rest.strip_suffix(" %")).and_then(|number| number.parse::<u8>().ok());
    let percent = number.unwrap_or_else(|| panic!("{log}"));
    assert!((50..=100).contains(&percent), "ten classes are 10 % by chance: {log}");
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
        let selector = format!("job-name={job}");
        let pod = within(TRAINING, "the end of the Job's pod", || {
            let pods = items(&["get", "pods", "-n", namespace, "-l", &selector]);
            pods.into_iter().find(|pod| ["Succeeded", "Failed"].contains(&text(pod, "/status/phase")))
        });
        let log = kubectl_ok(&["logs", &format!("job/{job}"), "-n", namespace]);
        assert_eq!(text(&pod, "/status/phase"), "Succeeded", "{pod:#}\n{log}");
        assert_trained(&log, dataset, network);
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
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": PREMIUM},
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
        let home = tempfile::TempDir::new().unwrap();
        let file = home.path().join("pod.json");
        std::fs::write(&file, pod.to_string()).unwrap();
        kubectl_ok(&["create", "-f", file.to_str().unwrap()]);
        let phase = within(TRAINING, "the pod's end", || {
            let phase = kubectl_ok(&["get", "pod", &name, "-n", PREMIUM, "-o", "jsonpath={.status.phase}"]);
            ["Succeeded", "Failed"].contains(&phase.as_str()).then_some(phase)
        });
        let log = kubectl_ok(&["logs", &name, "-n", PREMIUM]);
        assert_eq!(phase, "Succeeded", "{log}");
        assert_trained(&log, dataset, network);
    }
}
