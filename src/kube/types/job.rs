//! What a [watch](crate::kube::watch::watcher) reads of Jobs and ResourceQuotas: the few fields that say who waits, who runs, and what
//! is free.
//!
//! A JSON text is walked through, and of all its leaves the wanted ones are kept. That is one small piece of code for lists,
//! events and every kind of object; types of serde's derive would be a quarter of a megabyte of program.

use std::fmt::{self, Display};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// How far a Job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// It has no pod yet, and is to have one.
    Waiting,
    /// It has a pod that has not ended.
    Running,
    /// It has ended, failed, is suspended, or is being deleted: it waits for nothing that could be given to it. One that may try
    /// again after a failed pod, as ours never do, counts as one that has ended.
    Finished,
}

/// A Job or a ResourceQuota.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    pub name: String,
    /// metadata.resourceVersion
    pub version: String,
    /// metadata.creationTimestamp, RFC 3339 in whole seconds of UTC: texts in the order of time.
    pub created: String,
    pub annotations: Pairs,
    /// Of a Job, status.startTime: when the controller first saw it, which may have waited since.
    pub started: Option<String>,
    /// Of a Job: what each container of its pod asks for.
    pub containers: Vec<Resources>,
    /// Of a quota, as admission sees it: its status.
    pub hard: Pairs,
    pub used: Pairs,
    is_out: bool,
    is_active: bool,
    has_ended: bool,
    conditions: Vec<(String, String)>,
    /// Of a Status: its code, its reason and its message.
    pub(in crate::kube) error: (String, String, String),
}

/// Values by name; there are never many.
#[derive(Debug, Clone, Default)]
pub struct Pairs(Vec<(String, String)>);

impl Pairs {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn add(&mut self, name: &str, value: &str) {
        self.0.push((name.to_owned(), value.to_owned()));
    }
}

/// The resources of a container, by name.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    pub requests: Pairs,
    pub limits: Pairs,
}

impl Watched {
    /// Of a Job: how far it is.
    pub fn state(&self) -> JobState {
        let is_end =
            |(kind, status): &(String, String)| matches!(kind.as_str(), "Complete" | "Failed") && status == "True";
        match () {
            () if self.is_out || self.conditions.iter().any(is_end) => JobState::Finished,
            () if self.is_active => JobState::Running,
            () if self.has_ended => JobState::Finished,
            () => JobState::Waiting,
        }
    }

    /// From JSON, for tests.
    #[cfg(test)]
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let mut object = Self::default();
        walk(text.as_bytes(), &mut |path, leaf| object.take(path, leaf)).map(|()| object)
    }

    /// Takes a leaf, if it is wanted.
    pub(in crate::kube) fn take(&mut self, path: &[&str], leaf: &str) {
        let text = || leaf.to_owned();
        match path {
            ["metadata", "name"] => self.name = text(),
            ["metadata", "resourceVersion"] => self.version = text(),
            ["metadata", "creationTimestamp"] => self.created = text(),
            ["metadata", "deletionTimestamp"] => self.is_out = true,
            ["metadata", "annotations", key] => self.annotations.add(key, leaf),
            ["spec", "suspend"] => self.is_out |= leaf == "true",
            ["spec", "template", "spec", "containers", at, "resources", list, what] => {
                let container = element(&mut self.containers, at);
                let amounts = if *list == "limits" { &mut container.limits } else { &mut container.requests };
                amounts.add(what, leaf);
            }
            ["status", "active"] => self.is_active = leaf != "0",
            ["status", "succeeded" | "failed"] => self.has_ended |= leaf != "0",
            ["status", "startTime"] => self.started = Some(text()),
            ["status", "conditions", at, "type"] => element(&mut self.conditions, at).0 = text(),
            ["status", "conditions", at, "status"] => element(&mut self.conditions, at).1 = text(),
            ["status", "hard", key] => self.hard.add(key, leaf),
            ["status", "used", key] => self.used.add(key, leaf),
            ["code"] => self.error.0 = text(),
            ["reason"] => self.error.1 = text(),
            ["message"] => self.error.2 = text(),
            _ => {}
        }
    }
}

/// Most elements of a list that are told apart: a pod has a few containers. A server that lies must not fill the memory.
const MAX_ELEMENTS: usize = 1000;

/// The element of that number.
fn element<'a, T: Default>(list: &'a mut Vec<T>, at: &str) -> &'a mut T {
    let at: usize = at.parse().unwrap_or(MAX_ELEMENTS);
    let at = at.min(MAX_ELEMENTS);
    if list.len() <= at {
        list.resize_with(at + 1, T::default);
    }
    &mut list[at]
}

/// Walks through a JSON text and tells of each leaf but null, with the way to it.
///
/// # Errors
/// It is not JSON.
pub fn walk(text: &[u8], leaf: &mut dyn FnMut(&[&str], &str)) -> Result<(), serde_json::Error> {
    let mut json = serde_json::Deserializer::from_slice(text);
    Walk { path: &mut Vec::new(), leaf }.deserialize(&mut json)?;
    json.end()
}

