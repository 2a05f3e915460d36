//! Tokens of EKS without a program: an entry of the kubeconfig that runs `aws eks get-token` or `aws-iam-authenticator token` asks for
//! a presigned request to GetCallerIdentity, and nothing else.
//!
//! <https://github.com/kubernetes-sigs/aws-iam-authenticator#api-authorization-from-outside-a-cluster>

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;

use crate::kube::auth::aws::AwsError;
use crate::kube::auth::aws::credentials::AwsCredentials;
use crate::kube::auth::aws::env::AwsEnv;
use crate::kube::auth::aws::metadata::Imds;
use crate::kube::auth::aws::search;
use crate::kube::auth::aws::settings::Settings;
use crate::kube::auth::aws::sigv4::{Parts, Scope, presigned_query};
use crate::kube::auth::aws::sts::Sts;
use crate::kube::auth::secret::Secret;

/// The signed header with the name of the cluster, so that a token is valid for one cluster.
const CLUSTER_HEADER: &str = "x-k8s-aws-id";

/// X-Amz-Expires of the request. EKS requires 1 to 900 s and does not use it.
const URL_VALIDITY: Duration = Duration::from_secs(60);

/// Lifetime of a token: EKS accepts signatures that are at most 15 minutes old.
const TOKEN_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// The session of a role that `aws eks get-token --role-arn` assumes.
const AWS_SESSION: &str = "EKSGetTokenAuth";

/// An entry of the kubeconfig that asks for a token of EKS.
#[derive(Debug, Clone)]
pub struct EksTokens {
    pub cluster: String,
    region: Option<String>,
    profile: Option<String>,
    /// The role to assume first, and the name of its session.
    role: Option<(String, String)>,
    env: AwsEnv,
    /// The program is aws-iam-authenticator.
    is_authenticator: bool,
}

/// The result of [`EksTokens::recognise`].
#[derive(Debug)]
pub enum Recognition {
    /// Another program.
    Other,
    /// The tokens can be made here.
    Eks(Box<EksTokens>),
    /// One of the two programs, with an option that only it knows; the reason.
    Unsupported(String),
}

/// The parts of a token, for `doctor`.
#[derive(Debug)]
pub struct EksReport {
    /// The source of the credential.
    pub source: String,
    pub region: String,
    /// Time to the token.
    pub elapsed: Duration,
    /// The identity that STS sees, or the reason why it is not known.
    pub identity: Result<String, String>,
}

impl EksTokens {
    /// Recognises the entries of `aws eks update-kubeconfig` and eksctl. `env` is the environment of this process.
    pub fn recognise(
        program: &Path,
        args: &[String],
        own_env: &[(String, String)],
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Recognition {
        let parsed = match program.file_name().and_then(|name| name.to_str()) {
            Some("aws") => parse(args, &["eks", "get-token"], &AWS_OPTIONS),
            Some("aws-iam-authenticator") => parse(args, &["token"], &AUTHENTICATOR_OPTIONS),
            _ => return Recognition::Other,
        };
        let mut options = match parsed {
            Ok(options) => options,
            Err(Problem::OtherCommand) => return Recognition::Other,
            Err(Problem::Option(reason)) => return Recognition::Unsupported(reason),
        };
        if options.get("output").is_some_and(|output| output != "json") {
            return Recognition::Unsupported("the option --output is not json".to_owned());
        }
        let Some(cluster) = options.remove("cluster").filter(|name| is_sendable(name)) else {
            return Recognition::Unsupported("there is no name of a cluster".to_owned());
        };
        let session = options.remove("session").unwrap_or_else(|| AWS_SESSION.to_owned());
        let role = options.remove("role").map(|role| (role, session));
        let (region, profile) = (options.remove("region"), options.remove("profile"));
        let is_authenticator = program.ends_with("aws-iam-authenticator");
        let env = AwsEnv::new(env, own_env);
        if is_authenticator && role.is_none() && env.get("DEFAULT_ROLE").is_some() {
            return Recognition::Unsupported("DEFAULT_ROLE is set".to_owned());
        }
        Recognition::Eks(Box::new(Self { cluster, region, profile, role, env, is_authenticator }))
    }

    /// Makes a token, and returns it with its expiry.
    ///
    /// # Errors
    /// [`AwsError`]
    pub fn make(&self) -> Result<(Secret, SystemTime), AwsError> {
        let settings = self.settings()?;
        let region = region(self.region.as_deref(), &settings)?;
        let credentials = self.credentials(&settings, &region)?;
        let now = SystemTime::now();
        let token = self.token(&settings, &region, &credentials, now)?;
        // A temporary credential ends the signatures that were made with it.
        let end = now + TOKEN_LIFETIME;
        let expires = credentials.expires.map_or(end, |expires| end.min(expires));
        log::debug!("made an EKS token with {}", credentials.source);
        Ok((token, expires))
    }

    /// Makes a token, and asks STS for the identity.
    ///
    /// # Errors
    /// [`AwsError`]
    pub fn report(&self) -> Result<EksReport, AwsError> {
        let start = Instant::now();
        let settings = self.settings()?;
        let region = region(self.region.as_deref(), &settings)?;
        let credentials = self.credentials(&settings, &region)?;
        self.token(&settings, &region, &credentials, SystemTime::now())?;
        let elapsed = start.elapsed();
        let identity = Sts::new(&settings, &region).and_then(|sts| sts.caller_identity(&credentials));
        let source = credentials.source;
        Ok(EksReport { source, region, elapsed, identity: identity.map_err(|error| error.to_string()) })
    }

    fn settings(&self) -> Result<Settings<'_>, AwsError> {
        let settings = Settings::load(&self.env, self.profile.as_deref())?;
        if self.is_authenticator {
            settings.check_for_go()?;
        }
        Ok(settings)
    }

