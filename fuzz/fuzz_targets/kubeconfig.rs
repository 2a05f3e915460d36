//! Kubeconfig text to a cluster. No secret in it comes out again, and what is good stays good.

#![no_main]

use std::path::PathBuf;
use std::time::Duration;

use img_classification_fuzz::kube::{Client, Cluster, ConfigError, FOLDER, chain};
use libfuzzer_sys::fuzz_target;
use serde_yaml::Value;

/// What stands in every place of a secret; the file `token` holds it, too.
const SECRET: &str = "hush7hush7hush7h";

fuzz_target!(
    init: {
        // In place of the system's trust store, which is large and differs from system to system.
        // SAFETY: nothing else runs yet.
        unsafe { std::env::set_var("SSL_CERT_FILE", format!("{FOLDER}/ca.pem")) };
    },
    |input: &[u8]| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        as_it_is(text);
        if let Some(planted) = plant(text) {
            hidden(&planted);
        }
    }
);

fn as_it_is(text: &str) {
    match load(text) {
        Ok(cluster) => good(cluster),
        // The names in a good text are shown, and one of them may be the secret; of any other text nothing is.
        Err(error @ ConfigError::Yaml { .. }) => {
            let said = format!("{} {error:?}", chain(&error));
            assert!(!said.contains(SECRET), "{said}");
        }
        Err(_) => {}
    }
}

/// Nothing that people get to see shows the secret.
fn hidden(planted: &str) {
    let shown = match load(planted) {
        // A plugin's environment is the plugin's own business.
        Ok(cluster) if cluster.user.exec.is_some() => cluster.lines(),
        Ok(cluster) => [cluster.lines(), vec![format!("{cluster:?}")]].concat(),
        Err(error) => vec![chain(&error), format!("{error:?}")],
    };
    assert!(!shown.concat().contains(SECRET), "{planted}\nis shown as {shown:?}");
}

fn load(text: &str) -> Result<Cluster, ConfigError> {
    Cluster::from_texts(vec![(PathBuf::from(FOLDER).join("config"), text.to_owned())], None)
}

/// A cluster has nothing left to check.
fn good(cluster: Cluster) {
    assert!(cluster.server.is_https() || !cluster.user.has_secret(), "a credential in the clear");
    let address = cluster.server.to_string();
    let authority = address.split('/').nth(2).expect("a scheme and an authority");
    assert!(!authority.is_empty() && !authority.contains('@'), "{address:?}");
    assert!(!address.contains(['#', '?']) && !address.contains(char::is_whitespace), "{address:?}");
    assert!(!cluster.trust.insecure || cluster.trust.ca.is_none());
    assert!(cluster.user.is_sendable());
    // A client starts its plugin at once; nothing is run here.
    if cluster.user.exec.is_none() {
        let client = Client::new(cluster, Duration::from_secs(1), 1);
        assert!(client.is_ok(), "checked, but not good: {:?}", client.err());
    }
}

/// The text with [`SECRET`] in every place of a secret; none if it has no such place, or the secret elsewhere.
fn plant(text: &str) -> Option<String> {
    let document = serde_yaml::Deserializer::from_str(text).next()?;
    let mut root = <Value as serde::Deserialize>::deserialize(document).ok()?;
    // These are never good with it, and would hide what comes after them.
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
