//! The API's routes: authenticates and authorizes a request, then carries it out.

use std::sync::Arc;

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::delete_options::DeleteOptions;
use super::rbac::{self, Attributes, User};
use super::request::Request;
use super::resources::{self, NAMESPACES, Resource, Target};
use super::response::Response;
use super::selector::Selector;
use super::status::ApiStatus;
use super::store::{Object, Store, name, namespace};
use super::update::{self, Change, Options};
use super::watch::Watch;
use super::{VERSION, identity, pod_log, quota, table, validation, write};

/// The parts of a resource's path; absent ones are empty. See RequestInfo of k8s.io/apiserver.
struct ResourcePath<'a> {
    group: &'a str,
    plural: &'a str,
    namespace: &'a str,
    name: &'a str,
    subresource: &'a str,
}

/// Answers a request.
pub fn handle(cluster: &Arc<Cluster>, request: &Request) -> Response {
    respond(cluster, request).unwrap_or_else(|status| Response::json(status.code, &status.into_json()))
}

/// Returns the response after a panic.
pub fn internal_error() -> Response {
    let status = ApiStatus::new(500, "InternalError", "internal error of the simulator; see the server's log");
    Response::json(500, &status.into_json())
}

fn respond(cluster: &Arc<Cluster>, request: &Request) -> Result<Response, ApiStatus> {
    let user = identity::authenticate(cluster, request)?;
    let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => Ok(Response::text("ok")),
        // Kubernetes indents this document, and scripts search it.
        ["version"] => Ok(Response::Complete(200, "application/json", format!("{:#}\n", version()).into_bytes())),
        // A document without schemas: kubectl then leaves validation to the server.
        ["openapi", "v2"] => {
            let media_type = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
            Ok(Response::Complete(200, media_type, Vec::new()))
        }
        ["api", "v1", rest @ ..] if !rest.is_empty() => on_resource(cluster, request, &user, &resource_path("", rest)),
        ["apis", group, "v1", rest @ ..] if !rest.is_empty() => {
            on_resource(cluster, request, &user, &resource_path(group, rest))
        }
        path => resources::discovery(path).map(|value| Response::json(200, &value)).ok_or_else(no_such_path),
    }
}

/// Returns all fields of a version.Info: clients require them. Where the simulator has no value, it is that of an unofficial build.
fn version() -> Value {
    json!({"major": "1", "minor": "36", "gitVersion": VERSION, "gitCommit": "$Format:%H$", "gitTreeState": "clean",
           "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64"})
}

fn no_such_path() -> ApiStatus {
    ApiStatus::new(404, "NotFound", "the server could not find the requested resource")
}

fn resource_path<'a>(group: &'a str, path: &[&'a str]) -> ResourcePath<'a> {
    let (namespace, path) = match path {
        ["namespaces", _, "status" | "finalize"] => ("", path),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        path => ("", path),
    };
    let part = |at: usize| path.get(at).copied().unwrap_or_default();
    ResourcePath { group, plural: part(0), namespace, name: part(1), subresource: part(2) }
}

fn on_resource(
    cluster: &Arc<Cluster>,
    request: &Request,
    user: &User,
    path: &ResourcePath<'_>,
) -> Result<Response, ApiStatus> {
    let verb = verb(request, path.name)?;
    let mut store = cluster.lock();
    authorize(&store, user, verb, path)?;
    let before = store.version();
    let resource = Resource::find(path.group, path.plural);
    if let Some(resource) = resource {
        check_scope(resource, verb, path)?;
    }
    let target = resource.map(|resource| Target { resource, namespace: path.namespace, name: path.name });
    let response = match (verb, path.subresource, &target) {
        ("create", ..) if path.group.starts_with("auth") => {
            identity::review(&store, request, user, path.plural)?.ok_or_else(no_such_path)
        }
        ("get", "log", Some(target)) if path.plural == "pods" => pod_log::read(cluster, &store, request, target),
        ("create", "token", Some(target)) if path.plural == "serviceaccounts" => {
            identity::create_token(cluster, &store, target)
        }
        (_, "", Some(target)) => on_objects(cluster, &mut store, request, (verb, target)),
        (_, "status", Some(target)) if target.resource.has_status() => match verb {
            "get" => get(&store, request, target),
            "patch" | "update" => change(&mut store, request, target, true),
            _ => Err(ApiStatus::method_not_allowed()),
        },
        _ => Err(no_such_path()),
    };
    if store.version() != before {
        quota::refresh(&mut store);
        cluster.notify();
    }
    response
}

/// Refuses a namespace in the path of a cluster-scoped resource, and the paths of all namespaces except for lists and watches.
fn check_scope(resource: &Resource, verb: &str, path: &ResourcePath<'_>) -> Result<(), ApiStatus> {
    let is_list = matches!(verb, "list" | "watch");
    match (resource.namespaced, path.namespace.is_empty()) {
        (false, false) => Err(no_such_path()),
        (true, true) if !path.name.is_empty() => Err(no_such_path()),
        (true, true) if !is_list => Err(ApiStatus::method_not_allowed()),
        _ if verb == "deletecollection" && *resource == NAMESPACES => Err(ApiStatus::method_not_allowed()),
        _ => Ok(()),
    }
}

fn verb(request: &Request, name: &str) -> Result<&'static str, ApiStatus> {
    match (request.method.as_str(), name) {
        ("GET", "") if request.flag("watch") => Ok("watch"),
        ("GET", "") => Ok("list"),
        ("GET", _) => Ok("get"),
        ("POST", _) => Ok("create"),
        ("PUT", "") | ("PATCH", "") => Err(ApiStatus::method_not_allowed()),
        ("PUT", _) => Ok("update"),
        ("PATCH", _) => Ok("patch"),
        ("DELETE", "") => Ok("deletecollection"),
        ("DELETE", _) => Ok("delete"),
        _ => Err(ApiStatus::method_not_allowed()),
    }
}

