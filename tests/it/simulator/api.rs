//! The simulator's API: watch, list, apply, RBAC and errors.

use super::{FREE_PODS, JOBS, PODS, ROLES, STRATEGIC, job, names, pod, start, text};
use crate::support::eventually;
use crate::support::kubernetes::{APPLY, MERGE};
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[test]
fn watch_sends_each_change_once_from_the_resource_version_of_the_list() {
    let local = start("long");
    let version = text(&local.kube.get(PODS).1, "/metadata/resourceVersion");
    let mut watch = local.kube.watch(&format!("{PODS}?watch=1&resourceVersion={version}&labelSelector=app=one"));
    for name in ["other", "one"] {
        assert_eq!(local.kube.post(PODS, &pod(name, "long", "1m")).0, 201);
    }
    let added = watch.next().unwrap();
    assert_eq!((&added["type"], text(&added, "/object/metadata/name")), (&json!("ADDED"), "one".into()));
    watch.until("it runs", |event| event["type"] == "MODIFIED" && event["object"]["status"]["phase"] == "Running");
    local.kube.delete(&format!("{PODS}/one"), &json!({"gracePeriodSeconds": 0}));
    let last = watch.until("it goes", |event| event["type"] == "DELETED");
    assert_eq!(text(&last, "/object/metadata/name"), "one");

    // Without a resource version the watch begins with the existing objects; the timeout ends it.
    let mut watch = local.kube.watch(&format!("{PODS}?watch=true&timeoutSeconds=1"));
    assert_eq!(text(&watch.next().unwrap(), "/object/metadata/name"), "other");
    while watch.next().is_some() {}
}

#[test]
fn booleans_and_numbers_of_a_query_are_read_as_kubernetes_reads_them() {
    let local = start("long");
    // The Python clients send True, and Go's conversion takes any text but these for true.
    for value in ["=True", "=1", "=t", "=yes", "=", ""] {
        let mut watch =
            local.kube.watch(&format!("/api/v1/nodes?timeoutSeconds=1&allowWatchBookmarks{value}&watch{value}"));
        assert_eq!(watch.next().unwrap()["type"], "ADDED", "{value:?}");
        watch.until("the bookmark", |event| event["type"] == "BOOKMARK");
    }
    for value in ["False", "0", "fAlse"] {
        assert_eq!(local.kube.get(&format!("/api/v1/nodes?watch={value}")).1["kind"], "NodeList", "{value}");
    }
    for query in ["limit=x", "limit=", "watch=1&timeoutSeconds=1.5"] {
        let (status, body) = local.kube.get(&format!("/api/v1/nodes?{query}"));
        assert_eq!((status, text(&body, "/reason")), (400, "BadRequest".into()), "{query}");
    }
}

#[test]
fn watch_from_an_expired_version_is_gone() {
    let local = start("long");
    for number in 0..1100 {
        let change = json!({"metadata": {"annotations": {"number": number.to_string()}}});
        assert_eq!(local.kube.patch("/api/v1/namespaces/default", MERGE, &change).0, 200);
    }
    let mut watch = local.kube.watch(&format!("{PODS}?watch=1&resourceVersion=1"));
    let event = watch.next().unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(watch.next(), None);
}

#[test]
fn paged_list_is_consistent_or_an_error() {
    let local = start("long");
    let namespaces = "/api/v1/namespaces";
    let all = names(&local.kube.items(namespaces));
    let (mut seen, mut next) = (BTreeSet::new(), String::new());
    loop {
        let (status, page) = local.kube.get(&format!("{namespaces}?limit=2{next}"));
        assert_eq!(status, 200, "{page}");
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2 && seen.is_disjoint(&names(items)), "{page}");
        seen.extend(names(items));
        match page["metadata"]["continue"].as_str() {
            Some(token) => next = format!("&continue={}", token.replace(' ', "%20")),
            None => break,
        }
    }
    assert_eq!(seen, all);
    let first = local.kube.get(&format!("{namespaces}?limit=2")).1;
    let token = text(&first, "/metadata/continue").replace(' ', "%20");
    assert_eq!(first["metadata"]["remainingItemCount"], all.len() - 2);
    local.kube.post(namespaces, &json!({"metadata": {"name": "between"}}));
    let (status, body) = local.kube.get(&format!("{namespaces}?limit=2&continue={token}"));
    assert_eq!((status, text(&body, "/reason")), (410, "Expired".into()));
}

