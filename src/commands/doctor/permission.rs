//! Checks of this identity's permissions and of the free tier's namespace.

use serde_json::json;

use super::fix::SETUP;
use crate::commands::output::Check;
use crate::job::Tier;
use crate::kube::{Client, Error, Operation};

/// One permission: verb, API group, resource with its subresource, namespace.
type Permission = (&'static str, &'static str, &'static str, Option<&'static str>);

const FREE: Option<&str> = Some(Tier::Free.namespace());
const PREMIUM: Option<&str> = Some(Tier::Premium.namespace());

/// Permissions of the server, as in k8s/rbac.yaml.
const SERVER: [Permission; 3] =
    [("create", "batch", "jobs", FREE), ("create", "batch", "jobs", PREMIUM), ("list", "", "pods", None)];

/// The permission to answer GET /config from memory.
const WATCH_PODS: Permission = ("watch", "", "pods", None);

/// Permissions to show the queue and to requeue waiting Jobs.
const WATCH: [Permission; 2] = [("list", "batch", "jobs", FREE), ("watch", "batch", "jobs", FREE)];

/// Further permissions to show the queue.
const QUEUE: [Permission; 1] = [("watch", "", "pods", FREE)];

/// Further permissions to show the Jobs.
const JOBS: [Permission; 3] =
    [("list", "batch", "jobs", PREMIUM), ("watch", "batch", "jobs", PREMIUM), ("watch", "", "pods", PREMIUM)];

/// Further permissions to requeue waiting Jobs.
const REQUEUE: [Permission; 3] =
    [("patch", "batch", "jobs", FREE), ("list", "", "resourcequotas", FREE), ("watch", "", "resourcequotas", FREE)];

/// Permissions to find the Job of a repeated POST, and to show a Job with --no-watch.
const READ: [Permission; 2] = [("get", "batch", "jobs", FREE), ("get", "batch", "jobs", PREMIUM)];

/// Permissions to show the logs of Jobs.
const LOGS: [Permission; 2] = [("get", "", "pods/log", FREE), ("get", "", "pods/log", PREMIUM)];

/// Permissions to delete Jobs.
const DELETION: [Permission; 2] = [("delete", "batch", "jobs", FREE), ("delete", "batch", "jobs", PREMIUM)];

/// Further permissions of `clean`.
const CLEAN: [Permission; 6] = [
    ("list", "batch", "jobs", FREE),
    ("list", "batch", "jobs", PREMIUM),
    ("list", "", "pods", FREE),
    ("list", "", "pods", PREMIUM),
    ("list", "", "resourcequotas", FREE),
    ("list", "", "resourcequotas", PREMIUM),
];

/// Fix that grants the role. `setup` creates the role; on EKS an access entry binds an identity to its group.
const GRANT: &str = "img-classification setup, with an administrator's kubeconfig, creates the role; on EKS grant it with: \
                     aws eks create-access-entry --cluster-name CLUSTER --principal-arn ROLE --kubernetes-groups \
                     img-classification";

/// Requests an access review of each permission.
///
/// # Errors
/// [`Error`]
pub fn check(kube: &Client) -> Result<Vec<Check>, Error> {
    let mut checks = Vec::new();
    for permission in SERVER {
        checks.push(match denial(kube, permission)? {
            None => Check::ok("permission", format!("may {}", in_words(permission))),
            Some(reason) => Check::fail("permission", format!("may not {}{reason}", in_words(permission)), GRANT),
        });
    }
    let watch_pods = in_words(WATCH_PODS);
    checks.push(match denial(kube, WATCH_PODS)? {
        None => Check::ok("permission", format!("may {watch_pods}")),
        Some(_) => {
            Check::warning("permission", format!("may not {watch_pods}; without it each GET /config lists them"), GRANT)
        }
    });
    checks.push(watched_jobs(kube)?);
    let effect = "a repeated POST gets 429 from a full quota, and GET /jobs/NAME with --no-watch returns 502";
    checks.push(feature(kube, &READ, "may read Jobs", effect)?);
    checks.push(feature(kube, &LOGS, "may read the logs of Jobs", "GET /jobs/NAME/logs returns 502")?);
    checks.push(feature(kube, &DELETION, "may delete Jobs", "DELETE /jobs/NAME returns 502, and `clean` fails")?);
    let clean = missing(kube, &CLEAN)?.join(", ");
    checks.push(if clean.is_empty() {
        Check::ok("permission", "may do what `clean` needs")
    } else {
        let text = format!("may not {clean}; only `clean` needs it");
        Check::warning(
            "permission",
            text,
            "img-classification clean --kubeconfig FILE, with an administrator's kubeconfig",
        )
    });
    Ok(checks)
}

