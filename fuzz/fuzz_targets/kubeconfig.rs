//! Parsing of a kubeconfig into a cluster: no secret is printed, and a parsed cluster gives a client.

#![no_main]

use std::path::PathBuf;
use std::time::Duration;

use img_classification_fuzz::kube::{Client, Cluster, ConfigError, FOLDER, chain};
use libfuzzer_sys::fuzz_target;
use serde_yaml::Value;

/// The marker in place of every secret; the file `token` also holds it.
const SECRET: &str = "hush7hush7hush7h";

fuzz_target!(
    init: {
        // Replaces the system's trust store, which is large and differs between systems.
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var("SSL_CERT_FILE", format!("{FOLDER}/ca.pem")) };
    },
    |input: &[u8]| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        unchanged(text);
        if let Some(planted) = plant(text) {
            hidden(&planted);
        }
    }
);

fn unchanged(text: &str) {
    match load(text) {
        Ok(cluster) => good(cluster),
        // An error about valid YAML may show names, one of which may equal the secret. A YAML error shows no text.
        Err(error @ ConfigError::Yaml { .. }) => {
            let shown = format!("{} {error:?}", chain(&error));
            assert!(!shown.contains(SECRET), "{shown}");
        }
        Err(_) => {}
    }
}

/// Checks that no error, log line or `Debug` output shows the secret.
fn hidden(planted: &str) {
    let shown = match load(planted) {
        Ok(cluster) => [cluster.lines(), vec![format!("{cluster:?}")]].concat(),
        Err(error) => vec![chain(&error), format!("{error:?}")],
    };
    assert!(!shown.concat().contains(SECRET), "{planted}\nis shown as {shown:?}");
}

fn load(text: &str) -> Result<Cluster, ConfigError> {
    Cluster::from_texts(vec![(PathBuf::from(FOLDER).join("config"), text.to_owned())], None)
}

/// Checks that a parsed cluster is complete and gives a client.
fn good(cluster: Cluster) {
    assert!(cluster.server.is_https() || !cluster.user.has_secret(), "a credential over http");
    let address = cluster.server.to_string();
    let authority = address.split('/').nth(2).expect("a scheme and an authority");
    assert!(!authority.is_empty() && !authority.contains('@'), "{address:?}");
    assert!(!address.contains(['#', '?']) && !address.contains(char::is_whitespace), "{address:?}");
    assert!(!cluster.trust.insecure || cluster.trust.ca.is_none());
    assert!(cluster.user.is_sendable());
    // A client starts its plugin at once, and the target runs no process.
    if cluster.user.exec.is_none() {
        let client = Client::new(cluster, Duration::from_secs(1), 1);
        assert!(client.is_ok(), "a checked cluster gives no client: {:?}", client.err());
    }
}

/// Returns the text with [`SECRET`] in place of every secret, or `None` if it has no secret, or the marker elsewhere.
fn plant(text: &str) -> Option<String> {
    let document = serde_yaml::Deserializer::from_str(text).next()?;
    let mut root = <Value as serde::Deserialize>::deserialize(document).ok()?;
    // These fields are invalid with the marker, and their error would hide later fields.
    let all = text.len() % 4 == 0;
    let mut planted = 0;
    let mut set = |value: Option<&mut Value>, new: &dyn Fn(&str) -> String| {
        if let Some(Value::String(text)) = value
            && !text.is_empty()
        {
            *text = new(text);
            planted += 1;
        }
    };
    let plain = |_: &str| SECRET.to_owned();
    let in_url = |url: &str| {
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        format!("{scheme}://user:{SECRET}@{host}")
    };
    for entry in items(&mut root, "users") {
        let Some(user) = entry.get_mut("user") else { continue };
        set(user.get_mut("token"), &plain);
        set(user.get_mut("password"), &plain);
        if all {
            set(user.get_mut("client-key-data"), &plain);
        }
        let Some(exec) = user.get_mut("exec") else { continue };
        for variable in items(exec, "env") {
            set(variable.get_mut("value"), &plain);
        }
    }
    for entry in items(&mut root, "clusters") {
        let Some(cluster) = entry.get_mut("cluster") else { continue };
        set(cluster.get_mut("proxy-url"), &in_url);
        if all {
            set(cluster.get_mut("server"), &in_url);
        }
    }
    let uses_token_file = text.contains("tokenFile");
    let written = (planted > 0 || uses_token_file).then(|| serde_yaml::to_string(&root).ok()).flatten()?;
    (written.matches(SECRET).count() == planted).then_some(written)
}

fn items<'a>(value: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    value.get_mut(key).and_then(Value::as_sequence_mut).into_iter().flatten()
}
