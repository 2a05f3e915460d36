"""The same service as one would write it with Flask and Kubernetes' own Python client, to compare with.

usage: app.py ADDR:PORT K8S_FOLDER       (KUBECONFIG names the cluster)
"""

import copy
import json
import os
import sys
import uuid

import flask
import kubernetes
import waitress
import yaml

app = flask.Flask(__name__)
manifests = {}


@app.post("/img-classification/<tier>")
def classify(tier):
    if tier not in manifests:
        return {"error": "unknown tier"}, 404
    # Whatever content type the caller names, as the course's callers do.
    body = flask.request.get_json(force=True)
    dataset = body.get("dataset") if isinstance(body, dict) else None
    if dataset not in ("mnist", "kmnist"):
        return {"error": "unknown dataset"}, 400
    job = copy.deepcopy(manifests[tier])
    # generateName's five characters meet again after some thousand Jobs; Kubernetes then answers 500.
    job["metadata"]["name"] = f"{tier}-{dataset}-{uuid.uuid4().hex[:10]}"
    job["metadata"]["labels"]["img-classification/dataset"] = dataset
    job["spec"]["template"]["metadata"]["labels"]["img-classification/dataset"] = dataset
    job["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"] = dataset
    namespace = job["metadata"]["namespace"]
    stored = batch.create_namespaced_job(namespace, job)
    return answer({"job": stored.metadata.name, "namespace": namespace, "tier": tier, "dataset": dataset})


@app.get("/config")
def config():
    return answer({"pods": [{
        "node": pod.spec.node_name,
        "ip": pod.status.pod_ip,
        "namespace": pod.metadata.namespace,
        "name": pod.metadata.name,
        "status": pod.status.phase,
    } for pod in core.list_pod_for_all_namespaces().items]})


@app.errorhandler(kubernetes.client.ApiException)
def refused(error):
    return {"error": error.reason}, 502


def answer(value):
    return flask.Response(json.dumps(value, separators=(",", ":")), mimetype="application/json")


if __name__ == "__main__":
    listen, folder = sys.argv[1:]
    for name in ("free", "premium"):
        with open(os.path.join(folder, f"{name}-job.yaml")) as file:
            manifests[name] = yaml.safe_load(file)
    kubernetes.config.load_kube_config()
    # As many connections to Kubernetes as threads that may want one.
    settings = kubernetes.client.Configuration.get_default_copy()
    settings.connection_pool_maxsize = 16
    api = kubernetes.client.ApiClient(settings)
    batch, core = kubernetes.client.BatchV1Api(api), kubernetes.client.CoreV1Api(api)
    waitress.serve(app, listen=listen, threads=16)
