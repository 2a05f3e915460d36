// Uses a cluster with the official JavaScript client and prints a transcript that is the same for every cluster.
// usage: client.mjs NAMESPACE          with KUBECONFIG, IMAGE, and the client's folder in CLIENT
// Creates the namespace and deletes it.
import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const { CoreV1Api, BatchV1Api, VersionApi, KubeConfig, Log, Watch, PatchStrategy, makeInformer, setHeaderOptions } = await import(
  pathToFileURL(`${process.env.CLIENT}/dist/index.js`)
);

// Longest wait for an event: a Job takes 5 s, on a busy machine more.
const TIMEOUT_MS = 120_000;
const NO_UID = "00000000-0000-0000-0000-000000000000";

const namespace = process.argv[2];
const config = new KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(CoreV1Api);
const batch = config.makeApiClient(BatchV1Api);

const show = (step, result) => console.log(`${step}: ${JSON.stringify(result)}`);
const names = (list) => list.items.map((item) => item.metadata.name).sort();
const jobs = (options = {}) => batch.listNamespacedJob({ namespace, ...options });
const pods = (labelSelector) => core.listNamespacedPod({ namespace, labelSelector });

/** Sends a request, prints its status, and returns the object. */
async function attempt(step, promise) {
  try {
    const done = await promise;
    show(step, "done");
    return done;
  } catch (error) {
    const status = typeof error.body === "string" ? JSON.parse(error.body) : error.body;
    assert.equal(status?.kind, "Status", error);
    assert.equal(status.code, error.code);
    show(step, `${error.code} ${status.reason}`);
  }
}

/** Repeats a call until it returns something true, and returns that. */
async function waitUntil(condition) {
  const deadline = Date.now() + TIMEOUT_MS;
  for (;;) {
    const found = await condition();
    if (found) return found;
    assert(Date.now() < deadline, "this does not happen");
    await sleep(200);
  }
}

const isGone = (read) => read.then(() => false, (error) => error.code === 404);

function job(name, color = "red") {
  const container = {
    name: "classifier",
    image: process.env.IMAGE,
    env: [{ name: "DATASET", value: "mnist" }, { name: "TYPE", value: "ff" }],
    resources: { requests: { cpu: "100m", memory: "32Mi" }, limits: { cpu: "100m", memory: "32Mi" } },
  };
  // Without a token the pod needs no secret, which a new namespace gets only later.
  const spec = { restartPolicy: "Never", automountServiceAccountToken: false, containers: [container] };
  const metadata = { name, labels: { color } };
  return { apiVersion: "batch/v1", kind: "Job", metadata, spec: { backoffLimit: 0, template: { metadata: { labels: { color } }, spec } } };
}

const create = (body, to = namespace) => batch.createNamespacedJob({ namespace: to, body });

async function showVersionAndNodes() {
  const version = await config.makeApiClient(VersionApi).getCode();
  show("version", [version.major, /^v1\.\d+\.\d+/.test(version.gitVersion)]);
  const nodes = await core.listNode();
  show("nodes", [nodes.kind, nodes.apiVersion]);
  const info = ["architecture", "bootID", "containerRuntimeVersion", "kernelVersion", "kubeletVersion", "machineID", "operatingSystem",
    "osImage", "systemUUID"];
  show("nodes: info", info.filter((field) => nodes.items.every((node) => node.status.nodeInfo[field])));
  for (const labelSelector of ["kubernetes.io/os in (linux)", "kubernetes.io/os notin (linux)", "!kubernetes.io/os"]) {
    show(`nodes: ${labelSelector}`, (await core.listNode({ labelSelector })).items.length === nodes.items.length);
  }
  await attempt("nodes: unknown", core.readNode({ name: "no-such-node" }));
  await attempt("nodes: bad selector", core.listNode({ labelSelector: "a in (b" }));
}

async function showRefusals() {
  const cpu = job("cpu");
  cpu.spec.template.spec.containers[0].resources.requests.cpu = "0.9 CPU";
  await attempt("refused: cpu 0.9 CPU", create(cpu));
  await attempt("refused: upper case", create(job("UPPER")));
  await attempt("refused: missing namespace", create(job("lost"), `${namespace}-absent`));
  const policy = job("policy");
  policy.spec.template.spec.restartPolicy = "Always";
  await attempt("refused: restartPolicy", create(policy));
  show("refused: nothing created", names(await jobs()));
}

/** Watches a path until `isLast` is true, and returns what `see` returns for each event. */
function watch(path, query, see, isLast) {
  return new Promise((resolve, reject) => {
    const seen = [];
    let request;
    const watching = new Watch(config).watch(path, query, (type, object) => {
      seen.push(see(type, object));
      if (isLast(object)) {
        resolve(seen);
        request.abort();
      }
    }, (error) => reject(error ?? new Error("the watch has ended")));
    watching.then((controller) => (request = controller), reject);
  });
}

async function showJob() {
  const { resourceVersion } = (await jobs()).metadata;
  const created = await attempt("job: create", create(job("first")));
  show("job", [created.kind, created.apiVersion, created.spec.completions, created.spec.template.metadata.labels["job-name"]]);
  await attempt("job: again", create(job("first")));
  const query = { resourceVersion, labelSelector: "color in (red)" };
  const podQuery = { labelSelector: "job-name=first" };
  const [jobEvents, phases, followed] = await Promise.all([
    watch(`/apis/batch/v1/namespaces/${namespace}/jobs`, query, (type) => type,
      (object) => object.status?.conditions?.some((condition) => condition.type === "Complete")),
    watch(`/api/v1/namespaces/${namespace}/pods`, podQuery, (_, pod) => pod.status.phase, (pod) => pod.status.phase === "Succeeded"),
    followLog(),
  ]);
  show("watch: events of the Job", [jobEvents[0], jobEvents.at(-1)]);
  show("watch: phases", phases.filter((phase, index) => phase !== phases[index - 1]).filter((phase) => phase !== "Pending"));
  const name = names(await pods("job-name=first"))[0];
  show("log: followed", followed === (await core.readNamespacedPodLog({ namespace, name })));
  show("status", (await batch.readNamespacedJobStatus({ namespace, name: "first" })).status.succeeded);
}

