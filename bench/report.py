"""Writes the measurements of bench/run as RESULTS.md and its plots. This module measures nothing."""

import datetime
import math
import os
import statistics
import subprocess

MS = "{:.2f} ms".format
RATE = "{:.0f}/s".format
MB = "{:.1f} MB".format
RATIO = "{:.3g} x".format
# Label; key and figure of the results, and its format; key of the request of `direct` to compare with, or None;
# goal: a ratio to `direct` if there is such a key, else the figure itself.
ROWS = [
    ("POST, kept alive, 1 client, p50", "POST 1", "p50", MS, "POST 1", 1.15),
    ("POST, kept alive, 8 clients, throughput", "POST 8", "rate", RATE, "POST 8", 0.95),
    ("POST, kept alive, 32 clients, throughput", "POST 32", "rate", RATE, "POST 32", 1.05),
    ("POST, a new connection each, 1 client, p50", "POST new", "p50", MS, "POST 1", 1.30),
    ("CPU of the server for a POST", "POST 1", "server_cpu", MS, None, 0.15),
    ("GET /config, 10 pods, p50", "GET 10", "p50", MS, "GET 10", 0.2),
    ("GET /config, 1,000 pods, p50", "GET 1000", "p50", MS, "GET 1000", 0.025),
    ("GET /config, 10,000 pods, p50", "GET 10000", "p50", MS, "GET 10000", 0.025),
    ("its peak memory", "GET 10000", "peak", MB, None, 24),
    ("GET /config, 10 pods, 8 at once, p50", "GET 10, 8 at once", "p50", MS, "GET 10, 8 at once", 0.2),
    ("GET /config, 1,000 pods, 8 at once, p50", "GET 1000, 8 at once", "p50", MS, "GET 1000, 8 at once", 0.025),
    ("GET /config, 10,000 pods, 8 at once, p50", "GET 10000, 8 at once", "p50", MS, "GET 10000, 8 at once", 0.01),
    ("its peak memory", "GET 10000, 8 at once", "peak", MB, None, 24),
    ("GET /config, 10,000 pods, unchanged (304), p50", "GET 10000, unchanged", "p50", MS, None, 0.3),
    ("start to the first 200 of /config", "GET 10", "first_200", MS, None, 10),
    ("memory at rest, after that", "GET 10", "rest", MB, None, 6),
]
# The size_limit of ./dist, in MB.
BINARY_GOAL = 5.90
# A t2.nano for an hour: 5 % of a CPU, and 32 Mbit/s each way.
CPU_SECONDS = 180
BYTES = 32e6 / 8 * 3600
# Overhead of frames of 1,514 bytes and of acknowledgements, relative to the bytes of TCP.
FRAMES = 1.07


def write(bench, root):
    results = Results(bench)
    parts = [results.heading(root), results.table(), *bench.failures, results.lists(), results.generator()]
    if bench.options.growth:
        parts += [results.growth(None if bench.options.quick else os.path.join(root, "bench")), results.nano()]
    text = "\n\n".join(parts) + "\n"
    print(text)
    if not bench.options.quick:
        with open(os.path.join(root, "bench", "RESULTS.md"), "w") as file:
            file.write(text)


def markdown(head, rows):
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in [head, ["---"] * len(head), *rows])


