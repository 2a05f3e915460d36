//! GET /: the page for browsers, and the files that it loads. All of it is part of the program.

mod summary;

use crate::api::error::ApiError;
use crate::api::response::Response;
use crate::api::{App, Request, conditional};

/// The place of the summary in the page.
const SUMMARY: &str = "<!-- summary -->";

/// The page loads nothing from elsewhere, runs no inline script, and is shown in no other page.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// A file of the page.
#[derive(Debug, PartialEq, Eq)]
pub struct File {
    pub path: &'static str,
    media_type: &'static str,
    content: &'static str,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! script {
    ($name:literal) => {
        File { path: concat!("/page/", $name), media_type: SCRIPT, content: include_str!($name) }
    };
}

const FILES: &[File] = &[
    File { path: "/", media_type: "text/html; charset=utf-8", content: include_str!("index.html") },
    File { path: "/page/style.css", media_type: "text/css; charset=utf-8", content: include_str!("style.css") },
    File { path: "/page/icon.svg", media_type: "image/svg+xml", content: include_str!("icon.svg") },
    script!("api.js"),
    script!("app.js"),
    script!("cluster.js"),
    script!("dom.js"),
    script!("job.js"),
    script!("jobs.js"),
    script!("log.js"),
    script!("model.js"),
    script!("submit.js"),
    script!("tiers.js"),
];

/// Returns the file at a path.
pub fn file(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

/// Returns a file of the page, or 304 if the caller has it. The page itself has a summary of the Jobs for browsers without JavaScript.
///
/// # Errors
/// 404 with --no-page, and for a client that does not ask for HTML, such as curl.
pub fn show(app: &App, file: &File, request: &Request<'_>) -> Result<Response, ApiError> {
    if !app.facts.has_page || (file.path == "/" && !accepts_html(request.accept)) {
        return Err(ApiError::NotFound);
    }
    let body = match file.content.split_once(SUMMARY) {
        Some((before, after)) => [before, &summary::html(app), after].concat(),
        None => file.content.to_owned(),
    };
    let response = conditional::body(request, file.media_type, body.into_bytes());
    let headers = [
        ("Cache-Control", "no-cache"),
        ("Content-Security-Policy", POLICY),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Vary", "Accept"),
    ];
    Ok(headers.into_iter().fold(response, |response, (name, value)| response.with_header(name, value.to_owned())))
}

/// Tests for a client that names HTML among the media types that it accepts, as browsers do, RFC 9110, section 12.5.1.
fn accepts_html(accept: Option<&str>) -> bool {
    let types = accept.into_iter().flat_map(|value| value.split(','));
    types
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .any(|range| range.eq_ignore_ascii_case("text/html"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_page_itself_has_the_place_of_the_summary() {
        let places: Vec<_> = FILES.iter().map(|file| file.content.matches(SUMMARY).count()).collect();
        assert!(places[0] == 1 && places.iter().sum::<usize>() == 1, "{places:?}");
    }

    #[test]
    fn only_a_client_that_names_html_gets_the_page() {
        for (accept, expected) in [
            (Some("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"), true),
            (Some("image/avif, TEXT/HTML;q=0.5"), true),
            (Some("*/*"), false),
            (Some("application/json"), false),
            (None, false),
        ] {
            assert_eq!(accepts_html(accept), expected, "{accept:?}");
        }
    }
}
