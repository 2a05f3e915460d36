//! From a request to an answer: who asks, for what, whether they may.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::rbac::{self, User, Wanted};
use super::resources::{self, ACCOUNTS, PODS, Resource};
use super::store::{self, Object, Refusal, Store, has_ended, name, namespace, text};
use super::{Cluster, protobuf, table, write};

/// Steps of a training that the log shows, as the classifier has them: 5 epochs of 600 batches, every hundredth.
const STEPS: u32 = 30;

/// A watch without a timeout of its own ends after this time; clients start another.
const WATCH_MOST: Duration = Duration::from_secs(1800);

/// A request; its path and its query are decoded.
pub struct Request {
    pub method: String,
    pub path: Vec<String>,
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// An answer.
pub enum Answer {
    Whole(u16, &'static str, Vec<u8>),
    Watch(Watch),
}

impl Request {
    fn query(&self, name: &str) -> &str {
        self.query.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }

    fn wants_table(&self) -> bool {
        self.header("Accept").contains("as=Table")
    }

    fn json(&self) -> Result<Value, Refusal> {
        if self.header("Content-Type").contains("protobuf") {
            let message = "the embedded cluster reads JSON only; write the object into a file for kubectl create -f";
            return protobuf::read(&self.body).ok_or_else(|| Refusal::new(415, "UnsupportedMediaType", message));
        }
        let broken = |error| Refusal::bad_request(format!("the object provided is unrecognized: {error}"));
        if self.body.is_empty() { Ok(json!({})) } else { serde_json::from_slice(&self.body).map_err(broken) }
    }
}

fn whole(code: u16, value: &Value) -> Answer {
    Answer::Whole(code, "application/json", format!("{value}\n").into_bytes())
}

/// Answers.
pub fn answer(cluster: &Arc<Cluster>, request: &Request) -> Answer {
    respond(cluster, request).unwrap_or_else(|refusal| whole(refusal.code, &refusal.into_json()))
}

/// What is said after a panic.
pub fn fault() -> Answer {
    whole(500, &Refusal::new(500, "InternalError", "a fault of the embedded cluster; see its log").into_json())
}

fn respond(cluster: &Arc<Cluster>, request: &Request) -> Result<Answer, Refusal> {
    let user = authenticate(cluster, request)?;
    let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => Ok(Answer::Whole(200, "text/plain", b"ok".to_vec())),
        ["version"] => {
            Ok(whole(200, &json!({"major": "1", "minor": "36", "gitVersion": super::VERSION, "platform": "linux"})))
        }
        // A document without schemas: there is nothing to hold manifests against, and kubectl leaves it to us.
        ["openapi", "v2"] => {
            Ok(Answer::Whole(200, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf", Vec::new()))
        }
        ["api", "v1", rest @ ..] if !rest.is_empty() => on_resource(cluster, request, &user, "", rest),
        ["apis", group, "v1", rest @ ..] if !rest.is_empty() => on_resource(cluster, request, &user, group, rest),
        path => resources::discovery(path).map(|value| whole(200, &value)).ok_or_else(no_such_path),
    }
}

fn no_such_path() -> Refusal {
    Refusal::new(404, "NotFound", "the server could not find the requested resource")
}

fn authenticate(cluster: &Cluster, request: &Request) -> Result<User, Refusal> {
    let token = request.header("Authorization").strip_prefix("Bearer ").unwrap_or_default();
    let user = cluster.user(token).ok_or_else(|| Refusal::new(401, "Unauthorized", "Unauthorized"))?;
    let acted = request.header("Impersonate-User");
    if acted.is_empty() {
        return Ok(user);
    }
    if !user.is_admin() {
        let why = rbac::refusal(
            &user,
            &Wanted { verb: "impersonate", group: "", resource: "users", namespace: "", name: acted },
        );
        return Err(Refusal::forbidden("users", acted, &why));
    }
    let groups = request.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case("Impersonate-Group"));
    Ok(User::named(acted, &groups.map(|(_, value)| value.clone()).collect::<Vec<_>>()))
}

/// A path of a resource, taken apart.
struct Target<'a> {
    plural: &'a str,
    namespace: &'a str,
    name: &'a str,
}

fn on_resource(
    cluster: &Arc<Cluster>,
    request: &Request,
    user: &User,
    group: &str,
    rest: &[&str],
) -> Result<Answer, Refusal> {
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        rest => ("", rest),
    };
    let mut parts = [rest, &[""; 2]].concat().into_iter();
    let [plural, name, subresource] = [parts.next(), parts.next(), parts.next()].map(Option::unwrap_or_default);
    let target = Target { plural, namespace, name };
    let verb = match (request.method.as_str(), name) {
        ("GET", "") if matches!(request.query("watch"), "1" | "true") => "watch",
        ("GET", "") => "list",
        ("GET", _) => "get",
        ("POST", _) => "create",
        ("PATCH", _) => "patch",
        ("DELETE", "") => "deletecollection",
        ("DELETE", _) => "delete",
        _ => {
            return Err(Refusal::new(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            ));
        }
    };
    let resource = if subresource.is_empty() { plural.to_owned() } else { format!("{plural}/{subresource}") };
    let mut store = cluster.lock();
    let wanted = Wanted { verb, group, resource: &resource, namespace, name };
    // Everybody may ask what oneself may.
    if !plural.starts_with("selfsubject") && !rbac::allows(&store, user, &wanted) {
        let what = Resource::find(group, plural).map_or_else(|| plural.to_owned(), Resource::qualified);
        return Err(Refusal::forbidden(&what, name, &rbac::refusal(user, &wanted)));
    }
    let before = store.version();
    let answer = match (verb, resource.as_str()) {
        ("get", "pods/log") => pod_log(cluster, &store, &target),
        ("create", "serviceaccounts/token") => token(cluster, &store, &target),
        ("create", _) if group.starts_with("auth") => review(&store, request, user, &target),
        _ => match Resource::find(group, plural).filter(|_| subresource.is_empty()) {
            Some(resource) => on_objects(cluster, &mut store, request, resource, (verb, &target)),
            None => Err(no_such_path()),
        },
    };
    if store.version() != before {
        super::quota::refresh(&mut store);
        cluster.ring();
    }
    answer
}