class Results:
    def __init__(self, bench):
        self.bench, self.measured = bench, bench.results
        self.systems = ["program", *bench.peers]

    def median(self, key, system, figure):
        values = self.measured.get((key, system), {}).get(figure)
        return statistics.median(values) if values else None

    def ratio(self, key, system, figure, base):
        """Returns the median over the rounds of the ratio to `direct` in the same round."""
        pairs = zip(self.measured[key, system][figure], self.measured[base, "direct"][figure])
        return statistics.median(ours / theirs for ours, theirs in pairs)

    def heading(self, root):
        def git(*command):
            return subprocess.run(["git", "-C", root, *command], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

        def field(path, name):
            with open(path) as file:
                return next(line.split(":", 1)[1].strip() for line in file if line.startswith(name))

        bench, commit = self.bench, "commit " + git("rev-parse", "--short=10", "HEAD")
        if bench.options.binary:
            commit = "a binary given with --binary"
        elif git("status", "--porcelain", "--", "src", "Cargo.toml", "Cargo.lock"):
            commit += " with changes"
        cores = len(os.sched_getaffinity(0))
        where = "the API server and etcd of tests/cluster (1.20.2), without controllers" if bench.cluster.own else "the cluster of KUBECONFIG"
        return f"""# Cost beside Kubernetes itself

Written by `bench/run {' '.join(bench.arguments)}` on {datetime.date.today()}: {commit}, {bench.rounds} rounds.
Machine: {cores} of {os.cpu_count()} cores ({field("/proc/cpuinfo", "model name")}), {int(field("/proc/meminfo", "MemTotal").split()[0]) / 1e6:.0f} GB,
Linux {os.uname().release}; the API server, the system under test and the load generator share the {cores} cores. Load of the machine
when it began: {bench.load_average:.1f}. Cluster: {where}.

`direct` is the same request sent straight to the API server over a kept-alive TLS connection in the same round. It creates the Job of
k8s/premium-job.yaml, or reads a list with `Accept: application/json` and `Accept-Encoding: gzip` to the last byte. The bench unpacks and
counts a list after it has stopped the clock. All systems use the same client certificate. Each figure is the median of its rounds, each
ratio the median of the rounds' ratios. The systems run in random order in each round, each started anew and warmed up. After each
measurement the cluster's Jobs are exactly those that the responses name, and every list has all its pods."""

    def table(self):
        head = ["", "direct", "img-classification", "goal", "met", *self.systems[1:]]
        rows = []
        for label, key, figure, form, base, goal in ROWS:
            if self.median(key, "program", figure) is None:
                continue
            cells = []
            for system in self.systems:
                value = self.median(key, system, figure)
                ratio = base and value is not None and self.ratio(key, system, figure, base)
                cells.append("not measured" if value is None else f"{form(value)}, {RATIO(ratio)}" if base else form(value))
            value = self.ratio(key, "program", figure, base) if base else self.median(key, "program", figure)
            met = value >= goal if figure == "rate" else value <= goal
            rows.append([label, form(self.median(base, "direct", figure)) if base else "", cells[0],
                         RATIO(goal) if base else form(goal), "yes" if met else "**no**", *cells[1:]])
        size = os.path.getsize(self.bench.binary) / 1e6
        rows.append(["the stripped binary", "", f"{size:.2f} MB", f"{BINARY_GOAL:.2f} MB", "yes" if size <= BINARY_GOAL else "**no**",
                     *["" for _ in self.systems[1:]]])
        return markdown(head, rows)

    def lists(self):
        rows = []
        for stage in self.bench.sizes:
            row = [f"{stage:,}", f"{self.bench.sizes[stage] / 1e6:.2f} MB"]
            for system in ("direct", "direct, protobuf"):
                kept = self.measured[f"GET {stage}", system]
                row += [MS(self.median(f"GET {stage}", system, "p50")), f"{kept['received'][0] / kept['requests'][0] / 1e6:.3f} MB"]
            rows.append(row)
        return "Time and size of a list that the API server sends directly:\n\n" + markdown(
            ["pods", "plain JSON", "JSON, gzip", "sent", "protobuf, gzip", "sent"], rows)

    def generator(self):
        rows = []
        for clients in (1, 8, 32):
            key = f"POST {clients}"
            rate, cpu = self.median(key, "program", "rate"), self.median(key, "program", "cpu")
            rows.append([clients, RATE(self.median(key, "echo", "rate")), RATE(rate), f"{rate / self.median(key, 'echo', 'rate'):.1%}",
                         f"{cpu:.0f} us", f"{self.median(key, 'direct', 'cpu'):.0f} us"])
        return """The load generator is not the bottleneck. Against `load echo`, which responds at once, it sends far more than any system here
handles. Its own CPU time per request is small beside the time of a request.

""" + markdown(["clients", "POSTs to `load echo`", "to the program", "share", "its CPU per request", "the same to `direct`, over TLS"], rows)

    def curve(self, unit, prefix, steps, figure, form):
        """Returns a table, and its lines for a plot."""
        keys = {step: f"{prefix} {step}" for step in steps}
        rows = [[f"{step:,}", form(self.median(key, "direct", figure)),
                 f"{form(self.median(key, 'program', figure))}, {RATIO(self.ratio(key, 'program', figure, key))}", MB(self.median(key, "program", "peak"))] for step, key in keys.items()]
        lines = {name: [(step, self.median(key, system, figure)) for step, key in keys.items()]
                 for name, system in (("img-classification", "program"), ("direct", "direct"))}
        return markdown([unit, "direct", "img-classification", "peak memory"], rows), lines

    def growth(self, folder):
        lists, config = self.curve("pods", "GET", self.bench.sizes, "p50", MS)
        jobs, posts = self.curve("clients", "POSTS", self.bench.clients, "rate", RATE)
        memory = {"img-classification": [(stage, self.median(f"GET {stage}", "program", "peak")) for stage in self.bench.sizes]}
        if folder:
            plot(f"{folder}/config.svg", "GET /config, p50 in ms, by pods", config)
            plot(f"{folder}/memory.svg", "peak memory in MB, by pods", memory)
            plot(f"{folder}/posts.svg", "POSTs a second, by clients", posts)
        return f"""## As the work grows

GET /config, one client, p50:

{lists}

![GET /config by pods](config.svg)
![peak memory by pods](memory.svg)

POST, kept alive, throughput:

{jobs}

![POSTs by clients](posts.svg)"""

    def nano(self):
        rows, limits = [], []
        for label, key in [("POST", "POST 1"), *((f"GET /config, {stage:,} pods", f"GET {stage}") for stage in self.bench.sizes)]:
            cpu, read, written, sent, received, requests = (self.median(key, "program", name) for name in (
                "server_cpu", "from_api", "to_api", "sent", "received", "requests"))
            into, out = (size * FRAMES / 1000 for size in (read + sent / requests, written + received / requests))
            hour = {"CPU": CPU_SECONDS * 1000 / cpu, "network": BYTES / 1000 / max(into, out)}
            first = min(hour, key=hour.get)
            limits.append((label, hour[first], first))
            rows.append([label, MS(cpu), f"{into:.1f} KB", f"{out:.1f} KB", *(f"{number:,.0f}" for number in hour.values()), first])
        words = "; ".join(f"{label}: {limit}, at {number / 3600:.1f} a second" for label, number, limit in limits)
        return f"""## On paper: a t2.nano

A t2.nano has a baseline of 5 % of a CPU ({CPU_SECONDS} s an hour) and 32 Mbit/s each way ({BYTES / 1e9:.1f} GB an hour).
The table divides both by the CPU time and the bytes of one request. A core of a t2.nano differs from this machine's. The bytes are
those from and to clients and API server, plus 7 % for frames and acknowledgements. These pods are alike, so that gzip makes a list
of many 40 times smaller. With less similar pods the network limits sooner.

""" + markdown(["", "CPU", "in", "out", "by CPU", "by network", "limit"], rows) + f"\n\nFirst limit: {words}."


def plot(path, title, series):
    """Writes a plot of lines over two logarithmic axes."""
    width, height, left, top = 640, 360, 70, 40
    xs = [x for line in series.values() for x, _ in line]
    ys = [y for line in series.values() for _, y in line]
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))

    def across(x):
        return left + (width - left - 30) * math.log(x / min(xs)) / math.log(max(xs) / min(xs))

    def up(y):
        return height - 40 - (height - 40 - top) * (math.log10(y) - low) / (high - low)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
             f'<rect width="{width}" height="{height}" fill="white"/>',
             f'<text x="{left}" y="20" font-size="14">{title}</text>']
    for y in (step * 10.0 ** power for power in range(low, high) for step in ((1, 2, 5) if high - low < 3 else (1,))):
        parts.append(f'<path d="M{left} {up(y):.1f}H{width - 30}" stroke="#ddd"/>'
                     f'<text x="{left - 8}" y="{up(y) + 4:.1f}" text-anchor="end">{y:,g}</text>')
    for x in sorted(set(xs)):
        parts.append(f'<text x="{across(x):.1f}" y="{height - 20}" text-anchor="middle">{x:,}</text>')
    for index, (name, line) in enumerate(series.items()):
        colour = ("#0a58ca", "#888888")[index]
        points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" fill="{colour}"/>' for x, y in line]
        parts.append(f'<text x="{left + 10}" y="{top + 14 + 16 * index}" fill="{colour}">{name}</text>')
    with open(path, "w") as file:
        file.write("\n".join([*parts, "</svg>"]) + "\n")
