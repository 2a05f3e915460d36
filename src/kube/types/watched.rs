//! Objects that a watch reads leaf by leaf.

/// An object that keeps the leaves of its JSON text that it uses.
pub trait WatchedObject {
    /// Stores the leaf at `path` if it is in use.
    fn set(&mut self, path: &[&str], leaf: &str);

    /// metadata.name
    fn name(&self) -> &str;

    /// metadata.resourceVersion
    fn version(&self) -> &str;

    /// Parses a JSON text.
    #[cfg(test)]
    fn parse(text: &str) -> Result<Self, serde_json::Error>
    where
        Self: Default,
    {
        let mut object = Self::default();
        crate::kube::types::json_walk::walk(text.as_bytes(), &mut |path, leaf| object.set(path, leaf)).map(|()| object)
    }
}

/// Values by name; there are only a few.
#[derive(Debug, Clone, Default)]
pub struct Pairs(Vec<(String, String)>);

impl Pairs {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(in crate::kube) fn add(&mut self, name: &str, value: &str) {
        self.0.push((name.to_owned(), value.to_owned()));
    }
}
