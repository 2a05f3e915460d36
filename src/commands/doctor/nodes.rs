//! Check of the nodes, and of the number of classifiers that fit on them now.

use serde_json::Value;

use crate::commands::output::Check;
use crate::job::CPU;
use crate::kube::quantity::{self, Milli};
use crate::kube::{Client, Error};

/// Nodes of the course's cluster, which its autograder expects.
const MIN_NODES: usize = 2;

/// Path of the pods that have not ended, by a field selector with escaped operators.
const ACTIVE_PODS: &str = "/api/v1/pods?fieldSelector=status.phase%21%3DSucceeded%2Cstatus.phase%21%3DFailed";

/// Fix that adds nodes to an EKS cluster.
const SCALE: &str = "eksctl scale nodegroup --cluster CLUSTER --name NODEGROUP --nodes 2 --nodes-max 2";

/// Requests the nodes and the pods on them, and checks the free CPU.
///
/// # Errors
/// [`Error`]
pub fn check(kube: &Client) -> Result<Vec<Check>, Error> {
    let nodes = kube.list("/api/v1/nodes")?;
    Ok(vec![evaluate(&nodes, &kube.list(ACTIVE_PODS)?)])
}

/// Fix that lets the scheduler use a node again.
const UNCORDON: &str = "kubectl uncordon NODE; if it is tainted: kubectl taint nodes NODE KEY-";

/// The CPU of a node for pods of this program.
struct NodeCapacity {
    is_ready: bool,
    /// Cordoned, or tainted without a toleration in the pods.
    is_closed: bool,
    allocatable: Milli,
    /// Allocatable CPU that no pod requests.
    remaining: Milli,
}

fn evaluate(nodes: &[Value], pods: &[Value]) -> Check {
    let capacities: Vec<NodeCapacity> = nodes.iter().map(|node| capacity(node, pods)).collect();
    let ready = capacities.iter().filter(|node| node.is_ready).count();
    let open: Vec<&NodeCapacity> = capacities.iter().filter(|node| node.is_ready && !node.is_closed).collect();
    let closed = ready - open.len();
    let cordoned = if closed == 0 { String::new() } else { format!(", {closed} of them cordoned or tainted") };
    let text = format!("{ready} of {} nodes are ready{cordoned}", capacities.len());
    if ready == 0 {
        return Check::fail("nodes", format!("{text}: no pod can run"), format!("kubectl get nodes; {SCALE}"));
    }
    if open.is_empty() {
        return Check::fail("nodes", format!("{text}: the scheduler can use none"), UNCORDON);
    }
    by_capacity(&open, &text, if closed > 0 { UNCORDON } else { SCALE })
}

/// Checks the nodes that accept pods; `more_nodes` is the fix that adds nodes.
fn by_capacity(open: &[&NodeCapacity], text: &str, more_nodes: &str) -> Check {
    let classifier = quantity::parse(CPU).expect("a test parses it");
    let largest = open.iter().map(|node| node.allocatable).max().unwrap_or_default();
    if largest < classifier {
        let text = format!("{text}; the largest has {largest}m CPU, but a classifier needs {CPU}");
        return Check::fail("nodes", text, "eksctl create nodegroup --cluster CLUSTER --node-type t2.medium");
    }
    let fit: Milli = open.iter().map(|node| node.remaining.max(0) / classifier).sum();
    let text = format!("{text}; {fit} classifiers of {CPU} CPU fit on them now");
    if open.len() < MIN_NODES {
        return Check::warning(
            "nodes",
            format!("{text}; the course's autograder expects {MIN_NODES} nodes"),
            more_nodes,
        );
    }
    if fit == 0 {
        let text = format!("{text}: a t2.medium fits one ({CPU} of 1780m), and further pods stay Pending, as intended");
        return Check::warning("nodes", text, "wait, or img-classification clean, or add nodes");
    }
    Check::ok("nodes", text)
}

