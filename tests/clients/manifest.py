"""The Job of the client tests."""

import os

# Longest wait for an event, in seconds: a Job takes 5, on a busy machine more.
TIMEOUT = 120


def job(name, color="red"):
    """Returns the manifest of a Job that ends soon."""
    container = {
        "name": "classifier",
        "image": os.environ["IMAGE"],
        "env": [{"name": "DATASET", "value": "mnist"}, {"name": "TYPE", "value": "ff"}],
        "resources": {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "100m", "memory": "32Mi"}},
    }
    # Without a token the pod needs no secret, which a new namespace gets only later.
    spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {"color": color}},
        "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": {"color": color}}, "spec": spec}},
    }
