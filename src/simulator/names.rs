//! The syntax of names and labels, with the messages of k8s.io/apimachinery/pkg/util/validation.

/// Longest label value, label name and DNS label, and longest DNS subdomain, in bytes.
const MAX_LABEL: usize = 63;
const MAX_SUBDOMAIN: usize = 253;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// Checks the name of a container, a namespace and the like.
///
/// # Errors
/// The message.
pub fn check_label(text: &str) -> Result<(), String> {
    check_length(text, MAX_LABEL)?;
    if is_dns_label(text) { Ok(()) } else { Err(LABEL.to_owned()) }
}

/// Checks the name of most objects.
///
/// # Errors
/// The message.
pub fn check_subdomain(text: &str) -> Result<(), String> {
    check_length(text, MAX_SUBDOMAIN)?;
    if text.split('.').all(is_dns_label) { Ok(()) } else { Err(SUBDOMAIN.to_owned()) }
}

/// Checks the key of a label or an annotation.
///
/// # Errors
/// The message.
pub fn check_key(text: &str) -> Result<(), String> {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    match prefix {
        Some("") => return Err("prefix part must be non-empty".to_owned()),
        Some(prefix) => check_subdomain(prefix).map_err(|reason| format!("prefix part {reason}"))?,
        None => {}
    }
    if name.contains('/') {
        return Err(format!(
            "a qualified name {QUALIFIED} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        ));
    }
    if name.is_empty() {
        return Err("name part must be non-empty".to_owned());
    }
    check_length(name, MAX_LABEL).map_err(|reason| format!("name part {reason}"))?;
    if is_word(name) { Ok(()) } else { Err(format!("name part {QUALIFIED}")) }
}

/// Checks the value of a label.
///
/// # Errors
/// The message.
pub fn check_value(text: &str) -> Result<(), String> {
    check_length(text, MAX_LABEL)?;
    if text.is_empty() || is_word(text) { Ok(()) } else { Err(VALUE.to_owned()) }
}

fn check_length(text: &str, limit: usize) -> Result<(), String> {
    if text.len() <= limit { Ok(()) } else { Err(format!("must be no more than {limit} bytes")) }
}

fn is_dns_label(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(is_inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_word(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    text.bytes().all(is_inner) && is_edge(text.as_bytes().first()) && is_edge(text.as_bytes().last())
}
