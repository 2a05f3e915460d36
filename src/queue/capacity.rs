//! How much room the quotas leave for pods, and how much a Job's pod takes. Pure.

use crate::kube::Watched;
use crate::kube::quantity::{self, Milli};

/// What quotas limit of pods, by the names that they have for it,
/// <https://kubernetes.io/docs/concepts/policy/resource-quotas/#compute-resource-quota>.
const LIMITS: [&[&str]; 5] = [
    &["requests.cpu", "cpu"],
    &["limits.cpu"],
    &["requests.memory", "memory"],
    &["limits.memory"],
    &["pods", "count/pods"],
];

/// What there is of what no quota limits: so much more than [`MOST`] that no number of Jobs uses it up.
const ENDLESS: Milli = 1 << 110;

/// More than any cluster has of anything.
const MOST: Milli = 1 << 80;

/// An amount of everything that a quota may limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room([Milli; LIMITS.len()]);

impl Room {
    /// Without any limit.
    pub const ENDLESS: Self = Self([ENDLESS; LIMITS.len()]);

    /// What a quota leaves. Its scopes are not looked at: at the worst one that is not for our pods keeps a Job waiting for
    /// the controller.
    pub fn left(quota: &Watched) -> Self {
        let amount = |text: Option<&str>| Some(quantity::parse(text?)?.clamp(-MOST, MOST));
        let left = |key: &&str| {
            let hard = amount(quota.hard.get(key))?;
            // What is not counted yet leaves no room.
            Some(amount(quota.used.get(key)).map_or(0, |used| hard - used))
        };
        Self(LIMITS.map(|names| names.iter().filter_map(left).min().unwrap_or(ENDLESS)))
    }

    /// What a Job's pod takes. A container that names a limit only requests as much.
    pub fn need(job: &Watched) -> Self {
        let total = |what: &str, is_limit: bool| {
            let amounts = job.containers.iter().filter_map(|container| {
                let limit = container.limits.get(what);
                let amount = if is_limit { limit } else { container.requests.get(what).or(limit) };
                quantity::parse(amount?)
            });
            amounts.fold(0, Milli::saturating_add).clamp(0, MOST)
        };
        Self([total("cpu", false), total("cpu", true), total("memory", false), total("memory", true), 1000])
    }

    /// What both leave.
    pub fn least(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].min(other.0[i])))
    }

    pub fn minus(self, need: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] - need.0[i]))
    }

    pub fn holds(&self, need: &Self) -> bool {
        self.0.iter().zip(need.0).all(|(room, need)| *room >= need)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn read(object: &serde_json::Value) -> Watched {
        Watched::parse(&object.to_string()).expect("JSON")
    }

    #[test]
    fn a_pod_has_room_if_every_limit_of_every_quota_has() {
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
            let room = Room::left(&quota);
            assert_eq!(room.least(Room::ENDLESS).holds(&Room::need(&job)), fits, "{hard:?} {used:?}");
        }
        assert!(!Room::ENDLESS.minus(&Room::need(&job)).holds(&Room::ENDLESS));
    }
}
