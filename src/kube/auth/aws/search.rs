//! The search for a credential, in the order of botocore.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::kube::auth::aws::AwsError;
use crate::kube::auth::aws::credentials::AwsCredentials;
use crate::kube::auth::aws::metadata::{self, Imds};
use crate::kube::auth::aws::profiles::Profile;
use crate::kube::auth::aws::settings::Settings;
use crate::kube::auth::aws::sts::Sts;
use crate::kube::auth::token_file::read_token;
use crate::kube::time;

/// Longest chain of profiles. Each role of it costs a request to STS.
const MAX_CHAIN: usize = 5;

/// Searches for a credential. STS calls go to `region`.
///
/// # Errors
/// [`AwsError`]
pub fn find(settings: &Settings<'_>, region: &str) -> Result<AwsCredentials, AwsError> {
    let search = Search { settings, region };
    if !settings.is_explicit
        && let Some(found) = search.environment()?
    {
        return Ok(found);
    }
    if let Some(found) = search.profile(&settings.name, &mut vec![settings.name.clone()], !settings.is_explicit)? {
        return Ok(found);
    }
    search.old_files()?;
    if let Some(found) = metadata::container(settings.env)? {
        return Ok(found);
    }
    Imds::open(settings.env)?.credentials()
}

struct Search<'a> {
    settings: &'a Settings<'a>,
    region: &'a str,
}

