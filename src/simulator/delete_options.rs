//! The options of a deletion, from the body or the query.

use serde_json::{Value, json};

use super::request::{Request, unknown_dry_run};
use super::resources::{JOBS, Resource};
use super::status::ApiStatus;
use super::store::{items, text, uid};

/// Fields that are understood, and those of the preconditions.
const FIELDS: [&str; 7] =
    ["kind", "apiVersion", "dryRun", "gracePeriodSeconds", "orphanDependents", "preconditions", "propagationPolicy"];
const PRECONDITIONS: [&str; 2] = ["uid", "resourceVersion"];

/// The fate of the objects that belong to a deleted one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// DeleteOptions.
pub struct DeleteOptions {
    pub propagation: Propagation,
    pub grace_period: Option<i64>,
    pub dry_run: bool,
    /// The uid and the resource version that the object must have.
    preconditions: [Option<String>; 2],
}

impl DeleteOptions {
    /// Reads the options of a deletion from this resource. The body wins over the query.
    ///
    /// # Errors
    /// 400, 415 or 422
    pub fn parse(request: &Request, resource: &Resource) -> Result<Self, ApiStatus> {
        let body = request.json()?;
        check_fields(&body)?;
        let given = |key: &str| if body[key].is_null() { json!(request.query(key)) } else { body[key].clone() };
        let dry_run = items(&body["dryRun"]);
        if let Some(other) = dry_run.iter().find(|value| *value != "All") {
            return Err(unknown_dry_run("DeleteOptions", other));
        }
        let orphan = body["orphanDependents"].as_bool();
        let has_orphan = request.query.iter().any(|(key, _)| key == "orphanDependents");
        let orphan = orphan.or_else(|| has_orphan.then(|| request.flag("orphanDependents")));
        let propagation = propagation(&given("propagationPolicy"), orphan)?;
        if propagation.is_none() && *resource == JOBS {
            request.warn(ORPHANED);
        }
        let default = if *resource == JOBS { Propagation::Orphan } else { Propagation::Background };
        let grace_period = body["gracePeriodSeconds"].as_i64();
        Ok(Self {
            propagation: propagation.unwrap_or(default),
            grace_period: grace_period.map_or_else(|| request.number("gracePeriodSeconds"), |grace| Ok(Some(grace)))?,
            dry_run: !dry_run.is_empty() || request.dry_run("DeleteOptions")?,
            preconditions: PRECONDITIONS.map(|key| body["preconditions"][key].as_str().map(str::to_owned)),
        })
    }

    /// Refuses an object that does not meet the preconditions.
    ///
    /// # Errors
    /// 409
    pub fn check(&self, resource: &Resource, object: &Value) -> Result<(), ApiStatus> {
        let [wanted_uid, wanted_version] = &self.preconditions;
        let version = text(object, "/metadata/resourceVersion");
        let recreated = "The object might have been deleted and then recreated";
        let modified = "The object might have been modified";
        for (what, wanted, found, hint) in
            [("UID", wanted_uid, uid(object), recreated), ("ResourceVersion", wanted_version, version, modified)]
        {
            if let Some(wanted) = wanted.as_ref().filter(|wanted| *wanted != found) {
                let reason = format!(
                    "the {what} in the precondition ({wanted}) does not match the {what} in record ({found}). {hint}"
                );
                return Err(ApiStatus::conflict(&resource.qualified(), text(object, "/metadata/name"), &reason));
            }
        }
        Ok(())
    }
}

/// The warning of Kubernetes about its default for Jobs.
const ORPHANED: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove \
                        them or set propagationPolicy=Orphan to suppress this warning";

/// Refuses fields that are not understood or of a wrong type.
fn check_fields(body: &Value) -> Result<(), ApiStatus> {
    for (fields, known) in [(body, &FIELDS[..]), (&body["preconditions"], &PRECONDITIONS)] {
        for (key, value) in fields.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
            let is_right = match key.as_str() {
                unknown if !known.contains(&unknown) => {
                    let message = format!("the simulator does not support {key} in DeleteOptions");
                    return Err(ApiStatus::bad_request(message));
                }
                "dryRun" => value.is_array(),
                "gracePeriodSeconds" => value.is_i64(),
                "orphanDependents" => value.is_boolean(),
                "preconditions" => value.is_object(),
                _ => value.is_string(),
            };
            if !is_right {
                let message = format!("json: cannot unmarshal {value} into Go struct field DeleteOptions.{key}");
                return Err(ApiStatus::bad_request(message));
            }
        }
    }
    if body.is_object() { Ok(()) } else { Err(ApiStatus::bad_request("the body must be of type DeleteOptions")) }
}

/// Returns the chosen propagation, if any.
fn propagation(policy: &Value, orphan: Option<bool>) -> Result<Option<Propagation>, ApiStatus> {
    let invalid = |reason: &str| {
        let message = format!("DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: {reason}");
        Err(ApiStatus::new(422, "Invalid", message))
    };
    Ok(match (policy.as_str().unwrap_or_default(), orphan) {
        ("", Some(true)) => Some(Propagation::Orphan),
        ("", Some(false)) => Some(Propagation::Background),
        ("", None) => None,
        (policy, Some(_)) => {
            return invalid(&format!(
                "Invalid value: {policy:?}: orphanDependents and deletionPropagation cannot be both set"
            ));
        }
        ("Background", None) => Some(Propagation::Background),
        ("Foreground", None) => Some(Propagation::Foreground),
        ("Orphan", None) => Some(Propagation::Orphan),
        (policy, None) => {
            let supported = "supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"";
            return invalid(&format!("Unsupported value: {policy:?}: {supported}"));
        }
    })
}
