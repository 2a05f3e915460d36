//! The embedded cluster of `serve --local`, from outside: what it does by itself, what it says, and that nothing stops it.
//!
//! That it is like a real Kubernetes is for tests/cluster, which runs against both.

use crate::support::eventually;
use crate::support::kubernetes::{APPLY, Kubernetes, MERGE};
use crate::support::server::{Server, Setup};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const FREE_JOBS: &str = "/apis/batch/v1/namespaces/free-service/jobs";
const FREE_PODS: &str = "/api/v1/namespaces/free-service/pods";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const PODS: &str = "/api/v1/namespaces/default/pods";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// A server with its cluster, as its administrator.
struct Local {
    server: Server,
    kubeconfig: PathBuf,
    kube: Kubernetes,
}

/// Classifiers of an image with this tag, that take a second.
fn start(tag: &str) -> Local {
    start_with(tag, &[])
}

fn start_with(tag: &str, args: &[&str]) -> Local {
    let image = format!("classifier:{tag}");
    let setup = Setup::new().args(&["--local", "--local-job-seconds", "1", "--image", &image]);
    let server = setup.args(args).start();
    let says = server.stderr();
    let kubeconfig = says.lines().find_map(|line| line.split_once("export KUBECONFIG=")).unwrap().1;
    let (kubeconfig, kube) = (PathBuf::from(kubeconfig), Kubernetes::new(Path::new(kubeconfig)));
    Local { server, kubeconfig, kube }
}

impl Local {
    /// Posts a request and gives the Job's path.
    fn post(&self, tier: &str) -> String {
        let answer = self.server.post(&format!("/img-classification/{tier}"), r#"{"dataset":"mnist"}"#);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let namespace = if tier == "free" { FREE_JOBS } else { JOBS };
        format!("{namespace}/{}", answer.json()["job"].as_str().unwrap())
    }

    fn phases(&self, path: &str) -> Vec<String> {
        self.kube.items(path).iter().map(|pod| text(pod, "/status/phase")).collect()
    }

    /// Everything still moves: a Job's pod comes to an end, and no thread has panicked.
    fn is_sound(&self) {
        let name = format!("sound-{}", self.kube.items(JOBS).len());
        let (status, said) = self.kube.post(JOBS, &job(&name, "short"));
        assert_eq!(status, 201, "{said}");
        let path = format!("{JOBS}/{name}");
        eventually("a Job that succeeds", || self.kube.get(&path).1["status"]["succeeded"] == 1);
        assert!(!self.server.stderr().contains("bug:"), "{}", self.server.stderr());
    }
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn names(objects: &[Value]) -> BTreeSet<String> {
    objects.iter().map(|object| text(object, "/metadata/name")).collect()
}

fn container(tag: &str, cpu: &str) -> Value {
    let resources = json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}});
    json!({"name": "c", "image": format!("classifier:{tag}"), "resources": resources})
}

fn job(name: &str, tag: &str) -> Value {
    let spec = json!({"restartPolicy": "Never", "containers": [container(tag, "100m")]});
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
           "spec": {"backoffLimit": 0, "template": {"spec": spec}}})
}

fn pod(name: &str, tag: &str, cpu: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
           "spec": {"restartPolicy": "Never", "containers": [container(tag, cpu)]}})
}