impl Search<'_> {
    fn environment(&self) -> Result<Option<AwsCredentials>, AwsError> {
        let env = self.settings.env;
        let Some(key) = env.get("AWS_ACCESS_KEY_ID") else { return Ok(None) };
        let secret = env.secret("AWS_SECRET_ACCESS_KEY");
        let expires = env.get("AWS_CREDENTIAL_EXPIRATION").map(|text| {
            let expires = time::parse(text).filter(|expires| *expires > SystemTime::now());
            let odd = || AwsError::Unsupported("AWS_CREDENTIAL_EXPIRATION is over, or not RFC 3339".to_owned());
            expires.ok_or_else(odd)
        });
        let found = AwsCredentials {
            access_key: key.to_owned(),
            secret_key: secret.ok_or_else(|| partial("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))?,
            token: env.secret("AWS_SECURITY_TOKEN").or_else(|| env.secret("AWS_SESSION_TOKEN")),
            expires: expires.transpose()?,
            source: "AWS_ACCESS_KEY_ID".to_owned(),
        };
        found.checked().map(Some)
    }

    /// Returns the credential of a profile. `visited` are the profiles on the way to it, itself included.
    fn profile(
        &self,
        name: &str,
        visited: &mut Vec<String>,
        with_variables: bool,
    ) -> Result<Option<AwsCredentials>, AwsError> {
        let none = Profile::default();
        let profile = self.settings.profiles.get(name).unwrap_or(&none);
        profile.check(name)?;
        if let Some(role) = profile.get("role_arn")
            && profile.get("web_identity_token_file").is_none()
        {
            return self.role(name, profile, role, visited).map(Some);
        }
        self.without_role(name, profile, with_variables)
    }

    /// Assumes the role of a profile.
    fn role(
        &self,
        name: &str,
        profile: &Profile,
        role: &str,
        visited: &mut Vec<String>,
    ) -> Result<AwsCredentials, AwsError> {
        let source = match (profile.get("source_profile"), profile.get("credential_source")) {
            (Some(source), None) => self.source_profile(name, source, visited)?,
            (None, Some(source)) => self.named_source(source)?,
            _ => {
                return Err(AwsError::Unsupported(format!(
                    "the profile {name} has a role_arn without one source for it"
                )));
            }
        };
        let session = profile.get("role_session_name").map_or_else(session_name, str::to_owned);
        let mut parameters = vec![("RoleSessionName", session.as_str())];
        parameters.extend(profile.get("external_id").map(|id| ("ExternalId", id)));
        // As botocore, which ignores what is not a number.
        let seconds = profile.get("duration_seconds").filter(|seconds| seconds.parse::<u32>().is_ok());
        parameters.extend(seconds.map(|seconds| ("DurationSeconds", seconds)));
        Sts::new(self.settings, self.region)?.assume_role(&source, role, &parameters)
    }

    fn source_profile(
        &self,
        parent: &str,
        source: &str,
        visited: &mut Vec<String>,
    ) -> Result<AwsCredentials, AwsError> {
        let problem =
            |problem: &str| AwsError::Unsupported(format!("the source_profile {source} of {parent} {problem}"));
        let profile = self.settings.profiles.get(source).ok_or_else(|| problem("does not exist"))?;
        profile.check(source)?;
        let is_static = profile.get("aws_access_key_id").is_some();
        // A profile may be its own source, if it has keys.
        if visited.iter().any(|name| name == source) && !(source == parent && is_static) {
            return Err(problem("is a circle"));
        }
        if visited.len() > MAX_CHAIN {
            return Err(problem("is too far away"));
        }
        visited.push(source.to_owned());
        let found =
            if is_static { self.without_role(source, profile, false)? } else { self.profile(source, visited, false)? };
        found.ok_or_else(|| problem("has no credential"))
    }

    fn named_source(&self, source: &str) -> Result<AwsCredentials, AwsError> {
        let none = || AwsError::Unsupported(format!("the credential_source {source} has no credential"));
        match source.to_ascii_lowercase().as_str() {
            "environment" => self.environment()?.ok_or_else(none),
            "ecscontainer" => metadata::container(self.settings.env)?.ok_or_else(none),
            "ec2instancemetadata" => Imds::open(self.settings.env)?.credentials(),
            _ => Err(AwsError::Unsupported(format!("the credential_source {source} is not known"))),
        }
    }

    /// Returns the credential of a profile other than by assuming a role with another credential.
    fn without_role(
        &self,
        name: &str,
        profile: &Profile,
        with_variables: bool,
    ) -> Result<Option<AwsCredentials>, AwsError> {
        if let Some(found) = self.web_identity(profile, with_variables)? {
            return Ok(Some(found));
        }
        let Some((key, secret, token)) = profile.keys() else { return Ok(None) };
        let found = AwsCredentials {
            access_key: key.to_owned(),
            secret_key: secret.ok_or_else(|| partial("aws_access_key_id", "aws_secret_access_key"))?,
            token,
            expires: None,
            source: format!("the profile {name}"),
        };
        found.checked().map(Some)
    }

    fn web_identity(&self, profile: &Profile, with_variables: bool) -> Result<Option<AwsCredentials>, AwsError> {
        let env = |name: &str| self.settings.env.get(name).filter(|_| with_variables);
        let Some(path) = env("AWS_WEB_IDENTITY_TOKEN_FILE").or_else(|| profile.get("web_identity_token_file")) else {
            return Ok(None);
        };
        let role = env("AWS_ROLE_ARN").or_else(|| profile.get("role_arn"));
        let role = role.ok_or_else(|| partial("the web identity token file", "AWS_ROLE_ARN"))?;
        let session = env("AWS_ROLE_SESSION_NAME").or_else(|| profile.get("role_session_name"));
        let session = session.map_or_else(session_name, str::to_owned);
        let token = read_token(path.as_ref())
            .map_err(|error| AwsError::Failed(format!("cannot read the web identity token {path}: {error}")))?;
        Sts::new(self.settings, self.region)?.assume_role_with_web_identity(role, &session, &token).map(Some)
    }

    /// Leaves the files of older programs to the program. They come before the credentials of containers and instances.
    fn old_files(&self) -> Result<(), AwsError> {
        let env = self.settings.env;
        let has_file =
            env.path("", "~/.boto").is_ok_and(|path| path.is_file()) || std::path::Path::new("/etc/boto.cfg").is_file();
        if has_file || env.get("AWS_CREDENTIAL_FILE").is_some() || env.get("BOTO_CONFIG").is_some() {
            return Err(AwsError::Unsupported("there is a file of Boto 2 or AWS_CREDENTIAL_FILE".to_owned()));
        }
        Ok(())
    }
}

fn partial(found: &str, missing: &str) -> AwsError {
    AwsError::Unsupported(format!("there is {found} but no {missing}"))
}

/// Returns a name for a session of a role, which CloudTrail shows.
fn session_name() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    format!("img-classification-{seconds}")
}
