//! What this identity may do, and the namespace to do it in.

use serde_json::json;

use super::SETUP;
use crate::job::Tier;
use crate::kube::{Client, Error, Verb};
use crate::report::Finding;

/// One permission: verb, API group, resource, namespace.
type Permission = (&'static str, &'static str, &'static str, Option<&'static str>);

const FREE: Option<&str> = Some(Tier::Free.namespace());
const PREMIUM: Option<&str> = Some(Tier::Premium.namespace());

/// What the server does, as in k8s/rbac.yaml.
const SERVER: [Permission; 3] =
    [("create", "batch", "jobs", FREE), ("create", "batch", "jobs", PREMIUM), ("list", "", "pods", None)];

/// What `clean` does besides.
const CLEAN: [Permission; 8] = [
    ("list", "batch", "jobs", FREE),
    ("list", "batch", "jobs", PREMIUM),
    ("delete", "batch", "jobs", FREE),
    ("delete", "batch", "jobs", PREMIUM),
    ("list", "", "pods", FREE),
    ("list", "", "pods", PREMIUM),
    ("list", "", "resourcequotas", FREE),
    ("list", "", "resourcequotas", PREMIUM),
];

/// The role and its members are two things, and `setup` makes only the first.
const GRANT: &str = "img-classification setup, with an administrator's kubeconfig, makes the role; on EKS this identity gets \
                     it by: aws eks create-access-entry --cluster-name CLUSTER --principal-arn ROLE --kubernetes-groups \
                     img-classification";

/// Asks Kubernetes for each permission.
///
/// # Errors
/// [`Error`]
pub fn look(kube: &Client) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for permission in SERVER {
        findings.push(match refusal(kube, permission)? {
            None => Finding::ok("permission", format!("may {}", in_words(permission))),
            Some(reason) => Finding::fail("permission", format!("may not {}{reason}", in_words(permission)), GRANT),
        });
    }
    let mut missing = Vec::new();
    for permission in CLEAN {
        if refusal(kube, permission)?.is_some() {
            missing.push(in_words(permission));
        }
    }
    findings.push(match missing.as_slice() {
        [] => Finding::ok("permission", "may do what `clean` needs, too"),
        missing => Finding::warning(
            "permission",
            format!("may not {}; `clean` needs that, the server does not", missing.join(", ")),
            "img-classification clean --kubeconfig FILE, with an administrator's kubeconfig",
        ),
    });
    Ok(findings)
}

/// The reason why not, if not; Kubernetes may give none.
fn refusal(kube: &Client, (verb, group, resource, namespace): Permission) -> Result<Option<String>, Error> {
    let attributes = json!({ "verb": verb, "group": group, "resource": resource, "namespace": namespace });
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": { "resourceAttributes": attributes },
    });
    let answer = kube.object(Verb::Create(&review), "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")?;
    if answer["status"]["allowed"] == true {
        return Ok(None);
    }
    let reason = answer["status"]["reason"].as_str().filter(|reason| !reason.is_empty());
    Ok(Some(reason.map_or_else(String::new, |reason| format!(": {reason}"))))
}

fn in_words((verb, group, resource, namespace): Permission) -> String {
    let dot = if group.is_empty() { "" } else { "." };
    let place = namespace.map_or_else(|| "all namespaces".to_owned(), str::to_owned);
    format!("{verb} {resource}{dot}{group} in {place}")
}

/// The free tier's namespace; `default` is always there.
///
/// # Errors
/// [`Error`]
pub fn namespace(kube: &Client) -> Result<Finding, Error> {
    let name = Tier::Free.namespace();
    let object = match kube.object(Verb::Get, &format!("/api/v1/namespaces/{name}")) {
        Ok(object) => object,
        Err(error) if error.not_found() => {
            return Ok(Finding::fail("namespace", format!("there is no namespace {name}"), SETUP));
        }
        Err(error) => return Err(error),
    };
    let ends = object["status"]["phase"] == "Terminating" || !object["metadata"]["deletionTimestamp"].is_null();
    Ok(if ends {
        Finding::fail("namespace", format!("{name} is being deleted; nothing can be made in it"), SETUP)
    } else {
        Finding::ok("namespace", format!("{name} is there"))
    })
}
