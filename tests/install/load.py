#!/usr/bin/env python3
"""Posts to the service from many threads until a line arrives on standard input, then prints the outcomes.

usage: load.py THREADS        prints {STATUS: NUMBER, ..., "refused": NUMBER, "broken": [...]}; "ready" comes first, once every thread
                              has got a 200

A request is refused if the connection is refused. It is broken if the connection was accepted and no complete response came:
the service must respond to every accepted request, even while it stops.
"""

import collections
import http.client
import json
import sys
import threading

ADDRESS = ("127.0.0.1", 5000)
BODY = '{"dataset":"mnist"}'

count = collections.Counter()
broken = []
stop = threading.Event()


def post():
    connection = http.client.HTTPConnection(*ADDRESS, timeout=30)
    try:
        connection.connect()
    except ConnectionRefusedError:
        count["refused"] += 1
        # A host without a service refuses at once; the pause limits the number of attempts.
        stop.wait(0.01)
        return False
    try:
        connection.request("POST", "/img-classification/premium", BODY, {"Connection": "close"})
        response = connection.getresponse()
        response.read()
        count[response.status] += 1
        return response.status == 200
    except OSError as error:
        broken.append(repr(error))
    except http.client.HTTPException as error:
        broken.append(repr(error))
    finally:
        connection.close()
    return False


def work(started):
    while not stop.is_set() and not post():
        pass
    started.wait()
    while not stop.is_set():
        post()


def main():
    number = int(sys.argv[1])
    started = threading.Barrier(number + 1)
    threads = [threading.Thread(target=work, args=(started,)) for _ in range(number)]
    for thread in threads:
        thread.start()
    started.wait()
    print("ready", flush=True)
    sys.stdin.readline()
    stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"refused": 0, **count, "broken": broken}))


if __name__ == "__main__":
    main()