    fn credentials(&self, settings: &Settings<'_>, region: &str) -> Result<AwsCredentials, AwsError> {
        let found = search::find(settings, region)?;
        match &self.role {
            Some((role, session)) => {
                Sts::new(settings, region)?.assume_role(&found, role, &[("RoleSessionName", session)])
            }
            None => Ok(found),
        }
    }

    fn token(
        &self,
        settings: &Settings<'_>,
        region: &str,
        credentials: &AwsCredentials,
        at: SystemTime,
    ) -> Result<Secret, AwsError> {
        let endpoint = settings.endpoint("sts", region)?;
        let parts = Parts {
            method: "GET",
            host: &endpoint.host,
            path: "/",
            query: &[("Action", "GetCallerIdentity"), ("Version", "2011-06-15")],
            headers: &[(CLUSTER_HEADER, &self.cluster)],
            body: b"",
        };
        let query = presigned_query(credentials, Scope { service: "sts", region, at }, parts, URL_VALIDITY);
        let url = format!("{}/?{query}", endpoint.origin);
        let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(url);
        Ok(Secret::new(format!("k8s-aws-v1.{encoded}")))
    }
}

/// Returns `given`, or else the region of the environment, the profile or the instance.
pub fn region(given: Option<&str>, settings: &Settings<'_>) -> Result<String, AwsError> {
    let found = given.map_or_else(|| settings.region(), |region| Ok(Some(region)))?;
    if let Some(region) = found {
        return Ok(region.to_owned());
    }
    let imds = Imds::open(settings.env).and_then(|imds| imds.region());
    imds.map_err(|error| AwsError::Unsupported(format!("there is no region: {error}")))
}

/// An option of a program: its spellings, and its name here.
type KnownOption = (&'static [&'static str], &'static str);

const AWS_OPTIONS: [KnownOption; 5] = [
    (&["--cluster-name", "--cluster-id"], "cluster"),
    (&["--region"], "region"),
    (&["--profile"], "profile"),
    (&["--role-arn"], "role"),
    (&["--output"], "output"),
];

const AUTHENTICATOR_OPTIONS: [KnownOption; 4] = [
    (&["-i", "--cluster-id"], "cluster"),
    (&["-r", "--role"], "role"),
    (&["-s", "--session-name"], "session"),
    (&["--region"], "region"),
];

enum Problem {
    /// Another command of the program.
    OtherCommand,
    /// An option that is not known here.
    Option(String),
}

/// Splits arguments into the words of the command, which must be `command`, and the values of the options.
fn parse(args: &[String], command: &[&str], known: &[KnownOption]) -> Result<BTreeMap<&'static str, String>, Problem> {
    let (mut words, mut options, mut problem) = (Vec::new(), BTreeMap::new(), None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if !arg.starts_with('-') {
            words.push(arg.as_str());
            continue;
        }
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        let Some((_, key)) = known.iter().find(|(names, _)| names.contains(&name)) else {
            problem = problem.or_else(|| Some(format!("the option {name} is not known")));
            continue;
        };
        let value = value.or_else(|| args.next().cloned()).filter(|value| !value.is_empty() && !value.starts_with('-'));
        match value {
            // The aws program reads a file in the place of file://PATH.
            Some(value) if value.contains("://") => {
                problem = problem.or_else(|| Some(format!("the option {name} has a URL")));
            }
            Some(value) if !options.contains_key(key) => drop(options.insert(*key, value)),
            _ => problem = problem.or_else(|| Some(format!("the option {name} is there twice or has no value"))),
        }
    }
    match problem {
        _ if !command.iter().all(|word| words.contains(word)) => Err(Problem::OtherCommand),
        Some(problem) => Err(Problem::Option(problem)),
        None if words != command => Err(Problem::Option(format!("the arguments {words:?} are not known"))),
        None => Ok(options),
    }
}

/// Tests for a name that a header carries unchanged.
fn is_sendable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic())
}