#[test]
fn lists_are_filtered_by_labels_and_fields() {
    let local = start("long");
    for name in ["one", "two"] {
        local.kube.post(PODS, &pod(name, "long", "1m"));
    }
    for (query, found) in [
        ("labelSelector=app%3Done", &["one"][..]),
        ("labelSelector=app!=one", &["two"]),
        ("labelSelector=app", &["one", "two"]),
        ("labelSelector=app%3D%3Done,nothing", &[]),
        ("labelSelector=app%20in%20(one,other)", &["one"]),
        ("labelSelector=app%20notin%20(one)", &["two"]),
        ("labelSelector=!app", &[]),
        ("fieldSelector=metadata.name%3Dtwo", &["two"]),
    ] {
        let pods = local.kube.items(&format!("{PODS}?{query}"));
        assert_eq!(names(&pods).iter().map(String::as_str).collect::<Vec<_>>(), found, "{query}");
    }
    for (query, message) in [
        ("labelSelector=app%20in%20one", "unable to parse requirement: found 'one' expected: '('"),
        ("fieldSelector=spec.image=x", "field label not supported: spec.image"),
    ] {
        for watch in ["", "&watch=1"] {
            let (status, body) = local.kube.get(&format!("{PODS}?{query}{watch}"));
            assert_eq!((status, text(&body, "/message").as_str()), (400, message), "{query}{watch}");
        }
    }
    // A watch reports the objects that enter and leave its selection.
    let mut watch = local.kube.watch(&format!("{PODS}?watch=1&fieldSelector=metadata.name=one&labelSelector=mark"));
    let mark = |value: Value| json!({"metadata": {"labels": {"mark": value}}});
    for value in [json!("1"), json!("2"), Value::Null] {
        assert_eq!(local.kube.patch(&format!("{PODS}/one"), MERGE, &mark(value)).0, 200);
    }
    let kinds =
        ["ADDED", "MODIFIED", "DELETED"].map(|kind| watch.until(kind, |event| event["type"] == kind)["type"].clone());
    assert_eq!(kinds, ["ADDED", "MODIFIED", "DELETED"]);
}

#[test]
fn requests_beyond_a_role_are_forbidden() {
    let local = start("long");
    assert_eq!(local.kube.with_token("guessed").get(PODS).0, 401);
    assert_eq!(local.kube.with("Authorization", "Basic YTpi").get("/version").0, 401);
    let account = "/api/v1/namespaces/default/serviceaccounts/img-classification/token";
    let (status, made) =
        local.kube.post(account, &json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1"}));
    assert_eq!(status, 201, "{made}");
    let account = local.kube.with_token(&text(&made, "/status/token"));
    assert_eq!(account.get("/api/v1/pods?limit=1").0, 200);
    let user = "User \"system:serviceaccount:default:img-classification\" cannot";
    for (path, message) in [
        (
            format!("{PODS}/x"),
            format!(
                "pods \"x\" is forbidden: {user} get resource \"pods\" in API group \"\" in the namespace \"default\""
            ),
        ),
        (
            "/api/v1/nodes".to_owned(),
            format!("nodes is forbidden: {user} list resource \"nodes\" in API group \"\" at the cluster scope"),
        ),
        (
            "/api/v1/namespaces/default/resourcequotas?watch=1".to_owned(),
            format!(
                "resourcequotas is forbidden: {user} watch resource \"resourcequotas\" in API group \"\" in the namespace \"default\""
            ),
        ),
    ] {
        let (status, body) = account.get(&path);
        assert_eq!((status, text(&body, "/message")), (403, message));
    }
    assert_eq!(account.post(JOBS, &job("theirs", "short")).0, 201);
    assert_eq!(account.post("/apis/batch/v1/namespaces/kube-system/jobs", &job("theirs", "short")).0, 403);
    assert_eq!(account.delete(&format!("{PODS}/theirs"), &json!({})).0, 403);
    assert_eq!(account.delete(&format!("{JOBS}/theirs"), &json!({})).0, 200);
    assert_eq!(account.with("Impersonate-User", "system:admin").get(PODS).0, 403, "only administrators act as others");

    let nobody = local.kube.with("Impersonate-User", "nobody");
    let (status, body) = nobody.post(JOBS, &job("no", "short"));
    let message = "jobs.batch is forbidden: User \"nobody\" cannot create resource \"jobs\" in API group \"batch\" in the namespace \"default\"";
    assert_eq!((status, text(&body, "/message").as_str()), (403, message));
    assert_eq!(nobody.with("Impersonate-Group", "img-classification").get("/api/v1/pods").0, 200);
    let review = |verb: &str| {
        let wanted = json!({"verb": verb, "resource": "pods"});
        let body = json!({"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": {"resourceAttributes": wanted}});
        account.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &body).1["status"]["allowed"].clone()
    };
    assert_eq!((review("watch"), review("get")), (json!(true), json!(false)));

    // Without its role the server names the manifest that creates it.
    local.kube.delete(&format!("{ROLES}/clusterrolebindings/img-classification-pods"), &json!({}));
    assert_eq!(account.get("/api/v1/pods").0, 403);
}

