//! What this identity may do, and the namespace to do it in.

use serde_json::json;

use super::SETUP;
use crate::commands::output::Finding;
use crate::job::Tier;
use crate::kube::{Client, Error, Operation};

/// One permission: verb, API group, resource, namespace.
type Permission = (&'static str, &'static str, &'static str, Option<&'static str>);

const FREE: Option<&str> = Some(Tier::Free.namespace());
const PREMIUM: Option<&str> = Some(Tier::Premium.namespace());

/// What the server does, as in k8s/rbac.yaml.
const SERVER: [Permission; 3] =
    [("create", "batch", "jobs", FREE), ("create", "batch", "jobs", PREMIUM), ("list", "", "pods", None)];

/// What starts the oldest Job that waits and shows the queue.
const QUEUE: [Permission; 5] = [
    ("list", "batch", "jobs", FREE),
    ("watch", "batch", "jobs", FREE),
    ("patch", "batch", "jobs", FREE),
    ("list", "", "resourcequotas", FREE),
    ("watch", "", "resourcequotas", FREE),
];

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
    let queue = missing(kube, &QUEUE)?;
    findings.push(if queue.is_empty() {
        Finding::ok("permission", "may watch the free tier's queue and start who waits")
    } else {
        let text = format!(
            "may not {queue}; without it a free slot waits for Kubernetes' own retry, and GET /queue has nothing to show"
        );
        Finding::warning("permission", text, GRANT)
    });
    let clean = missing(kube, &CLEAN)?;
    findings.push(if clean.is_empty() {
        Finding::ok("permission", "may do what `clean` needs, too")
    } else {
        let text = format!("may not {clean}; `clean` needs that, the server does not");
        Finding::warning(
            "permission",
            text,
            "img-classification clean --kubeconfig FILE, with an administrator's kubeconfig",
        )
    });
    Ok(findings)
}

/// Those that are missing, in words.
fn missing(kube: &Client, permissions: &[Permission]) -> Result<String, Error> {
    let mut missing = Vec::new();
    for permission in permissions {
        if refusal(kube, *permission)?.is_some() {
            missing.push(in_words(*permission));
        }
    }
    Ok(missing.join(", "))
}

/// The reason why not, if not; Kubernetes may give none.
fn refusal(kube: &Client, (verb, group, resource, namespace): Permission) -> Result<Option<String>, Error> {
    let attributes = json!({ "verb": verb, "group": group, "resource": resource, "namespace": namespace });
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": { "resourceAttributes": attributes },
    });
    let answer = kube.object(Operation::Create(&review), "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")?;
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
    let object = match kube.object(Operation::Get, &format!("/api/v1/namespaces/{name}")) {
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
