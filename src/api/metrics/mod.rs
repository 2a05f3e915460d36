//! GET /metrics: requests, Jobs, watches and limits in the text format of Prometheus, from memory; never calls Kubernetes.

mod process;
mod watched;

use std::array;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::api::App;
use crate::api::response::{Body, Response};
use crate::api::route::TEMPLATES;
use crate::metrics::{Counter, Histogram, Kind, Text};

/// The media type of the text format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Every status of a response; the last stands for any other.
const STATUSES: [(u16, &str); 24] = [
    (200, "200"),
    (202, "202"),
    (204, "204"),
    (304, "304"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (408, "408"),
    (409, "409"),
    (411, "411"),
    (413, "413"),
    (414, "414"),
    (417, "417"),
    (429, "429"),
    (431, "431"),
    (500, "500"),
    (501, "501"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
    (505, "505"),
    (0, "other"),
];

/// Writes the series of a part that the handlers cannot reach.
type Writer = Box<dyn Fn(&mut Text) + Send + Sync>;

/// The counters of the API. All are atomic, so that no request waits for another.
pub struct Metrics {
    /// By template.
    routes: [RouteMetrics; TEMPLATES.len()],
    /// GETs of /config that were answered from the watched pods.
    pub config_from_watch: Counter,
    /// GETs of /config that were answered from a list.
    pub config_from_list: Counter,
    front: OnceLock<Writer>,
}

#[derive(Default)]
struct RouteMetrics {
    statuses: [Counter; STATUSES.len()],
    durations: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            routes: array::from_fn(|_| RouteMetrics::default()),
            config_from_watch: Counter::default(),
            config_from_list: Counter::default(),
            front: OnceLock::new(),
        }
    }
}

impl Metrics {
    /// Counts a response to a request with this template of [`TEMPLATES`].
    pub fn record(&self, template: &'static str, status: u16, took: Duration) {
        let route = TEMPLATES.iter().position(|known| *known == template);
        debug_assert!(route.is_some(), "no such template: {template}");
        let route = &self.routes[route.unwrap_or_default()];
        let status = STATUSES.iter().position(|(known, _)| *known == status).unwrap_or(STATUSES.len() - 1);
        route.statuses[status].increment();
        route.durations.observe(took);
    }

    /// Sets the writer of the front's series.
    pub fn set_front(&self, writer: Writer) {
        // It is set once.
        let _ = self.front.set(writer);
    }

    fn write_requests(&self, text: &mut Text) {
        let help = "Requests, by the template of their path and the status of the response.";
        let mut family = text.family("img_classification_http_requests_total", Kind::Counter, help);
        for (template, route) in TEMPLATES.iter().zip(&self.routes) {
            let occurred = STATUSES.iter().zip(&route.statuses).filter(|(_, counter)| counter.get() > 0);
            occurred.for_each(|((_, status), counter)| {
                family.sample(&[("route", template), ("status", status)], counter.get());
            });
        }
        let help = "Time from a request's arrival to its response, the wait for a permit included.";
        let mut family = text.family("img_classification_http_request_duration_seconds", Kind::Histogram, help);
        for (template, route) in TEMPLATES.iter().zip(&self.routes) {
            family.histogram(&[("route", template)], &route.durations);
        }
    }

    fn write_config(&self, text: &mut Text, is_watched: bool) {
        let help = "Responses of GET /config, by the source of the pods.";
        let mut family = text.family("img_classification_config_responses_total", Kind::Counter, help);
        if is_watched {
            family.sample(&[("source", "watch")], self.config_from_watch.get());
        }
        family.sample(&[("source", "list")], self.config_from_list.get());
    }
}

/// All series of which this server knows the values. Those of the watched state are missing with --no-watch, and the Jobs and the queue
/// also while they are not known.
pub fn show(app: &App) -> Response {
    let mut text = Text::default();
    let labels = [("version", env!("CARGO_PKG_VERSION"))];
    text.family("img_classification_build_info", Kind::Gauge, "Always 1; the version of the server.")
        .sample(&labels, 1);
    app.metrics.write_requests(&mut text);
    app.metrics.write_config(&mut text, app.watched.is_some());
    app.metrics.front.get().iter().for_each(|write| write(&mut text));
    app.kube.write_metrics(&mut text);
    app.watched.iter().for_each(|watched| watched::write(watched, &mut text));
    process::write(&mut text);
    let headers = vec![("Content-Type", CONTENT_TYPE.to_owned())];
    Response { status: 200, headers, body: Body::Bytes(Arc::new(text.into_bytes())), log_detail: String::new() }
}
