//! The program that answers at an address, and the facts that a server of this program returns.

use std::time::Duration;

use serde::Deserialize;

use crate::api::info::short_name;
use crate::cli::DEFAULT_IMAGE;
use crate::commands::client::{self, HttpClient};
use crate::commands::output::Check;

/// Timeout of a request to the program: a server of this program answers from memory, within a millisecond.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Response body of GET /healthz.
const HEALTHY: &str = r#"{"status":"ok"}"#;

/// Longest part of another program's response in a message, in characters.
const MAX_BODY_CHARS: usize = 80;

/// The program at an address.
pub enum Answer {
    /// A server of this program.
    Server(Server),
    /// Another program, or one that does not respond; the end of a sentence about it.
    Other(String),
}

/// A running server of this program.
pub struct Server {
    /// The address at which it answered.
    pub url: String,
    /// `None` if the server is too old for GET /info.
    pub info: Option<Info>,
}

/// The fields of GET /info that the checks use.
#[derive(Deserialize)]
pub struct Info {
    pub version: String,
    /// The image of the Jobs.
    pub image: String,
    /// The short name of the cluster; `None` in a pod.
    pub cluster: Option<String>,
    /// The cluster is simulated.
    pub local: bool,
}

impl Server {
    /// Describes the server for a sentence.
    pub fn name(&self) -> String {
        let version = self.info.as_ref().map_or("an old version, without GET /info", |info| &info.version);
        format!("a server of this program ({version})")
    }

    /// Returns the image of its Jobs, if it is known.
    pub fn image(&self) -> Option<&str> {
        self.info.as_ref().map(|info| info.image.as_str())
    }

    /// Compares the server's image with that of --image, and its cluster with `cluster`, the one of the other checks.
    pub fn checks(&self, image: &str, cluster: Option<&str>) -> Vec<Check> {
        let url = &self.url;
        let Some(info) = &self.info else {
            let text =
                format!("the server at {url} is too old to return its image: {image} of --image is checked instead");
            return vec![Check::warning("server", text, "install this version, and restart the server")];
        };
        let is_other_image = image != info.image && image != DEFAULT_IMAGE;
        let other_image = is_other_image.then(|| {
            let text = format!("the server at {url} uses the image {}, and not {image} of --image", info.image);
            Check::warning(
                "server",
                text,
                "restart the server with that --image, for the service: systemctl restart img-classification",
            )
        });
        let cluster = cluster.map(short_name);
        let other_cluster = info.cluster.as_deref().zip(cluster).filter(|(its, ours)| its != ours).map(|(its, ours)| {
            let kind = if info.local { "simulated cluster" } else { "cluster" };
            let text = format!("the server at {url} uses the {kind} {its}, but these checks are about {ours}");
            let fix = match info.local {
                true => "set KUBECONFIG to the path that `serve --local` prints, and run img-classification doctor again",
                false => "img-classification doctor with the server's --kubeconfig and --context",
            };
            Check::warning("server", text, fix)
        });
        other_image.into_iter().chain(other_cluster).collect()
    }

    /// Tests for a server with a simulated cluster.
    pub fn is_local(&self) -> bool {
        self.info.as_ref().is_some_and(|info| info.local)
    }
}

/// Asks the program at `url` for its facts.
pub fn ask(url: &str) -> Answer {
    let http = match HttpClient::new(url, None) {
        Ok(http) => http,
        Err(error) => return Answer::Other(format!("cannot be asked: {error}")),
    };
    let get = |path| http.request(("GET", path), &[], None, PROBE_TIMEOUT);
    let server = |info| Answer::Server(Server { url: url.to_owned(), info });
    match get("/info") {
        Ok(response) => match serde_json::from_str(&response.body) {
            Ok(info) if response.status == 200 => server(Some(info)),
            _ => match get("/healthz") {
                Ok(response) if response.status == 200 && response.body.trim() == HEALTHY => server(None),
                Ok(response) => Answer::Other(foreign(&response)),
                Err(error) => Answer::Other(format!("does not respond to GET /healthz ({error})")),
            },
        },
        Err(error) => Answer::Other(format!("does not respond to GET /info ({error})")),
    }
}

/// Describes the response of another program to GET /healthz.
fn foreign(response: &client::Response) -> String {
    let first = response.body.lines().next().unwrap_or_default();
    let shown: String = first.chars().take(MAX_BODY_CHARS).collect();
    format!("is another one: it responds to GET /healthz with status {} and {shown:?}", response.status)
}
