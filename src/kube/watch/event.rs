//! The events of a watch, and the JSON texts that contain them. Pure.

use crate::kube::error::{Error, Status};
use crate::kube::types::json_walk::walk;
use crate::kube::types::pod::ListMeta;
use crate::kube::types::watched::WatchedObject;

/// An event of a watch, named as in kube-rs.
pub enum WatchEvent<T> {
    /// A list begins. An object without an [`Apply`](Self::Apply) before [`InitDone`](Self::InitDone) no longer exists.
    Init,
    /// The object exists, in this state.
    Apply(T),
    /// The object no longer exists.
    Delete(T),
    /// The list is complete.
    InitDone,
    /// The watch is connected: changes arrive as they happen.
    Connected,
    /// The watch has failed. No change arrives until it is connected again.
    Failed(Error),
}

/// Parses one page of a list, and calls `on_event` with each object. Returns `None` for an object that is not a list.
///
/// # Errors
/// The text is not JSON.
pub fn read_list<T: WatchedObject>(
    text: &[u8],
    on_event: &mut dyn FnMut(WatchEvent<T>),
) -> Result<Option<ListMeta>, serde_json::Error> {
    let (mut is_list, mut page) = (false, ListMeta::default());
    let (mut current, mut object) = (String::new(), T::default());
    walk(text, &mut |path, leaf| match path {
        ["kind"] => is_list = leaf.ends_with("List"),
        ["metadata", "resourceVersion"] => leaf.clone_into(&mut page.version),
        ["metadata", "continue"] => leaf.clone_into(&mut page.next),
        ["items", index, rest @ ..] => {
            if *index != current {
                (*index).clone_into(&mut current);
                apply(std::mem::take(&mut object), on_event);
            }
            object.set(rest, leaf);
        }
        _ => {}
    })?;
    apply(object, on_event);
    Ok(is_list.then_some(page))
}

fn apply<T: WatchedObject>(object: T, on_event: &mut dyn FnMut(WatchEvent<T>)) {
    if !object.name().is_empty() {
        on_event(WatchEvent::Apply(object));
    }
}

/// One line of a watch's response.
pub enum Line<T> {
    Apply(T),
    Delete(T),
    /// No change up to this resource version.
    Bookmark(String),
    /// The server ends the watch.
    Error(Status),
    /// An event of an unknown type.
    Unknown,
    /// Not an event.
    Malformed,
}

/// Parses one line of a watch's response.
pub fn read_line<T: WatchedObject>(text: &[u8]) -> Line<T> {
    let (mut kind, mut object, mut status) = (String::new(), T::default(), Status::default());
    let read = walk(text, &mut |path, leaf| match path {
        ["type"] => leaf.clone_into(&mut kind),
        // Fields of a Status object.
        ["object", "code"] => status.code = leaf.parse().unwrap_or_default(),
        ["object", "reason"] => leaf.clone_into(&mut status.reason),
        ["object", "message"] => leaf.clone_into(&mut status.message),
        ["object", rest @ ..] => object.set(rest, leaf),
        _ => {}
    });
    let is_complete = !object.version().is_empty() && (kind == "BOOKMARK" || !object.name().is_empty());
    match kind.as_str() {
        _ if read.is_err() => Line::Malformed,
        "ADDED" | "MODIFIED" if is_complete => Line::Apply(object),
        "DELETED" if is_complete => Line::Delete(object),
        "BOOKMARK" if is_complete => Line::Bookmark(object.version().to_owned()),
        "ERROR" => Line::Error(status),
        "" | "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK" => Line::Malformed,
        _ => Line::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::types::quota::Quota;

    fn read(text: &str) -> String {
        match read_line::<Quota>(text.as_bytes()) {
            Line::Apply(quota) => format!("apply {} {}", quota.name, quota.version),
            Line::Delete(quota) => format!("delete {}", quota.name),
            Line::Bookmark(version) => format!("bookmark {version}"),
            Line::Error(status) => format!("error {} {}", status.code, status.reason),
            Line::Unknown => "unknown".to_owned(),
            Line::Malformed => "malformed".to_owned(),
        }
    }

    #[test]
    fn events_are_read_by_their_type() {
        let quota = r#"{"kind":"ResourceQuota","metadata":{"name":"q","resourceVersion":"7","labels":{"a":"b"}},"spec":{},"status":null}"#;
        for (text, event) in [
            (format!(r#"{{"type":"ADDED","object":{quota}}}"#), "apply q 7"),
            (format!(r#"{{"type":"MODIFIED","object":{quota},"new":[{{}}]}}"#), "apply q 7"),
            (format!(r#"{{"type":"DELETED","object":{quota}}}"#), "delete q"),
            (format!(r#"{{"type":"NOVEL","object":{quota}}}"#), "unknown"),
            (
                r#"{"type":"BOOKMARK","object":{"kind":"Job","metadata":{"resourceVersion":"9"},"spec":{}}}"#.into(),
                "bookmark 9",
            ),
            (
                r#"{"type":"ERROR","object":{"kind":"Status","status":"Failure","reason":"Expired","code":410}}"#
                    .into(),
                "error 410 Expired",
            ),
            (r#"{"type":"ADDED","object":{"metadata":{"name":"q"}}}"#.into(), "malformed"),
            (r#"{"type":"ADDED","object":[]}"#.into(), "malformed"),
            (format!(r#"{{"object":{quota}}}"#), "malformed"),
            (format!(r#"{{"object":{quota},"type":"ADDED"}}"#), "apply q 7"),
            ("{}".into(), "malformed"),
            ("<html>".into(), "malformed"),
        ] {
            assert_eq!(read(&text), event, "{text}");
        }
    }

    #[test]
    fn a_page_is_read_object_by_object() {
        let text = r#"{"kind":"JobList","items":[{"metadata":{"name":"a"}},{},{"metadata":{"name":"b"}}],
                       "metadata":{"resourceVersion":"7","continue":"c"}}"#;
        let mut names = Vec::new();
        let mut on_event = |event| match event {
            WatchEvent::Apply(Quota { name, .. }) => names.push(name),
            _ => panic!("only objects"),
        };
        let page = read_list(text.as_bytes(), &mut on_event).expect("JSON").expect("a list");
        assert_eq!((page.next.as_str(), page.version.as_str()), ("c", "7"));
        assert!(read_list::<Quota>(br#"{"kind":"Status"}"#, &mut |_| {}).expect("JSON").is_none());
        assert!(read_list(&text.as_bytes()[..30], &mut on_event).is_err());
        assert_eq!(names, ["a", "b"]);
    }
}
