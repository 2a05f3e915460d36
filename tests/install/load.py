#!/usr/bin/env python3
"""Posts to the service from many threads until it is told to stop by a line on its standard input, and prints what became of it.

usage: load.py THREADS        prints {STATUS: NUMBER, ..., "refused": NUMBER, "broken": [...]}; "ready" comes first, once every thread
                              has had an answer of 200

A request is refused if there is no connection at all, and broken if there was one and no whole answer came of it: one that was
accepted is to be answered, whatever happens to the service.
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


def ask():
    connection = http.client.HTTPConnection(*ADDRESS, timeout=30)
    try:
        connection.connect()
    except ConnectionRefusedError:
        count["refused"] += 1
        # A host without a service refuses at once; so many tries would say nothing more.
        stop.wait(0.01)
        return False
    try:
        connection.request("POST", "/img-classification/premium", BODY, {"Connection": "close"})
        answer = connection.getresponse()
        answer.read()
        count[answer.status] += 1
        return answer.status == 200
    except OSError as error:
        broken.append(repr(error))
    except http.client.HTTPException as error:
        broken.append(repr(error))
    finally:
        connection.close()
    return False


def work(started):
    while not stop.is_set() and not ask():
        pass
    started.wait()
    while not stop.is_set():
        ask()


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
