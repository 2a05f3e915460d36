"""Adapts the requests of schemathesis."""

import schemathesis


@schemathesis.hook
def map_query(context, query):
    """Shortens a valid `wait`, so that the run does not take minutes."""
    return {**query, "wait": 1} if query and query.get("wait") in range(1, 61) else query
