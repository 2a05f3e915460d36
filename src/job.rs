//! The Job manifest of each tier and dataset. Pure, no I/O.
//!
//! k8s/free-job.yaml and k8s/premium-job.yaml are the same Jobs for kubectl; a test compares them.

use ring::digest;
use serde_json::{Value, json};

/// CPU request and limit of a classifier, in Kubernetes' notation: two fit into the free tier's 2 CPU.
pub const CPU: &str = "900m";

/// The name of a Job's container.
pub const CONTAINER: &str = "classifier";

/// The alphabet of random suffixes, as in Kubernetes' own names: without vowels, which could form words, and look-alikes;
/// see k8s.io/apimachinery/pkg/util/rand.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Characters of a random suffix: with 27^10 = 2 * 10^14 names, no two requests ever share one.
const SUFFIX: usize = 10;

/// The alphabet of suffixes that are derived from a key: RFC 4648's base32, in lower case.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Characters of such a suffix, of 5 bits each: 128 bits.
const KEYED_SUFFIX: usize = 26;

/// The label of all objects of this program, and its value.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "img-classification");

/// The label of a Job's dataset.
pub const DATASET_LABEL: &str = "img-classification/dataset";

/// Query parameter that selects the Jobs and pods of this program by the label of [`manifest`].
pub const MANAGED_SELECTOR: &str = "labelSelector=app.kubernetes.io%2Fmanaged-by%3Dimg-classification";

/// Query parameter that selects the pods of Jobs, which the Job controller labels.
pub const JOB_PODS_SELECTOR: &str = "labelSelector=job-name";

/// Query parameter that selects the pods of this program's Jobs.
pub const MANAGED_JOB_PODS_SELECTOR: &str =
    "labelSelector=job-name%2Capp.kubernetes.io%2Fmanaged-by%3Dimg-classification";

/// The service level of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// A feed-forward network in a namespace with a quota.
    Free,
    /// A convolutional network without a limit.
    Premium,
}

impl Tier {
    pub const ALL: [Self; 2] = [Self::Free, Self::Premium];

    /// Returns the tier with this exact name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == name)
    }

    /// The word in URLs, names and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Premium => "premium",
        }
    }

    /// The namespace of its Jobs.
    pub const fn namespace(self) -> &'static str {
        match self {
            Self::Free => "free-service",
            Self::Premium => "default",
        }
    }

    /// The classifier's TYPE.
    pub fn network(self) -> &'static str {
        match self {
            Self::Free => "ff",
            Self::Premium => "cnn",
        }
    }
}

/// The images that are classified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dataset {
    /// Handwritten digits.
    Mnist,
    /// Handwritten hiragana.
    Kmnist,
}

impl Dataset {
    pub const ALL: [Self; 2] = [Self::Mnist, Self::Kmnist];

    /// Returns the dataset with this exact name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "mnist" => Some(Self::Mnist),
            "kmnist" => Some(Self::Kmnist),
            _ => None,
        }
    }

    /// The word in requests, names, labels and the classifier's DATASET.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mnist => "mnist",
            Self::Kmnist => "kmnist",
        }
    }
}

/// The name of a Job of this program, which tells its tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobName<'a> {
    pub tier: Tier,
    pub text: &'a str,
}

impl<'a> JobName<'a> {
    /// Returns a name of the form `TIER-DATASET-SUFFIX`, all of it a DNS label.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(3, '-');
        let (tier, dataset, suffix) = (parts.next()?, parts.next()?, parts.next()?);
        let is_label = suffix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !is_label || suffix.is_empty() || suffix.ends_with('-') || text.len() > MAX_LABEL {
            return None;
        }
        Dataset::parse(dataset)?;
        Some(Self { tier: Tier::parse(tier)?, text })
    }
}

/// Longest DNS label, in bytes, RFC 1035, section 2.3.4.
const MAX_LABEL: usize = 63;

