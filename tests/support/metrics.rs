//! A strict reader of GET /metrics.

use super::server::Server;
use std::collections::BTreeMap;

/// One answer of GET /metrics.
pub struct Metrics {
    pub text: String,
    /// Type by name.
    pub types: BTreeMap<String, String>,
    /// Value by name and labels, as `name{label="value"}`.
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    /// Reads the metrics of a server, and checks their format.
    pub fn of(server: &Server) -> Metrics {
        let response = server.get("/metrics");
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.header("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        Metrics::parse(response.text())
    }

    /// The value of a sample; `None` if it is missing.
    pub fn find(&self, sample: &str) -> Option<f64> {
        self.samples.get(&format!("img_classification_{sample}")).copied()
    }

    /// The value of a sample, 0 if it is missing.
    pub fn get(&self, sample: &str) -> f64 {
        self.find(sample).unwrap_or_default()
    }

    /// The sum of all samples of a name.
    pub fn sum(&self, name: &str) -> f64 {
        let prefix = format!("img_classification_{name}");
        let is_of = |sample: &str| sample.split('{').next() == Some(&*prefix);
        self.samples.iter().filter(|(sample, _)| is_of(sample)).map(|(_, value)| value).sum()
    }

    /// Type and sorted labels by name.
    pub fn families(&self) -> BTreeMap<String, (String, Vec<String>)> {
        let mut families: BTreeMap<_, _> =
            self.types.iter().map(|(name, kind)| (name.clone(), (kind.clone(), Vec::new()))).collect();
        for sample in self.samples.keys() {
            let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
            let suffixes = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let name = suffixes.filter(|name| self.types.contains_key(*name)).unwrap_or(name);
            let names = labels.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_owned());
            let known = &mut families.get_mut(name).unwrap().1;
            known.extend(names.filter(|name| name != "le"));
            known.sort();
            known.dedup();
        }
        families
    }

    /// A sample of a process.
    pub fn process(&self, name: &str) -> f64 {
        self.samples[&format!("process_{name}")]
    }

    /// All counters, and the counts of histograms, which never decrease.
    pub fn counters(&self) -> impl Iterator<Item = (&String, f64)> {
        let names = ["_total", "_bucket", "_count", "_sum"];
        let is_counter = move |sample: &str| names.iter().any(|end| sample.split('{').next().unwrap().ends_with(end));
        self.samples.iter().filter(move |(sample, _)| is_counter(sample)).map(|(sample, value)| (sample, *value))
    }

    fn parse(text: &str) -> Metrics {
        let (mut types, mut samples) = (BTreeMap::new(), BTreeMap::new());
        let (mut name, mut kind) = ("", "");
        assert!(text.ends_with('\n'));
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (of, help) = help.split_once(' ').unwrap();
                let typed =
                    lines.next().and_then(|line| line.strip_prefix("# TYPE ")).unwrap_or_else(|| panic!("{line}"));
                (name, kind) = typed.split_once(' ').unwrap();
                assert!(of == name && help.ends_with('.') && help.len() > 5, "{line}");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{typed}");
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} is there twice");
                continue;
            }
            let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            let (of, labels) = sample.split_once('{').unwrap_or((sample, "}"));
            let suffix = of.strip_prefix(name).unwrap_or_else(|| panic!("{line} in the family {name}"));
            let is_part = ["_bucket", "_sum", "_count"].contains(&suffix);
            assert!(if kind == "histogram" { is_part } else { suffix.is_empty() }, "{line}");
            labels.strip_suffix('}').unwrap().split(',').filter(|label| !label.is_empty()).for_each(check_label);
            assert!(samples.insert(sample.to_owned(), value.parse().unwrap()).is_none(), "{sample} is there twice");
            assert!(kind != "counter" || name.ends_with("_total"), "{name}");
        }
        check_histograms(text, &samples);
        Metrics { text: text.to_owned(), types, samples }
    }
}

fn check_label(label: &str) {
    let (name, value) = label.split_once('=').unwrap_or_else(|| panic!("{label}"));
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-/{.+".contains(&byte));
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or_else(|| panic!("{label}"));
    assert!(is_plain(name) && is_plain(&value.replace('}', "")), "{label}");
}

/// Checks that the buckets of each histogram grow, and that the last is the count.
fn check_histograms(text: &str, samples: &BTreeMap<String, f64>) {
    let mut previous = ("", 0.0);
    for line in text.lines().filter(|line| line.contains("le=\"")) {
        let (series, rest) = line.split_once("le=\"").unwrap();
        let (bound, value) = rest.split_once("\"} ").unwrap();
        let value: f64 = value.parse().unwrap();
        assert!(previous.0 != series || previous.1 <= value, "{line}");
        previous = (series, value);
        if bound == "+Inf" {
            let count = series.replace("_bucket{", "_count{");
            assert_eq!(samples[&format!("{}}}", count.trim_end_matches(','))], value, "{line}");
        }
    }
}