#[test]
fn a_job_runs_to_its_end_and_its_pod_tells_of_it() {
    let local = start("short");
    let path = local.post("free");
    eventually("a pod that runs", || local.phases(FREE_PODS) == ["Running"]);
    let running = &local.kube.items(FREE_PODS)[0];
    assert!(!text(running, "/status/podIP").is_empty() && !text(running, "/spec/nodeName").is_empty(), "{running}");
    assert_eq!(running["metadata"]["ownerReferences"][0]["kind"], "Job");
    eventually("a Job that succeeds", || local.kube.get(&path).1["status"]["succeeded"] == 1);
    let done = local.kube.get(&path).1;
    assert_eq!(done["status"]["conditions"][0]["type"], "Complete");
    let pod = &local.kube.items(FREE_PODS)[0];
    assert_eq!(text(pod, "/status/phase"), "Succeeded");
    let state = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&state["exitCode"], &state["reason"]), (&json!(0), &json!("Completed")));
    let log = local.kube.get(&format!("{FREE_PODS}/{}/log", text(pod, "/metadata/name"))).1;
    let log = log.as_str().unwrap();
    assert!(log.starts_with("dataset: mnist\ntype: ff\ncpu limit: 0.9\nEpoch [1/5], Step [100/600], Loss: "), "{log}");
    assert!(log.ends_with("\nAccuracy of the network on the 10K test images: 98 %\n"), "{log}");
    let events = local.kube.items("/api/v1/namespaces/free-service/events");
    let reasons: BTreeSet<String> = events.iter().map(|event| text(event, "/reason")).collect();
    for reason in ["SuccessfulCreate", "Scheduled", "Started", "Completed"] {
        assert!(reasons.contains(reason), "no {reason} in {reasons:?}");
    }
}

#[test]
fn a_third_free_job_waits_for_the_quota_and_runs_when_one_ends() {
    let local = start("short");
    let paths: Vec<String> = (0..3).map(|_| local.post("free")).collect();
    let refused = "exceeded quota: free-cpu, requested: limits.cpu=900m,requests.cpu=900m, \
                   used: limits.cpu=1800m,requests.cpu=1800m, limited: limits.cpu=2,requests.cpu=2";
    eventually("the refusal of the third", || {
        let events = local.kube.items("/api/v1/namespaces/free-service/events");
        events.iter().any(|event| event["reason"] == "FailedCreate" && text(event, "/message").ends_with(refused))
    });
    eventually("three successes", || {
        let live = local.phases(FREE_PODS).iter().filter(|phase| *phase != "Succeeded").count();
        assert!(live <= 2, "{live} pods at a time");
        paths.iter().all(|path| local.kube.get(path).1["status"]["succeeded"] == 1)
    });
    let quota = local.kube.get("/api/v1/namespaces/free-service/resourcequotas/free-cpu").1;
    assert_eq!(quota["status"]["used"], json!({"limits.cpu": "0", "requests.cpu": "0"}));
}

#[test]
fn a_job_that_waits_is_tried_at_once_when_it_is_changed() {
    let local = start("long");
    let mut paths: Vec<String> = (0..3).map(|_| local.post("free")).collect();
    eventually("two pods", || local.phases(FREE_PODS).len() == 2);
    let tries = || {
        let events = local.kube.items("/api/v1/namespaces/free-service/events");
        events.iter().filter(|event| event["reason"] == "FailedCreate").count()
    };
    // By then the next try is four seconds away.
    eventually("three refusals", || tries() == 3);
    paths.retain(|path| local.kube.get(path).1["status"]["active"].is_null());
    local.kube.patch(&paths[0], MERGE, &json!({"metadata": {"annotations": {"try": "again"}}}));
    let start = std::time::Instant::now();
    eventually("a fourth", || tries() == 4);
    assert!(start.elapsed().as_millis() < 2000, "{:?}", start.elapsed());
}

#[test]
fn quotas_refuse_pods_and_jobs_in_kubernetes_words() {
    let local = start("long");
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"limits.memory": "1Gi", "count/jobs.batch": "1"}}});
    assert_eq!(local.kube.post("/api/v1/namespaces/default/resourcequotas", &quota).0, 201);
    let table = [
        (PODS, pod("a", "long", "1m"), "pods \"a\" is forbidden: failed quota: q: must specify limits.memory"),
        (
            FREE_PODS,
            pod("b", "long", "2500m"),
            "pods \"b\" is forbidden: exceeded quota: free-cpu, requested: limits.cpu=2500m,requests.cpu=2500m, \
             used: limits.cpu=0,requests.cpu=0, limited: limits.cpu=2,requests.cpu=2",
        ),
    ];
    for (path, object, message) in table {
        let (status, said) = local.kube.post(path, &object);
        assert_eq!(
            (status, text(&said, "/reason"), text(&said, "/message")),
            (403, "Forbidden".into(), message.into())
        );
    }
    assert_eq!(local.kube.post(JOBS, &job("one", "long")).0, 201);
    let (status, said) = local.kube.post(JOBS, &job("two", "long"));
    let message = "jobs.batch \"two\" is forbidden: exceeded quota: q, requested: count/jobs.batch=1, \
                   used: count/jobs.batch=1, limited: count/jobs.batch=1";
    assert_eq!((status, text(&said, "/message").as_str()), (403, message));
}

