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

impl<T> WatchEvent<T> {
    /// Returns the object that exists or no longer exists.
    pub fn object(&self) -> Option<&T> {
        match self {
            Self::Apply(object) | Self::Delete(object) => Some(object),
            Self::Init | Self::InitDone | Self::Connected | Self::Failed(_) => None,
        }
    }
}

/// Builds objects from leaves and hands them on. It has no type parameter, so that all that reads from the connection is
/// compiled once for all kinds of objects.
pub trait Sink {
    /// Returns the object that is being read.
    fn object(&mut self) -> &mut dyn WatchedObject;

    /// Drops the object.
    fn clear(&mut self);

    /// Hands an event on. `Apply` and `Delete` take the object.
    fn emit(&mut self, event: WatchEvent<()>);
}

/// The events of objects of one kind.
pub struct Events<'a, T> {
    object: T,
    on_event: &'a mut dyn FnMut(WatchEvent<T>),
}

impl<'a, T: Default> Events<'a, T> {
    pub fn new(on_event: &'a mut dyn FnMut(WatchEvent<T>)) -> Self {
        Self { object: T::default(), on_event }
    }
}

impl<T: WatchedObject + Default> Sink for Events<'_, T> {
    fn object(&mut self) -> &mut dyn WatchedObject {
        &mut self.object
    }

    fn clear(&mut self) {
        self.object = T::default();
    }

    fn emit(&mut self, event: WatchEvent<()>) {
        (self.on_event)(match event {
            WatchEvent::Init => WatchEvent::Init,
            WatchEvent::Apply(()) => WatchEvent::Apply(std::mem::take(&mut self.object)),
            WatchEvent::Delete(()) => WatchEvent::Delete(std::mem::take(&mut self.object)),
            WatchEvent::InitDone => WatchEvent::InitDone,
            WatchEvent::Connected => WatchEvent::Connected,
            WatchEvent::Failed(error) => WatchEvent::Failed(error),
        });
    }
}

/// Parses one page of a list, and hands on each object. Returns `None` for an object that is not a list.
///
/// # Errors
/// The text is not JSON.
pub fn read_list(text: &[u8], sink: &mut dyn Sink) -> Result<Option<ListMeta>, serde_json::Error> {
    let (mut is_list, mut page, mut current) = (false, ListMeta::default(), String::new());
    sink.clear();
    walk(text, &mut |path, leaf| match path {
        ["kind"] => is_list = leaf.ends_with("List"),
        ["metadata", "resourceVersion"] => leaf.clone_into(&mut page.version),
        ["metadata", "continue"] => leaf.clone_into(&mut page.next),
        ["items", index, rest @ ..] => {
            if *index != current {
                (*index).clone_into(&mut current);
                apply(sink);
            }
            sink.object().set(rest, leaf);
        }
        _ => {}
    })?;
    apply(sink);
    Ok(is_list.then_some(page))
}

fn apply(sink: &mut dyn Sink) {
    if !sink.object().name().is_empty() {
        sink.emit(WatchEvent::Apply(()));
    }
}

/// One line of a watch's response.
pub enum Line {
    /// The sink's object exists, in this state.
    Apply,
    /// The sink's object no longer exists.
    Delete,
    /// No change up to the resource version of the sink's object.
    Bookmark,
    /// The server ends the watch.
    Error(Status),
    /// An event of an unknown type.
    Unknown,
    /// Not an event.
    Malformed,
}

/// Parses one line of a watch's response. The sink then has its object.
pub fn read_line(text: &[u8], sink: &mut dyn Sink) -> Line {
    let (mut kind, mut status) = (String::new(), Status::default());
    sink.clear();
    let read = walk(text, &mut |path, leaf| match path {
        ["type"] => leaf.clone_into(&mut kind),
        // Fields of a Status object.
        ["object", "code"] => status.code = leaf.parse().unwrap_or_default(),
        ["object", "reason"] => leaf.clone_into(&mut status.reason),
        ["object", "message"] => leaf.clone_into(&mut status.message),
        ["object", rest @ ..] => sink.object().set(rest, leaf),
        _ => {}
    });
    let object = sink.object();
    let is_complete = !object.version().is_empty() && (kind == "BOOKMARK" || !object.name().is_empty());
    match kind.as_str() {
        _ if read.is_err() => Line::Malformed,
        "ADDED" | "MODIFIED" if is_complete => Line::Apply,
        "DELETED" if is_complete => Line::Delete,
        "BOOKMARK" if is_complete => Line::Bookmark,
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
        let mut ignore = |_: WatchEvent<Quota>| {};
        let mut events = Events::new(&mut ignore);
        let line = read_line(text.as_bytes(), &mut events);
        let Quota { name, version, .. } = &events.object;
        match line {
            Line::Apply => format!("apply {name} {version}"),
            Line::Delete => format!("delete {name}"),
            Line::Bookmark => format!("bookmark {version}"),
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
        let mut events = Events::new(&mut on_event);
        let page = read_list(text.as_bytes(), &mut events).expect("JSON").expect("a list");
        assert_eq!((page.next.as_str(), page.version.as_str()), ("c", "7"));
        assert!(read_list(br#"{"kind":"Status"}"#, &mut events).expect("JSON").is_none());
        assert!(read_list(&text.as_bytes()[..30], &mut events).is_err());
        assert_eq!(names, ["a", "b"]);
    }
}
