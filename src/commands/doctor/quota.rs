//! Check of the quotas of a tier's namespace: two free classifiers at a time, and no limit on premium. Pure.

use serde_json::{Map, Value};

use super::fix::SETUP;
use crate::commands::output::Check;
use crate::job::{CPU, Tier};
use crate::kube::quantity::{self, Milli};

/// Free classifiers that run at a time, by design.
const FREE_AT_ONCE: Milli = 2;

/// Premium classifiers that the course's autograder runs at a time: three, and one more.
const MIN_PREMIUM: Milli = 4;

/// The quotas that `setup` creates and repairs.
const SETUP_QUOTAS: [(&str, Tier); 3] =
    [("free-cpu", Tier::Free), ("free-jobs", Tier::Free), ("premium-jobs", Tier::Premium)];

/// Keys with the same meaning, see <https://kubernetes.io/docs/concepts/policy/resource-quotas/#compute-resource-quota>.
const REQUESTS: [&str; 2] = ["requests.cpu", "cpu"];
const LIMITS: [&str; 1] = ["limits.cpu"];
const PODS: [&str; 2] = ["pods", "count/pods"];
const MEMORY: [&str; 3] = ["requests.memory", "memory", "limits.memory"];

/// Key of the number of Jobs, which limits the queue.
const JOBS: &str = "count/jobs.batch";

/// Checks the ResourceQuotas of the tier's namespace. `has_deadline` is true unless --job-timeout is 0.
pub fn check(tier: Tier, quotas: &[Value], has_deadline: bool) -> Vec<Check> {
    let quotas: Vec<Quota<'_>> =
        quotas.iter().filter(|quota| applies(quota, has_deadline)).filter_map(|quota| Quota::of(tier, quota)).collect();
    let limits: Vec<Limit<'_>> = quotas.iter().flat_map(Quota::limits).collect();
    let mut checks: Vec<Check> = quotas.iter().filter_map(Quota::memory).collect();
    match tier {
        Tier::Free => checks.extend(free(&limits, quotas.is_empty())),
        Tier::Premium => checks.extend(limits.iter().map(premium)),
    }
    if checks.is_empty() {
        checks.push(Check::ok("quota", "no quota limits the premium tier in default"));
    }
    checks.extend(quotas.iter().filter_map(Quota::queue));
    checks
}

/// Tests the scopes of a quota for the pods of this program. These may have a deadline (Terminating), request CPU
/// (NotBestEffort) and have no priority class, see
/// <https://kubernetes.io/docs/concepts/policy/resource-quotas/#quota-scopes>.
fn applies(quota: &Value, has_deadline: bool) -> bool {
    let spec = &quota["spec"];
    let mut names = spec["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut selectors = spec["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    let by_deadline = if has_deadline { "Terminating" } else { "NotTerminating" };
    let includes_managed = |scope: &str| scope == by_deadline || scope == "NotBestEffort";
    let selected = |expression: &Value| match expression["scopeName"].as_str().unwrap_or_default() {
        "PriorityClass" => matches!(expression["operator"].as_str(), Some("NotIn" | "DoesNotExist")),
        scope => includes_managed(scope),
    };
    names.all(includes_managed) && selectors.all(selected)
}

/// A quota that counts the objects of this program.
struct Quota<'a> {
    tier: Tier,
    name: &'a str,
    hard: &'a Map<String, Value>,
    used: &'a Value,
}

/// A limit of a quota on the number of classifiers.
struct Limit<'a> {
    quota: &'a Quota<'a>,
    key: &'a str,
    hard: &'a str,
    /// Classifiers that fit at a time.
    fits: Milli,
}

impl<'a> Quota<'a> {
    fn of(tier: Tier, quota: &'a Value) -> Option<Self> {
        let name = quota["metadata"]["name"].as_str()?;
        Some(Self { tier, name, hard: quota["spec"]["hard"].as_object()?, used: &quota["status"]["used"] })
    }

