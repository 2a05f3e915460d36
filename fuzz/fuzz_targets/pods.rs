//! Streaming parser of a PodList page: serde_json's tree has the same pods, and the split of the bytes has no effect.

#![no_main]

use std::io::Read;

use img_classification_fuzz::kube::{Pod, read_pod_list};
use img_classification_fuzz::state::pod_list::PodList;
use img_classification_fuzz::{BrokenConnection, OneByOne, keys};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let whole = read(input);
    assert_eq!(whole, read(OneByOne(input)), "byte by byte the result differs");
    assert!(read(input.chain(BrokenConnection)).is_err(), "a broken connection gave no error");
    let Ok((pods, next)) = whole else { return };
    let end = input.trim_ascii_end().len();
    for cut in (0..end).step_by(end / 16 + 1).chain([end - 1]) {
        assert!(read(&input[..cut]).is_err(), "complete without its last {} bytes", end - cut);
    }
    tree(input, &pods, &next);
    view(input, &pods);
});

/// Returns the pods and the token of the next page, or the error's text.
fn read(from: impl Read) -> Result<(Vec<Pod>, String), String> {
    let mut pods = Vec::new();
    read_pod_list(from, &mut pods).map(|page| (pods, page.next)).map_err(|error| error.to_string())
}

/// Compares with serde_json's tree, as far as the tree can hold the page.
fn tree(input: &[u8], pods: &[Pod], next: &str) {
    let tree = match serde_json::from_slice::<Value>(input) {
        Ok(tree) => tree,
        Err(error) => {
            // The parser skips these. Only the last is not JSON: a string that is not UTF-8.
            let text = error.to_string();
            let beyond = [
                "number out of range",
                "recursion limit exceeded",
                "surrogate",
                "unexpected end of hex escape",
                "invalid unicode code point",
            ];
            assert!(beyond.iter().any(|problem| text.contains(problem)), "not JSON: {text}");
            return;
        }
    };
    assert_eq!(tree["kind"], "PodList");
    let items = match &tree["items"] {
        Value::Null => &[],
        Value::Array(items) => items.as_slice(),
        other => panic!("{other} is not a list"),
    };
    // The tree keeps only the last value of a duplicate key.
    let keys = keys(input).expect("JSON");
    let count = |wanted: &str| keys.iter().filter(|key| *key == wanted).count();
    if count("metadata") == 1 && tree["metadata"].is_object() {
        assert_eq!(tree["metadata"]["continue"].as_str().unwrap_or_default(), next);
    }
    if count("items") > 1 {
        return;
    }
    assert_eq!(items.len(), pods.len());
    for (item, pod) in items.iter().zip(pods) {
        // serde also accepts an array as a struct.
        if [&item["metadata"], &item["spec"], &item["status"]].iter().any(|part| part.is_array()) || !item.is_object() {
            continue;
        }
        let text = |part: &str, key: &str| item[part][key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let expected = Pod {
            node: text("spec", "nodeName"),
            ip: text("status", "podIP"),
            namespace: text("metadata", "namespace").unwrap_or_default(),
            name: text("metadata", "name").unwrap_or_default(),
            phase: text("status", "phase").unwrap_or_default(),
            version: String::new(),
        };
        assert_eq!(*pod, expected);
    }
}

/// Checks that the response is JSON with the same pods.
fn view(input: &[u8], pods: &[Pod]) {
    let mut view = PodList::default();
    read_pod_list(input, &mut view).expect("the same bytes");
    assert_eq!(view.digest.rows, pods.len());
    let response: Value = serde_json::from_slice(&view.into_json()).expect("the response is JSON");
    let rows = response["pods"].as_array().expect("a list");
    assert_eq!(rows.len(), pods.len());
    for (row, pod) in rows.iter().zip(pods) {
        assert_eq!(row["node"].as_str(), pod.node.as_deref());
        assert_eq!(row["ip"].as_str(), pod.ip.as_deref());
        assert_eq!(row["namespace"], pod.namespace);
        assert_eq!(row["name"], pod.name);
        assert_eq!(row["status"], if pod.phase.is_empty() { "Unknown" } else { &*pod.phase });
    }
}
