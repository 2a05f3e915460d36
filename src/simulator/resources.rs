//! The supported kinds of objects and their discovery documents.

use serde_json::{Value, json};

/// A resource of the API. Every group has one version, v1.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// Empty for the core group.
    pub group: &'static str,
    /// The name in paths, unique here.
    pub plural: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
    short: &'static str,
}

const fn resource(
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
    short: &'static str,
) -> Resource {
    Resource { group, plural, kind, namespaced, short }
}

const RBAC: &str = "rbac.authorization.k8s.io";
pub const NAMESPACES: Resource = resource("", "namespaces", "Namespace", false, "ns");
pub const NODES: Resource = resource("", "nodes", "Node", false, "no");
pub const PODS: Resource = resource("", "pods", "Pod", true, "po");
pub const QUOTAS: Resource = resource("", "resourcequotas", "ResourceQuota", true, "quota");
pub const ACCOUNTS: Resource = resource("", "serviceaccounts", "ServiceAccount", true, "sa");
pub const EVENTS: Resource = resource("", "events", "Event", true, "ev");
pub const SECRETS: Resource = resource("", "secrets", "Secret", true, "");
pub const JOBS: Resource = resource("batch", "jobs", "Job", true, "");
pub const CLUSTER_ROLES: Resource = resource(RBAC, "clusterroles", "ClusterRole", false, "");
pub const CLUSTER_ROLE_BINDINGS: Resource = resource(RBAC, "clusterrolebindings", "ClusterRoleBinding", false, "");
pub const ROLES: Resource = resource(RBAC, "roles", "Role", true, "");
pub const ROLE_BINDINGS: Resource = resource(RBAC, "rolebindings", "RoleBinding", true, "");

/// The stored resources. The simulator itself does not use secrets, config maps and services, but users and kubectl list them.
pub static ALL: [Resource; 14] = [
    NAMESPACES,
    NODES,
    PODS,
    QUOTAS,
    ACCOUNTS,
    EVENTS,
    SECRETS,
    resource("", "configmaps", "ConfigMap", true, "cm"),
    resource("", "services", "Service", true, "svc"),
    JOBS,
    CLUSTER_ROLES,
    CLUSTER_ROLE_BINDINGS,
    ROLES,
    ROLE_BINDINGS,
];

/// Resources that are answered and never stored: group, plural and kind.
const REVIEWS: [(&str, &str, &str); 3] = [
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    ("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview"),
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview"),
];

/// All groups except the core group.
const GROUPS: [&str; 4] = ["batch", RBAC, "authorization.k8s.io", "authentication.k8s.io"];

/// One object of a resource, or the resource's collection in a namespace.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub resource: &'static Resource,
    /// Empty if cluster-scoped, or for all namespaces.
    pub namespace: &'a str,
    /// Empty for the collection.
    pub name: &'a str,
}

impl<'a> Target<'a> {
    pub fn collection(resource: &'static Resource, namespace: &'a str) -> Self {
        Self { resource, namespace, name: "" }
    }
}

impl Resource {
    pub fn find(group: &str, plural: &str) -> Option<&'static Self> {
        ALL.iter().find(|resource| resource.group == group && resource.plural == plural)
    }

    /// Returns the name in messages, such as `jobs.batch`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    pub fn is_rbac(&self) -> bool {
        self.group == RBAC
    }

    /// Returns true if the status is a resource of its own, `NAME/status`.
    pub fn has_status(&self) -> bool {
        [&JOBS, &NAMESPACES, &NODES, &PODS, &QUOTAS].contains(&self)
    }

    pub fn api_version(&self) -> String {
        api_version(self.group)
    }
}

fn api_version(group: &str) -> String {
    if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") }
}

/// Returns the discovery document of a path above the resources.
pub fn discovery(path: &[&str]) -> Option<Value> {
    match path {
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        ["apis"] => {
            let groups: Vec<Value> = GROUPS.iter().map(|group| group_json(group)).collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["api", "v1"] => Some(resource_list("")),
        ["apis", group] if GROUPS.contains(group) => Some(group_json(group)),
        ["apis", group, "v1"] if GROUPS.contains(group) => Some(resource_list(group)),
        _ => None,
    }
}

fn group_json(group: &str) -> Value {
    let version = json!({"groupVersion": api_version(group), "version": "v1"});
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": group, "versions": [version], "preferredVersion": version})
}

fn resource_list(group: &str) -> Value {
    let verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    let stored = ALL.iter().filter(|resource| resource.group == group).map(|resource| {
        let shorts: Vec<&str> = Some(resource.short).filter(|short| !short.is_empty()).into_iter().collect();
        json!({"name": resource.plural, "singularName": "", "namespaced": resource.namespaced, "kind": resource.kind,
               "verbs": verbs, "shortNames": shorts,
               "categories": if [&PODS, &JOBS].contains(&resource) { vec!["all"] } else { Vec::new() }})
    });
    let statuses = ALL.iter().filter(|resource| resource.group == group && resource.has_status()).map(|resource| {
        json!({"name": format!("{}/status", resource.plural), "singularName": "", "namespaced": resource.namespaced,
               "kind": resource.kind, "verbs": ["get", "patch", "update"]})
    });
    let reviews = REVIEWS.iter().filter(|(of, ..)| *of == group).map(
        |(_, name, kind)| json!({"name": name, "singularName": "", "namespaced": false, "kind": kind, "verbs": ["create"]}),
    );
    let all: Vec<Value> = stored.chain(statuses).chain(reviews).collect();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version(group), "resources": all})
}
