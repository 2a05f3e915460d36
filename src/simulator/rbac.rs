//! Authorization by the stored roles and bindings. Administrators (system:masters) may do everything.

use serde_json::{Value, json};

use super::resources::{CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES};
use super::store::{self, Store, items, text};

/// The user of a request.
#[derive(Debug, Clone)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
}

/// The attributes of a request that authorization considers.
#[derive(Debug)]
pub struct Attributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    /// With the subresource: `pods/log`.
    pub resource: &'a str,
    /// Empty if cluster-scoped, or for all namespaces.
    pub namespace: &'a str,
    /// Empty for a collection.
    pub name: &'a str,
}

impl User {
    /// Returns a user with the groups that Kubernetes adds for all users and for service accounts.
    pub fn new(name: &str, groups: &[String]) -> Self {
        let mut groups = groups.to_vec();
        if let Some((namespace, _)) = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'))
        {
            groups.extend(["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]);
        }
        groups.push("system:authenticated".to_owned());
        Self { name: name.to_owned(), groups }
    }

    pub fn is_admin(&self) -> bool {
        self.groups.iter().any(|group| group == "system:masters")
    }

    fn matches(&self, subject: &Value) -> bool {
        let name = text(subject, "/name");
        match text(subject, "/kind") {
            "User" => self.name == name,
            "Group" => self.groups.iter().any(|group| group == name),
            "ServiceAccount" => self.name == format!("system:serviceaccount:{}:{name}", text(subject, "/namespace")),
            _ => false,
        }
    }
}

/// Returns true if a role grants the request.
pub fn allows(store: &Store, user: &User, attributes: &Attributes<'_>) -> bool {
    user.is_admin() || rules(store, user, attributes.namespace).iter().any(|rule| grants(rule, attributes))
}

/// Returns the rules of all roles of a user in a namespace. An empty namespace means the whole cluster.
pub fn rules(store: &Store, user: &User, namespace: &str) -> Vec<Value> {
    if user.is_admin() {
        return vec![json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})];
    }
    // RoleBindings grant nothing outside their namespace.
    let local = (!namespace.is_empty()).then(|| store.list(&ROLE_BINDINGS, namespace));
    let bindings = store.list(&CLUSTER_ROLE_BINDINGS, "").chain(local.into_iter().flatten());
    let bindings = bindings.filter(|binding| items(&binding["subjects"]).iter().any(|subject| user.matches(subject)));
    let roles = bindings.filter_map(|binding| {
        let name = text(binding, "/roleRef/name");
        match text(binding, "/roleRef/kind") {
            "ClusterRole" => store.get(&CLUSTER_ROLES, "", name),
            _ => store.get(&ROLES, store::namespace(binding), name),
        }
    });
    roles.flat_map(|role| items(&role["rules"]).to_vec()).collect()
}

fn grants(rule: &Value, attributes: &Attributes<'_>) -> bool {
    let has = |list: &str, word: &str| items(&rule[list]).iter().any(|item| item == "*" || item == word);
    let names = items(&rule["resourceNames"]);
    has("verbs", attributes.verb)
        && has("apiGroups", attributes.group)
        && has("resources", attributes.resource)
        && (names.is_empty() || names.iter().any(|name| name == attributes.name))
}

/// Returns Kubernetes' message for a denied request.
pub fn denial(user: &User, attributes: &Attributes<'_>) -> String {
    let scope = match attributes.namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace \"{namespace}\""),
    };
    let User { name, .. } = user;
    let Attributes { verb, resource, group, .. } = attributes;
    format!("User \"{name}\" cannot {verb} resource \"{resource}\" in API group \"{group}\" {scope}")
}
