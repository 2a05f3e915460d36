//! A kubeconfig for an EKS cluster, made with the API of EKS.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use crate::kube::auth::aws::env::AwsEnv;
use crate::kube::auth::aws::settings::Settings;
use crate::kube::auth::aws::{AwsError, eks_api, search};
use crate::kube::auth::eks;
use crate::kube::config::write::EksEntry;
use crate::kube::error::ConfigError;

/// The reason why there is no kubeconfig.
#[derive(Debug)]
pub enum EksKubeconfigError {
    /// AWS gives no credential or no description.
    Aws(AwsError),
    /// The kubeconfig cannot be read or written.
    Config(ConfigError),
    /// There is no HOME to write to.
    NoPath,
}

impl From<AwsError> for EksKubeconfigError {
    fn from(error: AwsError) -> Self {
        Self::Aws(error)
    }
}

impl fmt::Display for EksKubeconfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aws(error @ AwsError::Failed(_)) => write!(f, "{error}"),
            Self::Aws(error) => write!(f, "{error}; fix: aws eks update-kubeconfig --region REGION --name CLUSTER"),
            Self::Config(error) => write!(f, "{error}"),
            Self::NoPath => write!(f, "KUBECONFIG and HOME are not set; fix: name the file with --kubeconfig"),
        }
    }
}

impl std::error::Error for EksKubeconfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(error) => error.source(),
            Self::Aws(_) | Self::NoPath => None,
        }
    }
}

/// Writes the entry of an EKS cluster into the kubeconfig at `path`, with the credential of the environment. Returns the name of its
/// context.
///
/// # Errors
/// [`EksKubeconfigError`]
pub fn write_eks_kubeconfig(
    name: &str,
    region: Option<&str>,
    path: &Path,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<String, EksKubeconfigError> {
    let env = AwsEnv::new(env, &[]);
    let settings = Settings::load(&env, None)?;
    let region = eks::region(region, &settings)?;
    let credentials = search::find(&settings, &region)?;
    let cluster = eks_api::describe(&settings, &region, &credentials, name)?;
    let profile = settings.env.get("AWS_PROFILE").or_else(|| settings.env.get("AWS_DEFAULT_PROFILE"));
    let entry = EksEntry { cluster: &cluster, name, region: &region, profile };
    entry.write(path).map_err(EksKubeconfigError::Config)?;
    Ok(cluster.arn)
}
