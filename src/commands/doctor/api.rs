//! From a kubeconfig to an API that answers, and knows us.

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::UPDATE_KUBECONFIG;
use crate::commands::output::Finding;
use crate::kube::{Client, Cluster, ConfigError, CredentialError, Error, Operation, chain};

/// A clock that is wrong by this much will be wrong by more: time servers keep hosts within milliseconds. An answer's
/// Date has whole seconds and may be on its way for as long as an operation takes, 10 s.
const CLOCK_WARNING: Duration = Duration::from_secs(30);

/// AWS refuses signatures that are older or younger than this, and tokens of EKS are such signatures,
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html>.
const CLOCK_FAIL: Duration = Duration::from_secs(5 * 60);

/// What sets the clock on Amazon Linux, and elsewhere.
const SET_CLOCK: &str = "timedatectl set-ntp true, or systemctl restart chronyd; then date -u";

/// Kubernetes knows no such credential.
const UNKNOWN: &str = "aws sts get-caller-identity shows who asks; its role needs an access entry: aws eks create-access-entry \
                       --cluster-name CLUSTER --principal-arn ROLE --kubernetes-groups img-classification. A token or \
                       certificate of the kubeconfig's own may be over: aws eks update-kubeconfig";

/// What was read of the kubeconfig.
pub fn kubeconfig(loaded: Result<Cluster, ConfigError>) -> (Finding, Option<Cluster>) {
    match loaded {
        Ok(cluster) => {
            let text = cluster.lines().join("; ");
            let text = text.strip_prefix("kubeconfig: ").unwrap_or(&text);
            (Finding::ok("kubeconfig", text), Some(cluster))
        }
        Err(error) => {
            let fix = format!("{UPDATE_KUBECONFIG}, or name another file with --kubeconfig or KUBECONFIG");
            (Finding::fail("kubeconfig", chain(&error), fix), None)
        }
    }
}

/// Whether the API at `server` answers, and what it has for a clock.
pub fn reach(kube: &Client, server: &str) -> (Vec<Finding>, bool) {
    let start = Instant::now();
    match kube.version() {
        Ok((version, date)) => {
            let text = format!("{server} answers within {} ms: Kubernetes {version}", start.elapsed().as_millis());
            (std::iter::once(Finding::ok("API", text)).chain(clock(date, SystemTime::now())).collect(), true)
        }
        // A wrong clock is a reason for a 401.
        Err(error) if is_outage(&error) => {
            let clock = clock(error.date(), SystemTime::now()).filter(|finding| finding.fix.is_some());
            (std::iter::once(failure("API", &error)).chain(clock).collect(), false)
        }
        Err(error) => {
            let text = format!("{server} answers, but does not show its version: {}", words(&error));
            let finding = Finding::warning("API", text, super::AS_ADMINISTRATOR);
            (std::iter::once(finding).chain(clock(error.date(), SystemTime::now())).collect(), true)
        }
    }
}

/// Nothing else will be answered either.
pub fn is_outage(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. }
        | Error::CircuitOpen { .. }
        | Error::Tls { .. }
        | Error::Timeout { .. }
        | Error::Truncated { .. }
        | Error::ProxyRefused { .. }
        | Error::NotKubernetes { .. }
        | Error::Credential(_) => true,
        Error::Status { status, .. } => status.code == 401 || status.code >= 500,
        Error::OutcomeUnknown { .. } => false,
    }
}

/// The API cannot be asked, and why.
pub fn failure(topic: &str, error: &Error) -> Finding {
    let fix = match error {
        Error::Unreachable { .. } | Error::CircuitOpen { .. } => {
            "the address is the cluster's, if that was made anew: aws eks update-kubeconfig --region REGION --name CLUSTER; \
             else let this host in at its port, which a security group or a private endpoint may keep shut"
        }
        Error::Timeout { .. } => {
            "let this host in at the API's port (443 on EKS), which a security group or a private endpoint may keep shut; \
             where it is only slow: --kube-timeout SECONDS"
        }
        Error::Tls { .. } => {
            "aws eks update-kubeconfig --region REGION --name CLUSTER writes the cluster's CA anew; then date -u, for a \
             wrong clock makes certificates invalid"
        }
        Error::ProxyRefused { .. } => "unset HTTPS_PROXY, or name the cluster's host in NO_PROXY",
        Error::Truncated { .. } | Error::NotKubernetes { .. } => {
            "look at `server` in the kubeconfig and at HTTPS_PROXY: something else answers there"
        }
        Error::Credential(error) => credential_fix(error),
        Error::Status { status, .. } if status.code == 401 => UNKNOWN,
        Error::Status { .. } | Error::OutcomeUnknown { .. } => {
            "kubectl get --raw /readyz?verbose, and once more in a minute"
        }
    };
    Finding::fail(topic, chain(error), fix)
}

