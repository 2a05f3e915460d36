//! `setup --eks-kubeconfig`: writes the kubeconfig of an EKS cluster.

use std::path::PathBuf;

use serde_json::json;

use super::output::{Check, Printer};
use crate::cli::Env;
use crate::kube::{self, EksKubeconfigError};

/// Width of the topic.
pub const TOPIC_WIDTH: usize = "kubeconfig".len();

/// Writes the entry of the cluster `name` into the kubeconfig: `path`, or the first of KUBECONFIG, or ~/.kube/config.
///
/// # Errors
/// [`EksKubeconfigError`]
pub fn run(
    (name, region): (&str, Option<&str>),
    path: Option<PathBuf>,
    env: Env<'_>,
    printer: Printer,
) -> Result<(), EksKubeconfigError> {
    let listed = || {
        let list = env("KUBECONFIG")?;
        std::env::split_paths(&list).find(|path| !path.as_os_str().is_empty())
    };
    let home = || env("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
    let path = path.or_else(listed).or_else(home).ok_or(EksKubeconfigError::NoPath)?;
    let arn = kube::write_eks_kubeconfig(name, region, &path, env)?;
    printer.check(&Check::ok("kubeconfig", format!("{}: the current context is {arn}", path.display())));
    printer.result("done", &json!({ "kubeconfig": path, "context": arn }));
    Ok(())
}
