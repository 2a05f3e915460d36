//! The route table: from a method and a target to a [`Route`]. Pure, no I/O.

use crate::api::error::ApiError;
use crate::api::page::{self, File};
use crate::job::{JobName, Tier};

/// A resource and the operation on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'a> {
    /// POST /img-classification/TIER
    CreateJob(Tier),
    /// GET /config
    ListPods,
    /// GET /jobs
    ListJobs,
    /// GET /jobs/NAME
    ShowJob(JobName<'a>),
    /// DELETE /jobs/NAME
    DeleteJob(JobName<'a>),
    /// GET /jobs/NAME/logs
    ShowLog(JobName<'a>),
    /// GET /queue
    Queue,
    /// GET /healthz
    Healthz,
    /// GET /readyz
    Readyz,
    /// GET /metrics
    Metrics,
    /// GET /openapi.json
    OpenApi,
    /// GET /info
    Info,
    /// GET / and the files that the page loads
    Page(&'static File),
    /// OPTIONS of any of these paths, with the path's methods
    Options(&'static str),
}

/// The template of a request that no route matches, and of OPTIONS.
pub const OTHER: &str = "other";

/// The template of a request that the front refuses before its route is known.
pub const REFUSED: &str = "none";

/// The templates of all requests.
pub const TEMPLATES: [&str; 16] = [
    OTHER,
    REFUSED,
    "/img-classification/free",
    "/img-classification/premium",
    "/config",
    "/jobs",
    "/jobs/{name}",
    "/jobs/{name}/logs",
    "/queue",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/info",
    "/",
    "/page/{file}",
];

/// The methods of each path, as Allow lists them.
const GET: &str = "GET, HEAD, OPTIONS";
const POST: &str = "POST, OPTIONS";
const JOB: &str = "GET, HEAD, DELETE, OPTIONS";

/// RFC 9110's methods, PATCH and QUERY. Any other method is "not implemented" rather than "not allowed".
const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"];

impl<'a> Route<'a> {
    /// The route table. `target` is the request's path, with or without a query, which is ignored.
    ///
    /// # Errors
    /// 404, 405 or 501.
    #[rustfmt::skip] // a table
    pub fn parse(method: &str, target: &'a str) -> Result<Self, ApiError> {
        let path = target.split(['?', '#']).next().unwrap_or_default();
        match (method, path) {
            ("POST",         "/img-classification/free")    => Ok(Self::CreateJob(Tier::Free)),
            ("POST",         "/img-classification/premium") => Ok(Self::CreateJob(Tier::Premium)),
            ("GET" | "HEAD", "/config")                     => Ok(Self::ListPods),
            ("GET" | "HEAD", "/jobs")                       => Ok(Self::ListJobs),
            ("GET" | "HEAD", "/queue")                      => Ok(Self::Queue),
            ("GET" | "HEAD", "/healthz")                    => Ok(Self::Healthz),
            ("GET" | "HEAD", "/readyz")                     => Ok(Self::Readyz),
            ("GET" | "HEAD", "/metrics")                    => Ok(Self::Metrics),
            ("GET" | "HEAD", "/openapi.json")               => Ok(Self::OpenApi),
            ("GET" | "HEAD", "/info")                       => Ok(Self::Info),

            ("GET" | "HEAD", path) if job(path).is_some()   => job_name(path).map(Self::ShowJob),
            ("DELETE",       path) if job(path).is_some()   => job_name(path).map(Self::DeleteJob),
            ("GET" | "HEAD", path) if log(path).is_some()   => job_name(log(path).unwrap_or_default()).map(Self::ShowLog),

            ("GET" | "HEAD", path) if page::file(path).is_some() => page::file(path).map(Self::Page).ok_or(ApiError::NotFound),

            (method, _) if !METHODS.contains(&method)       => Err(ApiError::UnknownMethod),
            (method, path) => match allowed_methods(path) {
                Some(methods) if method == "OPTIONS"        => Ok(Self::Options(methods)),
                Some(methods)                               => Err(ApiError::MethodNotAllowed(methods)),
                None                                        => Err(ApiError::NotFound),
            },
        }
    }

    /// Returns the path without a caller's text, one of [`TEMPLATES`].
    pub fn template(self) -> &'static str {
        match self {
            Self::CreateJob(Tier::Free) => "/img-classification/free",
            Self::CreateJob(Tier::Premium) => "/img-classification/premium",
            Self::ListPods => "/config",
            Self::ListJobs => "/jobs",
            Self::ShowJob(_) | Self::DeleteJob(_) => "/jobs/{name}",
            Self::ShowLog(_) => "/jobs/{name}/logs",
            Self::Queue => "/queue",
            Self::Healthz => "/healthz",
            Self::Readyz => "/readyz",
            Self::Metrics => "/metrics",
            Self::OpenApi => "/openapi.json",
            Self::Info => "/info",
            Self::Page(File { path: "/", .. }) => "/",
            Self::Page(_) => "/page/{file}",
            Self::Options(_) => OTHER,
        }
    }

    /// True if the handler may call Kubernetes. A list of pods does while they are not watched, a Job only with --no-watch.
    pub fn calls_kubernetes(self, is_watched: bool) -> bool {
        match self {
            Self::CreateJob(_) | Self::ListPods | Self::DeleteJob(_) | Self::ShowLog(_) | Self::Readyz => true,
            Self::ShowJob(_) => !is_watched,
            _ => false,
        }
    }

    /// True if the response may have no end.
    pub fn is_stream(self) -> bool {
        matches!(self, Self::ShowLog(_))
    }
}

/// Returns the name in the path of a Job.
fn job(path: &str) -> Option<&str> {
    path.strip_prefix("/jobs/").filter(|name| !name.is_empty() && !name.contains('/'))
}

/// Returns the Job's part of the path of a log.
fn log(path: &str) -> Option<&str> {
    path.strip_suffix("/logs").filter(|path| job(path).is_some())
}

/// Parses the name in the path of a Job.
fn job_name(path: &str) -> Result<JobName<'_>, ApiError> {
    job(path).and_then(JobName::parse).ok_or(ApiError::NoSuchJob)
}

/// Returns the methods of a known path.
fn allowed_methods(path: &str) -> Option<&'static str> {
    match path {
        "/img-classification/free" | "/img-classification/premium" => Some(POST),
        path if job(path).is_some() => Some(JOB),
        path if log(path).is_some() => Some(GET),
        "/config" | "/jobs" | "/queue" | "/healthz" | "/readyz" | "/metrics" | "/openapi.json" | "/info" => Some(GET),
        path if page::file(path).is_some() => Some(GET),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_match_method_and_path_exactly() {
        let table = [
            ("POST", "/img-classification/free", 0),
            ("POST", "/img-classification/premium?x=1", 0),
            ("GET", "/config", 0),
            ("HEAD", "/config", 0),
            ("GET", "/queue?x", 0),
            ("PUT", "/queue", 405),
            ("GET", "/jobs?tier=free", 0),
            ("HEAD", "/jobs/free-mnist-g6rf?x", 0),
            ("GET", "/jobs/", 404),
            ("GET", "/jobs/free-mnist-g6rf/", 404),
            ("GET", "/jobs/..%2Fx", 404),
            ("POST", "/jobs/free-mnist-g6rf", 405),
            ("OPTIONS", "/jobs/free-mnist-g6rf", 0),
            ("OPTIONS", "/jobs/free-mnist-g6rf/x", 404),
            ("DELETE", "/jobs/free-mnist-g6rf?x", 0),
            ("DELETE", "/jobs/x", 404),
            ("DELETE", "/jobs", 405),
            ("GET", "/jobs/free-mnist-g6rf/logs?tail=1", 0),
            ("HEAD", "/jobs/free-mnist-g6rf/logs", 0),
            ("OPTIONS", "/jobs/free-mnist-g6rf/logs", 0),
            ("DELETE", "/jobs/free-mnist-g6rf/logs", 405),
            ("GET", "/jobs/x/logs", 404),
            ("GET", "/jobs//logs", 404),
            ("GET", "/jobs/free-mnist-g6rf/x/logs", 404),
            ("GET", "/healthz", 0),
            ("HEAD", "/readyz", 0),
            ("GET", "/metrics", 0),
            ("POST", "/metrics", 405),
            ("GET", "/openapi.json", 0),
            ("GET", "/img-classification/free", 405),
            ("HEAD", "/img-classification/free", 405),
            ("DELETE", "/config", 405),
            ("OPTIONS", "/healthz", 0),
            ("OPTIONS", "/nothing", 404),
            ("OPTIONS", "*", 404),
            ("GET", "/", 0),
            ("HEAD", "/page/app.js?x", 0),
            ("POST", "/", 405),
            ("GET", "/page/", 404),
            ("GET", "/page/../page/app.js", 404),
            ("GET", "/info", 0),
            ("GET", "/config/", 404),
            ("GET", "//config", 404),
            ("GET", "/Config", 404),
            ("POST", "/img-classification", 404),
            ("POST", "/img-classification/gold", 404),
            ("BREW", "/config", 501),
            ("get", "/config", 501),
        ];
        for (method, target, status) in table {
            let route = Route::parse(method, target);
            if let Ok(template) = route.as_ref().map(|route| route.template()) {
                let is_path = target.split('?').next() == Some(template)
                    || [OTHER, "/jobs/{name}", "/jobs/{name}/logs", "/page/{file}"].contains(&template);
                assert!(is_path && TEMPLATES.contains(&template), "{method} {target}: {template}");
            }
            let seen = route.map_or_else(|error| error.into_response().status, |_| 0);
            assert_eq!(seen, status, "{method} {target}");
        }
        assert!(Route::Readyz.calls_kubernetes(true) && !Route::Queue.calls_kubernetes(false));
        assert!(!Route::Options(GET).calls_kubernetes(false));
        let job = JobName::parse("free-mnist-g6rf").map(Route::ShowJob).expect("a name");
        assert!(job.calls_kubernetes(false) && !job.calls_kubernetes(true));
    }
}