    /// Returns the fix for the quota.
    fn fix(&self) -> String {
        if SETUP_QUOTAS.contains(&(self.name, self.tier)) {
            SETUP.to_owned()
        } else {
            format!("kubectl delete quota {} -n {}", self.name, self.tier.namespace())
        }
    }

    fn limits(&'a self) -> impl Iterator<Item = Limit<'a>> {
        let classifier = quantity::parse(CPU).expect("a test parses it");
        let one_of = move |keys: &'static [&'static str], each: Milli| {
            keys.iter().filter_map(move |key| {
                let hard = self.hard.get(*key)?.as_str()?;
                Some(Limit { quota: self, key, hard, fits: quantity::parse(hard)? / each })
            })
        };
        one_of(&REQUESTS, classifier).chain(one_of(&LIMITS, classifier)).chain(one_of(&PODS, 1000))
    }

    /// Checks for a limit on memory: the quota then refuses pods without a memory request.
    fn memory(&self) -> Option<Check> {
        let keys: Vec<&str> = MEMORY.into_iter().filter(|key| self.hard.contains_key(*key)).collect();
        if keys.is_empty() {
            return None;
        }
        let (name, keys, namespace) = (self.name, keys.join(" and "), self.tier.namespace());
        let text = format!(
            "the quota {name} in {namespace} has {keys}: it refuses the classifiers' pods, which request no memory"
        );
        Some(Check::fail("quota", text, self.fix()))
    }

    /// Checks the limit on Jobs, which is the length of the queue.
    fn queue(&self) -> Option<Check> {
        let amount = |text: &Value| text.as_str().and_then(quantity::parse);
        let hard = amount(self.hard.get(JOBS)?)?;
        let used = amount(&self.used[JOBS]).unwrap_or_default();
        let (name, namespace) = (self.name, self.tier.namespace());
        let text = format!("the quota {name} in {namespace} allows {} Jobs; {} exist", hard / 1000, used / 1000);
        Some(match () {
            () if hard == 0 => Check::fail("quota", format!("{text}; every POST returns 429"), self.fix()),
            () if used >= hard => {
                let text = format!("{text}: the queue is full, and further POSTs return 429");
                Check::fail("quota", text, "img-classification clean")
            }
            () => Check::ok("quota", text),
        })
    }
}

impl Limit<'_> {
    fn words(&self) -> String {
        format!("the quota {} in {} has {} {}", self.quota.name, self.quota.tier.namespace(), self.key, self.hard)
    }

    fn is_one_of(&self, keys: &[&str]) -> bool {
        keys.contains(&self.key)
    }
}