fn on_objects(
    cluster: &Arc<Cluster>,
    store: &mut Store,
    request: &Request,
    resource: &'static Resource,
    (verb, target): (&str, &Target<'_>),
) -> Result<Answer, Refusal> {
    let (space, dry_run) = (target.namespace, request.query("dryRun") == "All");
    let path = (space, target.name);
    match verb {
        "list" => list(store, request, resource, space),
        "watch" => Watch::new(cluster, store, request, resource, space).map(Answer::Watch),
        "get" => {
            let found =
                store.get(resource, space, target.name).ok_or_else(|| Refusal::not_found(resource, target.name))?;
            let with_objects = request.query("includeObject") == "Object";
            let table = || table::table(resource, std::slice::from_ref(found), with_objects);
            Ok(if request.wants_table() { whole(200, &table()) } else { whole(200, found) })
        }
        "create" => write::create(store, resource, space, request.json()?, dry_run).map(|object| whole(201, &object)),
        "patch" => {
            let is_apply = match request.header("Content-Type").split(';').next().unwrap_or_default() {
                "application/apply-patch+yaml" => true,
                "application/merge-patch+json" | "application/strategic-merge-patch+json" => false,
                _ => {
                    return Err(Refusal::new(
                        415,
                        "UnsupportedMediaType",
                        "the body of the request was in an unknown format",
                    ));
                }
            };
            let (object, is_new) = write::patch(store, resource, path, request.json()?, (is_apply, dry_run))?;
            Ok(whole(if is_new { 201 } else { 200 }, &object))
        }
        "delete" => write::delete(store, resource, path, &deletion(request)?).map(|answer| whole(200, &answer)),
        _ => {
            let (options, selector) = (deletion(request)?, Selector::parse(request));
            let found: Vec<Object> =
                store.list(resource, space).filter(|object| selector.matches(object)).cloned().collect();
            for object in &found {
                write::delete(store, resource, (namespace(object), name(object)), &options)?;
            }
            Ok(whole(200, &list_json(resource, &found, &json!({}))))
        }
    }
}

/// The DeleteOptions of body and query.
fn deletion(request: &Request) -> Result<Value, Refusal> {
    let mut options = request.json()?;
    for key in ["propagationPolicy", "gracePeriodSeconds"] {
        if options[key].is_null() && !request.query(key).is_empty() {
            let text = request.query(key);
            options[key] = text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number));
        }
    }
    Ok(options)
}

