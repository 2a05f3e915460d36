//! Any object by its path, for the commands that look after a cluster: what they read is small, or asked for in pages, so
//! whole values are kept here, other than for the server's own pod list.

use std::time::SystemTime;

use serde_json::Value;

use crate::kube::client::{Client, JSON, date, pages};
use crate::kube::error::Error;

/// Objects in a page of a list: 500, as kubectl asks for.
const PAGE: usize = 500;

/// Longest answer, in bytes: a page of pods has 3 MB, one with large annotations three times that.
const ANSWER_LIMIT: u64 = 32 * 1024 * 1024;

/// How objects are deleted.
const BACKGROUND: &str = r#"{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Background"}"#;

/// The field manager of what we apply, see
/// <https://kubernetes.io/docs/reference/using-api/server-side-apply/#managers>.
const MANAGER: &str = "img-classification";

/// What to do with a path.
#[derive(Debug, Clone, Copy)]
pub enum Operation<'a> {
    /// Read it.
    Get,
    /// Make a new object, or have a review answered.
    Create(&'a Value),
    /// Make it so, whoever else had set these fields: server-side apply.
    Apply(&'a Value),
    /// Change these fields and remove those that are null: a JSON merge patch, RFC 7396.
    Merge(&'a Value),
    /// Remove it; what it owns goes after it. Without this a Job's pods would stay.
    Delete,
}

impl Operation<'_> {
    /// (method, media type and body)
    fn parts(&self) -> (&'static str, Option<(&'static str, Vec<u8>)>) {
        match self {
            Self::Get => ("GET", None),
            Self::Create(object) => ("POST", Some((JSON, bytes(object)))),
            // All JSON is YAML.
            Self::Apply(object) => ("PATCH", Some(("application/apply-patch+yaml", bytes(object)))),
            Self::Merge(patch) => ("PATCH", Some(("application/merge-patch+json", bytes(patch)))),
            Self::Delete => ("DELETE", Some((JSON, BACKGROUND.into()))),
        }
    }
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

impl Client {
    /// Does something with one object, and gives what Kubernetes answered. It may be done twice, if an answer was lost.
    ///
    /// # Errors
    /// [`Error`]
    pub fn object(&self, verb: Operation<'_>, path: &str) -> Result<Value, Error> {
        let (method, body) = verb.parts();
        let path = match verb {
            Operation::Apply(_) => format!("{path}?fieldManager={MANAGER}&force=true"),
            Operation::Merge(_) => format!("{path}?fieldManager={MANAGER}"),
            _ => path.to_owned(),
        };
        self.retry(|call| {
            let answer = call.send(method, &path, body.as_ref().map(|(kind, bytes)| (*kind, bytes.as_slice())))?;
            call.object(&path, answer, ANSWER_LIMIT)
        })
    }

    /// Deletes an object; one that is gone already, perhaps by a try whose answer was lost, is as good.
    ///
    /// # Errors
    /// [`Error`]
    pub fn delete(&self, path: &str) -> Result<(), Error> {
        match self.object(Operation::Delete, path) {
            Ok(_) => Ok(()),
            Err(error) if error.not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// All objects of a list, page by page; `path` may have a query.
    ///
    /// # Errors
    /// [`Error`]; never half a list.
    pub fn list(&self, path: &str) -> Result<Vec<Value>, Error> {
        let first = format!("{path}{}limit={PAGE}", if path.contains('?') { '&' } else { '?' });
        self.retry(|call| {
            let mut all = Vec::new();
            pages(&first, |path| {
                let answer = call.send("GET", path, None)?;
                let mut page: Value = call.object(path, answer, ANSWER_LIMIT)?;
                match page.get_mut("items").map(Value::take) {
                    Some(Value::Array(items)) => all.extend(items),
                    // Go writes an empty list so.
                    Some(Value::Null) => {}
                    _ => {
                        let found = "something that is no list".into();
                        return Err(Error::NotKubernetes { url: call.url(path), found });
                    }
                }
                Ok(page["metadata"]["continue"].as_str().unwrap_or_default().to_owned())
            })?;
            Ok(all)
        })
    }

    /// The server's version (its `gitVersion`), and its clock, if it shows one.
    ///
    /// # Errors
    /// [`Error`]
    pub fn version(&self) -> Result<(String, Option<SystemTime>), Error> {
        const PATH: &str = "/version";
        self.retry(|call| {
            let answer = call.send("GET", PATH, None)?;
            let date = date(&answer);
            let version: Value = call.object(PATH, answer, ANSWER_LIMIT)?;
            let version = version["gitVersion"].as_str().map(str::to_owned);
            let found = || "something without a gitVersion".to_owned();
            Ok((version.ok_or_else(|| Error::NotKubernetes { url: call.url(PATH), found: found() })?, date))
        })
    }
}
