//! The rules for names and labels, in the words of k8s.io/apimachinery/pkg/util/validation.

use serde_json::Value;

/// Longest DNS label and label value, and longest subdomain, in bytes.
const MAX_LABEL: usize = 63;
const MAX_SUBDOMAIN: usize = 253;

/// Checks the name of an object, RFC 1123. Returns the problem.
pub fn subdomain(field: &str, name: &str) -> Option<String> {
    if name.len() > MAX_SUBDOMAIN {
        return Some(too_long(field, name, MAX_SUBDOMAIN));
    }
    (!name.split('.').all(is_dns_label)).then(|| {
        format!(
            "{field}: Invalid value: \"{name}\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
             '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        )
    })
}

/// Checks the name of a container, RFC 1123. Returns the problem.
pub fn label(field: &str, name: &str) -> Option<String> {
    if name.len() > MAX_LABEL {
        return Some(too_long(field, name, MAX_LABEL));
    }
    (!is_dns_label(name)).then(|| {
        format!(
            "{field}: Invalid value: \"{name}\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
             and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        )
    })
}

/// Checks the keys and the values of labels. Returns the problems.
pub fn labels(field: &str, labels: &Value) -> Vec<String> {
    let names = labels.as_object().into_iter().flat_map(|labels| labels.keys());
    let problems = names.flat_map(|key| {
        let name = key.rsplit_once('/').map_or(key.as_str(), |(_, name)| name);
        [label_key(field, key, name), label_value(field, labels[key.as_str()].as_str().unwrap_or_default())]
    });
    problems.flatten().collect()
}

fn label_key(field: &str, key: &str, name: &str) -> Option<String> {
    (name.is_empty() || !is_qualified(name)).then(|| {
        format!(
            "{field}: Invalid value: \"{key}\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
             with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
             '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
        )
    })
}

fn label_value(field: &str, value: &str) -> Option<String> {
    if value.len() > MAX_LABEL {
        return Some(too_long(field, value, MAX_LABEL));
    }
    (!is_qualified(value)).then(|| {
        format!(
            "{field}: Invalid value: \"{value}\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
             '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
             validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
        )
    })
}

fn too_long(field: &str, value: &str, limit: usize) -> String {
    format!("{field}: Invalid value: \"{value}\": must be no more than {limit} bytes")
}

fn is_dns_label(name: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.starts_with(is_alphanumeric)
        && name.ends_with(is_alphanumeric)
        && name.chars().all(|c| is_alphanumeric(c) || c == '-')
}

fn is_qualified(text: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_alphanumeric();
    let is_inner = |c: char| is_alphanumeric(c) || "-_.".contains(c);
    text.is_empty()
        || text.starts_with(is_alphanumeric) && text.ends_with(is_alphanumeric) && text.chars().all(is_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_and_labels_follow_the_rules_of_kubernetes() {
        let long = "a".repeat(64);
        for (name, is_label, is_subdomain) in [
            ("a", true, true),
            ("a-b.c", false, true),
            ("A", false, false),
            ("-a", false, false),
            ("a..b", false, false),
            ("a_b", false, false),
            (&long, false, true),
        ] {
            let found = (label("f", name).is_none(), subdomain("f", name).is_none());
            assert_eq!(found, (is_label, is_subdomain), "{name}");
        }
        assert_eq!(labels("f", &json!({"a": "", "b/c": "X_y.z", "d": "1"})), Vec::<String>::new());
        for bad in [json!({"a": "b c"}), json!({"a": &long}), json!({"a/": "b"}), json!({"a": "-b"})] {
            assert_eq!(labels("f", &bad).len(), 1, "{bad}");
        }
    }
}
