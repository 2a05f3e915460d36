"""Checks each example of an OpenAPI document against its schema.

usage: examples.py DOCUMENT
"""

import json
import sys

import jsonschema


def examples(node, place=""):
    """Yields (place, schema, example) of all parameters and bodies below a node."""
    if isinstance(node, dict):
        if "example" in node and "schema" in node:
            yield place, node["schema"], node["example"]
        for key, child in node.items():
            if key != "example":
                yield from examples(child, f"{place}/{key}")
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from examples(child, f"{place}/{index}")


def main(path):
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    found = list(examples(document))
    for place, schema, example in found:
        # The references in a schema are to the components of the document.
        whole = {"$ref": "#/schema", "schema": schema, "components": document["components"]}
        for problem in jsonschema.Draft202012Validator(whole).iter_errors(example):
            sys.exit(f"{place}: {problem.message}")
    if not found:
        sys.exit("no examples")
    print(f"{len(found)} examples are valid")


main(sys.argv[1])
