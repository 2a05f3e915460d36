//! What the quotas of a tier's namespace come to: two free classifiers at a time, and no limit on premium. Pure.

use serde_json::{Map, Value};

use super::SETUP;
use crate::commands::output::Finding;
use crate::job::{CPU, Tier};
use crate::kube::quantity::{self, Milli};

/// Free classifiers that are to run at a time.
const FREE_AT_ONCE: Milli = 2;

/// Premium classifiers that the course's autograder has running at a time: three, and one more.
const PREMIUM_AT_ONCE: Milli = 4;

/// The quotas that `setup` makes, and repairs.
const OURS: [(&str, Tier); 3] = [("free-cpu", Tier::Free), ("free-jobs", Tier::Free), ("premium-jobs", Tier::Premium)];

/// Keys of the same meaning, <https://kubernetes.io/docs/concepts/policy/resource-quotas/#compute-resource-quota>.
const REQUESTS: [&str; 2] = ["requests.cpu", "cpu"];
const LIMITS: [&str; 1] = ["limits.cpu"];
const PODS: [&str; 2] = ["pods", "count/pods"];
const MEMORY: [&str; 3] = ["requests.memory", "memory", "limits.memory"];

/// The key of the queue's length.
const JOBS: &str = "count/jobs.batch";

/// What the ResourceQuotas of the tier's namespace mean for our pods.
pub fn judge(tier: Tier, quotas: &[Value]) -> Vec<Finding> {
    let quotas: Vec<Quota<'_>> =
        quotas.iter().filter(|quota| applies(quota)).filter_map(|quota| Quota::of(tier, quota)).collect();
    let limits: Vec<Limit<'_>> = quotas.iter().flat_map(Quota::limits).collect();
    let mut findings: Vec<Finding> = quotas.iter().filter_map(Quota::memory).collect();
    match tier {
        Tier::Free => findings.extend(free(&limits, quotas.is_empty())),
        Tier::Premium => findings.extend(limits.iter().map(premium)),
    }
    if findings.is_empty() {
        findings.push(Finding::ok("quota", "nothing limits the premium tier in default"));
    }
    findings.extend(quotas.iter().filter_map(Quota::queue));
    findings
}

/// Whether a quota counts our pods and Jobs, by its scopes: they end by themselves without a deadline of their own
/// (NotTerminating), ask for CPU (NotBestEffort) and have no priority class,
/// <https://kubernetes.io/docs/concepts/policy/resource-quotas/#quota-scopes>.
fn applies(quota: &Value) -> bool {
    let spec = &quota["spec"];
    let mut names = spec["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut selectors = spec["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    let is_ours = |scope: &str| matches!(scope, "NotTerminating" | "NotBestEffort");
    let selected = |expression: &Value| match expression["scopeName"].as_str().unwrap_or_default() {
        "PriorityClass" => matches!(expression["operator"].as_str(), Some("NotIn" | "DoesNotExist")),
        scope => is_ours(scope),
    };
    names.all(is_ours) && selectors.all(selected)
}

/// A quota that counts what we make.
struct Quota<'a> {
    tier: Tier,
    name: &'a str,
    hard: &'a Map<String, Value>,
    used: &'a Value,
}

/// One of its limits on the number of classifiers.
struct Limit<'a> {
    quota: &'a Quota<'a>,
    key: &'a str,
    hard: &'a str,
    /// Classifiers at a time.
    fits: Milli,
}

impl<'a> Quota<'a> {
    fn of(tier: Tier, quota: &'a Value) -> Option<Self> {
        let name = quota["metadata"]["name"].as_str()?;
        Some(Self { tier, name, hard: quota["spec"]["hard"].as_object()?, used: &quota["status"]["used"] })
    }

    /// What is to be done about it.
    fn fix(&self) -> String {
        if OURS.contains(&(self.name, self.tier)) {
            SETUP.to_owned()
        } else {
            format!("kubectl delete quota {} -n {}", self.name, self.tier.namespace())
        }
    }

