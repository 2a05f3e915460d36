//! The user of a kubeconfig context: certificate, token, password, plugin, impersonation. This module runs no command
//! and sends no request.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;

use crate::kube::address::{Address, percent_encode};
use crate::kube::auth::exec::{ApiVersion, ExecConfig};
use crate::kube::auth::secret::Secret;
use crate::kube::auth::user::{Basic, Bearer, User};
use crate::kube::config::field::ConfigField;
use crate::kube::error::ConfigError;
use crate::kube::transport::tls::Identity;

/// The cluster extension that an exec plugin receives, from client-go's clientcmd/api/v1/conversion.go.
const EXEC_EXTENSION: &str = "client.authentication.k8s.io/exec";

/// Resolves a user. `exec_cluster` describes the cluster for a plugin with provideClusterInfo.
///
/// # Errors
/// [`ConfigError`], which names the field.
pub fn resolve(
    field: &ConfigField<'_>,
    exec_cluster: impl FnOnce() -> Result<serde_json::Value, ConfigError>,
) -> Result<User, ConfigError> {
    if field.get("auth-provider").is_present() {
        return Err(field.get("auth-provider").error("is no longer supported by Kubernetes; fix: use an exec plugin"));
    }
    let mut user = User { identity: identity(field)?, impersonate: impersonation(field)?, ..User::default() };
    let username = field.get("username").text()?;
    let password = field.get("password").text()?;
    user.bearer = bearer(field)?;
    if user.bearer.is_some() && (username.is_some() || password.is_some()) {
        return Err(field.error("has a token and a username; fix: remove one"));
    }
    if username.is_some() || password.is_some() {
        let password = Secret::new(password.unwrap_or_default());
        user.basic = Some(Basic { username: username.unwrap_or_default().to_owned(), password });
    }
    if !user.is_sendable() {
        return Err(field.error("has a credential with characters that no HTTP header can carry"));
    }
    // Another credential takes precedence over a plugin, as in client-go's plugin/pkg/client/auth/exec.
    if field.get("exec").is_present() && !user.has_secret() {
        user.exec = Some(exec(&field.get("exec").mapping()?, exec_cluster)?);
    }
    Ok(user)
}

fn bearer(field: &ConfigField<'_>) -> Result<Option<Bearer>, ConfigError> {
    let file = field.get("tokenFile");
    Ok(Some(match (file.file()?, field.get("token").text()?) {
        (Some(path), Some(token)) => Bearer::file_or(&path, token),
        (Some(path), None) => Bearer::file(&path).map_err(|source| file.unreadable(path, source))?,
        (None, Some(token)) => Bearer::Fixed(Secret::new(token)),
        (None, None) => return Ok(None),
    }))
}

fn identity(field: &ConfigField<'_>) -> Result<Option<Arc<Identity>>, ConfigError> {
    let chain = field.data_or_file("client-certificate")?;
    let key = field.data_or_file("client-key")?;
    match (chain, key) {
        (None, None) => Ok(None),
        (Some(chain), Some(key)) => {
            let what = format!("{} with its client-key", field.location("client-certificate"));
            Identity::from_pem(&chain, &key)
                .map(|identity| Some(identity.into()))
                .map_err(|source| ConfigError::Tls { what, source })
        }
        (Some(_), None) => Err(field.get("client-key").error("is missing, but client-certificate is set")),
        (None, Some(_)) => Err(field.get("client-certificate").error("is missing, but client-key is set")),
    }
}

/// The characters of a header's name besides letters and digits: RFC 9110, section 5.6.2, without `%`, which
/// client-go's transport/round_trippers.go (headerKeyEscape) escapes as well.
const TOKEN: &[u8] = b"!#$&'*+-.^_`|~";

/// Reads the impersonation headers, see
/// <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation>.
fn impersonation(field: &ConfigField<'_>) -> Result<Vec<(String, String)>, ConfigError> {
    let mut headers = Vec::new();
    let user = field.get("as").text()?;
    headers.extend(user.map(|user| ("Impersonate-User".to_owned(), user.to_owned())));
    headers.extend(field.get("as-uid").text()?.map(|uid| ("Impersonate-Uid".to_owned(), uid.to_owned())));
    let groups = field.get("as-groups").texts()?;
    headers.extend(groups.into_iter().map(|group| ("Impersonate-Group".to_owned(), group)));
    let extra = field.get("as-user-extra").mapping()?;
    for key in extra.keys() {
        let key = key.ok_or_else(|| extra.error("has a key that is not a string"))?;
        let name = format!("Impersonate-Extra-{}", percent_encode(key, TOKEN));
        headers.extend(extra.get(key).texts()?.into_iter().map(|value| (name.clone(), value)));
    }
    if user.is_none() && !headers.is_empty() {
        return Err(field.get("as").error("is missing, but other as-... fields are set"));
    }
    let sendable = headers.iter().all(|(name, value)| {
        use ureq::http::{HeaderName, HeaderValue};
        HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok()
    });
    if sendable { Ok(headers) } else { Err(field.get("as").error("has characters that no HTTP header can carry")) }
}

