//! The variables of AWS's programs.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use crate::kube::auth::aws::AwsError;
use crate::kube::auth::secret::Secret;

/// The variables that are read and of which botocore takes an empty one for a value, such as the name of a missing file.
const VALUES: [&str; 31] = [
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CREDENTIAL_FILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_DEFAULT_REGION",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",
    "AWS_EC2_METADATA_V1_DISABLED",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_EKS",
    "AWS_ENDPOINT_URL_STS",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_IMDS_USE_IPV6",
    "AWS_METADATA_SERVICE_NUM_ATTEMPTS",
    "AWS_METADATA_SERVICE_TIMEOUT",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_STS_REGIONAL_ENDPOINTS",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "BOTO_CONFIG",
    "HOME",
];

/// The variables that are read and of which botocore takes an empty one for unset.
const MAY_BE_EMPTY: [&str; 14] = [
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_CREDENTIAL_EXPIRATION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SECRET_KEY",
    "AWS_SECURITY_TOKEN",
    "AWS_SESSION_TOKEN",
    "DEFAULT_ROLE",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// The variables of this process that AWS's programs read, under those of the kubeconfig's entry.
#[derive(Clone)]
pub struct AwsEnv(HashMap<String, String>);

/// Shows the names only: some values are secrets.
impl fmt::Debug for AwsEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        names.sort_unstable();
        f.debug_tuple("AwsEnv").field(&names).finish()
    }
}

impl AwsEnv {
    pub fn new(process: &dyn Fn(&str) -> Option<OsString>, own: &[(String, String)]) -> Self {
        let text = |name: &&str| Some(((*name).to_owned(), process(name)?.to_string_lossy().into_owned()));
        let mut variables: HashMap<String, String> = VALUES.iter().chain(&MAY_BE_EMPTY).filter_map(text).collect();
        variables.extend(own.iter().cloned());
        Self(variables)
    }

    /// Returns a variable; an empty one counts as unset.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub fn secret(&self, name: &str) -> Option<Secret> {
        self.get(name).map(Secret::new)
    }

    /// Tests for a variable with the value true.
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// Refuses a variable of [`VALUES`] that is set and empty.
    ///
    /// # Errors
    /// [`AwsError::Unsupported`]
    pub fn check(&self) -> Result<(), AwsError> {
        match VALUES.iter().find(|name| self.0.get(**name).is_some_and(String::is_empty)) {
            Some(name) => Err(AwsError::Unsupported(format!("{name} is set but empty"))),
            None => Ok(()),
        }
    }

    /// Returns a path of the variable `name`, or else `default`, with `~/` as the home folder. Without HOME the program takes the home
    /// folder of its user.
    ///
    /// # Errors
    /// [`AwsError::Unsupported`] for variables in the path, the home of another user, or no HOME.
    pub fn path(&self, name: &str, default: &str) -> Result<PathBuf, AwsError> {
        let text = self.get(name).unwrap_or(default);
        match (text.strip_prefix("~/"), self.get("HOME")) {
            (Some(rest), Some(home)) if !rest.contains('$') => Ok(PathBuf::from(home).join(rest)),
            (None, _) if !text.starts_with('~') && !text.contains('$') => Ok(PathBuf::from(text)),
            _ => Err(AwsError::Unsupported(format!(
                "HOME is not set, or the path {text} has a part that only the program expands"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_value() {
        let own = [("AWS_SECRET_ACCESS_KEY".to_owned(), "s3cret".to_owned())];
        let env = AwsEnv::new(&|name| (name == "AWS_SESSION_TOKEN").then(|| "t0ken".into()), &own);
        let shown = format!("{env:?}");
        assert_eq!(shown, r#"AwsEnv(["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])"#);
    }
}
