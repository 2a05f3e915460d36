//! Label and field selectors.

use serde_json::Value;

use super::request::Request;
use super::store::text;

/// A labelSelector (equality and existence) and a fieldSelector (equality): JSON pointers and conditions.
pub struct Selector(Vec<(String, Condition)>);

enum Condition {
    Equals(String),
    Differs(String),
    Exists,
}

impl Selector {
    /// Parses the selectors of a request.
    pub fn parse(request: &Request) -> Self {
        let label = |key: &str| format!("/metadata/labels/{}", key.trim().replace('~', "~0").replace('/', "~1"));
        let field = |key: &str| format!("/{}", key.replace('.', "/"));
        let mut all = conditions(request.query("labelSelector"), label);
        all.extend(conditions(request.query("fieldSelector"), field));
        Self(all)
    }

    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(pointer, condition)| match condition {
            Condition::Equals(value) => text(object, pointer) == value,
            Condition::Differs(value) => text(object, pointer) != value,
            Condition::Exists => object.pointer(pointer).is_some(),
        })
    }
}

fn conditions(query: &str, pointer: impl Fn(&str) -> String) -> Vec<(String, Condition)> {
    let parts = query.split(',').filter(|part| !part.is_empty());
    let parse = |part: &str| match (part.split_once("!="), part.split_once('=')) {
        (Some((key, value)), _) => (pointer(key), Condition::Differs(value.to_owned())),
        (_, Some((key, value))) => (pointer(key), Condition::Equals(value.trim_start_matches('=').to_owned())),
        _ => (pointer(part), Condition::Exists),
    };
    parts.map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(query: &[(&str, &str)]) -> Request {
        let query = query.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Request { method: "GET".into(), path: Vec::new(), query, headers: Vec::new(), body: Vec::new() }
    }

    #[test]
    fn selectors_are_parsed_as_kubectl_writes_them() {
        let pod =
            json!({"metadata": {"name": "p", "labels": {"a": "1", "tier/x": "free"}}, "status": {"phase": "Running"}});
        for (labels, fields, matches) in [
            ("", "", true),
            ("a=1,tier/x=free", "metadata.name=p", true),
            ("a==1", "status.phase!=Pending", true),
            ("a=2", "", false),
            ("a!=1", "", false),
            ("tier/x", "", true),
            ("b", "", false),
            ("", "metadata.name=q", false),
        ] {
            let request = request(&[("labelSelector", labels), ("fieldSelector", fields)]);
            assert_eq!(Selector::parse(&request).matches(&pod), matches, "{labels} {fields}");
        }
    }
}
