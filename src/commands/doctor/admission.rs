//! Check that Kubernetes admits a classifier's pod: a dry run creates the pod of a Job. Admission and quotas evaluate it, and
//! nothing is stored. The dry run of a Job would not show it, since quotas on CPU count pods.

use serde_json::{Value, json};

use super::fix::SETUP;
use crate::commands::output::Check;
use crate::job::{self, Dataset, Tier};
use crate::kube::quantity::{self, Milli};
use crate::kube::{Client, Error, Operation, Status};

/// Creates a pod of the tier as a dry run.
///
/// # Errors
/// [`Error`] if the request failed for another reason than the pod.
pub fn check(kube: &Client, settings: &job::Settings, tier: Tier) -> Result<Check, Error> {
    let path = format!("/api/v1/namespaces/{}/pods?dryRun=All", tier.namespace());
    match kube.object(Operation::Create(&pod(settings, tier)), &path) {
        Ok(_) => Ok(Check::ok("dry run", format!("a {} pod is admitted in {}", tier.as_str(), tier.namespace()))),
        Err(error) if error.not_permitted() => Err(error),
        // A webhook that does not respond is a 500.
        Err(Error::Status { status, .. }) if matches!(status.code, 400 | 403 | 404 | 422) || names_webhook(&status) => {
            Ok(refused(tier, &status))
        }
        Err(error) => Err(error),
    }
}

/// Returns the pod that the Job controller would create.
fn pod(settings: &job::Settings, tier: Tier) -> Value {
    let job = job::manifest(settings, tier, Dataset::Mnist, "doctor");
    let template = &job["spec"]["template"];
    let metadata = json!({
        "generateName": "doctor-",
        "namespace": tier.namespace(),
        "labels": template["metadata"]["labels"],
    });
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"] })
}

fn names_webhook(status: &Status) -> bool {
    status.message.contains("webhook")
}

/// Returns the check of a refused pod.
fn refused(tier: Tier, status: &Status) -> Check {
    let (namespace, message) = (tier.namespace(), status.message.as_str());
    if status.quota_exceeded() && fits_empty_quota(message) {
        let used = section(message, "used: ").unwrap_or_default();
        let text = format!("the quota of {namespace} is used up ({used}): a new Job waits in the queue, as intended");
        return Check::ok("dry run", text);
    }
    if message.contains("does not support dry run") {
        let text = format!("not tried in {namespace}: {message}");
        return Check::warning("dry run", text, "img-classification selftest URL, which creates real Jobs");
    }
    Check::fail("dry run", format!("a {} pod is refused in {namespace}: {message}", tier.as_str()), fix(tier, status))
}

fn fix(tier: Tier, status: &Status) -> String {
    let (namespace, message) = (tier.namespace(), status.message.as_str());
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if status.namespace_missing() || status.code == 404 || has(&["because it is being terminated"]) {
        SETUP.to_owned()
    } else if has(&["exceeded quota", "failed quota"]) {
        format!(
            "kubectl get quota -n {namespace}; {SETUP} repairs its own quotas; for others: kubectl delete quota NAME -n {namespace}"
        )
    } else if has(&[" per Container", " per Pod", "limit to request ratio"]) {
        format!("kubectl get limitrange -n {namespace}, then kubectl delete limitrange NAME -n {namespace}")
    } else if has(&["PodSecurity", "pod security"]) {
        format!("kubectl label namespace {namespace} pod-security.kubernetes.io/enforce=baseline --overwrite")
    } else if names_webhook(status) {
        "kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations, then exempt the namespace there"
            .to_owned()
    } else if has(&["service account", "serviceaccount"]) {
        format!("kubectl get serviceaccounts -n {namespace}; a new namespace gets one within seconds")
    } else {
        format!("kubectl describe namespace {namespace}")
    }
}