/** Returns what the class Log receives. */
async function readLog(name, options) {
  const stream = new PassThrough();
  await new Log(config).log(namespace, name, "classifier", stream, options);
  let text = "";
  for await (const chunk of stream) text += chunk;
  return text;
}

async function followLog() {
  const pod = await waitUntil(async () => (await pods("job-name=first")).items.find((pod) => pod.status.phase !== "Pending"));
  return readLog(pod.metadata.name, { follow: true });
}

async function showLog() {
  const name = names(await pods("job-name=first"))[0];
  const whole = await readLog(name);
  const lines = whole.trimEnd().split("\n");
  show("log: first line", lines[0]);
  show("log: tail", (await readLog(name, { tailLines: 2 })).trimEnd() === lines.slice(-2).join("\n"));
  show("log: limit", await readLog(name, { limitBytes: 10 }));
  show("log: tail and follow", (await readLog(name, { tailLines: 1, follow: true })).trimEnd() === lines.at(-1));
  const timed = (await readLog(name, { timestamps: true })).trimEnd().split("\n");
  show("log: timestamps", timed.map((line) => line.replace(/^[-0-9]{10}T[0-9:.]+(Z|[+-][0-9:]+) /, "")).join("\n") === lines.join("\n"));
  show("log: since", (await readLog(name, { sinceTime: "2020-01-01T00:00:00Z" })) === whole);
  await attempt("log: other container", core.readNamespacedPodLog({ namespace, name, container: "other" }));
  await attempt("log: no pod", core.readNamespacedPodLog({ namespace, name: "absent" }));
}

async function showPatches() {
  const patch = (step, type, body, name = "first") =>
    attempt(`patch: ${step}`, batch.patchNamespacedJob({ namespace, name, body }, setHeaderOptions("Content-Type", type)));
  await patch("merge", PatchStrategy.MergePatch, { metadata: { labels: { merge: "yes" } } });
  await patch("strategic", PatchStrategy.StrategicMergePatch, { metadata: { labels: { merge: null, strategic: "yes" } } });
  await patch("JSON", PatchStrategy.JsonPatch, [{ op: "add", path: "/metadata/labels/json", value: "yes" }]);
  await patch("immutable", PatchStrategy.MergePatch, { spec: { completions: 2 } });
  await patch("failed test", PatchStrategy.JsonPatch, [{ op: "test", path: "/metadata/labels/json", value: "no" }]);
  await patch("unknown type", "application/yaml", {});
  const read = await batch.readNamespacedJob({ namespace, name: "first" });
  show("patch: labels", Object.entries(read.metadata.labels).sort());
}

async function showReplacements() {
  const replace = (body) => batch.replaceNamespacedJob({ namespace, name: "first", body });
  const old = await batch.readNamespacedJob({ namespace, name: "first" });
  const changed = structuredClone(old.metadata);
  changed.labels = { color: "red", replaced: "yes" };
  const done = await attempt("replace", replace({ ...old, metadata: changed }));
  show("replace: labels", done.metadata.labels);
  show("replace: still succeeded", done.status.succeeded);
  await attempt("replace: stale", replace(old));
  await attempt("replace: another name", replace(job("other")));
}

async function showDeletions() {
  const remove = (name, options) => batch.deleteNamespacedJob({ namespace, name, ...options });
  await attempt("delete: another uid", remove("first", { body: { preconditions: { uid: NO_UID } } }));
  await attempt("delete: in the foreground", remove("first", { propagationPolicy: "Foreground" }));
  await waitUntil(() => isGone(batch.readNamespacedJob({ namespace, name: "first" })));
  show("delete: pods that stay", names(await pods("job-name=first")));
  await attempt("delete: again", remove("first"));
  for (const [name, color] of [["a", "red"], ["b", "blue"], ["c", "green"]]) await create(job(name, color));
  const selection = { namespace, labelSelector: "color notin (green)", propagationPolicy: "Background" };
  await attempt("collection", batch.deleteCollectionNamespacedJob(selection));
  show("collection: left", await waitUntil(async () => {
    const left = names(await jobs());
    return left.length === 1 && left;
  }));
}

/** Shows what an informer tells of the Job that is left. */
async function showInformer() {
  const informer = makeInformer(config, `/apis/batch/v1/namespaces/${namespace}/jobs`, () => jobs());
  const added = new Promise((resolve) => informer.on("add", resolve));
  const deleted = new Promise((resolve) => informer.on("delete", resolve));
  await informer.start();
  show("informer: added", (await added).metadata.name);
  await batch.deleteNamespacedJob({ namespace, name: "c", propagationPolicy: "Background" });
  show("informer: deleted", (await deleted).metadata.name);
}

await attempt("namespace: create", core.createNamespace({ body: { metadata: { name: namespace } } }));
await attempt("namespace: again", core.createNamespace({ body: { metadata: { name: namespace } } }));
for (const part of [showVersionAndNodes, showRefusals, showJob, showLog, showPatches, showReplacements, showDeletions, showInformer]) {
  // A failure leaves the other parts to be compared.
  await part().catch((error) => show(part.name, String(error)));
}
await attempt("namespace: delete", core.deleteNamespace({ name: namespace }));
process.exit(); // otherwise the informer would go on