#[test]
fn dry_run_validates_and_stores_nothing() {
    let local = start("long");
    let quota = "/api/v1/namespaces/free-service/resourcequotas/free-cpu";
    // The quota controller writes the status once, after the start.
    eventually("the quota's status", || local.kube.get(quota).1["status"]["used"].is_object());
    let before = local.kube.get(quota).1;
    let (status, would_be) = local.kube.post(&format!("{JOBS}?dryRun=All"), &job("maybe", "short"));
    assert_eq!((status, &would_be["spec"]["completions"]), (201, &json!(1)));
    let too_much = pod("big", "short", "3");
    assert_eq!(local.kube.post(&format!("{FREE_PODS}?dryRun=All"), &too_much).0, 403);
    let more = json!({"spec": {"hard": {"requests.cpu": "4"}}});
    let (_, would_be) = local.kube.patch(&format!("{quota}?dryRun=All"), MERGE, &more);
    assert_eq!(would_be["spec"]["hard"]["requests.cpu"], "4");
    assert_eq!(local.kube.delete(quota, &json!({"dryRun": ["All"]})).0, 200);
    assert_eq!(local.kube.delete(&format!("{quota}?dryRun=All"), &json!({})).0, 200);
    assert_eq!(local.kube.delete(&format!("{quota}?dryRun=all"), &json!({})).0, 422);
    assert_eq!(local.kube.delete(quota, &json!({"dryRun": ["all"]})).0, 422);
    assert_eq!(local.kube.post(&format!("{JOBS}?dryRun=true"), &job("maybe", "short")).0, 422);
    assert_eq!(local.kube.get(quota).1, before);
    assert!(local.kube.items(JOBS).is_empty() && local.kube.items(FREE_PODS).is_empty(), "nothing has happened");
}

#[test]
fn apply_changes_an_object_and_repeated_has_nothing_to_do() {
    let local = start("long");
    let path = "/api/v1/namespaces/default/resourcequotas/q?fieldManager=test&force=true";
    let apply = |cpu: &str| {
        let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"cpu": cpu}}});
        local.kube.patch(path, APPLY, &quota)
    };
    let (status, made) = apply("2000m");
    assert_eq!((status, &made["spec"]["hard"]["cpu"]), (201, &json!("2")));
    let (status, same) = apply("2");
    assert_eq!((status, &same["metadata"]["uid"]), (200, &made["metadata"]["uid"]));
    let version = |object: &Value| text(object, "/metadata/resourceVersion");
    assert_eq!(version(&apply("2").1), version(&same));
    assert_eq!(apply("3").1["spec"]["hard"]["cpu"], "3");

    let stale = json!({"metadata": {"resourceVersion": "1", "labels": {"a": "b"}}});
    let (status, body) = local.kube.patch("/api/v1/namespaces/default/resourcequotas/q", MERGE, &stale);
    assert_eq!((status, text(&body, "/reason")), (409, "Conflict".into()));
    let other = json!({"roleRef": {"name": "other"}});
    let (status, body) =
        local.kube.patch(&format!("{ROLES}/clusterrolebindings/img-classification-pods"), MERGE, &other);
    assert!(status == 422 && text(&body, "/message").ends_with("cannot change roleRef"), "{body}");
}

