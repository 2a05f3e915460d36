//! A resolved cluster configuration.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use ureq::Proxy;

use crate::kube::address::Address;
use crate::kube::auth::aws::AwsError;
use crate::kube::auth::eks::EksReport;
use crate::kube::auth::user::User;
use crate::kube::transport::tls::Trust;

/// A cluster and its user, with the content of every file that they name.
#[derive(Debug)]
pub struct Cluster {
    /// The source for messages: files and context.
    pub origin: String,
    /// The name in the kubeconfig.
    pub name: Option<String>,
    /// The API's address.
    pub server: Address,
    /// The verification settings.
    pub trust: Trust,
    /// The proxy, with its password if it has one.
    pub proxy: Option<Proxy>,
    /// The field or the variable that names the proxy.
    pub proxy_origin: &'static str,
    pub user: User,
}

impl Cluster {
    /// Returns the credential plugin's name and, with this PATH, its file.
    pub fn plugin(&self, path: Option<OsString>) -> Option<(String, io::Result<PathBuf>)> {
        self.user.exec.as_ref().map(|exec| (exec.name(), exec.find(path)))
    }

    /// Makes a token of EKS without the plugin, and asks AWS for its identity. Returns `None` if the plugin has another credential.
    ///
    /// # Errors
    /// [`AwsError`]
    pub fn eks_report(&self) -> Option<Result<EksReport, AwsError>> {
        Some(self.user.exec.as_ref()?.eks.as_ref()?.report())
    }

    /// Returns the proxy's address without its credentials, and the field or the variable that names it.
    pub fn proxy_address(&self) -> Option<(String, &'static str)> {
        self.proxy.as_ref().map(|proxy| (format!("{}:{}", proxy.host(), proxy.port()), self.proxy_origin))
    }

    /// Returns the lines of the effective configuration; secrets as `<set>`.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("kubeconfig: {}", self.origin), format!("cluster: {}", self.server)];
        if self.trust.insecure {
            lines
                .push("insecure-skip-tls-verify: true (others on the network can read and change requests)".to_owned());
        }
        lines.extend(self.trust.server_name.as_ref().map(|name| format!("tls-server-name: {name}")));
        lines.extend(self.proxy.as_ref().map(|_| "proxy: <set>".to_owned()));
        lines.push(format!("credentials: {}", self.user));
        lines
    }
}
