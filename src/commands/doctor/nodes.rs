//! Whether there are nodes to run on, and how many classifiers fit on them now.

use serde_json::Value;

use crate::commands::output::Finding;
use crate::job::CPU;
use crate::kube::quantity::{self, Milli};
use crate::kube::{Client, Error};

/// Nodes of the course's cluster, which its autograder wants to see.
const EXPECTED: usize = 2;

/// Pods that may still run, by a field selector with its operators escaped.
const LIVE_PODS: &str = "/api/v1/pods?fieldSelector=status.phase%21%3DSucceeded%2Cstatus.phase%21%3DFailed";

/// How an EKS cluster gets nodes.
const SCALE: &str = "eksctl scale nodegroup --cluster CLUSTER --name NODEGROUP --nodes 2 --nodes-max 2";

/// Looks at the nodes and what runs on them.
///
/// # Errors
/// [`Error`]
pub fn look(kube: &Client) -> Result<Vec<Finding>, Error> {
    let nodes = kube.list("/api/v1/nodes")?;
    Ok(vec![judge(&nodes, &kube.list(LIVE_PODS)?)])
}

/// Lets pods onto a node again.
const UNCORDON: &str = "kubectl uncordon NODE; where it is tainted: kubectl taint nodes NODE KEY-";

/// What a node has for our pods.
struct Room {
    is_ready: bool,
    /// Cordoned, or tainted against pods like ours.
    is_closed: bool,
    allocatable: Milli,
    /// Not asked for by any pod.
    left: Milli,
}

fn judge(nodes: &[Value], pods: &[Value]) -> Finding {
    let rooms: Vec<Room> = nodes.iter().map(|node| room(node, pods)).collect();
    let ready = rooms.iter().filter(|room| room.is_ready).count();
    let open: Vec<&Room> = rooms.iter().filter(|room| room.is_ready && !room.is_closed).collect();
    let closed = ready - open.len();
    let cordoned = if closed == 0 { String::new() } else { format!(", {closed} of them cordoned or tainted") };
    let text = format!("{ready} of {} nodes are ready{cordoned}", rooms.len());
    if ready == 0 {
        return Finding::fail("nodes", format!("{text}: no pod can run"), format!("kubectl get nodes; {SCALE}"));
    }
    if open.is_empty() {
        return Finding::fail("nodes", format!("{text}: no pod can be put on them"), UNCORDON);
    }
    by_room(&open, &text, if closed > 0 { UNCORDON } else { SCALE })
}

/// What fits on the nodes that take pods; `more` gets more of them.
fn by_room(open: &[&Room], text: &str, more: &str) -> Finding {
    let classifier = quantity::parse(CPU).expect("a test reads it");
    let largest = open.iter().map(|room| room.allocatable).max().unwrap_or_default();
    if largest < classifier {
        let text = format!("{text}; the largest has {largest}m CPU to give, too little for a classifier of {CPU}");
        return Finding::fail("nodes", text, "eksctl create nodegroup --cluster CLUSTER --node-type t2.medium");
    }
    let fit: Milli = open.iter().map(|room| room.left.max(0) / classifier).sum();
    let text = format!("{text}; {fit} classifiers of {CPU} CPU fit on them now");
    if open.len() < EXPECTED {
        return Finding::warning("nodes", format!("{text}; the course's autograder wants {EXPECTED} nodes"), more);
    }
    if fit == 0 {
        let text = format!(
            "{text}: a t2.medium has room for one ({CPU} of 1780m), and further pods are Pending, as it should be"
        );
        return Finding::warning("nodes", text, "wait, or img-classification clean, or more nodes");
    }
    Finding::ok("nodes", text)
}

