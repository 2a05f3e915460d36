//! Checks of the kubeconfig, the connection to the API server, the clock and the identity.

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::fix::{AS_ADMINISTRATOR, UPDATE_KUBECONFIG};
use crate::commands::output::{Check, CheckStatus};
use crate::kube::{Client, Cluster, ConfigError, CredentialError, Error, Operation, chain};

/// Clock difference that is a warning. Time servers keep hosts within milliseconds. The Date of a response has whole seconds and
/// may be as old as an operation may take, 10 s.
const CLOCK_WARNING: Duration = Duration::from_secs(30);

/// Clock difference that fails: AWS rejects older or younger signatures, and an EKS token is a signature, see
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html>.
const CLOCK_FAIL: Duration = Duration::from_secs(5 * 60);

/// Fix that sets the clock on Amazon Linux and elsewhere.
const SET_CLOCK: &str = "timedatectl set-ntp true, or systemctl restart chronyd; then date -u";

/// Fix for a credential that Kubernetes rejects.
const GRANT_ACCESS: &str = "aws sts get-caller-identity shows the identity; its role needs an access entry: aws eks create-access-entry \
                       --cluster-name CLUSTER --principal-arn ROLE --kubernetes-groups img-classification. If a token or \
                       certificate of the kubeconfig has expired: img-classification setup --eks-kubeconfig CLUSTER --region REGION";

/// The facts of the cluster that decide on a fix.
#[derive(Debug, Default)]
pub struct ClusterFacts {
    /// The proxy's address and the field or the variable that names it.
    pub proxy: Option<(String, &'static str)>,
    /// It is that of `serve --local`.
    pub is_simulated: bool,
    /// The identity of a token of EKS that was made without the plugin; empty if AWS did not tell it.
    pub eks_identity: Option<String>,
}

impl ClusterFacts {
    pub fn of(cluster: &Cluster) -> Self {
        // The simulator's kubeconfig has this name.
        let is_simulated = cluster.name.as_deref() == Some("local") && cluster.server.host() == "127.0.0.1";
        Self { proxy: cluster.proxy_address(), is_simulated, eks_identity: None }
    }
}

/// Checks that the kubeconfig was loaded. Returns the check and the cluster.
pub fn kubeconfig(loaded: Result<Cluster, ConfigError>) -> (Check, Option<Cluster>) {
    match loaded {
        Ok(cluster) => {
            let text = cluster.lines().join("; ");
            let text = text.strip_prefix("kubeconfig: ").unwrap_or(&text);
            (Check::ok("kubeconfig", text), Some(cluster))
        }
        Err(error) => {
            let fix = format!("{UPDATE_KUBECONFIG}, or set --kubeconfig or KUBECONFIG to another file");
            let text = chain(&error);
            // Some errors name a better fix.
            let (text, fix) = text.split_once("; fix: ").unwrap_or((&text, &fix));
            (Check::fail("kubeconfig", text, fix), None)
        }
    }
}

/// Checks the API server at `server` and the clock. Returns the checks, and true if the server is reachable.
pub fn reach(kube: &Client, server: &str, cluster: &ClusterFacts) -> (Vec<Check>, bool) {
    let start = Instant::now();
    match kube.version() {
        Ok((version, date)) => {
            let text = format!("{server} responds within {} ms: Kubernetes {version}", start.elapsed().as_millis());
            (std::iter::once(Check::ok("API", text)).chain(clock(date, SystemTime::now())).collect(), true)
        }
        // A wrong clock may be the cause of a 401.
        Err(error) if is_outage(&error) => {
            let clock = clock(error.date(), SystemTime::now()).filter(|check| check.fix.is_some());
            let mut check = failure("API", &error, cluster);
            if let Some(clock) =
                clock.as_ref().filter(|clock| error.unauthorized() && clock.status == CheckStatus::Fail)
            {
                check = Check::fail("API", format!("{}, because {}", check.text, clock.text), SET_CLOCK);
            }
            (std::iter::once(check).chain(clock).collect(), false)
        }
        Err(error) => {
            let text = format!("{server} responds, but does not return its version: {}", message(&error));
            let check = Check::warning("API", text, AS_ADMINISTRATOR);
            (std::iter::once(check).chain(clock(error.date(), SystemTime::now())).collect(), true)
        }
    }
}

/// Tests for an error that every further request would return as well.
pub fn is_outage(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. }
        | Error::CircuitOpen { .. }
        | Error::Tls { .. }
        | Error::Timeout { .. }
        | Error::Truncated { .. }
        | Error::ListExpired { .. }
        | Error::ProxyRefused { .. }
        | Error::NotKubernetes { .. }
        | Error::Credential(_) => true,
        Error::Status { status, .. } => status.code == 401 || status.code >= 500,
        Error::OutcomeUnknown { .. } => false,
    }
}