#[test]
fn a_node_takes_one_classifier_and_the_next_waits_until_it_is_gone() {
    let local = start_with("long", &["--local-nodes", "1"]);
    let first = local.post("premium");
    eventually("one that runs", || local.phases(PODS) == ["Running"]);
    local.post("premium");
    let condition = |pod: &Value| pod["status"]["conditions"][0].clone();
    eventually("another that waits", || {
        let pods = local.kube.items(PODS);
        pods.iter().any(|pod| condition(pod)["message"] == "0/1 nodes are available: 1 Insufficient cpu.")
    });
    let waiting = local.kube.items(PODS).into_iter().find(|pod| pod["spec"]["nodeName"].is_null()).unwrap();
    assert_eq!((text(&waiting, "/status/phase"), text(&waiting, "/status/podIP")), ("Pending".into(), String::new()));
    assert_eq!(condition(&waiting)["reason"], "Unschedulable");
    assert_eq!(local.kube.delete(&first, &json!({"propagationPolicy": "Background"})).0, 200);
    eventually("its turn", || {
        let pods = local.kube.items(PODS);
        pods.len() == 1
            && names(&pods) == names(std::slice::from_ref(&waiting))
            && pods[0]["status"]["phase"] == "Running"
    });
}

#[test]
fn the_images_tag_says_what_becomes_of_a_pod() {
    let local = start("fails");
    let failing = local.post("premium");
    let reason = "/status/conditions/0/reason";
    eventually("a Job that failed", || text(&local.kube.get(&failing).1, reason) == "BackoffLimitExceeded");
    assert_eq!(local.phases(PODS), ["Failed"]);
    assert_eq!(local.kube.get(&failing).1["status"]["failed"], 1);
    assert_eq!(local.kube.post(PODS, &pod("gone", "missing", "1m")).0, 201);
    eventually("an image that cannot be pulled", || {
        let pod = local.kube.get(&format!("{PODS}/gone")).1;
        text(&pod, "/status/containerStatuses/0/state/waiting/reason") == "ImagePullBackOff"
    });
    let (status, said) = local.kube.get(&format!("{PODS}/gone/log"));
    assert_eq!((status, text(&said, "/reason")), (400, "BadRequest".into()));
}

#[test]
fn a_job_that_is_over_goes_with_its_pod_when_its_time_is() {
    for ttl in ["0", "1"] {
        let local = start_with("short", &["--job-ttl", ttl]);
        local.post("premium");
        eventually("a Job and a pod that went", || {
            local.kube.items(JOBS).is_empty() && local.kube.items(PODS).is_empty()
        });
    }
}

#[test]
fn jobs_take_their_pods_along_and_replace_lost_ones() {
    let local = start("long");
    let path = local.post("premium");
    eventually("a pod", || local.phases(PODS) == ["Running"]);
    let first = names(&local.kube.items(PODS));
    let (status, going) = local.kube.delete(&format!("{PODS}/{}", first.first().unwrap()), &json!({}));
    assert!(status == 200 && going["metadata"]["deletionTimestamp"].is_string(), "{going}");
    eventually("another pod", || {
        let pods = local.kube.items(PODS);
        pods.len() == 1 && names(&pods) != first
    });
    let second = names(&local.kube.items(PODS));
    assert_eq!(local.kube.delete(&path, &json!({"propagationPolicy": "Orphan"})).0, 200);
    assert_eq!(local.kube.get(&path).0, 404);
    assert_eq!(names(&local.kube.items(PODS)), second);
    assert_eq!(
        local.kube.delete(&format!("{PODS}/{}", second.first().unwrap()), &json!({"gracePeriodSeconds": 0})).0,
        200
    );
    assert_eq!(local.kube.items(PODS), [Value::Null; 0]);

    let path = local.post("premium");
    eventually("a pod", || local.phases(PODS) == ["Running"]);
    let (_, going) = local.kube.delete(&path, &json!({"propagationPolicy": "Foreground"}));
    assert!(going["metadata"]["deletionTimestamp"].is_string(), "{going}");
    eventually("the end of both", || {
        // The Job is the last to go.
        local.kube.get(&path).0 == 404 && local.kube.items(PODS).is_empty()
    });
}