/// Checks the free tier: the smallest limit decides, and both requests and limits need one.
fn free(limits: &[Limit<'_>], no_quota: bool) -> Vec<Check> {
    let namespace = Tier::Free.namespace();
    let requests = limits.iter().filter(|limit| limit.is_one_of(&REQUESTS)).min_by_key(|limit| limit.fits);
    let caps = limits.iter().filter(|limit| limit.is_one_of(&LIMITS)).min_by_key(|limit| limit.fits);
    let mut checks: Vec<Check> = limits.iter().filter_map(too_few).collect();
    match (requests, caps) {
        (None, None) => {
            let found = if no_quota { "no ResourceQuota exists" } else { "no ResourceQuota limits CPU" };
            let text = format!("{found} in {namespace}: all free classifiers run at once, not {FREE_AT_ONCE}");
            checks.push(Check::fail("quota", text, SETUP));
        }
        (Some(limit), None) | (None, Some(limit)) => {
            let missing = if limit.is_one_of(&LIMITS) { "requests.cpu" } else { "limits.cpu" };
            let text = format!("{}, but no quota limits {missing}", limit.words());
            checks.push(Check::fail("quota", text, SETUP));
        }
        (Some(requests), Some(caps)) if checks.is_empty() => {
            let smallest = if requests.fits <= caps.fits { requests } else { caps };
            checks.push(enough(smallest));
        }
        (Some(_), Some(_)) => {}
    }
    checks
}

fn too_few(limit: &Limit<'_>) -> Option<Check> {
    let text = match limit.fits {
        ..=0 => format!("{}: no classifier of {CPU} CPU fits, so none ever runs", limit.words()),
        fits if fits < FREE_AT_ONCE => {
            format!("{}: only {fits} classifier of {CPU} CPU runs at a time, not {FREE_AT_ONCE}", limit.words())
        }
        _ => return None,
    };
    Some(Check::fail("quota", text, limit.quota.fix()))
}

fn enough(smallest: &Limit<'_>) -> Check {
    let text = format!("{}: {} classifiers of {CPU} CPU run at a time", smallest.words(), smallest.fits);
    if smallest.fits > FREE_AT_ONCE {
        return Check::warning("quota", format!("{text}, not {FREE_AT_ONCE}"), SETUP);
    }
    Check::ok("quota", text)
}

fn premium(limit: &Limit<'_>) -> Check {
    let text = format!(
        "{}: it limits premium to {} classifiers at a time, but premium has no limit by design",
        limit.words(),
        limit.fits.max(0)
    );
    match limit.fits {
        fits if fits < MIN_PREMIUM => Check::fail("quota", text, limit.quota.fix()),
        _ => Check::warning("quota", text, limit.quota.fix()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn quota(name: &str, hard: &Value) -> Value {
        json!({"metadata": {"name": name}, "spec": {"hard": hard}, "status": {"used": {JOBS: "3"}}})
    }

    /// Returns each check as `status: text -> fix`.
    fn lines(tier: Tier, quotas: &[Value]) -> Vec<String> {
        let line = |check: Check| {
            let fix = check.fix.map_or_else(String::new, |fix| format!(" -> {fix}"));
            format!("{}: {}{fix}", check.status.as_str(), check.text)
        };
        check(tier, quotas, true).into_iter().map(line).collect()
    }

    #[test]
    fn a_free_quota_must_fit_exactly_two() {
        let table = [
            (json!({"requests.cpu": "2", "limits.cpu": "2"}), "ok: the quota free-cpu", "2 classifiers"),
            (json!({"requests.cpu": "1800m", "limits.cpu": "1.8"}), "ok: ", "requests.cpu 1800m"),
            (json!({"cpu": "2", "limits.cpu": "2"}), "ok: ", "cpu 2"),
            (json!({"requests.cpu": "2699m", "limits.cpu": "4"}), "ok: ", "2 classifiers"),
            (
                json!({"requests.cpu": "2700m", "limits.cpu": "4"}),
                "warning: ",
                "3 classifiers of 900m CPU run at a time, not 2 -> img",
            ),
            (json!({"requests.cpu": "0.9", "limits.cpu": "2"}), "FAIL: ", "requests.cpu 0.9: only 1 classifier"),
            (json!({"requests.cpu": "2", "limits.cpu": "900m"}), "FAIL: ", "limits.cpu 900m: only 1 classifier"),
            (json!({"requests.cpu": "0.5", "limits.cpu": "2"}), "FAIL: ", "no classifier of 900m CPU fits"),
            (json!({"requests.cpu": "2"}), "FAIL: ", "no quota limits limits.cpu -> img-classification setup"),
            (json!({"limits.cpu": "2"}), "FAIL: ", "no quota limits requests.cpu -> img-classification setup"),
            (json!({"services": "2"}), "FAIL: no ResourceQuota limits CPU", "-> img-classification setup"),
            (
                json!({"requests.cpu": "2", "limits.cpu": "2", "memory": "1Gi"}),
                "FAIL: ",
                "has memory: it refuses the classifiers' pods",
            ),
            (json!({"requests.cpu": "2", "limits.cpu": "2", "pods": "1"}), "FAIL: ", "pods 1: only 1 classifier"),
            (
                json!({"requests.cpu": "2", "limits.cpu": "2", "count/pods": "0"}),
                "FAIL: ",
                "count/pods 0: no classifier",
            ),
            (json!({"requests.cpu": "2", "limits.cpu": "2", "pods": "50"}), "ok: ", "2 classifiers"),
        ];
        for (hard, start, words) in table {
            let lines = lines(Tier::Free, &[quota("free-cpu", &hard)]);
            assert!(lines[0].starts_with(start) && lines[0].contains(words), "{hard}: {lines:?}");
        }
        let lines = lines(Tier::Free, &[]);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("FAIL: no ResourceQuota exists in free-service"), "{lines:?}");
    }

    #[test]
    fn the_smallest_of_several_quotas_decides_and_setup_fixes_only_its_own() {
        let ours = quota("free-cpu", &json!({"requests.cpu": "2", "limits.cpu": "2"}));
        let theirs = |hard: Value| [ours.clone(), quota("theirs", &hard)];
        let found = lines(Tier::Free, &theirs(json!({"requests.cpu": "1"})));
        assert_eq!(found.len(), 1);
        assert!(
            found[0].contains("the quota theirs") && found[0].ends_with("kubectl delete quota theirs -n free-service")
        );
        let found = lines(Tier::Free, &theirs(json!({"requests.memory": "1Gi", "limits.memory": "1Gi"})));
        assert!(found[0].contains("requests.memory and limits.memory"), "{found:?}");
        assert!(found[0].ends_with("-> kubectl delete quota theirs -n free-service"), "{found:?}");
        let found = lines(Tier::Free, &theirs(json!({"requests.cpu": "8", "limits.cpu": "8"})));
        assert!(found[0].starts_with("ok: the quota free-cpu"), "{found:?}");
    }

    #[test]
    fn quotas_with_other_scopes_are_ignored() {
        let with = |extra: Value, has_deadline: bool| {
            let mut quota = quota("scoped", &json!({"requests.cpu": "1"}));
            quota["spec"].as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
            applies(&quota, has_deadline)
        };
        let class = |operator: &str| json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator}]}});
        for (extra, expected) in [
            (json!({}), true),
            (json!({"scopes": ["BestEffort"]}), false),
            (json!({"scopes": ["NotTerminating"]}), false),
            (json!({"scopes": ["NotBestEffort", "Terminating"]}), true),
            (class("In"), false),
            (class("DoesNotExist"), true),
        ] {
            assert_eq!(with(extra.clone(), true), expected, "{extra}");
        }
        assert!(with(json!({"scopes": ["NotTerminating"]}), false) && !with(json!({"scopes": ["Terminating"]}), false));
    }

    #[test]
    fn a_queue_is_full_when_its_jobs_are_used_up() {
        let free = |most: &str| lines(Tier::Free, &[quota("free-jobs", &json!({JOBS: most}))]);
        assert!(free("4")[1].ends_with("allows 4 Jobs; 3 exist"), "{:?}", free("4"));
        assert!(free("3")[1].ends_with("POSTs return 429 -> img-classification clean"), "{:?}", free("3"));
        assert!(free("0")[1].ends_with("429 -> img-classification setup"), "{:?}", free("0"));
    }

    #[test]
    fn premium_must_have_no_limit() {
        let table = [
            (json!({}), "ok: no quota limits the premium tier", ""),
            (json!({"services": "5"}), "ok: no quota limits", ""),
            (json!({"requests.cpu": "2"}), "FAIL: ", "by design -> kubectl delete quota q -n default"),
            (json!({"limits.cpu": "8"}), "warning: ", "to 8 classifiers"),
            (json!({"pods": "3"}), "FAIL: ", "to 3 classifiers"),
            (json!({"limits.memory": "8Gi"}), "FAIL: ", "in default has limits.memory"),
        ];
        for (hard, start, words) in table {
            let lines = lines(Tier::Premium, &[quota("q", &hard)]);
            assert!(lines[0].starts_with(start) && lines[0].contains(words), "{hard}: {lines:?}");
        }
        let ours = lines(Tier::Premium, &[quota("premium-jobs", &json!({JOBS: "1000", "pods": "1"}))]);
        assert!(ours[0].ends_with("-> img-classification setup"), "{ours:?}");
        assert!(ours[1].ends_with("allows 1000 Jobs; 3 exist"), "{ours:?}");
    }
}
