"""Uses a cluster with the official Python client and prints a transcript that is the same for every cluster and every version of
the client.

usage: client.py NAMESPACE           with KUBECONFIG, IMAGE, and the package kubernetes in PYTHONPATH

Creates the namespace and deletes it.
"""

import json
import re
import sys
import time

from kubernetes import client, config, watch
from manifest import TIMEOUT, job

# RFC 3339 with up to nanoseconds, as `timestamps` of a log prints it.
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d) ")

namespace = sys.argv[1]
config.load_kube_config()
core, batch = client.CoreV1Api(), client.BatchV1Api()


def show(step, result):
    print(f"{step}: {json.dumps(result)}", flush=True)


def attempt(step, call, *arguments, fields=False, **options):
    """Sends a request, prints its status, and returns the object. `fields` also prints which fields an error names."""
    try:
        done = call(*arguments, **options)
    except client.ApiException as error:
        status = json.loads(error.body)
        causes = (status.get("details") or {}).get("causes") or []
        names = [f" {name}" for name in sorted({cause["field"] for cause in causes})] if fields else []
        assert (status["kind"], status["apiVersion"], status["code"]) == ("Status", "v1", error.status), status
        assert status["status"] == "Failure" and status["message"], status
        show(step, f"{error.status} {status['reason']}" + "".join(names))
        return None
    show(step, "done")
    return done


def wait_until(condition):
    """Repeats a call until it returns something true, and returns that."""
    deadline = time.monotonic() + TIMEOUT
    while not (found := condition()):
        assert time.monotonic() < deadline, "this does not happen"
        time.sleep(0.2)
    return found


def is_gone(read, name):
    try:
        read(name, namespace)
    except client.ApiException as error:
        return error.status == 404
    return False


def names(objects):
    return sorted(item.metadata.name for item in objects.items)


def pods(selector):
    return core.list_namespaced_pod(namespace, label_selector=selector)


def show_version():
    version = client.VersionApi().get_code()
    show("version: major", version.major)
    show("version: git_version", bool(re.match(r"v1\.\d+\.\d+", version.git_version)))
    show("version: minor", version.minor.rstrip("+") == version.git_version.split(".")[1])
    other = ["build_date", "compiler", "git_commit", "git_tree_state", "go_version", "platform"]
    show("version: other fields", [name for name in other if getattr(version, name)])


def show_nodes():
    nodes = core.list_node()
    show("nodes: kind", [nodes.kind, nodes.api_version])
    # Not kube_proxy_version, which Kubernetes 1.33 no longer sets.
    for name in ("operating_system", "architecture", "kubelet_version", "kernel_version", "os_image",
                 "container_runtime_version", "boot_id", "machine_id", "system_uuid"):
        show(f"nodes: {name}", all(getattr(node.status.node_info, name) for node in nodes.items))
    for node in nodes.items[:1]:
        show("node: conditions", sorted([c.type, c.status] for c in node.status.conditions))
        show("node: addresses", sorted({a.type for a in node.status.addresses} & {"InternalIP", "Hostname"}))
        show("node: capacity", [key for key in ("cpu", "memory", "pods") if key in node.status.capacity])
        show("node: allocatable", [key for key in ("cpu", "memory", "pods") if key in node.status.allocatable])
        labels = ("kubernetes.io/arch", "kubernetes.io/hostname", "kubernetes.io/os")
        show("node: labels", [key for key in labels if key in node.metadata.labels])
        show("node: read", core.read_node(node.metadata.name).metadata.uid == node.metadata.uid)
        show("node: field selector", len(core.list_node(field_selector=f"metadata.name={node.metadata.name}").items))
    every = names(nodes)
    for selector in ("kubernetes.io/os in (linux, plan9)", "kubernetes.io/os notin (linux)", "kubernetes.io/os",
                     "!kubernetes.io/os", "kubernetes.io/os!=linux", "kubernetes.io/os==linux", "absent notin (a,b)"):
        found = names(core.list_node(label_selector=selector))
        show(f"nodes: {selector}", "all" if found == every else found)
    page = core.list_node(limit=1)
    show("nodes: page", [len(page.items), page.metadata.remaining_item_count == len(every) - 1])
    rest = core.list_node(limit=100, _continue=page.metadata._continue)
    show("nodes: rest", [names(page) + names(rest) == every, rest.metadata._continue or None])
    attempt("nodes: unknown", core.read_node, "no-such-node")
    attempt("nodes: bad selector", core.list_node, label_selector="a in (b")
    attempt("nodes: worse selector", core.list_node, label_selector="a b")
    attempt("nodes: bad field selector", core.list_node, field_selector="status.nonsense=1")


