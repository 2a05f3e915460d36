//! Requests of the API.

use serde_json::{Value, json};

use super::protobuf;
use super::status::ApiStatus;

/// A request; path and query are decoded.
pub struct Request {
    pub method: String,
    pub path: Vec<String>,
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// Returns a query parameter, or an empty string.
    pub fn query(&self, name: &str) -> &str {
        self.query.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// Returns a header, or an empty string.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
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
