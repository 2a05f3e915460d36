//! Counters, histograms and the text format of Prometheus, version 0.0.4. All floors may import this module; it imports none.
//!
//! Each floor keeps its own counters and writes them into a [`Text`]. Label values are static: a client's text cannot become one.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of a histogram's buckets, in microseconds: from a response from memory to the default of --kube-timeout.
const BOUNDS: [u64; 14] = [
    500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];

/// The labels of a sample.
pub type Labels<'a> = &'a [(&'static str, &'static str)];

/// A number of events.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The durations of events, in buckets.
#[derive(Default)]
pub struct Histogram {
    /// The last one has no bound.
    buckets: [Counter; BOUNDS.len() + 1],
    /// In nanoseconds; enough for 584 years.
    sum: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, duration: Duration) {
        let bucket = BOUNDS.partition_point(|bound| Duration::from_micros(*bound) < duration);
        self.buckets[bucket].increment();
        self.sum.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// The type of a family of samples.
#[derive(Clone, Copy)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A body of GET /metrics.
#[derive(Default)]
pub struct Text(String);

/// The samples of one name.
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Text {
    /// Begins the samples of a name.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.0.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { text: &mut self.0, name }
    }

    /// Writes a counter without labels.
    pub fn counter(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(name, Kind::Counter, help).sample(&[], value);
    }

    /// Writes a gauge without labels.
    pub fn gauge(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(name, Kind::Gauge, help).sample(&[], value);
    }

    /// Returns the body.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_bytes()
    }
}

impl Family<'_> {
    /// Writes a sample.
    pub fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.line("", &format_labels(labels), value);
    }

    /// Writes the samples of a histogram. Its count is the sum of the buckets, which other threads may increment meanwhile.
    pub fn histogram(&mut self, labels: Labels<'_>, histogram: &Histogram) {
        let labels = format_labels(labels);
        let separator = if labels.is_empty() { "" } else { "," };
        let mut count = 0;
        for (number, bucket) in histogram.buckets.iter().enumerate() {
            count += bucket.get();
            let bound = BOUNDS.get(number).map(|micros| Duration::from_micros(*micros).as_secs_f64().to_string());
            let bound = bound.as_deref().unwrap_or("+Inf");
            self.line("_bucket", &format!(r#"{labels}{separator}le="{bound}""#), count);
        }
        let sum = Duration::from_nanos(histogram.sum.load(Ordering::Relaxed));
        self.line("_sum", &labels, sum.as_secs_f64());
        self.line("_count", &labels, count);
    }

    fn line(&mut self, suffix: &str, labels: &str, value: impl Display) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        self.text.push_str(&format!("{}{suffix}{labels} {value}\n", self.name));
    }
}

/// Returns labels as text. None of the static values needs escaping.
fn format_labels(labels: Labels<'_>) -> String {
    labels.iter().map(|(name, value)| format!(r#"{name}="{value}""#)).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_written_in_the_text_format() {
        let mut text = Text::default();
        text.gauge("g_seconds", "A gauge.", 0.5);
        let mut family = text.family("c_total", Kind::Counter, "A counter.");
        family.sample(&[("a", "x"), ("b", "y")], u64::MAX);
        let expected = "# HELP g_seconds A gauge.\n# TYPE g_seconds gauge\ng_seconds 0.5\n\
                        # HELP c_total A counter.\n# TYPE c_total counter\nc_total{a=\"x\",b=\"y\"} 18446744073709551615\n";
        assert_eq!(String::from_utf8(text.into_bytes()).as_deref(), Ok(expected));
    }

    #[test]
    fn a_duration_counts_in_each_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::default();
        for micros in [0, 500, 501, 10_000_000, 10_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut text = Text::default();
        text.family("h_seconds", Kind::Histogram, "A histogram.").histogram(&[("a", "x")], &histogram);
        let text = String::from_utf8(text.into_bytes()).expect("ASCII");
        for line in [
            r#"h_seconds_bucket{a="x",le="0.0005"} 2"#,
            r#"h_seconds_bucket{a="x",le="0.001"} 3"#,
            r#"h_seconds_bucket{a="x",le="5"} 3"#,
            r#"h_seconds_bucket{a="x",le="10"} 4"#,
            r#"h_seconds_bucket{a="x",le="+Inf"} 5"#,
            r#"h_seconds_sum{a="x"} 20.001002"#,
            r#"h_seconds_count{a="x"} 5"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