/// Returns the reference of a pod to the Job that owns it.
pub fn owner(pod: &Value) -> Option<&Value> {
    pod["metadata"]["ownerReferences"].as_array()?.iter().find(|owner| owner["kind"] == "Job")
}

/// The settings that all Jobs share.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The classifier's image.
    pub image: String,
    /// Seconds that Kubernetes keeps a finished Job.
    pub ttl: u32,
    /// Seconds after which a pod on a node that has not ended fails, so that it frees its quota; 0 means none.
    pub timeout: u32,
}

/// Returns a Job name: `TIER-DATASET-` and a suffix derived from `random`; a DNS label of at most 25 characters.
pub fn name(tier: Tier, dataset: Dataset, random: u64) -> String {
    let mut rest = random;
    let letters = (0..SUFFIX).map(|_| {
        let index = usize::try_from(rest % 27).expect("a number below 27 fits");
        rest /= 27;
        char::from(ALPHABET[index])
    });
    format!("{}-{}-{}", tier.as_str(), dataset.as_str(), letters.collect::<String>())
}

/// Returns the Job name of a caller's key: `TIER-DATASET-` and 26 characters that SHA-256 derives from the tier, the dataset and the key, so
/// that every server derives the same name. With 128 bits no two keys share one; a DNS label of at most 41 characters.
pub fn keyed_name(tier: Tier, dataset: Dataset, key: &str) -> String {
    let (tier, dataset) = (tier.as_str(), dataset.as_str());
    // No part has a slash before the key, so no two inputs give the same text.
    let hash = digest::digest(&digest::SHA256, format!("{tier}/{dataset}/{key}").as_bytes());
    let bits = u128::from_be_bytes(hash.as_ref()[..16].try_into().expect("SHA-256 has 32 bytes"));
    let letter = |place: usize| char::from(BASE32[(bits >> (5 * place) & 31) as usize]);
    format!("{tier}-{dataset}-{}", (0..KEYED_SUFFIX).map(letter).collect::<String>())
}

/// The manifests of all tiers and datasets as text, with [`PLACEHOLDER`] for the name. Serializing one takes 11 µs of CPU,
/// a copy less than 1 µs.
pub struct Manifests(Vec<(Tier, Dataset, String)>);

/// Stands for the name. Of the values before the name, none is configurable, so the first occurrence is the name.
const PLACEHOLDER: &str = "$NAME";

impl Manifests {
    /// Serializes the manifests.
    pub fn new(settings: &Settings) -> Self {
        let kinds = Tier::ALL.map(|tier| [(tier, Dataset::Mnist), (tier, Dataset::Kmnist)]);
        let serialize = |(tier, dataset)| (tier, dataset, manifest(settings, tier, dataset, PLACEHOLDER).to_string());
        Self(kinds.into_iter().flatten().map(serialize).collect())
    }

    /// Returns the Job `name`, which needs no escaping.
    pub fn named(&self, tier: Tier, dataset: Dataset, name: &str) -> String {
        let found = self.0.iter().find(|(t, d, _)| (*t, *d) == (tier, dataset));
        found.expect("all are serialized").2.replacen(PLACEHOLDER, name, 1)
    }
}

/// Returns the manifest of the Job `name`.
///
/// podFailurePolicy needs Kubernetes 1.26; older servers ignore unknown fields.
pub fn manifest(settings: &Settings, tier: Tier, dataset: Dataset, name: &str) -> Value {
    let labels = json!({
        "app.kubernetes.io/name": "img-classification",
        MANAGED_BY.0: MANAGED_BY.1,
        "img-classification/tier": tier.as_str(),
        DATASET_LABEL: dataset.as_str(),
    });
    let mut pod = json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [container(settings, tier, dataset)],
    });
    if settings.timeout > 0 {
        // The Job's own activeDeadlineSeconds would also count the time in the queue.
        pod["activeDeadlineSeconds"] = json!(settings.timeout);
    }
    let disrupted = json!({ "type": "DisruptionTarget", "status": "True" });
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": { "name": name, "namespace": tier.namespace(), "labels": labels },
        "spec": {
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": settings.ttl,
            "podFailurePolicy": { "rules": [{ "action": "Ignore", "onPodConditions": [disrupted] }] },
            "template": { "metadata": { "labels": labels }, "spec": pod },
        },
    })
}