fn exec(
    field: &ConfigField<'_>,
    cluster: impl FnOnce() -> Result<serde_json::Value, ConfigError>,
) -> Result<ExecConfig, ConfigError> {
    let api_version = match field.get("apiVersion").text()? {
        Some("client.authentication.k8s.io/v1") => ApiVersion::V1,
        Some("client.authentication.k8s.io/v1beta1") => ApiVersion::V1Beta1,
        Some("client.authentication.k8s.io/v1alpha1") => {
            return Err(field.get("apiVersion").error(
                "is v1alpha1, which Kubernetes has removed; fix: run aws eks update-kubeconfig, or your cluster's equivalent",
            ));
        }
        _ => return Err(field.get("apiVersion").error("is neither client.authentication.k8s.io/v1 nor v1beta1")),
    };
    let mode = field.get("interactiveMode");
    match (mode.text()?, api_version) {
        (Some("Never" | "IfAvailable"), _) | (None, ApiVersion::V1Beta1) => {}
        (Some("Always"), _) => return Err(mode.error("is Always, but a server has no terminal")),
        (Some(_), _) => return Err(mode.error("is not Never, IfAvailable or Always")),
        (None, ApiVersion::V1) => return Err(mode.error("is missing; fix: set it to Never or IfAvailable")),
    }
    let command = field.get("command");
    let name = command.text()?.ok_or_else(|| command.error("is missing"))?;
    // A command without a slash is searched in PATH.
    let program = if name.contains('/') { field.folder().join(name) } else { PathBuf::from(name) };
    let env = exec_env(field)?;
    let args = field.get("args").texts()?;
    if args.iter().chain(env.iter().map(|(_, value)| value)).any(|text| text.contains('\0')) {
        return Err(field.error("has a NUL character"));
    }
    let cluster = if field.get("provideClusterInfo").flag()? { Some(cluster()?) } else { None };
    let hint = field.get("installHint").text()?.unwrap_or_default().to_owned();
    Ok(ExecConfig { program, args, env, api_version, hint, cluster, eks: None })
}

fn exec_env(exec: &ConfigField<'_>) -> Result<Vec<(String, String)>, ConfigError> {
    let variable = |item: &ConfigField<'_>| {
        let value = item.get("value").text()?.unwrap_or_default().to_owned();
        let name = item.get("name").text()?.filter(|name| !name.contains(['=', '\0']));
        Ok((name.ok_or_else(|| item.error("has no valid name"))?.to_owned(), value))
    };
    exec.get("env").items()?.iter().map(variable).collect()
}

/// Describes the cluster for a plugin (ExecCredentialSpec.cluster), see
/// <https://kubernetes.io/docs/reference/config-api/client-authentication.v1/#client-authentication-k8s-io-v1-Cluster>.
pub fn exec_cluster(
    cluster: &ConfigField<'_>,
    server: &Address,
    ca: Option<&[u8]>,
) -> Result<serde_json::Value, ConfigError> {
    let mut info = serde_json::Map::new();
    info.insert("server".into(), server.to_string().into());
    for key in ["tls-server-name", "proxy-url"] {
        if let Some(text) = cluster.get(key).text()? {
            info.insert(key.into(), text.into());
        }
    }
    if cluster.get("insecure-skip-tls-verify").flag()? {
        info.insert("insecure-skip-tls-verify".into(), true.into());
    }
    if let Some(pem) = ca {
        let data = base64::engine::general_purpose::STANDARD.encode(pem);
        info.insert("certificate-authority-data".into(), data.into());
    }
    let extensions = cluster.get("extensions").items()?;
    let exec = extensions.iter().find(|item| matches!(item.get("name").text(), Ok(Some(EXEC_EXTENSION))));
    if let Some(extension) = exec {
        info.insert("config".into(), extension.get("extension").to_json()?);
    }
    Ok(info.into())
}