#[test]
fn a_pod_goes_in_whatever_phase_it_is_deleted() {
    let local = start("short");
    for (name, tag, cpu) in [
        ("waits", "long", "3"),
        ("runs", "long", "1m"),
        ("done", "short", "1m"),
        ("failed", "fails", "1m"),
        ("unpulled", "missing", "1m"),
    ] {
        assert_eq!(local.kube.post(PODS, &pod(name, tag, cpu)).0, 201);
    }
    let reached =
        |name: &str, phase: &str| text(&local.kube.get(&format!("{PODS}/{name}")).1, "/status/phase") == phase;
    eventually("every phase", || {
        reached("done", "Succeeded") && reached("failed", "Failed") && reached("runs", "Running")
    });
    // These have only just begun.
    for name in ["new", "newer"] {
        assert_eq!(local.kube.post(PODS, &pod(name, "short", "1m")).0, 201);
    }
    for name in ["waits", "runs", "done", "failed", "unpulled", "new", "newer"] {
        assert_eq!(local.kube.delete(&format!("{PODS}/{name}"), &json!({})).0, 200, "{name}");
    }
    // Once more, while it is on its way out.
    assert!([200, 404].contains(&local.kube.delete(&format!("{PODS}/runs"), &json!({})).0));
    eventually("the end of all", || local.kube.items(PODS).is_empty());
    local.is_sound();
}

#[test]
fn a_deleted_namespace_takes_its_objects_along() {
    let local = start("long");
    local.post("free");
    assert_eq!(local.kube.delete("/api/v1/namespaces/free-service", &json!({})).0, 200);
    eventually("its end", || local.kube.get("/api/v1/namespaces/free-service").0 == 404);
    assert!(local.kube.items(FREE_JOBS).is_empty() && local.kube.items(FREE_PODS).is_empty());
    let (status, said) = local.kube.post(FREE_JOBS, &job("late", "short"));
    assert_eq!((status, text(&said, "/message").as_str()), (404, "namespaces \"free-service\" not found"));
    let (status, said) = local.kube.delete("/api/v1/namespaces/default", &json!({}));
    assert_eq!(
        (status, text(&said, "/message").as_str()),
        (403, "namespaces \"default\" is forbidden: this namespace may not be deleted")
    );
}

#[test]
fn a_watch_tells_of_each_change_once_and_begins_where_the_list_ended() {
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

    // Without a version it begins with what is there; a timeout ends it.
    let mut watch = local.kube.watch(&format!("{PODS}?watch=true&timeoutSeconds=1"));
    assert_eq!(text(&watch.next().unwrap(), "/object/metadata/name"), "other");
    while watch.next().is_some() {}
}