fn container(settings: &Settings, tier: Tier, dataset: Dataset) -> Value {
    json!({
        "name": CONTAINER,
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "env": [
            { "name": "DATASET", "value": dataset.as_str() },
            { "name": "TYPE", "value": tier.network() },
            { "name": "PYTHONUNBUFFERED", "value": "1" },
        ],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": { "requests": { "cpu": CPU }, "limits": { "cpu": CPU } },
        "securityContext": { "allowPrivilegeEscalation": false },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_dns_label_with_space_for_the_pods_suffix() {
        for random in [0, 1, 26, 27, u64::MAX] {
            let name = name(Tier::Premium, Dataset::Kmnist, random);
            assert!(name.len() + "-abcde".len() <= 63, "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{name}");
            assert!(name.starts_with("premium-kmnist-"), "{name}");
        }
    }

    #[test]
    fn a_key_tier_and_dataset_give_one_name_everywhere() {
        let name = keyed_name(Tier::Premium, Dataset::Kmnist, "a key");
        assert_eq!(name, "premium-kmnist-ooc7q42u6pja2sd32wewbmz3qh");
        assert!(JobName::parse(&name).is_some() && name.len() + "-abcde".len() <= MAX_LABEL, "{name}");
        for other in [
            keyed_name(Tier::Premium, Dataset::Kmnist, "a key "),
            keyed_name(Tier::Premium, Dataset::Mnist, "a key"),
            keyed_name(Tier::Free, Dataset::Kmnist, "a key"),
        ] {
            assert_ne!(other.split('-').next_back(), name.split('-').next_back());
        }
    }

    #[test]
    fn a_copied_manifest_equals_the_serialized_one() {
        let settings = Settings { image: "a\"b\\u0002:$NAME".into(), ttl: 7, timeout: 0 };
        let manifests = Manifests::new(&settings);
        for (tier, dataset) in [(Tier::Free, Dataset::Kmnist), (Tier::Premium, Dataset::Mnist)] {
            let text = manifests.named(tier, dataset, "a-name");
            assert_eq!(text, manifest(&settings, tier, dataset, "a-name").to_string());
        }
    }

    #[test]
    fn two_random_numbers_give_two_names() {
        assert_ne!(name(Tier::Free, Dataset::Mnist, 1), name(Tier::Free, Dataset::Mnist, 2));
    }

    #[test]
    fn a_jobs_name_tells_its_tier_and_has_no_other_characters() {
        let tier = |text: &str| JobName::parse(text).map(|name| name.tier);
        assert_eq!(tier(&name(Tier::Free, Dataset::Kmnist, 7)), Some(Tier::Free));
        assert_eq!(tier("premium-mnist-abcde"), Some(Tier::Premium));
        let long = format!("free-mnist-{}", "x".repeat(53));
        for bad in [
            "",
            "free",
            "free-mnist",
            "free-mnist-",
            "free-mnist-a-",
            "gold-mnist-a",
            "free-cifar-a",
            "free-mnist-A",
            "free-mnist-a/../b",
            "free-mnist-a%2f",
            "free-mnist-a.b",
            &long,
        ] {
            assert_eq!(tier(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_dataset_name_is_matched_exactly() {
        assert_eq!(Dataset::parse("mnist"), Some(Dataset::Mnist));
        for unknown in ["", "MNIST", "mnist ", "cifar", "mnist\0"] {
            assert_eq!(Dataset::parse(unknown), None, "{unknown:?}");
        }
    }
}