fn authorize(store: &Store, user: &User, verb: &str, path: &ResourcePath<'_>) -> Result<(), ApiStatus> {
    let ResourcePath { group, plural, namespace, name, subresource } = *path;
    let resource = if subresource.is_empty() { plural.to_owned() } else { format!("{plural}/{subresource}") };
    let attributes = Attributes { verb, group, resource: &resource, namespace, name };
    // Every user may review its own permissions.
    if plural.starts_with("selfsubject") || rbac::allows(store, user, &attributes) {
        return Ok(());
    }
    let qualified = Resource::find(group, plural).map_or_else(|| plural.to_owned(), Resource::qualified);
    Err(ApiStatus::forbidden(&qualified, name, &rbac::denial(user, &attributes)))
}

fn on_objects(
    cluster: &Arc<Cluster>,
    store: &mut Store,
    request: &Request,
    (verb, target): (&str, &Target<'_>),
) -> Result<Response, ApiStatus> {
    match verb {
        "list" => list(store, request, target),
        "watch" => {
            let mut watch = Watch::new(cluster, store, request, target)?;
            Ok(Response::Stream("application/json", Box::new(move |timeout| watch.next(timeout))))
        }
        "get" => get(store, request, target),
        "create" => {
            let body = read_object(request, target.resource)?;
            let object = write::create(store, target, body, request.dry_run("CreateOptions")?)?;
            Ok(Response::json(201, &object))
        }
        "patch" | "update" => change(store, request, target, false),
        "delete" => write::delete(store, target, &DeleteOptions::parse(request, target.resource)?)
            .map(|answer| Response::json(200, &answer)),
        _ => delete_collection(store, request, target),
    }
}

fn get(store: &Store, request: &Request, target: &Target<'_>) -> Result<Response, ApiStatus> {
    let Target { resource, namespace, name } = *target;
    let found = store.get(resource, namespace, name).ok_or_else(|| ApiStatus::not_found(resource, name))?;
    if request.wants_table() {
        let table = table::table(resource, std::slice::from_ref(found), request.includes_objects());
        return Ok(Response::json(200, &table));
    }
    Ok(Response::json(200, found))
}

fn change(store: &mut Store, request: &Request, target: &Target<'_>, is_status: bool) -> Result<Response, ApiStatus> {
    let (options, change): (_, fn(Value) -> Change) = match (request.method.as_str(), request.media_type()) {
        ("PUT", _) => ("UpdateOptions", Change::Replace),
        (_, "application/apply-patch+yaml") => ("PatchOptions", Change::Apply),
        (_, "application/merge-patch+json" | "application/strategic-merge-patch+json") => {
            ("PatchOptions", Change::Merge)
        }
        (_, "application/json-patch+json") => ("PatchOptions", Change::Edit),
        _ => {
            let message = "the body of the request was in an unknown format";
            return Err(ApiStatus::new(415, "UnsupportedMediaType", message));
        }
    };
    let body = match request.media_type() {
        "application/json-patch+json" => request.json()?,
        _ => read_object(request, target.resource)?,
    };
    let options = Options { is_status, dry_run: request.dry_run(options)? };
    let (object, is_new) = update::update(store, target, change(body), options)?;
    Ok(Response::json(if is_new { 201 } else { 200 }, &object))
}

/// Reads an object or a part of one, without the fields that Kubernetes does not have. They are errors or warnings, as
/// fieldValidation says.
///
/// # Errors
/// 400 or 415
fn read_object(request: &Request, resource: &Resource) -> Result<Value, ApiStatus> {
    let mut object = request.json()?;
    let unknown = validation::unknown_fields(resource, &mut object)?;
    let unknown: Vec<String> = unknown.into_iter().map(|path| format!("unknown field \"{path}\"")).collect();
    match request.query("fieldValidation") {
        "Strict" if !unknown.is_empty() => {
            return Err(validation::not_handled(resource, &format!("strict decoding error: {}", unknown.join(", "))));
        }
        "Ignore" | "Strict" => {}
        "" | "Warn" => unknown.into_iter().for_each(|text| request.warn(text)),
        _ => return Err(ApiStatus::bad_request("fieldValidation must be Ignore, Warn or Strict")),
    }
    Ok(object)
}

/// Deletes the selected objects. Kubernetes deletes a page of them with `limit`, which is not supported.
fn delete_collection(store: &mut Store, request: &Request, target: &Target<'_>) -> Result<Response, ApiStatus> {
    if request.number("limit")?.is_some_and(|limit| limit > 0) || !request.query("continue").is_empty() {
        return Err(ApiStatus::bad_request("the simulator does not support limit and continue in a deletion"));
    }
    let (options, selector) =
        (DeleteOptions::parse(request, target.resource)?, Selector::parse(request, target.resource)?);
    let found = store.list(target.resource, target.namespace).filter(|object| selector.matches(object));
    let found: Vec<Object> = found.cloned().collect();
    for object in &found {
        let target = Target { namespace: namespace(object), name: name(object), ..*target };
        write::delete(store, &target, &options)?;
    }
    Ok(Response::json(200, &list_json(target.resource, &found, &json!({}))))
}

/// Answers a list, or a page of one. The continue token holds the version of the first page and the last name sent. If the
/// resource has changed since, the pages would not form one list, and the answer is 410.
fn list(store: &Store, request: &Request, target: &Target<'_>) -> Result<Response, ApiStatus> {
    let (resource, selector) = (target.resource, Selector::parse(request, target.resource)?);
    let key = |object: &Object| format!("{}/{}", namespace(object), name(object));
    let (mut version, mut after) = (store.version(), String::new());
    if let Some((first, last)) = request.query("continue").split_once(' ') {
        version = first.parse().unwrap_or_default();
        let is_same = store.since(version).is_some_and(|mut all| all.all(|change| change.plural != resource.plural));
        if !is_same {
            let message = "The provided continue parameter is too old to display a consistent list result.";
            return Err(ApiStatus::new(410, "Expired", message));
        }
        last.clone_into(&mut after);
    }
    let is_next = |object: &&Object| selector.matches(object) && (after.is_empty() || key(object) > after);
    let mut found: Vec<Object> = store.list(resource, target.namespace).filter(is_next).cloned().collect();
    let mut metadata = json!({"resourceVersion": version.to_string()});
    let limit = request.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    let limit = limit.unwrap_or(usize::MAX);
    if found.len() > limit {
        metadata["remainingItemCount"] = json!(found.len() - limit);
        found.truncate(limit);
        metadata["continue"] = json!(format!("{version} {}", found.last().map(key).unwrap_or_default()));
    }
    if request.wants_table() {
        let mut table = table::table(resource, &found, request.includes_objects());
        table["metadata"] = metadata;
        return Ok(Response::json(200, &table));
    }
    Ok(Response::json(200, &list_json(resource, &found, &metadata)))
}

fn list_json(resource: &Resource, objects: &[Object], metadata: &Value) -> Value {
    let items: Vec<&Value> = objects.iter().map(|object| &**object).collect();
    json!({"kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(), "metadata": metadata, "items": items})
}