fn credential_fix(error: &CredentialError) -> &'static str {
    match error {
        CredentialError::Spawn { .. } => {
            "install it (for aws: apt-get install awscli, or https://docs.aws.amazon.com/cli/), and name its folder in PATH, \
             for the service in /etc/img-classification.env"
        }
        CredentialError::Failed { .. } => {
            "run it by hand, for aws: aws sts get-caller-identity; the service needs HOME, and AWS_PROFILE if you use one, in \
             /etc/img-classification.env"
        }
        CredentialError::TimedOut { .. } | CredentialError::Pending { .. } => {
            "run it by hand and see what it waits for; where it is only slow: --kube-timeout SECONDS"
        }
        CredentialError::Malformed { .. } | CredentialError::Certificate { .. } => UPDATE_KUBECONFIG,
    }
}

/// An error in Kubernetes' own words where it has some.
pub fn words(error: &Error) -> String {
    match error {
        Error::Status { status, .. } => status.message.clone(),
        error => chain(error),
    }
}

/// Our clock against the server's.
fn clock(server: Option<SystemTime>, ours: SystemTime) -> Option<Finding> {
    let server = server?;
    let (gap, word) = match ours.duration_since(server) {
        Ok(gap) => (gap, "ahead of"),
        Err(error) => (error.duration(), "behind"),
    };
    let text = format!("this host's clock is {} s {word} the API server's", gap.as_secs());
    Some(match gap {
        gap if gap >= CLOCK_FAIL => {
            Finding::fail("clock", format!("{text}; AWS refuses what is signed by it, and TLS may fail"), SET_CLOCK)
        }
        gap if gap >= CLOCK_WARNING => Finding::warning("clock", text, SET_CLOCK),
        _ => Finding::ok("clock", "this host's clock and the API server's agree"),
    })
}

/// Who Kubernetes takes us for. Before 1.28, or 1.27 with a beta API, it does not say; then it is what we can tell
/// ourselves, `credential` at least.
///
/// # Errors
/// [`Error`]
pub fn identity(kube: &Client, credential: &str) -> Result<Vec<Finding>, Error> {
    for version in ["v1", "v1beta1"] {
        let api = format!("authentication.k8s.io/{version}");
        let review = json!({ "apiVersion": api, "kind": "SelfSubjectReview" });
        match kube.object(Operation::Create(&review), &format!("/apis/{api}/selfsubjectreviews")) {
            Ok(review) => return Ok(vec![user(&review["status"]["userInfo"])]),
            // A path that a server does not know is forbidden to some, and a plain 404 to others.
            Err(Error::Status { status, .. }) if matches!(status.code, 403..=405) => {}
            Err(Error::NotKubernetes { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let text = match kube.subject() {
        Some(subject) => format!("{subject}, by our token; this Kubernetes does not say"),
        None => format!("this Kubernetes does not say; our credential is: {credential}"),
    };
    Ok(vec![Finding::ok("identity", text)])
}

fn user(info: &Value) -> Finding {
    let name = info["username"].as_str().unwrap_or("somebody without a name");
    let groups: Vec<&str> = info["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if name == "system:anonymous" {
        return Finding::warning(
            "identity",
            "nobody: the request carried no credential that counts",
            UPDATE_KUBECONFIG,
        );
    }
    Finding::ok("identity", format!("{name}, in the groups {}", groups.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::output::Verdict;

    #[test]
    fn a_clock_is_judged_by_how_far_it_is_off() {
        let server = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let table = [
            (0, Verdict::Ok, "agree"),
            (29, Verdict::Ok, "agree"),
            (-29, Verdict::Ok, "agree"),
            (30, Verdict::Warning, "30 s ahead"),
            (-299, Verdict::Warning, "299 s behind"),
            (300, Verdict::Fail, "300 s ahead"),
            (-86_400, Verdict::Fail, "86400 s behind"),
        ];
        for (seconds, verdict, words) in table {
            let gap = Duration::from_secs(i64::unsigned_abs(seconds));
            let ours = if seconds >= 0 { server + gap } else { server - gap };
            let finding = clock(Some(server), ours).expect("a date");
            assert_eq!(finding.verdict, verdict, "{seconds}");
            assert!(finding.text.contains(words), "{}", finding.text);
            assert_eq!(finding.fix.is_some(), verdict != Verdict::Ok);
        }
        assert!(clock(None, server).is_none());
    }

    #[test]
    fn nobody_is_told_from_somebody() {
        let finding = user(&json!({"username": "ann", "groups": ["a", "system:authenticated"]}));
        assert_eq!(
            (finding.verdict, finding.text.as_str()),
            (Verdict::Ok, "ann, in the groups a, system:authenticated")
        );
        assert_eq!(user(&json!({"username": "system:anonymous"})).verdict, Verdict::Warning);
    }
}