fn list_json(resource: &Resource, objects: &[Object], metadata: &Value) -> Value {
    let items: Vec<&Value> = objects.iter().map(|object| &**object).collect();
    json!({"kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(), "metadata": metadata, "items": items})
}

/// A list, or a page of one. The token of the next page is the version of the first and the last name that it had: where
/// anything of the resource has changed since, the rest would be of another list, and the answer is 410.
fn list(store: &Store, request: &Request, resource: &Resource, space: &str) -> Result<Answer, Refusal> {
    let selector = Selector::parse(request);
    let key = |object: &Object| format!("{}/{}", namespace(object), name(object));
    let (mut version, mut after) = (store.version(), String::new());
    if let Some((first, last)) = request.query("continue").split_once(' ') {
        version = first.parse().unwrap_or_default();
        let is_same = store.since(version).is_some_and(|mut all| all.all(|change| change.plural != resource.plural));
        if !is_same {
            let message = "The provided continue parameter is too old to display a consistent list result.";
            return Err(Refusal::new(410, "Expired", message));
        }
        last.clone_into(&mut after);
    }
    let found = store
        .list(resource, space)
        .filter(|object| selector.matches(object) && (after.is_empty() || key(object) > after));
    let mut found: Vec<Object> = found.cloned().collect();
    let mut metadata = json!({"resourceVersion": version.to_string()});
    let limit = request.query("limit").parse().ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    if found.len() > limit {
        metadata["remainingItemCount"] = json!(found.len() - limit);
        found.truncate(limit);
        metadata["continue"] = json!(format!("{version} {}", found.last().map(key).unwrap_or_default()));
    }
    if request.wants_table() {
        let mut table = table::table(resource, &found, request.query("includeObject") == "Object");
        table["metadata"] = metadata;
        return Ok(whole(200, &table));
    }
    Ok(whole(200, &list_json(resource, &found, &metadata)))
}

/// A labelSelector (equality and existence) and a fieldSelector, as pointers and wanted values.
pub struct Selector(Vec<(String, Test)>);

enum Test {
    Is(String),
    IsNot(String),
    Exists,
}

impl Selector {
    fn parse(request: &Request) -> Self {
        let read = |query: &str, pointer: &dyn Fn(&str) -> String| -> Vec<(String, Test)> {
            let parts = query.split(',').filter(|part| !part.is_empty());
            let read = |part: &str| match (part.split_once("!="), part.split_once('=')) {
                (Some((key, value)), _) => (pointer(key), Test::IsNot(value.to_owned())),
                (_, Some((key, value))) => (pointer(key), Test::Is(value.trim_start_matches('=').to_owned())),
                _ => (pointer(part), Test::Exists),
            };
            parts.map(read).collect()
        };
        let label = |key: &str| format!("/metadata/labels/{}", key.trim().replace('~', "~0").replace('/', "~1"));
        let mut all = read(request.query("labelSelector"), &label);
        all.extend(read(request.query("fieldSelector"), &|key| format!("/{}", key.replace('.', "/"))));
        Self(all)
    }

    fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(pointer, test)| match test {
            Test::Is(value) => text(object, pointer) == value,
            Test::IsNot(value) => text(object, pointer) != value,
            Test::Exists => object.pointer(pointer).is_some(),
        })
    }
}

/// What happens to a resource's objects from a version on, as lines of JSON.
pub struct Watch {
    cluster: Arc<Cluster>,
    resource: &'static Resource,
    space: String,
    selector: Selector,
    /// Tables are wanted, and whether with whole objects.
    table: Option<bool>,
    version: u64,
    wants_bookmark: bool,
    until: Instant,
    /// What was there already.
    first: Vec<Object>,
}

