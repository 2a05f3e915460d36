//! Kubeconfig files: one valid file, of which a test changes single fields.

use super::tls;
use serde_json::{Value, json};

/// The default token of a kubeconfig.
pub const TOKEN: &str = "test-token";

/// One cluster, one user and one context, all named `test`.
pub struct Kubeconfig(Value);

impl Kubeconfig {
    /// Trusts the test CA and carries `TOKEN`.
    pub fn new(server: &str) -> Kubeconfig {
        Kubeconfig(json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority-data": tls::base64("ca.pem")}}],
            "users": [{"name": "test", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }))
    }

    /// Sets fields of the cluster; `null` removes a field.
    pub fn cluster(mut self, fields: Value) -> Kubeconfig {
        merge(&mut self.0["clusters"][0]["cluster"], fields);
        self
    }

    /// Replaces the user.
    pub fn user(mut self, user: Value) -> Kubeconfig {
        self.0["users"][0]["user"] = user;
        self
    }

    pub fn yaml(&self) -> String {
        serde_yaml::to_string(&self.0).unwrap()
    }

    pub fn json(&self) -> String {
        self.0.to_string()
    }
}

fn merge(target: &mut Value, fields: Value) {
    let Value::Object(fields) = fields else { panic!("not an object: {fields}") };
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(&name);
        } else {
            target[name] = value;
        }
    }
}