    fn limits(&'a self) -> impl Iterator<Item = Limit<'a>> {
        let classifier = quantity::parse(CPU).expect("a test reads it");
        let one_of = move |keys: &'static [&'static str], each: Milli| {
            keys.iter().filter_map(move |key| {
                let hard = self.hard.get(*key)?.as_str()?;
                Some(Limit { quota: self, key, hard, fits: quantity::parse(hard)? / each })
            })
        };
        one_of(&REQUESTS, classifier).chain(one_of(&LIMITS, classifier)).chain(one_of(&PODS, 1000))
    }

    /// A quota on memory refuses pods that name none.
    fn memory(&self) -> Option<Finding> {
        let keys: Vec<&str> = MEMORY.into_iter().filter(|key| self.hard.contains_key(*key)).collect();
        if keys.is_empty() {
            return None;
        }
        let (name, keys, namespace) = (self.name, keys.join(" and "), self.tier.namespace());
        let text = format!(
            "the quota {name} in {namespace} has {keys}: the classifiers' pods name no memory, and all of them are refused"
        );
        Some(Finding::fail("quota", text, self.fix()))
    }

    /// What is left of the queue.
    fn queue(&self) -> Option<Finding> {
        let amount = |text: &Value| text.as_str().and_then(quantity::parse);
        let hard = amount(self.hard.get(JOBS)?)?;
        let used = amount(&self.used[JOBS]).unwrap_or_default();
        let (name, namespace) = (self.name, self.tier.namespace());
        let text =
            format!("the quota {name} in {namespace} is for {} Jobs, of which {} are there", hard / 1000, used / 1000);
        Some(match () {
            () if hard == 0 => {
                Finding::fail("quota", format!("{text}; every request is answered with 429"), self.fix())
            }
            () if used >= hard => {
                let text = format!("{text}: the queue is full, and further requests are answered with 429");
                Finding::fail("quota", text, "img-classification clean")
            }
            () => Finding::ok("quota", text),
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

/// The smallest limit counts, and there must be one on requests and one on limits.
fn free(limits: &[Limit<'_>], no_quota: bool) -> Vec<Finding> {
    let namespace = Tier::Free.namespace();
    let requests = limits.iter().filter(|limit| limit.is_one_of(&REQUESTS)).min_by_key(|limit| limit.fits);
    let caps = limits.iter().filter(|limit| limit.is_one_of(&LIMITS)).min_by_key(|limit| limit.fits);
    let mut findings: Vec<Finding> = limits.iter().filter_map(too_few).collect();
    match (requests, caps) {
        (None, None) => {
            let found = if no_quota { "there is no ResourceQuota" } else { "no ResourceQuota limits CPU" };
            let text = format!("{found} in {namespace}: all free classifiers would run at once, not {FREE_AT_ONCE}");
            findings.push(Finding::fail("quota", text, SETUP));
        }
        (Some(limit), None) | (None, Some(limit)) => {
            let missing = if limit.is_one_of(&LIMITS) { "requests.cpu" } else { "limits.cpu" };
            let text = format!("{}, but nothing there limits {missing}", limit.words());
            findings.push(Finding::fail("quota", text, SETUP));
        }
        (Some(requests), Some(caps)) if findings.is_empty() => {
            let smallest = if requests.fits <= caps.fits { requests } else { caps };
            findings.push(enough(smallest));
        }
        (Some(_), Some(_)) => {}
    }
    findings
}

fn too_few(limit: &Limit<'_>) -> Option<Finding> {
    let text = match limit.fits {
        ..=0 => format!("{}: no classifier of {CPU} CPU fits into it, so that none ever runs", limit.words()),
        fits if fits < FREE_AT_ONCE => {
            format!("{}: only {fits} classifier of {CPU} CPU runs at a time, not {FREE_AT_ONCE}", limit.words())
        }
        _ => return None,
    };
    Some(Finding::fail("quota", text, limit.quota.fix()))
}

fn enough(smallest: &Limit<'_>) -> Finding {
    let text = format!("{}: {} classifiers of {CPU} CPU run at a time", smallest.words(), smallest.fits);
    if smallest.fits > FREE_AT_ONCE {
        return Finding::warning("quota", format!("{text}, not {FREE_AT_ONCE}"), SETUP);
    }
    Finding::ok("quota", text)
}

fn premium(limit: &Limit<'_>) -> Finding {
    let text = format!(
        "{}: it limits premium, which is to have no limit, to {} classifiers at a time",
        limit.words(),
        limit.fits.max(0)
    );
    match limit.fits {
        fits if fits < PREMIUM_AT_ONCE => Finding::fail("quota", text, limit.quota.fix()),
        _ => Finding::warning("quota", text, limit.quota.fix()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn quota(name: &str, hard: &Value) -> Value {
        json!({"metadata": {"name": name}, "spec": {"hard": hard}, "status": {"used": {JOBS: "3"}}})
    }

    /// Each finding as `verdict: text -> fix`.
    fn lines(tier: Tier, quotas: &[Value]) -> Vec<String> {
        let line = |finding: Finding| {
            let fix = finding.fix.map_or_else(String::new, |fix| format!(" -> {fix}"));
            format!("{}: {}{fix}", finding.verdict.as_str(), finding.text)
        };
        judge(tier, quotas).into_iter().map(line).collect()
    }

    #[test]
    fn a_free_quota_is_good_for_two_and_nothing_else() {
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
            (json!({"requests.cpu": "2"}), "FAIL: ", "nothing there limits limits.cpu -> img-classification setup"),
            (json!({"limits.cpu": "2"}), "FAIL: ", "nothing there limits requests.cpu -> img-classification setup"),
            (json!({"services": "2"}), "FAIL: no ResourceQuota limits CPU", "-> img-classification setup"),
            (
                json!({"requests.cpu": "2", "limits.cpu": "2", "memory": "1Gi"}),
                "FAIL: ",
                "has memory: the classifiers' pods",
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
        assert!(lines[0].starts_with("FAIL: there is no ResourceQuota in free-service"), "{lines:?}");
    }

    #[test]
    fn of_several_quotas_the_smallest_counts_and_the_fix_depends_on_whose_it_is() {
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
    fn quotas_whose_scope_leaves_our_pods_out_are_none() {
        let with = |extra: Value| {
            let mut quota = quota("scoped", &json!({"requests.cpu": "1"}));
            quota["spec"].as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
            applies(&quota)
        };
        let class = |operator: &str| json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator}]}});
        for (extra, expected) in [
            (json!({}), true),
            (json!({"scopes": ["BestEffort"]}), false),
            (json!({"scopes": ["Terminating"]}), false),
            (json!({"scopes": ["NotBestEffort", "NotTerminating"]}), true),
            (class("In"), false),
            (class("DoesNotExist"), true),
        ] {
            assert_eq!(with(extra.clone()), expected, "{extra}");
        }
    }

    #[test]
    fn a_queue_is_full_when_its_jobs_are_used_up() {
        let free = |most: &str| lines(Tier::Free, &[quota("free-jobs", &json!({JOBS: most}))]);
        assert!(free("4")[1].ends_with("is for 4 Jobs, of which 3 are there"), "{:?}", free("4"));
        assert!(free("3")[1].ends_with("answered with 429 -> img-classification clean"), "{:?}", free("3"));
        assert!(free("0")[1].ends_with("429 -> img-classification setup"), "{:?}", free("0"));
    }

    #[test]
    fn premium_is_to_have_no_limit() {
        let table = [
            (json!({}), "ok: nothing limits the premium tier", ""),
            (json!({"services": "5"}), "ok: nothing limits", ""),
            (json!({"requests.cpu": "2"}), "FAIL: ", "to 2 classifiers at a time -> kubectl delete quota q -n default"),
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
        assert!(ours[1].ends_with("is for 1000 Jobs, of which 3 are there"), "{ours:?}");
    }
}
