//! The capacity that quotas leave for pods, and the amount that a Job's pod requests. Pure.

use crate::job;
use crate::kube::quantity::{self, Milli};
use crate::kube::{Job, Quota};

/// The limited resources of pods, each with the names that quotas use for it,
/// <https://kubernetes.io/docs/concepts/policy/resource-quotas/#compute-resource-quota>.
const QUOTA_KEYS: [&[&str]; 5] = [
    &["requests.cpu", "cpu"],
    &["limits.cpu"],
    &["requests.memory", "memory"],
    &["limits.memory"],
    &["pods", "count/pods"],
];

/// The names that quotas use for CPU.
const CPU_KEYS: [&str; 3] = ["requests.cpu", "cpu", "limits.cpu"];

/// The capacity of a resource without a limit: no number of Jobs, each at most [`MAX_AMOUNT`], uses it up.
const UNLIMITED: Milli = 1 << 110;

/// More than any cluster has of a resource.
const MAX_AMOUNT: Milli = 1 << 80;

/// Returns true if a quota with this key limits the CPU of pods.
pub fn is_cpu(key: &str) -> bool {
    CPU_KEYS.contains(&key)
}

/// An amount of each resource of [`QUOTA_KEYS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity([Milli; QUOTA_KEYS.len()]);

impl Capacity {
    /// No resource is limited.
    pub const UNLIMITED: Self = Self([UNLIMITED; QUOTA_KEYS.len()]);

    /// Returns the whole capacity of a quota.
    pub fn total(quota: &Quota) -> Self {
        Self(
            QUOTA_KEYS
                .map(|names| names.iter().filter_map(|key| amount(quota.hard.get(key))).min().unwrap_or(UNLIMITED)),
        )
    }

    /// Returns the remaining capacity of a quota. Scopes are ignored: at worst, a quota for other pods keeps a Job waiting
    /// for the controller.
    pub fn remaining(quota: &Quota) -> Self {
        let remaining = |key: &&str| {
            let hard = amount(quota.hard.get(key))?;
            // Until Kubernetes has counted the usage, nothing remains.
            Some(amount(quota.used.get(key)).map_or(0, |used| hard - used))
        };
        Self(QUOTA_KEYS.map(|names| names.iter().filter_map(remaining).min().unwrap_or(UNLIMITED)))
    }

    /// Returns the amount that a Job's pod requests. A container with a limit and no request requests its limit.
    pub fn requested(job: &Job) -> Self {
        let total = |resource: &str, is_limit: bool| {
            let amounts = job.containers.iter().filter_map(|container| {
                let limit = container.limits.get(resource);
                let amount = if is_limit { limit } else { container.requests.get(resource).or(limit) };
                quantity::parse(amount?)
            });
            amounts.fold(0, Milli::saturating_add).clamp(0, MAX_AMOUNT)
        };
        Self([total("cpu", false), total("cpu", true), total("memory", false), total("memory", true), 1000])
    }

    /// Returns the amount that a pod of this program requests.
    pub fn of_classifier() -> Self {
        let cpu = quantity::parse(job::CPU).expect("the constant is a quantity");
        Self([cpu, cpu, 0, 0, 1000])
    }

    /// Returns the lower amount of each resource.
    pub fn min(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].min(other.0[i])))
    }

    /// Returns the capacity that is left beside `requested`.
    pub fn minus(self, requested: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] - requested.0[i]))
    }

    /// Returns how many times `requested` fits. Returns `None` if that has no limit.
    pub fn holds(&self, requested: &Self) -> Option<u64> {
        let limits = self.0.iter().zip(requested.0).filter(|(total, requested)| **total < UNLIMITED && *requested > 0);
        limits.map(|(total, requested)| u64::try_from((*total).max(0) / requested).unwrap_or(u64::MAX)).min()
    }

    /// Returns true if no amount of `requested` is over this capacity.
    pub fn fits(&self, requested: &Self) -> bool {
        self.0.iter().zip(requested.0).all(|(available, requested)| *available >= requested)
    }
}

fn amount(text: Option<&str>) -> Option<Milli> {
    Some(quantity::parse(text?)?.clamp(-MAX_AMOUNT, MAX_AMOUNT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::WatchedObject;
    use serde_json::json;
    use std::collections::BTreeMap;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn read<T: WatchedObject + Default>(object: &serde_json::Value) -> T {
        T::parse(&object.to_string()).expect("JSON")
    }

    #[test]
    fn a_pod_fits_if_every_limit_of_every_quota_allows_it() {
        // Requests of 900m and 1Gi, limits of 1 and 2Gi.
        let one = json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "0.6", "memory": "1Gi"}});
        let other = json!({"requests": {"cpu": "400m", "memory": "0"}, "limits": {"cpu": "400m", "memory": "1Gi"}});
        let containers = json!([{"resources": one}, {"resources": other}]);
        let job = read(&json!({"spec": {"template": {"spec": {"containers": containers}}}}));
        let table: [(Pairs<'_>, Pairs<'_>, bool); 11] = [
            (&[], &[], true),
            (&[("requests.cpu", "2")], &[("requests.cpu", "1100m")], true),
            (&[("requests.cpu", "2")], &[("requests.cpu", "1101m")], false),
            (&[("cpu", "2")], &[("cpu", "1.5")], false),
            (&[("requests.cpu", "2"), ("limits.cpu", "2")], &[("requests.cpu", "1"), ("limits.cpu", "1001m")], false),
            (&[("requests.memory", "2Gi")], &[("requests.memory", "1Gi")], true),
            (&[("limits.memory", "2Gi")], &[("limits.memory", "1")], false),
            (&[("pods", "2")], &[("pods", "1")], true),
            (&[("count/pods", "2")], &[("count/pods", "2")], false),
            (&[("requests.cpu", "2")], &[], false),
            (&[("services", "0"), ("count/jobs.batch", "1")], &[("services", "0"), ("count/jobs.batch", "1")], true),
        ];
        for (hard, used, fits) in table {
            let map = |pairs: Pairs<'_>| json!(pairs.iter().copied().collect::<BTreeMap<_, _>>());
            let quota = read(&json!({"status": {"hard": map(hard), "used": map(used)}}));
            let remaining = Capacity::remaining(&quota);
            assert_eq!(remaining.min(Capacity::UNLIMITED).fits(&Capacity::requested(&job)), fits, "{hard:?} {used:?}");
        }
        for (hard, slots) in [
            (json!({}), None),
            (json!({"services": "0"}), None),
            (json!({"requests.cpu": "2"}), Some(2)),
            (json!({"requests.cpu": "2", "pods": "1"}), Some(1)),
            (json!({"cpu": "800m"}), Some(0)),
        ] {
            let quota = read(&json!({"status": {"hard": hard, "used": {}}}));
            assert_eq!(Capacity::total(&quota).holds(&Capacity::requested(&job)), slots, "{hard}");
        }
        assert!(!Capacity::UNLIMITED.minus(&Capacity::requested(&job)).fits(&Capacity::UNLIMITED));
    }
}
