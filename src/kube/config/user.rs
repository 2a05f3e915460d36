//! The user of a kubeconfig context: certificate, token, password, plugin, impersonation. Runs nothing and sends nothing.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;

use crate::kube::auth::exec::{ApiVersion, ExecConfig};
use crate::kube::auth::secret::Secret;
use crate::kube::auth::user::{Basic, Bearer, User};
use crate::kube::config::address::{Address, percent_encode};
use crate::kube::config::field::ConfigField;
use crate::kube::error::ConfigError;
use crate::kube::transport::tls::Identity;

/// The name of the cluster extension that is handed to an exec plugin, from client-go's clientcmd/api/v1/conversion.go.
const EXEC_EXTENSION: &str = "client.authentication.k8s.io/exec";

/// The user of a context. `exec_cluster` describes the cluster, for a plugin that wants to know it.
///
/// # Errors
/// [`ConfigError`], which names the field.
pub fn resolve(
    node: &ConfigField<'_>,
    exec_cluster: impl FnOnce() -> Result<serde_json::Value, ConfigError>,
) -> Result<User, ConfigError> {
    if node.field("auth-provider").is_present() {
        return Err(node.field("auth-provider").error("is no longer supported by Kubernetes; use an exec plugin"));
    }
    let mut user = User { identity: identity(node)?, impersonate: impersonation(node)?, ..User::default() };
    let username = node.field("username").text()?;
    let password = node.field("password").text()?;
    let token = node.field("token").text()?;
    let token_file = node.field("tokenFile").file()?;
    if (token.is_some() || token_file.is_some()) && (username.is_some() || password.is_some()) {
        return Err(node.error("has a token and a username; keep one of them"));
    }
    user.bearer = match (token_file, token) {
        (Some(path), Some(token)) => Some(Bearer::file_or(&path, token)),
        (Some(path), None) => {
            Some(Bearer::file(&path).map_err(|source| ConfigError::Read { what: "tokenFile", path, source })?)
        }
        (None, Some(token)) => Some(Bearer::Fixed(Secret::new(token))),
        (None, None) => None,
    };
    if username.is_some() || password.is_some() {
        let password = Secret::new(password.unwrap_or_default());
        user.basic = Some(Basic { username: username.unwrap_or_default().to_owned(), password });
    }
    if !user.is_sendable() {
        return Err(node.error("holds a credential with characters that no HTTP header can carry"));
    }
    // A plugin is not run where there is a credential already, as in client-go's plugin/pkg/client/auth/exec.
    if node.field("exec").is_present() && !user.has_secret() {
        user.exec = Some(exec(&node.field("exec").mapping()?, exec_cluster)?);
    }
    Ok(user)
}

fn identity(node: &ConfigField<'_>) -> Result<Option<Arc<Identity>>, ConfigError> {
    let chain = node.data_or_file("client-certificate")?;
    let key = node.data_or_file("client-key")?;
    match (chain, key) {
        (None, None) => Ok(None),
        (Some(chain), Some(key)) => {
            let what = format!("{} with its client-key", node.location("client-certificate"));
            Identity::from_pem(&chain, &key)
                .map(|identity| Some(identity.into()))
                .map_err(|source| ConfigError::Tls { what, source })
        }
        (Some(_), None) => Err(node.field("client-key").error("is missing, but there is a client-certificate")),
        (None, Some(_)) => Err(node.field("client-certificate").error("is missing, but there is a client-key")),
    }
}

/// RFC 9110, section 5.6.2: what a header's name may hold besides letters and digits, as in client-go's
/// transport/round_trippers.go (headerKeyEscape), which escapes `%` as well.
const TOKEN: &[u8] = b"!#$&'*+-.^_`|~";