/// Checks the permissions of a feature that the server can do without.
fn feature(kube: &Client, permissions: &[Permission], text: &str, effect: &str) -> Result<Check, Error> {
    let missing = missing(kube, permissions)?.join(", ");
    Ok(if missing.is_empty() {
        Check::ok("permission", text)
    } else {
        Check::warning("permission", format!("may not {missing}; without it {effect}"), GRANT)
    })
}

/// Checks the permissions to watch the Jobs and to requeue them, which the server can do without.
fn watched_jobs(kube: &Client) -> Result<Check, Error> {
    let (watch, queue) = (missing(kube, &WATCH)?, missing(kube, &QUEUE)?);
    let (jobs, requeue) = (missing(kube, &JOBS)?, missing(kube, &REQUEUE)?);
    let is_idle = !watch.is_empty() || !requeue.is_empty();
    let is_queue_hidden = !watch.is_empty() || !queue.is_empty();
    let are_jobs_hidden = is_queue_hidden || !jobs.is_empty();
    let effects = [
        is_idle.then_some("waiting Jobs start only on Kubernetes' own retry"),
        is_queue_hidden.then_some("GET /queue returns 502"),
        are_jobs_hidden.then_some("GET /jobs returns 502"),
    ];
    let effects = effects.into_iter().flatten().collect::<Vec<_>>().join(", and ");
    let missing = [watch, queue, jobs, requeue].concat().join(", ");
    Ok(if missing.is_empty() {
        Check::ok("permission", "may watch the Jobs of both tiers and requeue waiting ones")
    } else {
        Check::warning("permission", format!("may not {missing}; without it {effects}"), GRANT)
    })
}

/// Returns the missing permissions in words.
fn missing(kube: &Client, permissions: &[Permission]) -> Result<Vec<String>, Error> {
    let mut missing = Vec::new();
    for permission in permissions {
        if denial(kube, *permission)?.is_some() {
            missing.push(in_words(*permission));
        }
    }
    Ok(missing)
}

/// Returns `None` if the permission is granted, else the reason, which Kubernetes may leave empty.
fn denial(kube: &Client, (verb, group, resource, namespace): Permission) -> Result<Option<String>, Error> {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let attributes = json!({
        "verb": verb, "group": group, "resource": resource, "subresource": subresource, "namespace": namespace,
    });
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": { "resourceAttributes": attributes },
    });
    let review = kube.object(Operation::Create(&review), "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")?;
    if review["status"]["allowed"] == true {
        return Ok(None);
    }
    let reason = review["status"]["reason"].as_str().filter(|reason| !reason.is_empty());
    Ok(Some(reason.map_or_else(String::new, |reason| format!(": {reason}"))))
}

fn in_words((verb, group, resource, namespace): Permission) -> String {
    let dot = if group.is_empty() { "" } else { "." };
    let place = namespace.map_or_else(|| "all namespaces".to_owned(), str::to_owned);
    format!("{verb} {resource}{dot}{group} in {place}")
}

/// Checks the free tier's namespace. The premium tier's namespace `default` always exists.
///
/// # Errors
/// [`Error`]
pub fn namespace(kube: &Client) -> Result<Check, Error> {
    let name = Tier::Free.namespace();
    let object = match kube.object(Operation::Get, &format!("/api/v1/namespaces/{name}")) {
        Ok(object) => object,
        Err(error) if error.not_found() => {
            return Ok(Check::fail("namespace", format!("namespace {name} does not exist"), SETUP));
        }
        Err(error) => return Err(error),
    };
    let is_terminating =
        object["status"]["phase"] == "Terminating" || !object["metadata"]["deletionTimestamp"].is_null();
    Ok(if is_terminating {
        Check::fail("namespace", format!("{name} is terminating; it accepts no new objects"), SETUP)
    } else {
        Check::ok("namespace", format!("{name} exists"))
    })
}