#[test]
fn a_watch_from_too_long_ago_is_told_to_begin_anew() {
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
fn a_list_in_pages_is_one_list_or_an_error() {
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
    let (status, said) = local.kube.get(&format!("{namespaces}?limit=2&continue={token}"));
    assert_eq!((status, text(&said, "/reason")), (410, "Expired".into()));
}

#[test]
fn lists_are_narrowed_by_labels_and_fields() {
    let local = start("long");
    for name in ["one", "two"] {
        local.kube.post(PODS, &pod(name, "long", "1m"));
    }
    for (query, found) in [
        ("labelSelector=app%3Done", &["one"][..]),
        ("labelSelector=app!=one", &["two"]),
        ("labelSelector=app", &["one", "two"]),
        ("labelSelector=app%3D%3Done,nothing", &[]),
        ("fieldSelector=metadata.name%3Dtwo", &["two"]),
    ] {
        let pods = local.kube.items(&format!("{PODS}?{query}"));
        assert_eq!(names(&pods).iter().map(String::as_str).collect::<Vec<_>>(), found, "{query}");
    }
}

#[test]
fn nobody_may_more_than_their_roles_say() {
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
            format!("{JOBS}?watch=1"),
            format!(
                "jobs.batch is forbidden: {user} watch resource \"jobs\" in API group \"batch\" in the namespace \"default\""
            ),
        ),
    ] {
        let (status, said) = account.get(&path);
        assert_eq!((status, text(&said, "/message")), (403, message));
    }
    assert_eq!(account.post(JOBS, &job("theirs", "short")).0, 201);
    assert_eq!(account.post("/apis/batch/v1/namespaces/kube-system/jobs", &job("theirs", "short")).0, 403);
    assert_eq!(account.delete(&format!("{JOBS}/theirs"), &json!({})).0, 403);
    assert_eq!(account.with("Impersonate-User", "system:admin").get(PODS).0, 403, "only administrators act as others");

    let nobody = local.kube.with("Impersonate-User", "nobody");
    let (status, said) = nobody.post(JOBS, &job("no", "short"));
    let message = "jobs.batch is forbidden: User \"nobody\" cannot create resource \"jobs\" in API group \"batch\" in the namespace \"default\"";
    assert_eq!((status, text(&said, "/message").as_str()), (403, message));
    assert_eq!(nobody.with("Impersonate-Group", "img-classification").get("/api/v1/pods").0, 200);
    let review = |verb: &str| {
        let wanted = json!({"verb": verb, "resource": "pods"});
        let body = json!({"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": {"resourceAttributes": wanted}});
        account.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &body).1["status"]["allowed"].clone()
    };
    assert_eq!((review("list"), review("watch")), (json!(true), json!(false)));

    // Without its role the program says which file has it.
    local.kube.delete(&format!("{ROLES}/clusterrolebindings/img-classification-pods"), &json!({}));
    assert_eq!(account.get("/api/v1/pods").0, 403);
}

#[test]
fn a_dry_run_judges_and_leaves_no_trace() {
    let local = start("long");
    let before = text(&local.kube.get(JOBS).1, "/metadata/resourceVersion");
    let (status, would_be) = local.kube.post(&format!("{JOBS}?dryRun=All"), &job("maybe", "short"));
    assert_eq!((status, &would_be["spec"]["completions"]), (201, &json!(1)));
    let too_much = pod("big", "short", "3");
    assert_eq!(local.kube.post(&format!("{FREE_PODS}?dryRun=All"), &too_much).0, 403);
    let quota = "/api/v1/namespaces/free-service/resourcequotas/free-cpu";
    let more = json!({"spec": {"hard": {"requests.cpu": "4"}}});
    let (_, would_be) = local.kube.patch(&format!("{quota}?dryRun=All"), MERGE, &more);
    assert_eq!(would_be["spec"]["hard"]["requests.cpu"], "4");
    assert_eq!(local.kube.delete(quota, &json!({"dryRun": ["All"]})).0, 200);
    assert_eq!(local.kube.get(quota).1["spec"]["hard"]["requests.cpu"], "2");
    assert_eq!(text(&local.kube.get(JOBS).1, "/metadata/resourceVersion"), before, "nothing has happened");
}

#[test]
fn an_apply_makes_changes_and_then_has_nothing_to_do() {
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
    let (status, said) = local.kube.patch("/api/v1/namespaces/default/resourcequotas/q", MERGE, &stale);
    assert_eq!((status, text(&said, "/reason")), (409, "Conflict".into()));
    let other = json!({"roleRef": {"name": "other"}});
    let (status, said) =
        local.kube.patch(&format!("{ROLES}/clusterrolebindings/img-classification-pods"), MERGE, &other);
    assert!(status == 422 && text(&said, "/message").ends_with("cannot change roleRef"), "{said}");
}