/// Tests for a request that fits into the empty quota. `requested: a=1,b=2, used: ..., limited: ...` is the text of
/// k8s.io/apiserver/pkg/admission/plugin/resourcequota.
fn fits_empty_quota(message: &str) -> bool {
    let [requested, limited] = ["requested: ", "limited: "].map(|label| amounts(message, label));
    let fits = |(key, amount): &(&str, Milli)| limited.iter().any(|(other, limit)| key == other && amount <= limit);
    !requested.is_empty() && requested.iter().all(fits)
}

/// Returns the items after a label. They contain no space.
fn section<'a>(message: &'a str, label: &str) -> Option<&'a str> {
    let (_, rest) = message.split_once(label)?;
    Some(rest.split(' ').next()?.trim_end_matches(','))
}

fn amounts<'a>(message: &'a str, label: &str) -> Vec<(&'a str, Milli)> {
    let items = section(message, label).unwrap_or_default().split(',');
    items
        .filter_map(|item| item.split_once('='))
        .filter_map(|(key, text)| Some((key, quantity::parse(text)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::output::CheckStatus;

    fn status(message: &str) -> Status {
        Status { code: 403, reason: "Forbidden".to_owned(), message: message.to_owned() }
    }

    #[test]
    fn a_used_up_quota_is_ok_and_a_small_one_fails() {
        let exceeded = |used: &str, limited: &str| {
            status(&format!(
                "pods \"doctor-x\" is forbidden: exceeded quota: free-cpu, requested: limits.cpu=900m,requests.cpu=900m, \
                 used: limits.cpu={used},requests.cpu={used}, limited: limits.cpu={limited},requests.cpu={limited}"
            ))
        };
        let check = refused(Tier::Free, &exceeded("1800m", "2"));
        assert_eq!(check.status, CheckStatus::Ok);
        assert!(check.text.contains("(limits.cpu=1800m,requests.cpu=1800m)"), "{}", check.text);
        for (used, limited) in [("0", "500m"), ("400m", "500m"), ("0", "")] {
            let check = refused(Tier::Free, &exceeded(used, limited));
            assert_eq!(check.status, CheckStatus::Fail, "{used} of {limited}");
            assert!(check.fix.is_some_and(|fix| fix.contains("kubectl get quota -n free-service")));
        }
    }

    #[test]
    fn each_refusal_has_kubernetes_words_and_a_fix() {
        let table = [
            ("pods \"x\" is forbidden: failed quota: q: must specify limits.memory", "kubectl get quota"),
            ("pods \"x\" is forbidden: maximum cpu usage per Container is 500m, but limit is 900m", "limitrange"),
            (
                "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\": runAsNonRoot != true",
                "pod-security",
            ),
            ("admission webhook \"policy.example\" denied the request: no", "webhookconfigurations"),
            (
                "pods \"x\" is forbidden: error looking up service account default/default: serviceaccount \"default\" not found",
                "serviceaccounts",
            ),
            ("unable to create new content in namespace free-service because it is being terminated", "setup"),
            ("pods \"x\" is forbidden: because I say so", "kubectl describe namespace default"),
        ];
        for (message, fix) in table {
            let check = refused(Tier::Premium, &status(message));
            assert_eq!(check.status, CheckStatus::Fail, "{message}");
            assert!(check.text.ends_with(message), "{}", check.text);
            assert!(check.fix.as_ref().is_some_and(|found| found.contains(fix)), "{message}: {:?}", check.fix);
        }
        let check = refused(Tier::Free, &status("admission webhook \"w\" does not support dry run"));
        assert_eq!(check.status, CheckStatus::Warning);
    }

    #[test]
    fn the_pod_is_that_of_the_tiers_jobs() {
        let settings = job::Settings { image: "a/b:1".to_owned(), ttl: 1, timeout: 0 };
        let pod = pod(&settings, Tier::Free);
        assert_eq!(pod["metadata"]["namespace"], "free-service");
        assert_eq!(pod["metadata"]["labels"]["app.kubernetes.io/managed-by"], "img-classification");
        assert_eq!(pod["spec"]["containers"][0]["image"], "a/b:1");
        assert!(pod["metadata"]["name"].is_null());
    }
}
