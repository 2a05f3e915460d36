//! The objects of a fresh EKS cluster: namespaces, t2.medium nodes and their system pods.

use serde_json::{Value, json};

use super::resources::{NAMESPACES, NODES, PODS, Target};
use super::store::{self, Store};
use super::write;

/// CPU of a t2.medium, and its part that pods may request.
const CPU: &str = "2";
const ALLOCATABLE: &str = "1930m";

/// System pods of every node, with their CPU requests. Together they request as much as all of EKS's own pods,
/// so the two coredns pods request nothing here.
const SYSTEM_PODS: [(&str, &str); 2] = [("aws-node", "50m"), ("kube-proxy", "100m")];

/// The conditions of a node: type, status, reason and message.
const CONDITIONS: [(&str, &str, &str, &str); 4] = [
    ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
];

/// Fills an empty store.
pub fn fill(store: &mut Store, nodes: u16) {
    let mut create = |resource, namespace: &str, object: Value| {
        let target = Target::collection(resource, namespace);
        write::create(store, &target, object, false).expect("the objects are valid and the store is empty")
    };
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        create(&NAMESPACES, "", json!({"metadata": {"name": name}}));
    }
    for number in 0..nodes {
        let (third, fourth) = (16 + number / 100, 10 + number % 100);
        let name = format!("ip-192-168-{third}-{fourth}.ec2.internal");
        create(&NODES, "", node(&name, number, &format!("192.168.{third}.{fourth}")));
        for (pod, cpu) in SYSTEM_PODS {
            let object = system_pod(&format!("{pod}-{}", store::suffix()), &name, cpu);
            create(&PODS, "kube-system", object);
        }
        if number < 2 {
            let object = system_pod(&format!("coredns-{}", store::suffix()), &name, "0");
            create(&PODS, "kube-system", object);
        }
    }
}

fn node(name: &str, number: u16, ip: &str) -> Value {
    let zone = ["us-east-1a", "us-east-1b"][usize::from(number % 2)];
    let resources = |cpu: &str| json!({"cpu": cpu, "memory": "3388364Ki", "pods": "17"});
    json!({
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux",
                       "topology.kubernetes.io/zone": zone, "node.kubernetes.io/instance-type": "t2.medium"},
            // The network of its pods.
            "annotations": {"pods": format!("10.{}.", number + 1)},
        },
        "spec": {},
        "status": {
            "capacity": resources(CPU),
            "allocatable": resources(ALLOCATABLE),
            "addresses": [{"type": "InternalIP", "address": ip}, {"type": "Hostname", "address": name}],
            "conditions": CONDITIONS.map(condition),
            "nodeInfo": node_info(),
        },
    })
}

fn condition((kind, status, reason, message): (&str, &str, &str, &str)) -> Value {
    let now = store::now();
    json!({"type": kind, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": now, "lastTransitionTime": now})
}

/// Returns all fields of a NodeSystemInfo: clients require them.
fn node_info() -> Value {
    let id = store::uuid();
    json!({
        "architecture": "amd64", "bootID": store::uuid(), "containerRuntimeVersion": "containerd://2.1.5-simulated",
        "kernelVersion": "6.12.0-simulated", "kubeProxyVersion": super::VERSION, "kubeletVersion": super::VERSION,
        "machineID": id.replace('-', ""), "operatingSystem": "linux", "osImage": "Amazon Linux 2023 (simulated)", "systemUUID": id,
    })
}

fn system_pod(name: &str, node: &str, cpu: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "main", "image": "simulated", "resources": {"requests": {"cpu": cpu}}}],
        },
    })
}