/// Returns the failed check of a request to `cluster`, with a fix for its error.
pub fn failure(topic: &str, error: &Error, cluster: &ClusterFacts) -> Check {
    match (&cluster.proxy, error) {
        (
            Some((address, origin)),
            Error::Unreachable { .. }
            | Error::Timeout { .. }
            | Error::ProxyRefused { .. }
            | Error::Truncated { .. }
            | Error::NotKubernetes { .. },
        ) => {
            let text = format!("the proxy {address} ({origin}) does not lead to the cluster: {}", chain(error));
            let fix = match *origin {
                "proxy-url" => "correct proxy-url in the kubeconfig, or remove it".to_owned(),
                variable => format!("correct {variable} or unset it, or add the cluster's host to NO_PROXY"),
            };
            return Check::fail(topic, text, fix);
        }
        _ if cluster.is_simulated => {
            let fix = "img-classification serve --local, and set KUBECONFIG to the path that it prints";
            return Check::fail(topic, chain(error), fix);
        }
        _ => {}
    }
    let fix = match error {
        Error::Unreachable { .. } | Error::CircuitOpen { .. } => {
            "if the cluster was created again: img-classification setup --eks-kubeconfig CLUSTER --region REGION; \
             else allow this host to reach its port, which a security group or a private endpoint may block"
        }
        Error::Timeout { .. } => {
            "allow this host to reach the API server's port (443 on EKS), which a security group or a private endpoint may \
             block; if the server is only slow: --kube-timeout SECONDS"
        }
        Error::Tls { .. } => {
            "img-classification setup --eks-kubeconfig CLUSTER --region REGION writes the cluster's current CA; then check \
             date -u, since a wrong clock makes certificates invalid"
        }
        Error::ProxyRefused { .. } => "unset HTTPS_PROXY, or add the cluster's host to NO_PROXY",
        Error::Truncated { .. } | Error::NotKubernetes { .. } => {
            "check `server` in the kubeconfig and HTTPS_PROXY: another server responds at that address"
        }
        Error::Credential(error) => credential_fix(error),
        Error::Status { status, .. } if status.code == 401 => match cluster.eks_identity.as_deref() {
            Some(arn) if !arn.is_empty() => return no_access(topic, error, arn),
            _ => GRANT_ACCESS,
        },
        Error::Status { .. } | Error::OutcomeUnknown { .. } | Error::ListExpired { .. } => {
            "kubectl get --raw /readyz?verbose, and again in a minute"
        }
    };
    Check::fail(topic, chain(error), fix)
}

/// Returns the failed check of an identity that AWS knows and the cluster does not.
fn no_access(topic: &str, error: &Error, arn: &str) -> Check {
    let text = format!(
        "{}: the cluster does not know the identity {arn}; it is neither in an access entry nor in the ConfigMap aws-auth, \
         or the token is for another cluster",
        chain(error)
    );
    // An access entry is for the role, of which a session is the identity.
    let principal = match arn.split_once(":sts:").zip(arn.split_once(":assumed-role/")) {
        Some(((partition, account), (_, session))) => {
            let account = account.trim_start_matches(':').split(':').next().unwrap_or_default();
            format!("{partition}:iam::{account}:role/{}", session.split('/').next().unwrap_or_default())
        }
        None => arn.to_owned(),
    };
    let fix = format!(
        "aws eks create-access-entry --cluster-name CLUSTER --principal-arn {principal} --kubernetes-groups img-classification"
    );
    Check::fail(topic, text, fix)
}

fn credential_fix(error: &CredentialError) -> &'static str {
    match error {
        CredentialError::Spawn { .. } => {
            "install it (for aws: apt-get install awscli, or https://docs.aws.amazon.com/cli/), and add its folder to PATH, \
             for the service in /etc/img-classification.env; --native-eks auto needs no aws in most cases"
        }
        CredentialError::Failed { .. } => {
            "run it by hand, for aws: aws sts get-caller-identity; the service needs HOME, and AWS_PROFILE if you use one, in \
             /etc/img-classification.env"
        }
        CredentialError::TimedOut { .. } | CredentialError::Pending { .. } => {
            "run it by hand to see the reason for the wait; if it is only slow: --kube-timeout SECONDS"
        }
        CredentialError::Malformed { .. } | CredentialError::Certificate { .. } => UPDATE_KUBECONFIG,
        CredentialError::Eks { .. } => {
            "correct what the text names; --native-eks off leaves the token to the program of the kubeconfig"
        }
    }
}

