//! Label and field selectors of a request.

use std::borrow::Cow;

use serde_json::Value;

use super::label_selector::{self, Requirement};
use super::request::Request;
use super::resources::Resource;
use super::status::ApiStatus;
use super::store::text;

/// The selectors of a request for a collection.
pub struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Field>,
}

/// A condition on a field.
struct Field {
    name: String,
    value: String,
    is_equal: bool,
}

impl Selector {
    /// Parses the selectors of a request for this resource.
    ///
    /// # Errors
    /// 400
    pub fn parse(request: &Request, resource: &Resource) -> Result<Self, ApiStatus> {
        let labels = label_selector::parse(request.query("labelSelector")).map_err(ApiStatus::bad_request)?;
        let fields = parse_fields(request.query("fieldSelector")).map_err(ApiStatus::bad_request)?;
        match fields.iter().find(|field| !is_known(resource, &field.name)) {
            Some(field) => Err(ApiStatus::bad_request(unknown(resource, &field.name))),
            None => Ok(Self { labels, fields }),
        }
    }

    pub fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels.iter().all(|requirement| requirement.matches(labels))
            && self.fields.iter().all(|field| (value(object, &field.name) == field.value) == field.is_equal)
    }
}

/// Parses conditions such as `status.phase!=Running`, see k8s.io/apimachinery/pkg/fields.
fn parse_fields(selector: &str) -> Result<Vec<Field>, String> {
    let mut fields = Vec::new();
    for term in split_terms(selector).iter().filter(|term| !term.is_empty()) {
        let malformed = || format!("invalid selector: '{selector}'; can't understand '{term}'");
        let at = term.find('=').ok_or_else(malformed)?;
        let (name, is_equal) = match term[..at].strip_suffix('!') {
            Some(name) => (name, false),
            None => (&term[..at], true),
        };
        let rest = &term[at + 1..];
        let rest = if is_equal { rest.strip_prefix('=').unwrap_or(rest) } else { rest };
        let value = unescape(rest).ok_or_else(malformed)?;
        fields.push(Field { name: name.to_owned(), value, is_equal });
    }
    Ok(fields)
}

/// Splits a selector at the commas that have no backslash before them.
fn split_terms(selector: &str) -> Vec<&str> {
    let (mut terms, mut start, mut is_escaped) = (Vec::new(), 0, false);
    for (at, byte) in selector.bytes().enumerate() {
        if byte == b',' && !is_escaped {
            terms.push(&selector[start..at]);
            start = at + 1;
        }
        is_escaped = byte == b'\\' && !is_escaped;
    }
    terms.push(&selector[start..]);
    terms
}

/// Returns a value without its backslashes, or `None` if it is malformed.
fn unescape(text: &str) -> Option<String> {
    let (mut plain, mut chars) = (String::new(), text.chars());
    while let Some(char) = chars.next() {
        match char {
            '\\' => plain.push(chars.next().filter(|next| matches!(next, '\\' | ',' | '='))?),
            '=' => return None,
            other => plain.push(other),
        }
    }
    Some(plain)
}

/// Returns the fields that can be selected beside name and namespace.
fn fields(resource: &Resource) -> &'static [&'static str] {
    match resource.kind {
        "Pod" => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        "Node" => &["spec.unschedulable"],
        "Namespace" => &["status.phase"],
        "Job" => &["status.successful"],
        "Secret" => &["type"],
        "Service" => &["spec.clusterIP", "spec.type"],
        "Event" => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        _ => &[],
    }
}

fn is_known(resource: &Resource, field: &str) -> bool {
    matches!(field, "metadata.name" | "metadata.namespace") || fields(resource).contains(&field)
}

fn unknown(resource: &Resource, field: &str) -> String {
    match resource.kind {
        "Job" => format!("field label {field:?} not supported for Job"),
        _ if fields(resource).is_empty() => {
            format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        }
        _ => format!("field label not supported: {field}"),
    }
}

/// Returns a field's value as a selector has it.
fn value<'a>(object: &'a Value, field: &str) -> Cow<'a, str> {
    let pointer = match field {
        "status.successful" => "/status/succeeded".to_owned(),
        "source" => "/source/component".to_owned(),
        field => format!("/{}", field.replace('.', "/")),
    };
    match (field, object.pointer(&pointer)) {
        ("spec.unschedulable" | "spec.hostNetwork", found) => (found == Some(&Value::Bool(true))).to_string().into(),
        ("status.successful", found) => found.and_then(Value::as_u64).unwrap_or_default().to_string().into(),
        _ => text(object, &pointer).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::resources::{ACCOUNTS, JOBS, PODS};
    use serde_json::json;

    fn selector(resource: &Resource, fields: &str) -> Result<Selector, ApiStatus> {
        let query = vec![("fieldSelector".to_owned(), fields.to_owned())];
        let request = Request { query, ..Request::default() };
        Selector::parse(&request, resource)
    }

    #[test]
    fn fields_are_selected_as_kubectl_writes_them() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "a,b"}, "status": {"phase": "Running"}});
        for (fields, expected) in [
            ("", true),
            ("metadata.name=p,", true),
            ("metadata.name==p,status.phase!=Pending", true),
            ("metadata.name=q", false),
            ("status.podIP=", true),
            ("spec.nodeName=a\\,b,spec.hostNetwork=false", true),
        ] {
            assert_eq!(selector(&PODS, fields).expect(fields).matches(&pod), expected, "{fields}");
        }
        assert!(selector(&JOBS, "status.successful=0").expect("known").matches(&json!({})));
    }

    #[test]
    fn unknown_fields_and_malformed_selectors_are_refused() {
        for (resource, fields, message) in [
            (&PODS, "foo=x", "field label not supported: foo"),
            (&JOBS, "spec.foo=x", "field label \"spec.foo\" not supported for Job"),
            (&ACCOUNTS, "a=b", "\"a\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""),
            (&PODS, "foo", "invalid selector: 'foo'; can't understand 'foo'"),
            (
                &PODS,
                "status.phase in (a)",
                "invalid selector: 'status.phase in (a)'; can't understand 'status.phase in (a)'",
            ),
        ] {
            assert_eq!(selector(resource, fields).err().map(|status| status.message).as_deref(), Some(message));
        }
    }
}