#[test]
fn refusals_have_kubernetes_codes_reasons_and_words() {
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
            format!("{JOBS}/taken"),
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
        let answer = local.kube.send(&format!("{method} {path}"), &framing, body.as_bytes()).unwrap();
        let said = answer.json();
        assert_eq!((said["kind"].as_str(), &said["code"]), (Some("Status"), &json!(answer.status)), "{method} {path}");
        assert_eq!(
            (answer.status, text(&said, "/reason"), text(&said, "/message")),
            (code, reason.into(), message.into())
        );
    }
    for (media_type, status) in [("application/json", 415), ("application/json-patch+json", 415), (STRATEGIC, 200)] {
        assert_eq!(local.kube.patch(&format!("{JOBS}/taken"), media_type, &json!({})).0, status, "{media_type}");
    }
}

#[test]
fn kubectls_tables_have_its_columns() {
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
fn no_object_however_odd_stops_the_cluster() {
    let local = start("long");
    let odd = [json!("x"), json!(1), json!([]), json!([1]), json!(true), Value::Null, json!({}), json!({"a": 1})];
    let collections = [
        JOBS,
        PODS,
        "/api/v1/namespaces/default/resourcequotas",
        "/api/v1/namespaces",
        "/api/v1/nodes",
        "/api/v1/namespaces/default/events",
    ];
    let fine = |status: u16, what: &str, value: &Value| assert!(status < 500, "{what} with {value}: {status}");
    for (number, value) in odd.iter().enumerate() {
        for path in collections {
            let named = |rest: Value| {
                let mut object = json!({"metadata": {"name": format!("odd-{number}")}});
                object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
                object
            };
            for object in [
                value.clone(),
                json!({"metadata": value}),
                named(json!({"spec": value, "status": value})),
                named(json!({"spec": {"template": value, "hard": value, "containers": value}})),
                named(json!({"spec": {"template": {"metadata": value, "spec": value}, "containers": [value]}})),
                named(json!({"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [value]}}}})),
            ] {
                fine(local.kube.post(path, &object).0, path, &object);
            }
        }
    }
    local.kube.post(PODS, &pod("victim", "long", "1m"));
    local.kube.post(JOBS, &job("victim", "long"));
    for value in &odd {
        for path in [
            format!("{PODS}/victim"),
            format!("{JOBS}/victim"),
            "/api/v1/namespaces/free-service/resourcequotas/free-cpu".into(),
        ] {
            for patch in [
                json!({"status": value}),
                json!({"spec": value}),
                json!({"metadata": {"deletionTimestamp": value, "labels": value}}),
            ] {
                for media_type in [MERGE, STRATEGIC, APPLY] {
                    fine(local.kube.patch(&format!("{path}?fieldManager=x"), media_type, &patch).0, &path, &patch);
                }
            }
        }
    }
    for seconds in [json!(u64::MAX), json!(i64::MAX), json!(-1), json!(1e300), json!(i32::MAX)] {
        for field in ["ttlSecondsAfterFinished", "backoffLimit", "parallelism", "activeDeadlineSeconds"] {
            let mut object = job("late", "short");
            object["spec"][field] = seconds.clone();
            fine(local.kube.post(JOBS, &object).0, field, &seconds);
            local.kube.delete(&format!("{JOBS}/late"), &json!({"gracePeriodSeconds": seconds}));
        }
    }
    for cpu in ["9".repeat(37), "1E".to_owned(), "-1".to_owned(), "x".to_owned()] {
        fine(local.kube.post(PODS, &pod(&format!("cpu-{}", cpu.len()), "long", &cpu)).0, "cpu", &json!(cpu));
    }
    local.is_sound();
}

#[test]
fn no_bytes_however_odd_stop_the_cluster() {
    let local = start("long");
    for (line, framing, body) in [
        ("nonsense", "", &b""[..]),
        ("GET /\u{0}", "", b""),
        ("POST /api/v1/namespaces", "Content-Length: x\r\n", b""),
        ("POST /api/v1/namespaces", "Content-Length: 99999999999999\r\n", b"{}"),
        ("POST /api/v1/namespaces", "Transfer-Encoding: chunked\r\n", b"zz\r\n{}\r\n0\r\n\r\n"),
        ("POST /api/v1/namespaces", "Transfer-Encoding: chunked\r\n", b"ffffffffffffffff\r\n{}"),
        (
            "POST /api/v1/namespaces",
            "Content-Type: application/vnd.kubernetes.protobuf\r\nContent-Length: 5\r\n",
            b"k8s\0\xff",
        ),
        ("GET /api/v1/pods?%ff=%zz&&=&limit=-1&continue=%20", "", b""),
    ] {
        // An answer or the end of the connection: both will do.
        let answer = local.kube.send(line, framing, body);
        assert!(answer.as_ref().is_ok_and(|answer| answer.status < 500) || answer.is_err(), "{line}");
    }
    let deep = "[".repeat(10_000);
    let framing = format!("Content-Length: {}\r\n", deep.len());
    assert_eq!(local.kube.send(&format!("POST {JOBS}"), &framing, deep.as_bytes()).unwrap().status, 400);
    let pieces =
        ["{\"metadata\":{\"name\":", "\"in-pieces\"", "}}"].map(|piece| format!("{:x}\r\n{piece}\r\n", piece.len()));
    let chunks = format!("{}0\r\n\r\n", pieces.concat());
    let framing = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n";
    assert_eq!(local.kube.send("POST /api/v1/namespaces", framing, chunks.as_bytes()).unwrap().status, 201);
    local.is_sound();
}

#[test]
fn fifty_watches_see_every_one_of_a_hundred_jobs() {
    let local = start("short");
    let mut watches: Vec<_> = (0..50).map(|_| local.kube.watch(&format!("{JOBS}?watch=1"))).collect();
    for number in 0..100 {
        assert_eq!(local.kube.post(JOBS, &job(&format!("job-{number}"), "long")).0, 201);
    }
    for watch in &mut watches {
        let mut missing: BTreeSet<String> = (0..100).map(|number| format!("job-{number}")).collect();
        while !missing.is_empty() {
            let event = watch.until("the last Job", |event| event["type"] == "ADDED");
            assert!(missing.remove(&text(&event, "/object/metadata/name")), "{event}");
        }
    }
}

#[test]
fn its_kubeconfig_is_private_and_goes_with_it_even_while_somebody_watches() {
    for signal in crate::support::ending_signals() {
        let local = start("long");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let folder = local.kubeconfig.parent().unwrap().to_owned();
        assert_eq!((mode(&local.kubeconfig), mode(&folder)), (0o600, 0o700));
        let _watches: Vec<_> = (0..5).map(|_| local.kube.watch(&format!("{PODS}?watch=1"))).collect();
        let Local { mut server, .. } = local;
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{signal:?}: {}", server.stderr());
        assert!(!folder.exists(), "{signal:?}: {}", folder.display());
    }
}

#[test]
fn a_signal_while_it_starts_leaves_nothing_behind_either() {
    // At any moment of the start, which takes some 50 ms.
    for delay in (0..60).step_by(3) {
        let folder = tempfile::TempDir::new().unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_img-classification"));
        command.args(["serve", "--local", "--listen", "127.0.0.1:0"]).env("TMPDIR", folder.path());
        let mut child = crate::support::spawn(command.stderr(std::process::Stdio::null()));
        std::thread::park_timeout(std::time::Duration::from_millis(delay));
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
        child.wait().unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "after {delay} ms");
    }
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let end = Setup::new().env("TMPDIR", "/nonexistent").run(&["serve", "--local"]);
    assert_eq!(end.code, Some(1), "{end:?}");
    assert!(end.stderr.contains("/nonexistent (TMPDIR)"), "{}", end.stderr);
}