impl Watch {
    fn new(
        cluster: &Arc<Cluster>,
        store: &Store,
        request: &Request,
        resource: &'static Resource,
        space: &str,
    ) -> Result<Self, Refusal> {
        let selector = Selector::parse(request);
        let from = request.query("resourceVersion");
        let is_new = matches!(from, "" | "0");
        let first = store.list(resource, space).filter(|object| is_new && selector.matches(object)).cloned().collect();
        let broken = |_| Refusal::bad_request(format!("resourceVersion: Invalid value: \"{from}\""));
        let version = if is_new { store.version() } else { from.parse().map_err(broken)? };
        let limit = request.query("timeoutSeconds").parse().map_or(WATCH_MOST, Duration::from_secs).min(WATCH_MOST);
        let table = request.wants_table().then(|| request.query("includeObject") == "Object");
        let (cluster, space, until) = (Arc::clone(cluster), space.to_owned(), Instant::now() + limit);
        let wants_bookmark = table.is_none() && request.query("allowWatchBookmarks") == "true";
        Ok(Self { cluster, resource, space, selector, table, version, wants_bookmark, until, first })
    }

    /// The next lines; empty if nothing happened within `patience`, none at the end.
    pub fn next(&mut self, patience: Duration) -> Option<Vec<u8>> {
        if !self.first.is_empty() {
            let first = std::mem::take(&mut self.first);
            return Some(first.iter().flat_map(|object| self.line("ADDED", object)).collect());
        }
        if Instant::now() >= self.until {
            // A bookmark is the last word of a watch that ends in good order, and only if it is wanted.
            let mark =
                std::mem::take(&mut self.wants_bookmark).then(|| json!({"resourceVersion": self.version.to_string()}));
            let (kind, version) = (self.resource.kind, self.resource.api_version());
            return mark.map(|mark| event("BOOKMARK", &json!({"kind": kind, "apiVersion": version, "metadata": mark})));
        }
        let cluster = Arc::clone(&self.cluster);
        let store = cluster.wait(self.version, self.until.min(Instant::now() + patience))?;
        let Some(changes) = store.since(self.version) else {
            self.until = Instant::now();
            self.wants_bookmark = false;
            let gone = Refusal::new(410, "Expired", format!("too old resource version: {}", self.version)).into_json();
            return Some(event("ERROR", &gone));
        };
        let is_ours = |change: &&store::Change| {
            change.plural == self.resource.plural
                && (self.space.is_empty() || namespace(&change.object) == self.space)
                && self.selector.matches(&change.object)
        };
        let lines = changes.filter(is_ours).flat_map(|change| self.line(change.kind, &change.object)).collect();
        self.version = store.version();
        Some(lines)
    }

    fn line(&self, kind: &str, object: &Object) -> Vec<u8> {
        let shown = match self.table {
            Some(with_objects) => table::table(self.resource, std::slice::from_ref(object), with_objects),
            None => Value::clone(object),
        };
        event(kind, &shown)
    }
}

/// A line of a watch.
fn event(kind: &str, object: &Value) -> Vec<u8> {
    format!("{}\n", json!({"type": kind, "object": object})).into_bytes()
}

