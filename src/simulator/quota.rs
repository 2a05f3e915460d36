//! ResourceQuotas: what is used of them, and who is refused for them. CPU, memory and pods that have not ended count, and
//! objects by `count/`; of other limits nothing is known here, and they refuse nobody.

use serde_json::{Map, Value, json};

use super::resources::{PODS, QUOTAS, Resource};
use super::store::{Object, Refusal, Store, has_ended, items, name, namespace};
use crate::kube::quantity::{self, Milli};

/// More than any cluster has: so many pods of so much can be added up without an overflow.
const MOST: Milli = 1 << 80;

/// What a pod asks for (`list` is requests) or is held to (limits) of CPU or memory.
pub fn of_pod(pod: &Value, list: &str, what: &str) -> Milli {
    let amount = |container: &Value| container["resources"][list][what].as_str().and_then(quantity::parse);
    items(&pod["spec"]["containers"]).iter().filter_map(amount).map(|milli| milli.clamp(0, MOST)).sum()
}

/// A limit on CPU or memory: (requests or limits, cpu or memory).
fn compute(key: &str) -> Option<(&'static str, &str)> {
    let (list, what) = match key.split_once('.') {
        Some(("limits", what)) => ("limits", what),
        Some(("requests", what)) => ("requests", what),
        _ => ("requests", key),
    };
    ["cpu", "memory"].contains(&what).then_some((list, what))
}

/// The resource whose objects a limit counts.
fn counted(key: &str) -> Option<&'static Resource> {
    match key.strip_prefix("count/").map(|name| name.split_once('.').unwrap_or((name, ""))) {
        Some((plural, group)) => Resource::find(group, plural),
        None if key == "pods" || compute(key).is_some() => Resource::find("", PODS.plural),
        None => None,
    }
}

fn charge(object: &Value, key: &str) -> Milli {
    match compute(key) {
        _ if key.starts_with("count/") => 1000,
        _ if has_ended(object) => 0,
        Some((list, what)) => of_pod(object, list, what),
        None => 1000,
    }
}

fn used(store: &Store, namespace: &str, key: &str) -> Option<Milli> {
    Some(store.list(counted(key)?, namespace).map(|object| charge(object, key)).sum())
}

/// The limits of a quota.
fn hard(quota: &Value) -> impl Iterator<Item = (&str, &str)> {
    let hard = quota["spec"]["hard"].as_object().into_iter().flatten();
    hard.filter_map(|(key, limit)| Some((key.as_str(), limit.as_str()?)))
}

/// Refuses a new object for which a quota has no room.
///
/// # Errors
/// 403
pub fn admit(store: &Store, resource: &Resource, object: &Value) -> Result<(), Refusal> {
    let namespace = namespace(object);
    let refuse = |why: String| Err(Refusal::forbidden(&resource.qualified(), name(object), &why));
    for quota in store.list(&QUOTAS, namespace).filter(|_| resource.namespaced) {
        let ours = || hard(quota).filter(|(key, _)| counted(key).is_some_and(|counted| counted == resource));
        let unnamed = ours().filter(|(key, _)| compute(key).is_some() && charge(object, key) == 0);
        let unnamed: Vec<&str> = unnamed.map(|(key, _)| key).collect();
        if !unnamed.is_empty() {
            return refuse(format!("failed quota: {}: must specify {}", name(quota), unnamed.join(",")));
        }
        let (mut requested, mut taken, mut limited) = (Vec::new(), Vec::new(), Vec::new());
        for (key, limit) in ours() {
            let (charge, used) = (charge(object, key), used(store, namespace, key).unwrap_or_default());
            if charge + used > quantity::parse(limit).unwrap_or(Milli::MAX) {
                requested.push(format!("{key}={}", shortest(charge, "")));
                taken.push(format!("{key}={}", shortest(used, "")));
                limited.push(format!("{key}={limit}"));
            }
        }
        if !requested.is_empty() {
            let (requested, taken, limited) = (requested.join(","), taken.join(","), limited.join(","));
            let quota = name(quota);
            return refuse(format!(
                "exceeded quota: {quota}, requested: {requested}, used: {taken}, limited: {limited}"
            ));
        }
    }
    Ok(())
}

/// Counts anew what is used of every quota.
pub fn refresh(store: &mut Store) {
    let quotas: Vec<Object> = store.list(&QUOTAS, "").cloned().collect();
    for quota in quotas {
        let count = |(key, limit): (&str, &str)| {
            used(store, namespace(&quota), key).map(|used| (key.to_owned(), json!(shortest(used, limit))))
        };
        let used: Map<String, Value> = hard(&quota).filter_map(count).collect();
        let status = json!({"hard": quota["spec"]["hard"], "used": used});
        if quota["status"] != status {
            let mut counted = Value::clone(&quota);
            counted["status"] = status;
            store.put(&QUOTAS, counted);
        }
    }
}

/// A quantity in its shortest form, as Kubernetes stores it; what a person wrote in powers of two stays so.
pub fn shortest(milli: Milli, like: &str) -> String {
    let units: &[(&str, Milli)] = if like.ends_with('i') {
        &[("Gi", 1000 << 30), ("Mi", 1000 << 20), ("Ki", 1000 << 10)]
    } else {
        &[("G", 1_000_000_000_000), ("M", 1_000_000_000), ("k", 1_000_000)]
    };
    match units.iter().find(|(_, unit)| milli != 0 && milli % unit == 0) {
        Some((suffix, unit)) => format!("{}{suffix}", milli / unit),
        None if milli % 1000 == 0 => (milli / 1000).to_string(),
        None => format!("{milli}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_written_in_their_shortest_form() {
        for (text, shown) in
            [("2000m", "2"), ("900m", "900m"), ("1000", "1k"), ("0", "0"), ("1024Mi", "1Gi"), ("300", "300")]
        {
            assert_eq!(shortest(quantity::parse(text).expect(text), text), shown);
        }
    }
}