/// Returns the message of Kubernetes, or the error without one.
pub fn message(error: &Error) -> String {
    match error {
        Error::Status { status, .. } => status.message.clone(),
        error => chain(error),
    }
}

/// Compares this host's clock with the Date of a response.
fn clock(server: Option<SystemTime>, host: SystemTime) -> Option<Check> {
    let server = server?;
    let (gap, word) = match host.duration_since(server) {
        Ok(gap) => (gap, "ahead of"),
        Err(error) => (error.duration(), "behind"),
    };
    let text = format!("this host's clock is {} s {word} the API server's", gap.as_secs());
    Some(match gap {
        gap if gap >= CLOCK_FAIL => {
            Check::fail("clock", format!("{text}; AWS rejects signatures with this time, and TLS may fail"), SET_CLOCK)
        }
        gap if gap >= CLOCK_WARNING => Check::warning("clock", text, SET_CLOCK),
        _ => Check::ok("clock", "this host's clock and the API server's agree"),
    })
}

/// Requests the identity that Kubernetes sees. Before 1.28, or 1.27 with a beta API, Kubernetes does not return it. Then the check
/// shows the subject of the token, or else the kind of the credential.
///
/// # Errors
/// [`Error`]
pub fn identity(kube: &Client, credential: &str) -> Result<Vec<Check>, Error> {
    for version in ["v1", "v1beta1"] {
        let api = format!("authentication.k8s.io/{version}");
        let review = json!({ "apiVersion": api, "kind": "SelfSubjectReview" });
        match kube.object(Operation::Create(&review), &format!("/apis/{api}/selfsubjectreviews")) {
            Ok(review) => return Ok(vec![user(&review["status"]["userInfo"])]),
            // An unknown path is 403 for some identities and a plain 404 for others.
            Err(Error::Status { status, .. }) if matches!(status.code, 403..=405) => {}
            Err(Error::NotKubernetes { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let text = match kube.subject() {
        Some(subject) => format!("{subject}, from the token; this Kubernetes does not return the identity"),
        None => format!("this Kubernetes does not return the identity; the credential is: {credential}"),
    };
    Ok(vec![Check::ok("identity", text)])
}

fn user(info: &Value) -> Check {
    let name = info["username"].as_str().unwrap_or("an identity without a name");
    let groups: Vec<&str> = info["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if name == "system:anonymous" {
        return Check::warning("identity", "system:anonymous: Kubernetes accepted no credential", UPDATE_KUBECONFIG);
    }
    Check::ok("identity", format!("{name}, in the groups {}", groups.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_check_depends_on_the_difference() {
        let server = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let table = [
            (0, CheckStatus::Ok, "agree"),
            (29, CheckStatus::Ok, "agree"),
            (-29, CheckStatus::Ok, "agree"),
            (30, CheckStatus::Warning, "30 s ahead"),
            (-299, CheckStatus::Warning, "299 s behind"),
            (300, CheckStatus::Fail, "300 s ahead"),
            (-86_400, CheckStatus::Fail, "86400 s behind"),
        ];
        for (seconds, status, words) in table {
            let gap = Duration::from_secs(i64::unsigned_abs(seconds));
            let host = if seconds >= 0 { server + gap } else { server - gap };
            let check = clock(Some(server), host).expect("a date");
            assert_eq!(check.status, status, "{seconds}");
            assert!(check.text.contains(words), "{}", check.text);
            assert_eq!(check.fix.is_some(), status != CheckStatus::Ok);
        }
        assert!(clock(None, server).is_none());
    }

    #[test]
    fn an_anonymous_identity_is_a_warning() {
        let check = user(&json!({"username": "ann", "groups": ["a", "system:authenticated"]}));
        assert_eq!(
            (check.status, check.text.as_str()),
            (CheckStatus::Ok, "ann, in the groups a, system:authenticated")
        );
        assert_eq!(user(&json!({"username": "system:anonymous"})).status, CheckStatus::Warning);
    }
}