/// What the classifier would have printed by now.
fn pod_log(cluster: &Cluster, store: &Store, target: &Target<'_>) -> Result<Answer, Refusal> {
    let pod = store.get(&PODS, target.namespace, target.name).ok_or_else(|| Refusal::not_found(&PODS, target.name))?;
    let state = &pod["status"]["containerStatuses"][0]["state"];
    let started = text(state, "/running/startedAt").to_owned() + text(state, "/terminated/startedAt");
    let Ok(started) = humantime::parse_rfc3339(&started) else {
        // Without a node there is nobody to ask, and nothing to say.
        if text(pod, "/spec/nodeName").is_empty() {
            return Ok(Answer::Whole(200, "text/plain", Vec::new()));
        }
        let state = if state["waiting"].is_null() { "ContainerCreating" } else { "image can't be pulled" };
        let (container, pod) = (text(pod, "/spec/containers/0/name"), target.name);
        let why = format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {state}");
        return Err(Refusal::bad_request(why));
    };
    let env = |key: &str| {
        let env = store::items(&pod["spec"]["containers"][0]["env"]);
        env.iter().find(|pair| pair["name"] == key).map_or("", |pair| text(pair, "/value")).to_owned()
    };
    let limit = text(pod, "/spec/containers/0/resources/limits/cpu");
    let limit = crate::kube::quantity::parse(limit)
        .map_or_else(|| "none".to_owned(), |milli| format!("{}.{}", milli / 1000, milli % 1000 / 100));
    let mut log = format!("dataset: {}\ntype: {}\ncpu limit: {limit}\n", env("DATASET"), env("TYPE"));
    let per_step = cluster.job_time / STEPS;
    let is_done = |step: u32| has_ended(pod) || started.elapsed().unwrap_or_default() >= per_step * (step + 1);
    for step in (0..STEPS).take_while(|step| is_done(*step)) {
        let (epoch, batch, loss) = (step / 6 + 1, (step % 6 + 1) * 100, 1.2 / f64::from(step + 4));
        log.push_str(&format!("Epoch [{epoch}/5], Step [{batch}/600], Loss: {loss:.4}\n"));
    }
    match text(pod, "/status/phase") {
        "Succeeded" => log.push_str("Accuracy of the network on the 10K test images: 98 %\n"),
        "Failed" => log.push_str("classifier: the training has failed\n"),
        _ => {}
    }
    Ok(Answer::Whole(200, "text/plain", log.into_bytes()))
}

/// A TokenRequest for a service account.
fn token(cluster: &Cluster, store: &Store, target: &Target<'_>) -> Result<Answer, Refusal> {
    store.get(&ACCOUNTS, target.namespace, target.name).ok_or_else(|| Refusal::not_found(&ACCOUNTS, target.name))?;
    let token = cluster.issue(&format!("system:serviceaccount:{}:{}", target.namespace, target.name));
    let kind = ("TokenRequest", "authentication.k8s.io/v1");
    Ok(whole(
        201,
        &json!({"kind": kind.0, "apiVersion": kind.1, "metadata": {}, "spec": {}, "status": {"token": token}}),
    ))
}

/// Who one is, and what one, or somebody else, may do.
fn review(store: &Store, request: &Request, user: &User, target: &Target<'_>) -> Result<Answer, Refusal> {
    let mut review = request.json()?;
    let spec = review["spec"].clone();
    let asked = match target.plural {
        "selfsubjectreviews" => {
            write::merge(&mut review, json!({"status": {"userInfo": {"username": user.name, "groups": user.groups}}}));
            return Ok(whole(201, &review));
        }
        "selfsubjectaccessreviews" => user.clone(),
        "subjectaccessreviews" => {
            let groups: Vec<String> =
                store::items(&spec["groups"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
            User::named(text(&spec, "/user"), &groups)
        }
        _ => return Err(no_such_path()),
    };
    let field = |name: &str| text(&spec, &format!("/resourceAttributes/{name}"));
    let resource = match field("subresource") {
        "" => field("resource").to_owned(),
        subresource => format!("{}/{subresource}", field("resource")),
    };
    let (verb, group, namespace, name) = (field("verb"), field("group"), field("namespace"), field("name"));
    let allowed = rbac::allows(store, &asked, &Wanted { verb, group, resource: &resource, namespace, name });
    write::merge(&mut review, json!({"status": {"allowed": allowed}}));
    Ok(whole(201, &review))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(query: &[(&str, &str)]) -> Request {
        let query = query.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Request { method: "GET".into(), path: Vec::new(), query, headers: Vec::new(), body: Vec::new() }
    }

    #[test]
    fn selectors_are_read_as_kubectl_writes_them() {
        let pod =
            json!({"metadata": {"name": "p", "labels": {"a": "1", "tier/x": "free"}}, "status": {"phase": "Running"}});
        for (labels, fields, matches) in [
            ("", "", true),
            ("a=1,tier/x=free", "metadata.name=p", true),
            ("a==1", "status.phase!=Pending", true),
            ("a=2", "", false),
            ("a!=1", "", false),
            ("tier/x", "", true),
            ("b", "", false),
            ("", "metadata.name=q", false),
        ] {
            let request = request(&[("labelSelector", labels), ("fieldSelector", fields)]);
            assert_eq!(Selector::parse(&request).matches(&pod), matches, "{labels} {fields}");
        }
    }
}
