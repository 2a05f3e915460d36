//! Watched objects by key. Pure.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Objects of one kind, as the events of a watch leave them.
pub struct Store<K, V> {
    /// With the last list that contained the object.
    objects: BTreeMap<K, (u32, V)>,
    /// Number of lists begun.
    generation: u32,
}

impl<K, V> Default for Store<K, V> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), generation: 0 }
    }
}

impl<K: Ord, V> Store<K, V> {
    /// Begins a list. An object that is not inserted before its end no longer exists.
    pub fn begin_list(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// Completes a list, and removes the objects that it did not contain, except those that `keep` accepts.
    pub fn finish_list(&mut self, mut keep: impl FnMut(&mut V) -> bool) {
        self.objects.retain(|_, (last, object)| *last == self.generation || keep(object));
    }

    /// Removes the objects that `keep` does not accept.
    pub fn retain(&mut self, keep: impl Fn(&V) -> bool) {
        self.objects.retain(|_, (_, object)| keep(object));
    }

    /// Adds or replaces an object; returns the previous one.
    pub fn insert(&mut self, key: K, object: V) -> Option<V> {
        self.objects.insert(key, (self.generation, object)).map(|(_, previous)| previous)
    }

    /// Removes an object.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.objects.remove(key).map(|(_, object)| object)
    }

    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.objects.get_mut(key).map(|(_, object)| object)
    }

    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.objects.get(key).map(|(_, object)| object)
    }

    /// Returns the objects in the order of their keys, from `first` on.
    pub fn from<Q: Ord + ?Sized>(&self, first: &Q) -> impl Iterator<Item = (&K, &V)>
    where
        K: Borrow<Q>,
    {
        let range = (Bound::Included(first), Bound::Unbounded);
        self.objects.range(range).map(|(key, (_, object))| (key, object))
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.objects.values().map(|(_, object)| object)
    }

    pub fn len(&self) -> usize {
        self.objects.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_drops_the_objects_that_it_does_not_contain() {
        let mut store = Store::default();
        store.begin_list();
        for (key, object) in [("a", 1), ("b", 1), ("c", 1), ("kept", 9)] {
            assert_eq!(store.insert(key, object), None);
        }
        let keep = |object: &mut i32| *object == 9;
        store.finish_list(keep);
        store.begin_list();
        assert_eq!(store.insert("b", 2), Some(1));
        // The list begins again.
        store.begin_list();
        store.insert("c", 3);
        assert_eq!(store.values().collect::<Vec<_>>(), [&1, &2, &3, &9], "until it is complete");
        store.finish_list(keep);
        assert_eq!((store.get("c"), store.len()), (Some(&3), 2));
        store.retain(|object| *object == 3);
        assert_eq!(store.from("a").collect::<Vec<_>>(), [(&"c", &3)]);
        assert_eq!((store.remove("c"), store.get("c")), (Some(3), None));
    }
}
