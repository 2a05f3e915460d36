//! The service account that Kubernetes mounts into a pod,
//! <https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/>.

use std::path::Path;

use crate::kube::address::Address;
use crate::kube::auth::user::{Bearer, User};
use crate::kube::config::cluster::Cluster;
use crate::kube::error::ConfigError;
use crate::kube::files::read_file;
use crate::kube::transport::tls::{TlsEndpoint, Trust};

/// The mounted folder.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Resolves the service account and the API's address from the environment.
///
/// # Errors
/// [`ConfigError`], which names the variable or the file.
pub fn load(env: impl Fn(&str) -> Option<String>) -> Result<Cluster, ConfigError> {
    let server = server(env("KUBERNETES_SERVICE_HOST"), env("KUBERNETES_SERVICE_PORT"))?;
    let folder = Path::new(SERVICE_ACCOUNT);
    let path = folder.join("token");
    let bearer = Bearer::file(&path).map_err(|source| ConfigError::Read {
        what: "service-account token",
        path: path.clone(),
        source,
    })?;
    let path = folder.join("ca.crt");
    let ca = read_file(&path).map_err(|source| ConfigError::Read { what: "service-account CA", path, source })?;
    let trust = Trust { ca: Some(ca), insecure: false, server_name: None };
    TlsEndpoint::cluster(&trust, None, server.host())
        .map(drop)
        .map_err(|source| ConfigError::Tls { what: "the service-account CA".to_owned(), source })?;
    let user = User { bearer: Some(bearer), ..User::default() };
    Ok(Cluster {
        origin: "in-cluster service account".to_owned(),
        name: None,
        server,
        trust,
        proxy: None,
        proxy_origin: "",
        user,
    })
}

fn server(host: Option<String>, port: Option<String>) -> Result<Address, ConfigError> {
    let problem = "KUBERNETES_SERVICE_HOST or KUBERNETES_SERVICE_PORT is not set";
    let (host, port) = host.zip(port).ok_or(ConfigError::InCluster { problem })?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let problem = "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not an address";
    Address::parse(&format!("https://{host}:{port}"), true).map_err(|_| ConfigError::InCluster { problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_the_host_and_port_of_the_environment() {
        for (host, port, address) in [
            (Some("10.0.0.1"), Some("443"), Some("https://10.0.0.1:443")),
            (Some("fd00::1"), Some("6443"), Some("https://[fd00::1]:6443")),
            (Some("10.0.0.1"), None, None),
            (None, Some("443"), None),
            (Some("a b"), Some("443"), None),
            (Some("10.0.0.1"), Some("tcp"), None),
        ] {
            let found = server(host.map(str::to_owned), port.map(str::to_owned));
            assert_eq!(found.ok().map(|address| address.to_string()).as_deref(), address, "{host:?} {port:?}");
        }
    }
}