/// Headers, from <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation>.
fn impersonation(node: &ConfigField<'_>) -> Result<Vec<(String, String)>, ConfigError> {
    let mut headers = Vec::new();
    let user = node.field("as").text()?;
    headers.extend(user.map(|user| ("Impersonate-User".to_owned(), user.to_owned())));
    headers.extend(node.field("as-uid").text()?.map(|uid| ("Impersonate-Uid".to_owned(), uid.to_owned())));
    let groups = node.field("as-groups").texts()?;
    headers.extend(groups.into_iter().map(|group| ("Impersonate-Group".to_owned(), group)));
    let extra = node.field("as-user-extra").mapping()?;
    for key in extra.keys() {
        let key = key.ok_or_else(|| extra.error("has a key that is not a string"))?;
        let name = format!("Impersonate-Extra-{}", percent_encode(key, TOKEN));
        headers.extend(extra.field(key).texts()?.into_iter().map(|value| (name.clone(), value)));
    }
    if user.is_none() && !headers.is_empty() {
        return Err(node.field("as").error("is missing, but other as-... fields are there"));
    }
    let sendable = headers.iter().all(|(name, value)| {
        use ureq::http::{HeaderName, HeaderValue};
        HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok()
    });
    if sendable { Ok(headers) } else { Err(node.field("as").error("holds characters that no HTTP header can carry")) }
}

fn exec(
    node: &ConfigField<'_>,
    cluster: impl FnOnce() -> Result<serde_json::Value, ConfigError>,
) -> Result<ExecConfig, ConfigError> {
    let api_version = match node.field("apiVersion").text()? {
        Some("client.authentication.k8s.io/v1") => ApiVersion::V1,
        Some("client.authentication.k8s.io/v1beta1") => ApiVersion::V1Beta1,
        Some("client.authentication.k8s.io/v1alpha1") => {
            return Err(node.field("apiVersion").error(
                "is v1alpha1, which Kubernetes has removed; write the kubeconfig anew, e.g. by aws eks update-kubeconfig",
            ));
        }
        _ => return Err(node.field("apiVersion").error("is neither client.authentication.k8s.io/v1 nor v1beta1")),
    };
    let mode = node.field("interactiveMode");
    match (mode.text()?, api_version) {
        (Some("Never" | "IfAvailable"), _) | (None, ApiVersion::V1Beta1) => {}
        (Some("Always"), _) => return Err(mode.error("is Always, but a server has no terminal to ask on")),
        (Some(_), _) => return Err(mode.error("is not one of Never, IfAvailable, Always")),
        (None, ApiVersion::V1) => return Err(mode.error("is missing; v1 needs Never, IfAvailable or Always")),
    }
    let command = node.field("command");
    let name = command.text()?.ok_or_else(|| command.error("is missing"))?;
    // Only a command with a separator is a path; a bare one is looked up in PATH.
    let program = if name.contains('/') { node.folder().join(name) } else { PathBuf::from(name) };
    let mut env = Vec::new();
    for item in node.field("env").items()? {
        let value = item.field("value").text()?.unwrap_or_default().to_owned();
        let name = item.field("name").text()?.filter(|name| !name.contains(['=', '\0']));
        env.push((name.ok_or_else(|| item.error("has no usable name"))?.to_owned(), value));
    }
    let args = node.field("args").texts()?;
    if args.iter().chain(env.iter().map(|(_, value)| value)).any(|text| text.contains('\0')) {
        return Err(node.error("holds a NUL character"));
    }
    let cluster = if node.field("provideClusterInfo").flag()? { Some(cluster()?) } else { None };
    let hint = node.field("installHint").text()?.unwrap_or_default().to_owned();
    Ok(ExecConfig { program, args, env, api_version, hint, cluster })
}

/// What a plugin is told about the cluster (ExecCredentialSpec.cluster),
/// <https://kubernetes.io/docs/reference/config-api/client-authentication.v1/#client-authentication-k8s-io-v1-Cluster>.
pub fn exec_cluster(
    cluster: &ConfigField<'_>,
    server: &Address,
    ca: Option<&[u8]>,
) -> Result<serde_json::Value, ConfigError> {
    let mut info = serde_json::Map::new();
    info.insert("server".into(), server.to_string().into());
    for key in ["tls-server-name", "proxy-url"] {
        if let Some(text) = cluster.field(key).text()? {
            info.insert(key.into(), text.into());
        }
    }
    if cluster.field("insecure-skip-tls-verify").flag()? {
        info.insert("insecure-skip-tls-verify".into(), true.into());
    }
    if let Some(pem) = ca {
        let data = base64::engine::general_purpose::STANDARD.encode(pem);
        info.insert("certificate-authority-data".into(), data.into());
    }
    let extensions = cluster.field("extensions").items()?;
    let exec = extensions.iter().find(|item| matches!(item.field("name").text(), Ok(Some(EXEC_EXTENSION))));
    if let Some(extension) = exec {
        info.insert("config".into(), extension.field("extension").to_json()?);
    }
    Ok(info.into())
}
