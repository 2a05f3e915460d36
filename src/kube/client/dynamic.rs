//! Operations on any object by its path, for the commands. Their objects are few or read in pages, so this module keeps
//! whole JSON values, unlike the server's own pod list.

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::kube::client::Client;
use crate::kube::client::attempt::{Attempt, JSON};
use crate::kube::client::paginate::paginate;
use crate::kube::client::response::date;
use crate::kube::client::stats::Verb;
use crate::kube::error::Error;
use crate::kube::types::pod::Object;

/// Number of objects in a page of a list: 500, as in kubectl.
const PAGE: usize = 500;

/// Maximum size of a response, in bytes: a page of pods has 3 MB, one with large annotations three times that.
const RESPONSE_LIMIT: u64 = 32 * 1024 * 1024;

/// The media type of a JSON merge patch, RFC 7396.
const MERGE_PATCH: &str = "application/merge-patch+json";

/// Deadline of a patch in one attempt.
const PATCH_TIMEOUT: Duration = Duration::from_secs(10);

/// The body of a delete: dependents are deleted as well.
const BACKGROUND: &str = r#"{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Background"}"#;

/// The field manager of our applies, see
/// <https://kubernetes.io/docs/reference/using-api/server-side-apply/#managers>.
const MANAGER: &str = "img-classification";

/// An operation on the object at a path.
#[derive(Debug, Clone, Copy)]
pub enum Operation<'a> {
    Get,
    /// Creates an object, or submits a review.
    Create(&'a Value),
    /// Applies the object by server-side apply, and takes over fields of other managers.
    Apply(&'a Value),
    /// Changes these fields and removes those that are null, by a JSON merge patch.
    Merge(&'a Value),
    /// Deletes the object and its dependents, such as a Job's pods.
    Delete,
}

impl Operation<'_> {
    fn verb(&self) -> Verb {
        match self {
            Self::Get => Verb::Get,
            Self::Create(_) => Verb::Create,
            Self::Apply(_) | Self::Merge(_) => Verb::Patch,
            Self::Delete => Verb::Delete,
        }
    }

    /// Returns (method, (media type, body)).
    fn parts(&self) -> (&'static str, Option<(&'static str, Vec<u8>)>) {
        match self {
            Self::Get => ("GET", None),
            Self::Create(object) => ("POST", Some((JSON, bytes(object)))),
            // All JSON is YAML.
            Self::Apply(object) => ("PATCH", Some(("application/apply-patch+yaml", bytes(object)))),
            Self::Merge(patch) => ("PATCH", Some((MERGE_PATCH, bytes(patch)))),
            Self::Delete => ("DELETE", Some((JSON, BACKGROUND.into()))),
        }
    }
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

impl Client {
    /// Performs an operation and returns the object in the response. After a lost response it may take effect twice.
    ///
    /// # Errors
    /// [`Error`]
    pub fn object(&self, operation: Operation<'_>, path: &str) -> Result<Value, Error> {
        let (method, body) = operation.parts();
        let path = match operation {
            Operation::Apply(_) => format!("{path}?fieldManager={MANAGER}&force=true"),
            Operation::Merge(_) => format!("{path}?fieldManager={MANAGER}"),
            _ => path.to_owned(),
        };
        self.retry(operation.verb(), |attempt| {
            let body = body.as_ref().map(|(media_type, bytes)| (*media_type, bytes.as_slice()));
            let response = attempt.send(method, &path, body)?;
            attempt.object(&path, response, RESPONSE_LIMIT)
        })
    }

    /// Deletes an object. A missing object counts as success: an attempt with a lost response may have deleted it.
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

    /// Deletes the object with this uid, or any if it is empty, after its dependents, by `deadline`. Returns false if it does not exist.
    ///
    /// # Errors
    /// [`Error`]; the object may have been deleted.
    pub fn delete_foreground(&self, path: &str, uid: &str, deadline: Instant) -> Result<bool, Error> {
        let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"});
        if !uid.is_empty() {
            options["preconditions"] = json!({ "uid": uid });
        }
        let options = bytes(&options);
        let mut maybe_deleted = false;
        self.retry_until(Verb::Delete, deadline, |attempt| match attempt.send("DELETE", path, Some((JSON, &options))) {
            Ok(response) => attempt.object::<Object>(path, response, RESPONSE_LIMIT).map(|_| true),
            Err(Error::Status { status, .. }) if matches!(status.code, 404 | 409) => Ok(maybe_deleted),
            Err(error) => {
                maybe_deleted |= !matches!(error, Error::Unreachable { .. });
                Err(error)
            }
        })
    }

    /// Changes an object by a JSON merge patch, in one attempt. Returns `false` if the object no longer exists, or no
    /// longer has the resource version in the patch.
    ///
    /// # Errors
    /// [`Error`]; the object may have changed.
    pub fn patch_if_current(&self, path: &str, patch: &str) -> Result<bool, Error> {
        self.attempt(Verb::Patch, PATCH_TIMEOUT, |attempt| {
            match attempt.send("PATCH", path, Some((MERGE_PATCH, patch.as_bytes()))) {
                Ok(response) => attempt.object::<Object>(path, response, RESPONSE_LIMIT).map(|_| true),
                Err(Error::Status { status, .. }) if matches!(status.code, 404 | 409) => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    /// Lists all objects at `path`, which may have a query, page by page.
    ///
    /// # Errors
    /// [`Error`]; never a partial list.
    pub fn list(&self, path: &str) -> Result<Vec<Value>, Error> {
        self.list_until(path, self.deadline())
    }

    /// Lists like [`list`](Self::list), by `deadline`.
    ///
    /// # Errors
    /// [`Error`]; never a partial list.
    pub fn list_until(&self, path: &str, deadline: Instant) -> Result<Vec<Value>, Error> {
        let first = format!("{path}{}limit={PAGE}", if path.contains('?') { '&' } else { '?' });
        self.retry_until(Verb::List, deadline, |attempt| {
            let mut all = Vec::new();
            paginate(&first, |path| read_page(attempt, path, &mut all))?;
            Ok(all)
        })
    }

    /// Returns the server's version (its `gitVersion`) and its clock, if the response has a Date.
    ///
    /// # Errors
    /// [`Error`]
    pub fn version(&self) -> Result<(String, Option<SystemTime>), Error> {
        const PATH: &str = "/version";
        self.retry(Verb::Get, |attempt| {
            let response = attempt.send("GET", PATH, None)?;
            let date = date(&response);
            let version: Value = attempt.object(PATH, response, RESPONSE_LIMIT)?;
            let version = version["gitVersion"].as_str().map(str::to_owned);
            Ok((version.ok_or_else(|| attempt.malformed(PATH, "an object without gitVersion"))?, date))
        })
    }
}

/// Appends a page's objects to `all`; returns the continue token, empty on the last page.
fn read_page(attempt: &Attempt<'_>, path: &str, all: &mut Vec<Value>) -> Result<String, Error> {
    let response = attempt.send("GET", path, None)?;
    let mut page: Value = attempt.object(path, response, RESPONSE_LIMIT)?;
    match page.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => all.extend(items),
        // Go encodes an empty list as null.
        Some(Value::Null) => {}
        _ => return Err(attempt.malformed(path, "an object that is not a list")),
    }
    Ok(page["metadata"]["continue"].as_str().unwrap_or_default().to_owned())
}
