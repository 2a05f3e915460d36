//! Who may do what: the stored roles and bindings, evaluated. Administrators (system:masters) may do everything.

use serde_json::Value;

use super::resources::{CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES};
use super::store::{Store, items, namespace, text};

/// Who asks.
#[derive(Debug, Clone)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
}

/// What is asked for.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    /// With the subresource: `pods/log`.
    pub resource: &'a str,
    /// Empty for all, and for what has none.
    pub namespace: &'a str,
    /// Empty for all.
    pub name: &'a str,
}

impl User {
    /// A user, with the groups that Kubernetes gives to everybody and to service accounts.
    pub fn named(name: &str, groups: &[String]) -> Self {
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

    fn is(&self, subject: &Value) -> bool {
        let name = text(subject, "/name");
        match text(subject, "/kind") {
            "User" => self.name == name,
            "Group" => self.groups.iter().any(|group| group == name),
            "ServiceAccount" => self.name == format!("system:serviceaccount:{}:{name}", text(subject, "/namespace")),
            _ => false,
        }
    }
}

/// Whether they may.
pub fn allows(store: &Store, user: &User, wanted: &Wanted<'_>) -> bool {
    // Without a namespace no RoleBinding counts.
    let here = (!wanted.namespace.is_empty()).then(|| store.list(&ROLE_BINDINGS, wanted.namespace));
    let mut bindings = store.list(&CLUSTER_ROLE_BINDINGS, "").chain(here.into_iter().flatten());
    user.is_admin()
        || bindings.any(|binding| {
            let name = text(binding, "/roleRef/name");
            let role = match text(binding, "/roleRef/kind") {
                "ClusterRole" => store.get(&CLUSTER_ROLES, "", name),
                _ => store.get(&ROLES, namespace(binding), name),
            };
            items(&binding["subjects"]).iter().any(|subject| user.is(subject))
                && role.is_some_and(|role| items(&role["rules"]).iter().any(|rule| grants(rule, wanted)))
        })
}

fn grants(rule: &Value, wanted: &Wanted<'_>) -> bool {
    let has = |list: &str, word: &str| items(&rule[list]).iter().any(|item| item == "*" || item == word);
    let names = items(&rule["resourceNames"]);
    has("verbs", wanted.verb)
        && has("apiGroups", wanted.group)
        && has("resources", wanted.resource)
        && (names.is_empty() || names.iter().any(|name| name == wanted.name))
}

/// The sentence of a refusal.
pub fn refusal(user: &User, wanted: &Wanted<'_>) -> String {
    let place = match wanted.namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace \"{namespace}\""),
    };
    let User { name, .. } = user;
    let Wanted { verb, resource, group, .. } = wanted;
    format!("User \"{name}\" cannot {verb} resource \"{resource}\" in API group \"{group}\" {place}")
}