fn capacity(node: &Value, pods: &[Value]) -> NodeCapacity {
    let name = &node["metadata"]["name"];
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let is_ready = conditions.filter(|condition| condition["type"] == "Ready").any(|ready| ready["status"] == "True");
    let mut taints = node["spec"]["taints"].as_array().into_iter().flatten();
    let is_tainted = taints.any(|taint| matches!(taint["effect"].as_str(), Some("NoSchedule" | "NoExecute")));
    let allocatable = cpu(&node["status"]["allocatable"]);
    let requested: Milli = pods.iter().filter(|pod| pod["spec"]["nodeName"] == *name).map(cpu_request).sum();
    let is_closed = node["spec"]["unschedulable"] == true || is_tainted;
    NodeCapacity { is_ready, is_closed, allocatable, remaining: allocatable - requested }
}

/// Returns the CPU request of a pod: all its containers together, or the largest init container if that is more.
fn cpu_request(pod: &Value) -> Milli {
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
    use crate::commands::output::CheckStatus;

    fn node(name: &str, ready: &str, cpu: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {},
               "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": ready}]}})
    }

    fn pod(node: &str, phase: &str, cpu: &str) -> Value {
        json!({"spec": {"nodeName": node, "containers": [{"resources": {"requests": {"cpu": cpu}}}]}, "status": {"phase": phase}})
    }

    #[test]
    fn the_check_depends_on_the_classifiers_that_fit() {
        let good = || vec![node("a", "True", "1930m"), node("b", "True", "1930m")];
        let with = |node: Value| vec![good().remove(0), node];
        let mut cordoned = node("b", "True", "1930m");
        cordoned["spec"]["unschedulable"] = json!(true);
        let mut tainted = node("b", "True", "1930m");
        tainted["spec"]["taints"] = json!([{"effect": "NoSchedule"}]);
        let all_cordoned = vec![cordoned.clone()];
        let table: [(Vec<Value>, Vec<Value>, CheckStatus, &str); 10] = [
            (good(), vec![], CheckStatus::Ok, "2 of 2 nodes are ready; 4 classifiers of 900m CPU fit"),
            (good(), vec![pod("a", "Running", "150m"), pod("b", "Pending", "150m")], CheckStatus::Ok, "2 classifiers"),
            (good(), vec![pod("a", "Succeeded", "2"), pod("b", "Failed", "2")], CheckStatus::Ok, "4 classifiers"),
            (
                good(),
                vec![pod("a", "Running", "1050m"), pod("b", "Running", "1050m")],
                CheckStatus::Warning,
                "Pending, as intended",
            ),
            (
                with(node("b", "Unknown", "1930m")),
                vec![],
                CheckStatus::Warning,
                "1 of 2 nodes are ready; 2 classifiers",
            ),
            (with(cordoned), vec![], CheckStatus::Warning, "2 of 2 nodes are ready, 1 of them cordoned"),
            (with(tainted), vec![], CheckStatus::Warning, "1 of them cordoned or tainted"),
            (all_cordoned, vec![], CheckStatus::Fail, "the scheduler can use none"),
            (vec![], vec![], CheckStatus::Fail, "0 of 0 nodes are ready: no pod can run"),
            (vec![node("a", "True", "500m")], vec![], CheckStatus::Fail, "the largest has 500m CPU"),
        ];
        for (nodes, pods, status, words) in table {
            let check = evaluate(&nodes, &pods);
            assert_eq!(check.status, status, "{}", check.text);
            assert!(check.text.contains(words), "{words}: {}", check.text);
            let is_closed = check.text.contains("tainted");
            assert!(!is_closed || check.fix.is_some_and(|fix| fix.contains("uncordon") && fix.contains("taint")));
        }
    }

    #[test]
    fn init_containers_count_one_by_one() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let both = json!({"spec": {"containers": [container("1"), container("200m")], "initContainers": [container("1"), container("1")]}});
        assert_eq!(cpu_request(&both), 1200);
        let init =
            json!({"spec": {"containers": [container("1")], "initContainers": [container("1500m"), container("1")]}});
        assert_eq!(cpu_request(&init), 1500);
    }
}
