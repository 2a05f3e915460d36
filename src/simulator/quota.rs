//! ResourceQuotas: their usage and admission. The limits on CPU, memory and numbers of objects are enforced; pods that have ended
//! count only for `count/`.

use serde_json::{Map, Value, json};

use super::resources::{PODS, QUOTAS, Resource};
use super::status::ApiStatus;
use super::store::{Object, Store, has_ended, items, name, namespace};
use crate::kube::quantity::{self, Milli};

/// More than any cluster has, and small enough that the sum over all pods does not overflow.
const MAX_AMOUNT: Milli = 1 << 80;

/// Limits on what no object of the simulator uses.
const UNUSED: [&str; 6] = [
    "persistentvolumeclaims",
    "replicationcontrollers",
    "requests.storage",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

/// Returns a pod's CPU or memory in `list`, which is requests or limits.
pub fn pod_amount(pod: &Value, list: &str, resource: &str) -> Milli {
    let amount = |container: &Value| container["resources"][list][resource].as_str().and_then(quantity::parse);
    items(&pod["spec"]["containers"]).iter().filter_map(amount).map(|milli| milli.clamp(0, MAX_AMOUNT)).sum()
}

/// Splits a limit on CPU or memory into (requests or limits, cpu or memory).
fn compute(key: &str) -> Option<(&'static str, &str)> {
    let (list, resource) = match key.split_once('.') {
        Some(("limits", resource)) => ("limits", resource),
        Some(("requests", resource)) => ("requests", resource),
        _ => ("requests", key),
    };
    ["cpu", "memory"].contains(&resource).then_some((list, resource))
}

/// Returns the resource whose objects a limit counts.
fn counted(key: &str) -> Option<&'static Resource> {
    match key.strip_prefix("count/").map(|name| name.split_once('.').unwrap_or((name, ""))) {
        Some((plural, group)) => Resource::find(group, plural),
        None if compute(key).is_some() => Some(&PODS),
        None => Resource::find("", key),
    }
}

/// Tests for a limit whose usage is known.
pub fn is_counted(key: &str) -> bool {
    counted(key).is_some() || key.starts_with("count/") || UNUSED.contains(&key)
}

/// Returns the usage of one object.
fn charge(object: &Value, key: &str) -> Milli {
    match compute(key) {
        _ if key.starts_with("count/") => 1000,
        _ if has_ended(object) => 0,
        Some((list, resource)) => pod_amount(object, list, resource),
        None => 1000,
    }
}

/// Returns the usage of all objects.
fn used(store: &Store, namespace: &str, key: &str) -> Milli {
    counted(key).map_or(0, |resource| store.list(resource, namespace).map(|object| charge(object, key)).sum())
}

/// Returns the limits of a quota.
fn hard(quota: &Value) -> impl Iterator<Item = (&str, &str)> {
    let hard = quota["spec"]["hard"].as_object().into_iter().flatten();
    hard.filter_map(|(key, limit)| Some((key.as_str(), limit.as_str()?)))
}

/// Refuses a new object that exceeds a quota.
///
/// # Errors
/// 403
pub fn admit(store: &Store, resource: &Resource, object: &Value) -> Result<(), ApiStatus> {
    let namespace = namespace(object);
    let refuse = |reason: String| Err(ApiStatus::forbidden(&resource.qualified(), name(object), &reason));
    for quota in store.list(&QUOTAS, namespace).filter(|_| resource.namespaced) {
        let ours = || hard(quota).filter(|(key, _)| counted(key).is_some_and(|counted| counted == resource));
        let unnamed = ours().filter(|(key, _)| compute(key).is_some() && charge(object, key) == 0);
        let unnamed: Vec<&str> = unnamed.map(|(key, _)| key).collect();
        if !unnamed.is_empty() {
            return refuse(format!("failed quota: {}: must specify {}", name(quota), unnamed.join(",")));
        }
        let (mut requested, mut taken, mut limited) = (Vec::new(), Vec::new(), Vec::new());
        for (key, limit) in ours() {
            let (charge, used) = (charge(object, key), used(store, namespace, key));
            if charge + used > quantity::parse(limit).unwrap_or(Milli::MAX) {
                requested.push(format!("{key}={}", canonical(charge, "")));
                taken.push(format!("{key}={}", canonical(used, "")));
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

/// Recounts the usage of every quota.
pub fn refresh(store: &mut Store) {
    let quotas: Vec<Object> = store.list(&QUOTAS, "").cloned().collect();
    for quota in quotas {
        let count =
            |(key, limit): (&str, &str)| (key.to_owned(), json!(canonical(used(store, namespace(&quota), key), limit)));
        let used: Map<String, Value> = hard(&quota).map(count).collect();
        let status = json!({"hard": quota["spec"]["hard"], "used": used});
        if quota["status"] != status {
            let mut counted = Value::clone(&quota);
            counted["status"] = status;
            store.put(&QUOTAS, counted);
        }
    }
}

/// Returns a quantity in Kubernetes' canonical form, in powers of two if `like` is.
pub fn canonical(milli: Milli, like: &str) -> String {
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
    fn quantities_are_written_in_canonical_form() {
        for (text, shown) in
            [("2000m", "2"), ("900m", "900m"), ("1000", "1k"), ("0", "0"), ("1024Mi", "1Gi"), ("300", "300")]
        {
            assert_eq!(canonical(quantity::parse(text).expect(text), text), shown);
        }
    }
}