def show_refusals():
    def create(step, changed, to=namespace):
        attempt(step, batch.create_namespaced_job, to, changed, fields=True)

    cpu = job("cpu")
    cpu["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "0.9 CPU"
    create("refused: cpu 0.9 CPU", cpu)
    create("refused: upper case", job("UPPER"))
    create("refused: missing namespace", job("lost"), f"{namespace}-absent")
    other = job("other")
    other["metadata"]["namespace"] = "default"
    create("refused: another namespace", other)
    policy = job("policy")
    policy["spec"]["template"]["spec"]["restartPolicy"] = "Always"
    create("refused: restartPolicy", policy)
    containers = job("containers")
    containers["spec"]["template"]["spec"]["containers"] = []
    create("refused: no containers", containers)
    more = job("more")
    more["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "1m"
    create("refused: more requested than the limit", more)
    negative = job("negative")
    negative["spec"]["backoffLimit"] = -1
    create("refused: backoffLimit", negative)
    label = job("label")
    label["metadata"]["labels"] = {"a": "b c"}
    create("refused: label", label)
    kind = job("kind")
    kind["kind"] = "Pod"
    create("refused: kind", kind)
    show("refused: nothing created", names(batch.list_namespaced_job(namespace)))


def show_job():
    job_version = batch.list_namespaced_job(namespace).metadata.resource_version
    pod_version = pods("").metadata.resource_version
    attempt("job: dry run", batch.create_namespaced_job, namespace, job("first"), dry_run="All")
    show("job: after the dry run", names(batch.list_namespaced_job(namespace)))
    created = attempt("job: create", batch.create_namespaced_job, namespace, job("first"))
    attempt("job: again", batch.create_namespaced_job, namespace, job("first"))
    spec, template = created.spec, created.spec.template
    show("job: kind", [created.kind, created.api_version])
    show("job: defaults", [spec.parallelism, spec.completions, spec.backoff_limit])
    show("job: selector", list(spec.selector.match_labels.values()) == [created.metadata.uid])
    show("job: label job-name", template.metadata.labels["job-name"])
    show("job: label controller-uid", template.metadata.labels["controller-uid"] == created.metadata.uid)
    container = template.spec.containers[0]
    show("job: pod defaults", [template.spec.dns_policy, template.spec.scheduler_name, template.spec.restart_policy,
                               template.spec.termination_grace_period_seconds, container.image_pull_policy,
                               container.termination_message_path, container.termination_message_policy])
    show("job: resources", [container.resources.requests["cpu"], container.resources.limits["memory"]])

    phases = []
    for event in watch.Watch().stream(core.list_namespaced_pod, namespace, resource_version=pod_version,
                                      label_selector="job-name in (first, second)", timeout_seconds=TIMEOUT):
        pod = event["object"]
        if not phases:
            show("watch: first event", event["type"])
        if phases[-1:] != [pod.status.phase]:
            phases.append(pod.status.phase)
            if pod.status.phase == "Running":
                follow_log(pod)
            if pod.status.phase == "Succeeded":
                break
    show("watch: phases", phases)
    events = []
    for event in watch.Watch().stream(batch.list_namespaced_job, namespace, resource_version=job_version,
                                      field_selector="metadata.name=first", timeout_seconds=TIMEOUT):
        events.append((event["type"], event["object"].status.succeeded))
        if any(c.type == "Complete" and c.status == "True" for c in event["object"].status.conditions or []):
            break
    show("watch: first event of the Job", events[0])
    show("watch: last event of the Job", events[-1])


def text(call, *arguments, **options):
    """Returns a log as it is; the client would parse one that looks like JSON."""
    return call(*arguments, _preload_content=False, **options).read().decode()


def follow_log(pod):
    # Its first version ends with the container.
    followed = text(core.read_namespaced_pod_log, pod.metadata.name, namespace, follow=True)
    show("log: followed", followed == text(core.read_namespaced_pod_log, pod.metadata.name, namespace))
    lines = watch.Watch().stream(core.read_namespaced_pod_log, pod.metadata.name, namespace)
    show("log: lines of Watch", list(lines) == followed.splitlines())


def show_log():
    name = pods("job-name=first").items[0].metadata.name

    def log(**options):
        return text(core.read_namespaced_pod_log, name, namespace, **options)

    whole = log()
    show("log: first lines", whole.splitlines()[:3])
    show("log: tail", log(tail_lines=2).splitlines() == whole.splitlines()[-2:])
    show("log: no tail", log(tail_lines=0))
    show("log: long tail", log(tail_lines=100000) == whole)
    show("log: limit", log(limit_bytes=10))
    show("log: limited tail", log(limit_bytes=7, tail_lines=1) == whole.splitlines()[-1][:7])
    show("log: limit and follow", log(limit_bytes=12, follow=True))
    show("log: container", log(container="classifier") == whole)
    show("log: tail and follow", log(tail_lines=1, follow=True) == whole.splitlines(keepends=True)[-1])
    show("log: since an hour", log(since_seconds=3600) == whole)
    timed = log(timestamps=True).splitlines()
    show("log: timestamps", [all(TIMESTAMP.match(line) for line in timed),
                             [TIMESTAMP.sub("", line, count=1) for line in timed] == whole.splitlines()])
    show("log: one timestamp", bool(TIMESTAMP.match(log(timestamps=True, tail_lines=1))))
    read = core.read_namespaced_pod_log
    attempt("log: other container", read, name, namespace, container="other")
    attempt("log: previous", read, name, namespace, previous=True)
    attempt("log: no pod", read, "no-such-pod", namespace)
    attempt("log: negative tail", read, name, namespace, tail_lines=-1)
    attempt("log: limit 0", read, name, namespace, limit_bytes=0)


def show_pod():
    pod = pods("job-name=first").items[0]
    owner = pod.metadata.owner_references[0]
    show("pod: owner", [owner.api_version, owner.kind, owner.name, owner.controller, owner.block_owner_deletion])
    show("pod: name", bool(re.fullmatch("first-[a-z0-9]{5}", pod.metadata.name)))
    show("pod: generate_name", pod.metadata.generate_name)
    show("pod: addresses", [bool(pod.spec.node_name), bool(pod.status.host_ip)])
    status = pod.status.container_statuses[0]
    ended = status.state.terminated
    show("pod: container", [status.name, status.ready, status.restart_count, ended.exit_code, ended.reason])
    show("pod: times", [bool(ended.started_at), ended.finished_at >= ended.started_at, bool(pod.status.start_time)])
    show("pod: message", "accuracy" in json.loads(ended.message))
    conditions = {c.type: c.status for c in pod.status.conditions}
    show("pod: conditions", [conditions[key] for key in ("PodScheduled", "Initialized", "ContainersReady", "Ready")])
    show("pod: qos", pod.status.qos_class)
    wanted = {"Completed", "Created", "Scheduled", "Started", "SuccessfulCreate"}
    show("events", sorted(wanted & {event.reason for event in core.list_namespaced_event(namespace).items}))


def show_selectors():
    for selector in ("color=red", "color in (red,blue)", "color notin (red)", "color,!size", "!color", "color!=red",
                     "color in (red),job-name notin (second)"):
        show(f"jobs: {selector}", names(batch.list_namespaced_job(namespace, label_selector=selector)))
    show("jobs: of the name", names(batch.list_namespaced_job(namespace, field_selector="metadata.name=first")))
    show("jobs: not of the name", names(batch.list_namespaced_job(namespace, field_selector="metadata.name!=first")))
    for selector in ("status.phase=Succeeded", "status.phase!=Succeeded", f"metadata.namespace={namespace}"):
        show(f"pods: {selector.replace(namespace, 'NAMESPACE')}",
             len(core.list_namespaced_pod(namespace, field_selector=selector).items))
    everywhere = batch.list_job_for_all_namespaces(label_selector="color=red")
    show("jobs: everywhere", "first" in names(everywhere))
    status = batch.read_namespaced_job_status("first", namespace).status
    show("status", [status.succeeded, status.active, status.failed, bool(status.start_time), bool(status.completion_time)])


def patch(step, content_type, body, name="first", call=batch.patch_namespaced_job):
    """Sends a patch. The versions of the client differ in how they choose its type."""
    before = batch.api_client.select_header_content_type
    batch.api_client.select_header_content_type = lambda *_: f"application/{content_type}"
    try:
        options = {"field_manager": "clients"} if content_type == "apply-patch+yaml" else {}
        return attempt(step, call, name, namespace, body, fields=True, **options)
    finally:
        batch.api_client.select_header_content_type = before


def show_patches():
    merge, strategic, json_patch = "merge-patch+json", "strategic-merge-patch+json", "json-patch+json"

    def labels():
        show("patch: labels", batch.read_namespaced_job("first", namespace).metadata.labels)

    patch("patch: merge", merge, {"metadata": {"labels": {"merge": "yes", "color": None}}})
    labels()
    patch("patch: strategic", strategic, {"metadata": {"labels": {"strategic": "yes", "merge": None}}})
    labels()
    patch("patch: add and replace", json_patch, [
        {"op": "test", "path": "/metadata/labels/strategic", "value": "yes"},
        {"op": "replace", "path": "/metadata/labels/strategic", "value": "1"},
        {"op": "add", "path": "/metadata/labels/example.com~1json", "value": "yes"}])
    labels()
    patch("patch: copy, move and remove", json_patch, [
        {"op": "copy", "from": "/metadata/labels/strategic", "path": "/metadata/labels/copied"},
        {"op": "move", "from": "/metadata/labels/example.com~1json", "path": "/metadata/labels/moved"},
        {"op": "remove", "path": "/metadata/labels/strategic"}])
    labels()
    patch("patch: failed test", json_patch, [{"op": "test", "path": "/metadata/labels/moved", "value": "no"}])
    patch("patch: nothing to remove", json_patch, [{"op": "remove", "path": "/metadata/labels/absent"}])
    patch("patch: stale", merge, {"metadata": {"resourceVersion": "1", "labels": {"stale": "yes"}}})
    patch("patch: immutable", merge, {"spec": {"completions": 2}})
    patch("patch: bad label", merge, {"metadata": {"labels": {"a": "b c"}}})
    patch("patch: another name", merge, {"metadata": {"name": "other"}})
    patch("patch: no Job", merge, {"metadata": {"labels": {"a": "b"}}}, "absent")
    patch("patch: deadline", merge, {"spec": {"activeDeadlineSeconds": 3600}})
    patch("patch: apply", "apply-patch+yaml", {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "first", "labels": {"applied": "yes"}}})
    labels()


def show_replacements():
    old = batch.read_namespaced_job("first", namespace)
    new = batch.read_namespaced_job("first", namespace)
    new.metadata.labels = {"color": "red", "replaced": "yes"}
    done = attempt("replace", batch.replace_namespaced_job, "first", namespace, new)
    show("replace: labels", done.metadata.labels)
    show("replace: version changed", done.metadata.resource_version != old.metadata.resource_version)
    attempt("replace: stale", batch.replace_namespaced_job, "first", namespace, old)
    old.metadata.resource_version = None
    done = attempt("replace: without a version", batch.replace_namespaced_job, "first", namespace, old)
    show("replace: still succeeded", done.status.succeeded)
    old.spec.completions = 2
    attempt("replace: immutable", batch.replace_namespaced_job, "first", namespace, old, fields=True)
    old.spec.completions, old.metadata.uid = 1, "00000000-0000-0000-0000-000000000000"
    attempt("replace: another uid", batch.replace_namespaced_job, "first", namespace, old)
    old.metadata.uid, old.metadata.name = None, "other"
    attempt("replace: another name", batch.replace_namespaced_job, "first", namespace, old)
    attempt("replace: no Job", batch.replace_namespaced_job, "absent", namespace, job("absent"))


def show_deletions():
    wrong = {"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}
    attempt("delete: another uid", batch.delete_namespaced_job, "first", namespace, body=wrong)
    attempt("delete: dry run", batch.delete_namespaced_job, "first", namespace, dry_run="All")
    attempt("delete: bad policy", batch.delete_namespaced_job, "first", namespace, propagation_policy="Sometimes")
    show("delete: still there", names(batch.list_namespaced_job(namespace)))
    attempt("delete: in the background", batch.delete_namespaced_job, "first", namespace, propagation_policy="Background")
    show("delete: gone", wait_until(lambda: is_gone(batch.read_namespaced_job, "first")))
    show("delete: its pod is gone", wait_until(lambda: not pods("job-name=first").items))
    attempt("delete: again", batch.delete_namespaced_job, "first", namespace)
    for name, color in ("a", "red"), ("b", "blue"), ("c", "green"):
        batch.create_namespaced_job(namespace, job(name, color))
    wait_until(lambda: len(pods("").items) == 3)
    attempt("collection: two", batch.delete_collection_namespaced_job, namespace, label_selector="color in (red,blue)",
            propagation_policy="Background")
    wait_until(lambda: names(batch.list_namespaced_job(namespace)) == ["c"])
    # Without a policy, batch/v1 leaves the pods of a Job.
    attempt("delete: without a policy", batch.delete_namespaced_job, "c", namespace)
    wait_until(lambda: is_gone(batch.read_namespaced_job, "c"))
    wait_until(lambda: not pods("job-name in (a, b)").items)
    left = pods("job-name=c").items
    show("delete: pods that stay", [len(left), wait_until(lambda: [not p.metadata.owner_references for p in pods("job-name=c").items])])
    pod = left[0].metadata.name
    deleted = attempt("delete: pod", core.delete_namespaced_pod, pod, namespace, grace_period_seconds=0)
    show("delete: pod returned", deleted.metadata.name == pod)
    wait_until(lambda: is_gone(core.read_namespaced_pod, pod))
    attempt("collection: pods", core.delete_collection_namespaced_pod, namespace, label_selector="job-name")


attempt("namespace: create", core.create_namespace, {"metadata": {"name": namespace, "labels": {"clients": "python"}}})
attempt("namespace: again", core.create_namespace, {"metadata": {"name": namespace}})
show("namespace: phase", core.read_namespace(namespace).status.phase)
for part in (show_version, show_nodes, show_refusals, show_job, show_log, show_pod, show_selectors, show_patches, show_replacements,
             show_deletions):
    try:
        part()
    except Exception as error:  # the other parts are compared nevertheless
        show(part.__name__, f"{type(error).__name__}: {error}")
attempt("namespace: delete", core.delete_namespace, namespace)