#[test]
fn errors_have_the_codes_reasons_and_texts_of_kubernetes() {
    let local = start("long");
    local.kube.post(JOBS, &job("taken", "long"));
    let named = |name: &str| json!({"metadata": {"name": name}});
    let in_other = json!({"metadata": {"name": "x", "namespace": "kube-system"}});
    let nameless = json!({"spec": job("", "short")["spec"]});
    let table = [
        ("GET", format!("{JOBS}/none"), json!({}), 404, "NotFound", "jobs.batch \"none\" not found"),
        ("GET", format!("{PODS}/none/log"), json!({}), 404, "NotFound", "pods \"none\" not found"),
        ("GET", "/api/v1/toys".into(), json!({}), 404, "NotFound", "the server could not find the requested resource"),
        ("POST", JOBS.into(), job("taken", "long"), 409, "AlreadyExists", "jobs.batch \"taken\" already exists"),
        (
            "POST",
            "/apis/batch/v1/namespaces/none/jobs".into(),
            job("a", "long"),
            404,
            "NotFound",
            "namespaces \"none\" not found",
        ),
        (
            "POST",
            JOBS.into(),
            in_other,
            400,
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            "POST",
            JOBS.into(),
            nameless,
            422,
            "Invalid",
            "Job.batch \"\" is invalid: metadata.name: Required value: name or generateName is required",
        ),
        (
            "POST",
            JOBS.into(),
            named("a"),
            422,
            "Invalid",
            "Job.batch \"a\" is invalid: spec.template.spec.containers: Required value",
        ),
        (
            "PUT",
            JOBS.into(),
            job("taken", "long"),
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ),
        ("DELETE", format!("{JOBS}/none"), json!({}), 404, "NotFound", "jobs.batch \"none\" not found"),
    ];
    for (method, path, body, code, reason, message) in table {
        let body = body.to_string();
        let framing = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        let response = local.kube.send(&format!("{method} {path}"), &framing, body.as_bytes()).unwrap();
        let body = response.json();
        assert_eq!(
            (body["kind"].as_str(), &body["code"]),
            (Some("Status"), &json!(response.status)),
            "{method} {path}"
        );
        assert_eq!(
            (response.status, text(&body, "/reason"), text(&body, "/message")),
            (code, reason.into(), message.into())
        );
    }
    for (media_type, status) in [("application/json", 415), ("application/json-patch+json", 415), (STRATEGIC, 200)] {
        assert_eq!(local.kube.patch(&format!("{JOBS}/taken"), media_type, &json!({})).0, status, "{media_type}");
    }
}

#[test]
fn tables_have_the_columns_of_kubectl() {
    let local = start("long");
    local.post("premium");
    eventually("a pod that runs", || local.phases(PODS) == ["Running"]);
    let tables = local.kube.with("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json");
    let (_, table) = tables.get(PODS);
    assert_eq!(table["kind"], "Table");
    let columns: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|column| column["name"].as_str().unwrap()).collect();
    assert_eq!(columns[..7], ["Name", "Ready", "Status", "Restarts", "Age", "IP", "Node"]);
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!((cells.len(), &cells[1], &cells[2]), (columns.len(), &json!("1/1"), &json!("Running")));
    for path in
        ["/api/v1/nodes", "/api/v1/namespaces", "/api/v1/resourcequotas", JOBS, "/api/v1/events", "/api/v1/services"]
    {
        let (_, table) = tables.get(path);
        let width = table["columnDefinitions"].as_array().unwrap().len();
        for row in table["rows"].as_array().unwrap() {
            assert_eq!(row["cells"].as_array().unwrap().len(), width, "{path}");
        }
    }
}

#[test]
fn version_and_nodes_have_all_fields_that_clients_require() {
    let local = start("long");
    let version = local.kube.get("/version").1;
    let fields = "major minor gitVersion gitCommit gitTreeState buildDate goVersion compiler platform";
    assert!(fields.split(' ').all(|field| version[field].is_string()), "{version}");
    let node = local.kube.items("/api/v1/nodes").remove(0);
    let fields = "architecture bootID containerRuntimeVersion kernelVersion kubeProxyVersion kubeletVersion machineID \
                  operatingSystem osImage systemUUID";
    assert!(fields.split(' ').all(|field| node["status"]["nodeInfo"][field].is_string()), "{node}");
}
