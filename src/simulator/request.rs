//! Requests of the API.

use std::cell::RefCell;
use std::num::{IntErrorKind, ParseIntError};

use serde_json::{Value, json};

use super::protobuf;
use super::status::ApiStatus;

/// A request; path and query are decoded.
#[derive(Default)]
pub struct Request {
    pub method: String,
    pub path: Vec<String>,
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Texts for the `Warning` headers of the response.
    pub warnings: RefCell<Vec<String>>,
}

impl Request {
    /// Returns a query parameter, or an empty string.
    pub fn query(&self, name: &str) -> &str {
        self.query.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// Returns a boolean query parameter. Like Kubernetes, it takes every value except `0` and `false` for true, also an empty
    /// one; see Convert_Slice_string_To_bool of k8s.io/apimachinery/pkg/runtime.
    pub fn flag(&self, name: &str) -> bool {
        let value = self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        value.is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    /// Returns the number in a query parameter, or `None` without the parameter.
    ///
    /// # Errors
    /// 400
    pub fn number(&self, name: &str) -> Result<Option<i64>, ApiStatus> {
        let Some((_, text)) = self.query.iter().find(|(key, _)| key == name) else { return Ok(None) };
        let malformed = |error: ParseIntError| {
            let is_range = matches!(error.kind(), IntErrorKind::PosOverflow | IntErrorKind::NegOverflow);
            let reason = if is_range { "value out of range" } else { "invalid syntax" };
            ApiStatus::bad_request(format!("strconv.ParseInt: parsing {text:?}: {reason}"))
        };
        text.parse().map(Some).map_err(malformed)
    }

    /// Returns true if the request is only to be checked. `options` is the kind of its options.
    ///
    /// # Errors
    /// 422
    pub fn dry_run(&self, options: &str) -> Result<bool, ApiStatus> {
        match self.query("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => Err(unknown_dry_run(options, &json!(other))),
        }
    }

    /// Adds a warning to the response; clients show it.
    pub fn warn(&self, message: impl Into<String>) {
        self.warnings.borrow_mut().push(message.into());
    }

    /// Returns a header, or an empty string.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }

    /// Returns the media type of the body, without parameters.
    pub fn media_type(&self) -> &str {
        self.header("Content-Type").split(';').next().unwrap_or_default().trim()
    }

    /// Returns true if the client asks for a Table, as kubectl get does.
    pub fn wants_table(&self) -> bool {
        self.header("Accept").contains("as=Table")
    }

    /// Returns true if each row of a Table is to contain its object.
    pub fn includes_objects(&self) -> bool {
        self.query("includeObject") == "Object"
    }

    /// Parses the body.
    ///
    /// # Errors
    /// 400 or 415
    pub fn json(&self) -> Result<Value, ApiStatus> {
        if self.header("Content-Type").contains("protobuf") {
            let message = "the simulator reads only JSON; fix: write the object to a file and use kubectl create -f";
            return protobuf::read(&self.body).ok_or_else(|| ApiStatus::new(415, "UnsupportedMediaType", message));
        }
        let malformed = |error| ApiStatus::bad_request(format!("the object provided is unrecognized: {error}"));
        if self.body.is_empty() { Ok(json!({})) } else { serde_json::from_slice(&self.body).map_err(malformed) }
    }
}

/// Returns the status for a value of dryRun that is not `All`.
pub fn unknown_dry_run(options: &str, value: &Value) -> ApiStatus {
    let reason = format!("dryRun: Unsupported value: []string{{{value}}}: supported values: \"All\"");
    ApiStatus::new(422, "Invalid", format!("{options}.meta.k8s.io \"\" is invalid: {reason}"))
}
