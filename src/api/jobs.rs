//! POST /img-classification/TIER: from a request body to a Job in Kubernetes.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::api::error::{ApiError, NewJob};
use crate::api::response::Response;
use crate::api::{App, Request, idempotency};
use crate::job::{self, Dataset, Tier};
use crate::kube::Created;

/// Creates a Job and returns its name. A repeat with the same Idempotency-Key returns the Job of the first request.
///
/// # Errors
/// 411 without a body, 400 for a body without exactly one known dataset or a malformed key, or the failure of Kubernetes.
pub fn create(app: &App, tier: Tier, request: &Request<'_>) -> Result<Response, ApiError> {
    let dataset = dataset(request.body.ok_or(ApiError::LengthRequired)?)?;
    let key = idempotency::key(request)?;
    let name = key.map_or_else(|| random_name(tier, dataset), |key| Ok(job::keyed_name(tier, dataset, key)))?;
    let manifest = app.manifests.named(tier, dataset, &name);
    let deadline = Instant::now() + app.remaining(request);
    let created = app.kube.create_job(tier.namespace(), &name, manifest.as_bytes(), deadline);
    let new = || NewJob { tier, name: name.as_str().into(), has_key: key.is_some() };
    let is_replay = match created {
        Ok(Created::Found) if key.is_some() => idempotency::find(app, new(), None, deadline)?,
        // A random name is this request's own.
        Ok(Created::New | Created::Found) => false,
        Err(error) if key.is_some() => idempotency::find(app, new(), Some(error), deadline)?,
        Err(error) => return Err(ApiError::create(error, new())),
    };
    if !is_replay {
        app.watched.iter().for_each(|watched| watched.jobs.add_created(tier, &name, dataset));
    }
    // Written by hand for the order of the keys; no value needs escaping.
    let body = format!(
        r#"{{"job":"{name}","namespace":"{}","tier":"{}","dataset":"{}","type":"{}"}}"#,
        tier.namespace(),
        tier.as_str(),
        dataset.as_str(),
        tier.network()
    );
    let mut response = Response::json(200, Arc::new(body.into_bytes()));
    response.headers.push(("Location", format!("/jobs/{name}")));
    if is_replay {
        response.headers.push(("Idempotency-Replayed", "true".to_owned()));
    }
    Ok(response.with_detail(name))
}

fn random_name(tier: Tier, dataset: Dataset) -> Result<String, ApiError> {
    let mut random = [0; 8];
    getrandom::getrandom(&mut random).map_err(|_| ApiError::NoRandomness)?;
    Ok(job::name(tier, dataset, u64::from_ne_bytes(random)))
}

/// Reads `{"dataset": NAME}`; other keys are ignored. Also reads what students' clients send instead: a byte order mark before it, the
/// object as a JSON string (`json=json.dumps(...)` of Python's requests), or the form `dataset=NAME` (`data={...}`).
///
/// # Errors
/// 400 with the problem.
pub fn dataset(body: &[u8]) -> Result<Dataset, ApiError> {
    let text = std::str::from_utf8(body).map_err(|_| ApiError::BadBody("is not UTF-8"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim();
    if text.is_empty() {
        return Err(ApiError::BadBody("is empty"));
    }
    if let Some(name) = text.strip_prefix("dataset=") {
        return known(name);
    }
    match serde_json::from_str::<String>(text) {
        Ok(inner) => dataset_of_object(&inner),
        Err(_) => dataset_of_object(text),
    }
}

fn known(name: &str) -> Result<Dataset, ApiError> {
    Dataset::parse(name).ok_or(ApiError::BadBody("names an unknown dataset"))
}

fn dataset_of_object(text: &str) -> Result<Dataset, ApiError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let found = json.deserialize_map(BodyVisitor).and_then(|found| json.end().map(|()| found));
    match found {
        Ok(Found::One(name)) => known(&name),
        Ok(Found::None) => Err(ApiError::BadBody("has no dataset")),
        Ok(Found::Many) => Err(ApiError::BadBody("names the dataset more than once")),
        Ok(Found::NotText) => Err(ApiError::BadBody("has a dataset that is not a string")),
        Err(_) => Err(ApiError::BadBody("is not a single JSON object")),
    }
}

/// The values of the key `dataset`. serde's derive would accept an array as an object and hide a repeated key.
enum Found {
    None,
    One(String),
    Many,
    NotText,
}

struct BodyVisitor;

impl<'de> Visitor<'de> for BodyVisitor {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Found, M::Error> {
        let mut found = Found::None;
        while let Some(key) = map.next_key::<String>()? {
            if key != "dataset" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            found = match (found, map.next_value()?) {
                (Found::None, serde_json::Value::String(name)) => Found::One(name),
                (Found::None, _) => Found::NotText,
                _ => Found::Many,
            };
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_an_object_with_one_known_dataset() {
        for good in [
            r#"{"dataset":"mnist"}"#,
            " {\n\"dataset\" : \"mnist\" }\r\n",
            r#"{"x":[1,{"dataset":"kmnist"}],"dataset":"mnist"}"#,
            r#"{"d\u0061taset":"mnist"}"#,
            "\u{feff}{\"dataset\":\"mnist\"}",
            r#""{\"dataset\": \"mnist\"}""#,
            "\u{feff}dataset=mnist\r\n",
        ] {
            assert_eq!(dataset(good.as_bytes()).ok(), Some(Dataset::Mnist), "{good}");
        }
        let table = [
            ("", "empty"),
            (" \n", "empty"),
            ("mnist", "JSON"),
            (r#""mnist""#, "JSON"),
            (r#"["mnist"]"#, "JSON"),
            ("null", "JSON"),
            ("{}", "no dataset"),
            (r#"{"dataset":null}"#, "not a string"),
            (r#"{"dataset":7}"#, "not a string"),
            (r#"{"dataset":["mnist"]}"#, "not a string"),
            (r#"{"dataset":{"mnist":null}}"#, "not a string"),
            (r#"{"dataset":"MNIST"}"#, "unknown"),
            (r#"{"dataset":"cifar"}"#, "unknown"),
            (r#"{"Dataset":"mnist"}"#, "no dataset"),
            (r#"{"dataset":"mnist","dataset":"mnist"}"#, "more than once"),
            (r#"{"dataset":"mnist"} {}"#, "JSON"),
            (r#"{"dataset":"mnist""#, "JSON"),
            ("\u{feff}", "empty"),
            ("\u{feff}\u{feff}{\"dataset\":\"mnist\"}", "JSON"),
            (r#""\"{\\\"dataset\\\":\\\"mnist\\\"}\"""#, "JSON"),
            ("dataset=", "unknown"),
            ("dataset=mnist&dataset=mnist", "unknown"),
            ("x=1&dataset=mnist", "JSON"),
        ];
        for (bad, expected) in table {
            let response = dataset(bad.as_bytes()).map_err(ApiError::into_response).expect_err(bad);
            assert_eq!(response.status, 400, "{bad}");
            assert!(response.log_detail.contains(expected), "{bad}: {}", response.log_detail);
        }
        assert!(dataset(b"{\"dataset\":\"mnist\xff\"}").is_err());
    }
}
