//! Counters and levels of the front, for GET /metrics.

use crate::front::backend::Class;
use crate::front::error::RequestError;
use crate::front::shared::Shared;
use crate::metrics::{Counter, Kind, Text};

/// The classes of private connections with their labels.
const CLASSES: [(Class, &str); 3] =
    [(Class::Kubernetes, "kubernetes"), (Class::Memory, "memory"), (Class::Stream, "stream")];

/// The refusals of the front.
#[derive(Default)]
pub struct Stats {
    /// Connections that were refused without a request.
    pub connections_refused: Counter,
    rate_limited: Counter,
    overloaded: Counter,
}

impl Stats {
    /// Counts the refusal of a request that is not at fault itself.
    pub fn record(&self, error: &RequestError) {
        match error {
            RequestError::RateLimited(_) => self.rate_limited.increment(),
            RequestError::Overloaded | RequestError::Unavailable => self.overloaded.increment(),
            _ => {}
        }
    }
}

impl Shared {
    /// Writes the counters and levels.
    pub fn write_metrics(&self, text: &mut Text) {
        let (open, max, evictions) = self.connections.counts();
        text.gauge("img_classification_connections", "Open client connections.", open);
        text.gauge("img_classification_connections_max", "Most client connections at a time.", max);
        let help = "Client connections that were ended to make room for another.";
        text.counter("img_classification_connection_evictions_total", help, evictions);
        let help = "Client connections that were refused.";
        text.counter("img_classification_connections_refused_total", help, self.stats.connections_refused.get());
        let help = "Requests that the rate limit or a lack of places refused, by the code of their error.";
        let mut family = text.family("img_classification_requests_refused_total", Kind::Counter, help);
        family.sample(&[("code", "rate_limited")], self.stats.rate_limited.get());
        family.sample(&[("code", "overloaded")], self.stats.overloaded.get());
        self.write_pools(text);
    }

    fn write_pools(&self, text: &mut Text) {
        let usage = CLASSES.map(|(class, label)| ([("class", label)], self.pool(class).usage()));
        let help = "Requests that are being handled, by class.";
        let mut family = text.family("img_classification_permits_in_use", Kind::Gauge, help);
        usage.iter().for_each(|(labels, usage)| family.sample(labels, usage.in_use));
        let help = "Most requests that are handled at a time, by class.";
        let mut family = text.family("img_classification_permits_max", Kind::Gauge, help);
        usage.iter().for_each(|(labels, usage)| family.sample(labels, usage.max));
        let help = "Requests that wait for a permit, by class.";
        let mut family = text.family("img_classification_requests_waiting", Kind::Gauge, help);
        usage.iter().for_each(|(labels, usage)| family.sample(labels, usage.waiting));
    }
}
