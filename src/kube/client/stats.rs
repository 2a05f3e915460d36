//! Counters of the requests to Kubernetes, for GET /metrics.

use std::time::Duration;

use crate::kube::error::Error;
use crate::metrics::{Counter, Histogram, Kind, Text};

/// The operation of a request, by Kubernetes' own word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Create,
    Get,
    List,
    Watch,
    Patch,
    Delete,
}

impl Verb {
    const ALL: [Self; 6] = [Self::Create, Self::Get, Self::List, Self::Watch, Self::Patch, Self::Delete];

    fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
    }
}

/// The results of a request.
const RESULTS: [&str; 11] = [
    "ok",
    "4xx",
    "5xx",
    "unreachable",
    "timeout",
    "incomplete",
    "tls",
    "proxy",
    "malformed",
    "no_credential",
    "circuit_open",
];

/// Returns the result of a request in [`RESULTS`].
fn result(error: Option<&Error>) -> &'static str {
    match error {
        None => "ok",
        Some(Error::Status { status, .. }) if status.code >= 500 => "5xx",
        Some(Error::Status { .. } | Error::ListExpired { .. }) => "4xx",
        Some(Error::Unreachable { .. }) => "unreachable",
        Some(Error::Timeout { .. }) => "timeout",
        Some(Error::Truncated { .. } | Error::OutcomeUnknown { .. }) => "incomplete",
        Some(Error::Tls { .. }) => "tls",
        Some(Error::ProxyRefused { .. }) => "proxy",
        Some(Error::NotKubernetes { .. }) => "malformed",
        Some(Error::Credential(_)) => "no_credential",
        Some(Error::CircuitOpen { .. }) => "circuit_open",
    }
}

/// The counters of a client. A list of several pages counts once, and a watch when it ends.
#[derive(Default)]
pub struct Stats {
    requests: [[Counter; RESULTS.len()]; Verb::ALL.len()],
    durations: [Histogram; Verb::ALL.len()],
    /// Requests that were sent again.
    pub retries: Counter,
}

impl Stats {
    /// Counts a request that was sent.
    pub fn record(&self, verb: Verb, error: Option<&Error>, took: Duration) {
        self.count(verb, error);
        // A watch lasts as long as its server lets it.
        if verb != Verb::Watch {
            self.durations[verb as usize].observe(took);
        }
    }

    /// Counts a request without its duration: it was not sent.
    pub fn count(&self, verb: Verb, error: Option<&Error>) {
        let result = result(error);
        let counters = RESULTS.iter().zip(&self.requests[verb as usize]);
        counters.filter(|(name, _)| **name == result).for_each(|(_, counter)| counter.increment());
    }

    /// Writes the counters. Pairs of verb and result that have not occurred are left out.
    pub fn write(&self, text: &mut Text) {
        let help = "Requests to Kubernetes, by verb and result.";
        let mut family = text.family("img_classification_kubernetes_requests_total", Kind::Counter, help);
        for (verb, counters) in Verb::ALL.iter().zip(&self.requests) {
            let occurred = RESULTS.iter().zip(counters).filter(|(_, counter)| counter.get() > 0);
            occurred.for_each(|(result, counter)| {
                family.sample(&[("verb", verb.as_str()), ("result", result)], counter.get());
            });
        }
        let help = "Time from a request to Kubernetes to the end of its response.";
        let mut family = text.family("img_classification_kubernetes_request_duration_seconds", Kind::Histogram, help);
        for (verb, histogram) in Verb::ALL.iter().zip(&self.durations).filter(|(verb, _)| **verb != Verb::Watch) {
            family.histogram(&[("verb", verb.as_str())], histogram);
        }
        let help = "Requests to Kubernetes that were sent again.";
        text.counter("img_classification_kubernetes_retries_total", help, self.retries.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_have_their_own_counters() {
        assert!(Verb::ALL.iter().enumerate().all(|(index, verb)| *verb as usize == index));
        let stats = Stats::default();
        stats.record(Verb::Patch, Some(&Error::Timeout { url: String::new() }), Duration::ZERO);
        let mut text = Text::default();
        stats.write(&mut text);
        let text = String::from_utf8(text.into_bytes()).expect("ASCII");
        assert!(text.contains(r#"requests_total{verb="patch",result="timeout"} 1"#), "{text}");
        assert!(text.contains(r#"duration_seconds_count{verb="patch"} 1"#), "{text}");
    }
}