struct Walk<'a> {
    path: &'a mut Vec<String>,
    leaf: &'a mut dyn FnMut(&[&str], &str),
}

impl Walk<'_> {
    fn tell(self, leaf: &dyn Display) {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        (self.leaf)(&path, &leaf.to_string());
    }

    /// One level further down.
    fn down(&mut self, key: String) -> Walk<'_> {
        self.path.push(key);
        Walk { path: self.path, leaf: self.leaf }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, leaf: bool) -> Result<(), E> {
        self.tell(&leaf);
        Ok(())
    }

    fn visit_i64<E>(self, leaf: i64) -> Result<(), E> {
        self.tell(&leaf);
        Ok(())
    }

    fn visit_u64<E>(self, leaf: u64) -> Result<(), E> {
        self.tell(&leaf);
        Ok(())
    }

    fn visit_f64<E>(self, leaf: f64) -> Result<(), E> {
        self.tell(&leaf);
        Ok(())
    }

    fn visit_str<E>(self, leaf: &str) -> Result<(), E> {
        self.tell(&leaf);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<S: SeqAccess<'de>>(mut self, mut seq: S) -> Result<(), S::Error> {
        let mut at = 0;
        while seq.next_element_seed(self.down(at.to_string()))?.is_some() {
            self.path.pop();
            at += 1;
        }
        self.path.pop();
        Ok(())
    }

    fn visit_map<M: MapAccess<'de>>(mut self, mut map: M) -> Result<(), M::Error> {
        while let Some(key) = map.next_key()? {
            map.next_value_seed(self.down(key))?;
            self.path.pop();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_waits_while_it_has_no_pod_and_is_to_have_one() {
        let complete = r#"{"succeeded":1,"conditions":[{"status":"True","type":"Complete","reason":null}]}"#;
        for (spec, status, metadata, state) in [
            ("{}", "{}", "", JobState::Waiting),
            ("null", "null", "", JobState::Waiting),
            (r#"{"suspend":false}"#, r#"{"active":0,"conditions":null}"#, "", JobState::Waiting),
            (
                "{}",
                r#"{"conditions":[{"type":"Suspended","status":"True"},{"type":"Failed","status":"False"}]}"#,
                "",
                JobState::Waiting,
            ),
            (
                "{}",
                r#"{"conditions":[{"type":"Suspended","status":"False"},{"type":"Failed","status":"True"}]}"#,
                "",
                JobState::Finished,
            ),
            ("{}", r#"{"active":1,"ready":0}"#, "", JobState::Running),
            ("{}", complete, "", JobState::Finished),
            ("{}", r#"{"failed":1}"#, "", JobState::Finished),
            (r#"{"suspend":true}"#, "{}", "", JobState::Finished),
            ("{}", r#"{"active":1}"#, r#","deletionTimestamp":"2026-01-01T00:00:00Z""#, JobState::Finished),
        ] {
            let text =
                format!(r#"{{"metadata":{{"name":"a"{metadata}}},"spec":{spec},"status":{status},"x":[1.5,[]]}}"#);
            assert_eq!(Watched::parse(&text).expect(&text).state(), state, "{text}");
        }
    }

    #[test]
    fn what_its_containers_ask_for_is_kept() {
        let containers = r#"[{"name":"c"},{"resources":{"limits":{"cpu":"900m","memory":1},"requests":null}}]"#;
        let metadata =
            r#"{"annotations":{"a/b":"c"},"creationTimestamp":"2026-01-01T00:00:00Z","resourceVersion":"7"}"#;
        let text =
            format!(r#"{{"metadata":{metadata},"spec":{{"template":{{"spec":{{"containers":{containers}}}}}}}}}"#);
        let job = Watched::parse(&text).expect("a Job");
        assert_eq!((job.containers.len(), job.containers[1].limits.get("cpu")), (2, Some("900m")));
        assert_eq!((job.containers[1].limits.get("memory"), job.version.as_str()), (Some("1"), "7"));
        assert!(job.containers[1].requests.get("cpu").is_none() && job.annotations.get("a/b") == Some("c"));
    }

    #[test]
    fn a_walk_tells_of_each_leaf_with_its_way() {
        let mut seen = Vec::new();
        let text = br#" {"a":[1,{},{"b/c":null,"d":-1.5}],"e":true,"f":"\u00e4"} "#;
        walk(text, &mut |path, leaf| seen.push(format!("{}={leaf}", path.join(" ")))).expect("JSON");
        assert_eq!(seen, ["a 0=1", "a 2 d=-1.5", "e=true", "f=\u{e4}"]);
        for text in ["", "{", "{\"a\":", "<html>", "{\"a\" 1}", "{} {}", &"[".repeat(1000)] {
            assert!(Watched::parse(text).is_err(), "{text}");
        }
    }
}
