//! A page of a PodList, read as it streams: the same pods as in serde_json's tree of it, however the bytes arrive.

#![no_main]

use std::io::Read;

use img_classification_fuzz::api::config::View;
use img_classification_fuzz::kube::{Pod, read_pod_list};
use img_classification_fuzz::{Broken, OneByOne, keys};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let whole = read(input);
    assert_eq!(whole, read(OneByOne(input)), "another result byte by byte");
    assert!(read(input.chain(Broken)).is_err(), "a broken connection went unnoticed");
    let Ok((pods, next)) = whole else { return };
    let end = input.trim_ascii_end().len();
    for cut in (0..end).step_by(end / 16 + 1).chain([end - 1]) {
        assert!(read(&input[..cut]).is_err(), "whole without its last {} bytes", end - cut);
    }
    tree(input, &pods, &next);
    view(input, &pods);
});

/// The pods and the token of the next page, or the error's text.
fn read(from: impl Read) -> Result<(Vec<Pod>, String), String> {
    let mut pods = Vec::new();
    read_pod_list(from, &mut pods).map(|next| (pods, next)).map_err(|error| error.to_string())
}

/// What of it serde_json's tree can hold says the same.
fn tree(input: &[u8], pods: &[Pod], next: &str) {
    let tree = match serde_json::from_slice::<Value>(input) {
        Ok(tree) => tree,
        Err(error) => {
            // Passed over unread. Only the last of these is not JSON: bytes in a text that are no UTF-8.
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
    // Of a key that comes twice the tree keeps the last value only.
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
        // serde takes a list for a struct, too.
        if [&item["metadata"], &item["spec"], &item["status"]].iter().any(|part| part.is_array()) || !item.is_object() {
            continue;
        }
        let text = |part: &str, key: &str| item[part][key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let expected = Pod {
            node: text("spec", "nodeName"),
            ip: text("status", "podIP"),
            namespace: text("metadata", "namespace").unwrap_or_default(),
            name: text("metadata", "name").unwrap_or_default(),
            phase: text("status", "phase").unwrap_or_else(|| "Unknown".to_owned()),
        };
        assert_eq!(*pod, expected);
    }
}

/// The answer that callers get is JSON with the same pods.
fn view(input: &[u8], pods: &[Pod]) {
    let mut view = View::default();
    read_pod_list(input, &mut view).expect("the same bytes");
    assert_eq!(view.count, pods.len());
    let answer: Value = serde_json::from_slice(&view.into_json()).expect("the answer is JSON");
    let rows = answer["pods"].as_array().expect("a list");
    assert_eq!(rows.len(), pods.len());
    for (row, pod) in rows.iter().zip(pods) {
        assert_eq!(row["node"].as_str(), pod.node.as_deref());
        assert_eq!(row["ip"].as_str(), pod.ip.as_deref());
        assert_eq!(row["namespace"], pod.namespace);
        assert_eq!(row["name"], pod.name);
        assert_eq!(row["status"], pod.phase);
    }
}
