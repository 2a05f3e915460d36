//! The fields of a ResourceQuota that the queue reads.

use crate::kube::types::watched::{Pairs, WatchedObject};

/// A ResourceQuota. The amounts are those of its status, which admission uses.
#[derive(Debug, Clone, Default)]
pub struct Quota {
    pub name: String,
    /// metadata.resourceVersion
    pub version: String,
    /// The names of the limited resources. The status has them once Kubernetes has computed the usage.
    pub limited: Vec<String>,
    pub hard: Pairs,
    pub used: Pairs,
}

impl WatchedObject for Quota {
    fn set(&mut self, path: &[&str], leaf: &str) {
        match path {
            ["metadata", "name"] => leaf.clone_into(&mut self.name),
            ["metadata", "resourceVersion"] => leaf.clone_into(&mut self.version),
            ["spec", "hard", key] => self.limited.push((*key).to_owned()),
            ["status", "hard", key] => self.hard.add(key, leaf),
            ["status", "used", key] => self.used.add(key, leaf),
            _ => {}
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        &self.version
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_amounts_are_those_of_the_status() {
        let text = r#"{"metadata":{"name":"q","resourceVersion":"7"},"spec":{"hard":{"cpu":"9"}},
                       "status":{"hard":{"cpu":"2","pods":3},"used":{"cpu":"900m"}}}"#;
        let quota = Quota::parse(text).expect("a quota");
        assert_eq!((quota.name(), quota.version()), ("q", "7"));
        assert_eq!(quota.limited, ["cpu"]);
        assert_eq!((quota.hard.get("cpu"), quota.hard.get("pods")), (Some("2"), Some("3")));
        assert_eq!((quota.used.get("cpu"), quota.used.get("pods")), (Some("900m"), None));
    }
}
