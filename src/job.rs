//! The Job manifest: what the two tiers and the two datasets mean to Kubernetes. Pure, no I/O.
//!
//! k8s/free-job.yaml and k8s/premium-job.yaml are the same Jobs for kubectl; a test holds them equal to this.

use serde_json::{Value, json};

/// The CPU that a classifier asks for and is held to, in Kubernetes' notation: two fit into the free tier's 2 CPU.
pub const CPU: &str = "900m";

/// The alphabet of random suffixes, Kubernetes' own: no vowels (no words), no look-alikes,
/// see k8s.io/apimachinery/pkg/util/rand.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Characters of a random suffix: 27^10 is 2 * 10^14 names, so that no two requests ever share one.
const SUFFIX: usize = 10;

/// Query parameter that selects the Jobs and pods of this program by the label of [`manifest`].
pub const MANAGED_SELECTOR: &str = "labelSelector=app.kubernetes.io%2Fmanaged-by%3Dimg-classification";

/// What a caller pays for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// A feed-forward network, in a namespace with a quota.
    Free,
    /// A convolutional network, without a limit.
    Premium,
}

impl Tier {
    /// The word in URLs, names and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Premium => "premium",
        }
    }

    /// Where its Jobs live.
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

/// What is classified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dataset {
    /// Handwritten digits.
    Mnist,
    /// Handwritten hiragana.
    Kmnist,
}

impl Dataset {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Mnist, Self::Kmnist];

    /// The dataset of that name, to the letter.
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

/// What is the same for every Job.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The classifier's image.
    pub image: String,
    /// Seconds that Kubernetes keeps a Job after its end.
    pub ttl: u32,
}

/// A name for one request's Job: `TIER-DATASET-` and a suffix made of `random`; a DNS label of 25 characters at most.
pub fn name(tier: Tier, dataset: Dataset, random: u64) -> String {
    let mut rest = random;
    let letters = (0..SUFFIX).map(|_| {
        let index = usize::try_from(rest % 27).expect("a number below 27 fits");
        rest /= 27;
        char::from(ALPHABET[index])
    });
    format!("{}-{}-{}", tier.as_str(), dataset.as_str(), letters.collect::<String>())
}

/// The manifests of all tiers and datasets as text, but for the name: what a request then takes is a copy.
pub struct Manifests(Vec<(Tier, Dataset, [String; 2])>);

/// Stands for the name, and comes nowhere before it.
const NAME: &str = "\u{1}";

impl Manifests {
    /// Writes them all.
    pub fn new(settings: &Settings) -> Self {
        let kinds =
            [Tier::Free, Tier::Premium].into_iter().flat_map(|tier| Dataset::ALL.map(|dataset| (tier, dataset)));
        let write = |(tier, dataset)| {
            let text = manifest(settings, tier, dataset, NAME).to_string();
            let (before, after) = text.split_once("\\u0001").expect("a manifest has a name");
            (tier, dataset, [before, after].map(str::to_owned))
        };
        Self(kinds.map(write).collect())
    }

    /// The Job named `name`, which needs no escaping.
    pub fn named(&self, tier: Tier, dataset: Dataset, name: &str) -> String {
        let kind = self.0.iter().find(|kind| (kind.0, kind.1) == (tier, dataset));
        let (_, _, [before, after]) = kind.expect("all are written");
        [before, name, after].concat()
    }
}

/// The Job named `name`, as Kubernetes is to store it.
///
/// podFailurePolicy needs Kubernetes 1.26; older servers drop it, as they drop every field that they do not know.
pub fn manifest(settings: &Settings, tier: Tier, dataset: Dataset, name: &str) -> Value {
    let labels = json!({
        "app.kubernetes.io/name": "img-classification",
        "app.kubernetes.io/managed-by": "img-classification",
        "img-classification/tier": tier.as_str(),
        "img-classification/dataset": dataset.as_str(),
    });
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": { "name": name, "namespace": tier.namespace(), "labels": labels },
        "spec": {
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": settings.ttl,
            "podFailurePolicy": {
                "rules": [{
                    "action": "Ignore",
                    "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }],
                }],
            },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": false,
                    "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
                    "containers": [{
                        "name": "classifier",
                        "image": settings.image,
                        "imagePullPolicy": "IfNotPresent",
                        "env": [
                            { "name": "DATASET", "value": dataset.as_str() },
                            { "name": "TYPE", "value": tier.network() },
                            { "name": "PYTHONUNBUFFERED", "value": "1" },
                        ],
                        "resources": { "requests": { "cpu": CPU }, "limits": { "cpu": CPU } },
                        "securityContext": { "allowPrivilegeEscalation": false },
                    }],
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_dns_label_and_leaves_room_for_the_pods_suffix() {
        for random in [0, 1, 26, 27, u64::MAX] {
            let name = name(Tier::Premium, Dataset::Kmnist, random);
            assert!(name.len() + "-abcde".len() <= 63, "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{name}");
            assert!(name.starts_with("premium-kmnist-"), "{name}");
        }
    }

    #[test]
    fn a_manifest_from_its_text_is_the_one_that_was_made() {
        let settings = Settings { image: "a\"b\\u0002:1".into(), ttl: 7 };
        let manifests = Manifests::new(&settings);
        for tier in [Tier::Free, Tier::Premium] {
            for dataset in Dataset::ALL {
                let text = manifests.named(tier, dataset, "a-name");
                assert_eq!(text, manifest(&settings, tier, dataset, "a-name").to_string());
            }
        }
    }

    #[test]
    fn two_random_numbers_give_two_names() {
        assert_ne!(name(Tier::Free, Dataset::Mnist, 1), name(Tier::Free, Dataset::Mnist, 2));
    }

    #[test]
    fn a_dataset_is_known_to_the_letter_only() {
        assert_eq!(Dataset::parse("mnist"), Some(Dataset::Mnist));
        for unknown in ["", "MNIST", "mnist ", "cifar", "mnist\0"] {
            assert_eq!(Dataset::parse(unknown), None, "{unknown:?}");
        }
    }
}
