//! Failures of the API.

use serde_json::{Value, json};

use super::resources::Resource;

/// A failure, answered as a `Status` object in Kubernetes' own words.
#[derive(Debug)]
pub struct ApiStatus {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    /// StatusDetails: the object and, after 422, the causes. Clients print these instead of the message.
    details: Value,
}

/// The reason of a cause by the start of its text, see k8s.io/apimachinery/pkg/util/validation/field (errors.go).
const CAUSES: [(&str, &str); 5] = [
    ("Required value", "FieldValueRequired"),
    ("Unsupported value", "FieldValueNotSupported"),
    ("Duplicate value", "FieldValueDuplicate"),
    ("Forbidden", "FieldValueForbidden"),
    ("", "FieldValueInvalid"),
];

impl ApiStatus {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: json!({}) }
    }

    pub fn not_found(resource: &Resource, name: &str) -> Self {
        let details = json!({"name": name, "group": resource.group, "kind": resource.plural});
        let message = format!("{} \"{name}\" not found", resource.qualified());
        Self { details, ..Self::new(404, "NotFound", message) }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub fn invalid(resource: &Resource, name: &str, problem: &str) -> Self {
        Self::all_invalid(resource, name, &[problem.to_owned()])
    }

    /// Returns the status for these problems, each as `FIELD: TEXT`.
    pub fn all_invalid(resource: &Resource, name: &str, problems: &[String]) -> Self {
        let kind = if resource.group.is_empty() {
            resource.kind.to_owned()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let why = match problems {
            [one] => one.clone(),
            all => format!("[{}]", all.join(", ")),
        };
        let cause = |problem: &String| {
            let (field, text) = problem.split_once(": ").unwrap_or(("", problem));
            let (_, reason) =
                CAUSES.iter().find(|(start, _)| text.starts_with(start)).expect("the last start is empty");
            json!({"field": field, "message": text, "reason": reason})
        };
        let causes: Vec<Value> = problems.iter().map(cause).collect();
        let details = json!({"name": name, "group": resource.group, "kind": resource.kind, "causes": causes});
        Self { details, ..Self::new(422, "Invalid", format!("{kind} \"{name}\" is invalid: {why}")) }
    }

    /// Returns the status for a change of another version or of another object of the same name.
    pub fn conflict(resource: &str, name: &str, why: &str) -> Self {
        Self::new(409, "Conflict", format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}"))
    }

    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    pub fn forbidden(resource: &str, name: &str, why: &str) -> Self {
        let name = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        Self::new(403, "Forbidden", format!("{resource}{name} is forbidden: {why}"))
    }

    pub fn into_json(self) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
               "message": self.message, "reason": self.reason, "details": self.details, "code": self.code})
    }
}
