"""The same service with Flask and Kubernetes' own Python client, for comparison.

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
    # Any Content-Type, because the course's clients send none or another.
    body = flask.request.get_json(force=True)
    dataset = body.get("dataset") if isinstance(body, dict) else None
    if dataset not in ("mnist", "kmnist"):
        return {"error": "unknown dataset"}, 400
    job = copy.deepcopy(manifests[tier])
    # generateName's five random characters collide after some thousand Jobs, and Kubernetes then responds with 500.
    job["metadata"]["name"] = name = f"{tier}-{dataset}-{uuid.uuid4().hex[:10]}"
    for metadata in (job["metadata"], job["spec"]["template"]["metadata"]):
        metadata["labels"]["img-classification/dataset"] = dataset
    job["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"] = dataset
    kubernetes.client.BatchV1Api(api).create_namespaced_job(job["metadata"]["namespace"], job)
    return response({"job": name, "namespace": job["metadata"]["namespace"], "tier": tier, "dataset": dataset})


@app.get("/config")
def config():
    pods = kubernetes.client.CoreV1Api(api).list_pod_for_all_namespaces().items
    keys = ("node", "ip", "namespace", "name", "status")
    return response({"pods": [dict(zip(keys, (
        pod.spec.node_name, pod.status.pod_ip, pod.metadata.namespace, pod.metadata.name, pod.status.phase))) for pod in pods]})


def response(value):
    return flask.Response(json.dumps(value, separators=(",", ":")), mimetype="application/json")


if __name__ == "__main__":
    for name in ("free", "premium"):
        with open(os.path.join(sys.argv[2], f"{name}-job.yaml")) as file:
            manifests[name] = yaml.safe_load(file)
    kubernetes.config.load_kube_config()
    settings = kubernetes.client.Configuration.get_default_copy()
    settings.connection_pool_maxsize = 16  # one connection to Kubernetes per thread
    api = kubernetes.client.ApiClient(settings)
    waitress.serve(app, listen=sys.argv[1], threads=16)