fn room(node: &Value, pods: &[Value]) -> Room {
    let name = &node["metadata"]["name"];
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let is_ready = conditions.filter(|condition| condition["type"] == "Ready").any(|ready| ready["status"] == "True");
    let mut taints = node["spec"]["taints"].as_array().into_iter().flatten();
    let is_tainted = taints.any(|taint| matches!(taint["effect"].as_str(), Some("NoSchedule" | "NoExecute")));
    let allocatable = cpu(&node["status"]["allocatable"]);
    let taken: Milli = pods.iter().filter(|pod| pod["spec"]["nodeName"] == *name).map(asked).sum();
    let is_closed = node["spec"]["unschedulable"] == true || is_tainted;
    Room { is_ready, is_closed, allocatable, left: allocatable - taken }
}

/// What a pod keeps from others: all its containers at once, or one init container after the other.
fn asked(pod: &Value) -> Milli {
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return 0;
    }
    let each = |list: &'static str| {
        let containers = pod["spec"][list].as_array().into_iter().flatten();
        containers.map(|container| cpu(&container["resources"]["requests"]))
    };
    each("containers").sum::<Milli>().max(each("initContainers").max().unwrap_or_default())
        + cpu(&pod["spec"]["overhead"])
}

fn cpu(amounts: &Value) -> Milli {
    amounts["cpu"].as_str().and_then(quantity::parse).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::output::Verdict;

    fn node(name: &str, ready: &str, cpu: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {},
               "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": ready}]}})
    }

    fn pod(node: &str, phase: &str, cpu: &str) -> Value {
        json!({"spec": {"nodeName": node, "containers": [{"resources": {"requests": {"cpu": cpu}}}]}, "status": {"phase": phase}})
    }

    #[test]
    fn nodes_are_judged_by_what_fits_on_them() {
        let good = || vec![node("a", "True", "1930m"), node("b", "True", "1930m")];
        let with = |node: Value| vec![good().remove(0), node];
        let mut cordoned = node("b", "True", "1930m");
        cordoned["spec"]["unschedulable"] = json!(true);
        let mut tainted = node("b", "True", "1930m");
        tainted["spec"]["taints"] = json!([{"effect": "NoSchedule"}]);
        let all_cordoned = vec![cordoned.clone()];
        let table: [(Vec<Value>, Vec<Value>, Verdict, &str); 10] = [
            (good(), vec![], Verdict::Ok, "2 of 2 nodes are ready; 4 classifiers of 900m CPU fit"),
            (good(), vec![pod("a", "Running", "150m"), pod("b", "Pending", "150m")], Verdict::Ok, "2 classifiers"),
            (good(), vec![pod("a", "Succeeded", "2"), pod("b", "Failed", "2")], Verdict::Ok, "4 classifiers"),
            (
                good(),
                vec![pod("a", "Running", "1050m"), pod("b", "Running", "1050m")],
                Verdict::Warning,
                "Pending, as it",
            ),
            (with(node("b", "Unknown", "1930m")), vec![], Verdict::Warning, "1 of 2 nodes are ready; 2 classifiers"),
            (with(cordoned), vec![], Verdict::Warning, "2 of 2 nodes are ready, 1 of them cordoned"),
            (with(tainted), vec![], Verdict::Warning, "1 of them cordoned or tainted"),
            (all_cordoned, vec![], Verdict::Fail, "no pod can be put"),
            (vec![], vec![], Verdict::Fail, "0 of 0 nodes are ready: no pod can run"),
            (vec![node("a", "True", "500m")], vec![], Verdict::Fail, "the largest has 500m CPU"),
        ];
        for (nodes, pods, verdict, words) in table {
            let finding = judge(&nodes, &pods);
            assert_eq!(finding.verdict, verdict, "{}", finding.text);
            assert!(finding.text.contains(words), "{words}: {}", finding.text);
            let is_closed = finding.text.contains("tainted");
            assert!(!is_closed || finding.fix.is_some_and(|fix| fix.contains("uncordon") && fix.contains("taint")));
        }
    }

    #[test]
    fn init_containers_count_one_by_one() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let both = json!({"spec": {"containers": [container("1"), container("200m")], "initContainers": [container("1"), container("1")]}});
        assert_eq!(asked(&both), 1200);
        let init =
            json!({"spec": {"containers": [container("1")], "initContainers": [container("1500m"), container("1")]}});
        assert_eq!(asked(&init), 1500);
    }
}
