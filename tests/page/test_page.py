"""Tests of the page in a browser: its use, and failures of the server and of Kubernetes."""

import json
import re

import pytest
from playwright.sync_api import expect

from conftest import NARROW, TIMEOUT, WIDE, check_accessibility, wait

expect.set_options(timeout=TIMEOUT * 1000)

POSTS = "**/img-classification/*"


def row(page, name):
    return page.locator("#job-rows tr", has_text=name)


def press(page):
    """Presses Start once it does something again."""
    expect(page.locator("#start")).to_have_attribute("aria-disabled", "false")
    page.locator("#start").click()


def ready(page):
    expect(page.locator("#ready")).to_have_text("● ready")


def job(name, state="succeeded", **fields):
    """A Job as the API returns it."""
    tier, dataset, _ = name.split("-", 2)
    base = {
        "job": name,
        "namespace": "free-service" if tier == "free" else "default",
        "tier": tier,
        "dataset": dataset,
        "type": "ff" if tier == "free" else "cnn",
        "state": state,
        "reason": None,
        "position": None,
        "created": "2026-01-01T00:00:00Z",
        "started": "2026-01-01T00:00:10Z",
        "finished": "2026-01-01T00:02:10Z",
        "node": "node-1",
        "exit_code": 0,
        "accuracy": 0.978,
    }
    return {**base, **fields}


def answer(page, path, body, status=200, headers={}):
    """Answers requests of a path, with any query, in the server's place."""
    text = body if isinstance(body, str) else json.dumps(body)
    handler = lambda route: route.fulfill(status=status, body=text, headers={"Content-Type": "application/json", **headers})
    page.route(re.compile(re.escape(path) + r"(\?.*)?$"), handler)


def test_a_job_from_its_start_to_its_accuracy(serve, open_page):
    server = serve("--local-job-seconds", "10")
    page = open_page(server.url)
    ready(page)
    expect(page.locator("#facts")).to_contain_text("simulation: no container runs · cluster local · Kubernetes 1.")
    expect(page.locator("#jobs-note")).to_have_text("No Jobs yet. Press Start, or copy the curl line.")
    check_accessibility(page)
    page.get_by_label("Dataset").first.select_option("kmnist")
    expect(page.locator("#submit-curl")).to_have_text(
        f"""curl -d '{{"dataset":"kmnist"}}' {server.url}/img-classification/free"""
    )
    page.get_by_role("button", name="Start").click()
    name = wait(lambda: list(server.jobs()))[0]
    assert name.startswith("free-kmnist-")
    expect(page.locator("#submit-result")).to_contain_text(f"{name} started")
    expect(row(page, name).locator(".state")).to_contain_text("running")
    expect(page.locator("#free-slots")).to_contain_text("1 of 2 slots")
    check_accessibility(page)
    row(page, name).get_by_role("link", name="log").click()
    expect(page.locator("#job-title")).to_have_text(name)
    expect(page.locator("#job-title")).to_be_focused()
    expect(page.locator("#log")).to_contain_text("Epoch")
    expect(page.locator("#log-note")).to_have_text("Live.")
    check_accessibility(page)
    expect(page.locator("#timeline [aria-current=step]")).to_contain_text("succeeded")
    expect(page.locator("#log-note")).to_have_text("End of the log.")
    expect(page.locator("#job-facts")).to_contain_text("90.3 %")
    expect(page.locator("#job-commands")).to_contain_text(f"kubectl -n free-service logs -f job/{name}")
    check_accessibility(page)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == f"{name}.log"
    page.get_by_role("link", name="All Jobs").click()
    expect(row(page, name).locator(".result")).to_contain_text("90.3 %")
    expect(page.locator("#accuracy-chart")).to_contain_text("free kmnist90.3 % · 1 Job")


def test_the_queue_and_both_tiers(serve, open_page):
    server = serve("--local-job-seconds", "3600")
    names = [server.submit() for _ in range(4)]
    premium = server.submit("premium")
    page = open_page(server.url)
    expect(row(page, names[3]).locator(".state")).to_contain_text("queued · position 2")
    expect(row(page, names[3])).to_contain_text("waits behind 1 other for one of 2 free slots")
    expect(row(page, premium)).to_contain_text("no node has 900m CPU free")
    expect(page.locator("#free-slots")).to_contain_text("2 of 2 slots")
    expect(page.locator("#free-queue")).to_contain_text("waiting 2 · oldest")
    expect(page.locator("#premium-pending")).to_have_text("waiting for CPU or the image: 1")
    expect(page.locator("#queue-chart")).to_contain_text("now 2, at most 2")
    expect(page.locator("#cluster-note")).to_contain_text("2 nodes")
    expect(page.locator(".node").first).to_contain_text("1 classifier, 0.9 CPU")
    check_accessibility(page)
    row(page, names[3]).get_by_role("link").first.click()
    expect(page.locator("#timeline [aria-current=step]")).to_contain_text("position 2")
    expect(page.locator("#log-note")).to_have_text("The log begins when the container starts.")
    check_accessibility(page)


def test_filters_choose_the_jobs_and_the_pods(serve, open_page):
    server = serve("--local-job-seconds", "3600")
    names = {(tier, dataset): server.submit(tier, dataset) for tier in ("free", "premium") for dataset in ("mnist", "kmnist")}
    page = open_page(server.url)
    rows = page.locator("#job-rows tr")
    expect(rows).to_have_count(4)
    form = page.get_by_role("search")
    form.get_by_label("Tier").select_option("premium")
    expect(rows).to_have_count(2)
    form.get_by_label("Dataset").select_option("kmnist")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text(names["premium", "kmnist"])
    form.get_by_label("Tier").select_option("")
    form.get_by_label("Dataset").select_option("")
    form.get_by_label("State").select_option("succeeded")
    expect(page.locator("#jobs-note")).to_have_text("No Job matches.")
    form.get_by_label("State").select_option("")
    form.get_by_label("Name").fill(names["free", "mnist"][-6:])
    expect(rows).to_have_count(1)
    expect(page.locator("#jobs-note")).to_have_text("1 of the 4 newest Jobs match.")
    page.get_by_label("Filter pods").fill("coredns")
    expect(page.locator(".node li").first).to_contain_text("coredns")
    expect(page.locator(".node li", has_text="kube-proxy")).to_have_count(0)


def test_a_double_click_makes_one_job(serve, open_page):
    server = serve()
    page = open_page(server.url)
    ready(page)
    page.get_by_role("button", name="Start").dblclick()
    expect(page.locator("#submit-result")).to_contain_text("started")
    expect(page.locator("#job-rows tr")).to_have_count(1)
    # The next press, after the time of a double click, is another Job.
    press(page)
    expect(page.locator("#job-rows tr")).to_have_count(2)
    assert len(server.jobs()) == 2


@pytest.mark.parametrize("loss", ["504", "lost", "after"])
def test_a_submit_without_an_answer_is_repeated_with_its_key(serve, open_page, loss):
    server = serve()
    page = open_page(server.url)
    ready(page)
    keys = []

    def handle(route):
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) > 2:
            return route.continue_()
        if loss == "after":
            route.fetch()  # the Job is created, and the answer lost
        if loss == "504":
            return route.fulfill(status=504, json={"error": "Kubernetes did not answer in time", "code": "kubernetes_timeout"})
        route.abort("connectionreset")

    page.route(POSTS, handle)
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#submit-result")).to_contain_text("looking for the Job by its key")
    expect(page.locator("#submit-result")).to_contain_text("started")
    assert len(keys) == 3 and len(set(keys)) == 1 and len(server.jobs()) == 1


def test_a_submit_that_is_repeated_keeps_its_key_while_the_form_changes(serve, open_page):
    server = serve()
    page = open_page(server.url)
    ready(page)
    posts = []

    def handle(route):
        posts.append((route.request.headers["idempotency-key"], route.request.post_data))
        if len(posts) == 1:
            return route.fulfill(status=504, json={"error": "Kubernetes did not answer in time", "code": "kubernetes_timeout"})
        route.continue_()

    page.route(POSTS, handle)
    page.locator("#start").click()
    expect(page.locator("#submit-result")).to_contain_text("looking for the Job by its key")
    page.locator("#submit select").select_option("kmnist")
    expect(page.locator("#submit-result")).to_contain_text("free-mnist-")
    assert len(posts) == 2 and posts[0] == posts[1] and len(server.jobs()) == 1


def test_a_response_that_is_cut_off_is_no_answer(serve, open_page):
    server = serve()
    page = open_page(server.url)
    ready(page)
    answer(page, "/img-classification/free", '{"job":"free-mn')
    page.locator("#start").click()
    expect(page.locator("#submit-result")).to_contain_text("looking for the Job by its key")
    page.unroute_all()
    expect(page.locator("#submit-result")).to_contain_text("started")
    answer(page, "/jobs", "<html>a proxy's page")
    expect(page.locator("#ready")).to_have_text("✗ no answer")
    page.unroute_all()
    ready(page)


def test_a_refusal_is_shown_beside_the_form_and_counts_down(serve, open_page):
    server = serve()
    page = open_page(server.url)
    ready(page)
    error = {"error": "this client network has sent too many requests; wait for Retry-After seconds", "code": "rate_limited"}
    answer(page, "/img-classification/free", error, 429, {"Retry-After": "4"})
    start = page.locator("#start")
    start.click()
    expect(page.locator("#submit-result")).to_have_text(error["error"] + ".")
    expect(start).to_have_text(re.compile("Again in [1-4] s"))
    check_accessibility(page)
    page.unroute_all()
    expect(start).to_have_text("Start")
    press(page)
    expect(page.locator("#submit-result")).to_contain_text("started")


def test_premium_asks_for_its_token_and_forgets_it(serve, open_page, tmp_path):
    (tmp_path / "token").write_text("secret")
    server = serve("--premium-token-file", str(tmp_path / "token"))
    page = open_page(server.url)
    ready(page)
    page.get_by_role("radio", name="premium").check()
    token = page.get_by_label("Premium token")
    expect(page.locator("#submit-curl")).to_contain_text("-H 'Authorization: Bearer TOKEN'")
    token.fill("wrong")
    page.locator("#start").click()
    expect(page.locator("#submit-result")).to_contain_text("premium needs a token")
    expect(token).to_be_focused()
    check_accessibility(page)
    token.fill("secret")
    press(page)
    expect(page.locator("#submit-result")).to_contain_text("premium-mnist-")
    assert "secret" not in page.locator("html").inner_html()
    assert page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    page.reload()
    ready(page)
    expect(token).to_have_value("")


def test_a_job_is_deleted_after_a_question(serve, open_page, tmp_path):
    (tmp_path / "token").write_text("secret")
    server = serve("--admin-token-file", str(tmp_path / "token"), "--local-job-seconds", "3600")
    name = server.submit()
    page = open_page(server.url, f"/#/jobs/{name}")
    dialog = page.get_by_role("dialog")
    page.get_by_role("button", name="Delete this Job").click()
    check_accessibility(page)
    dialog.get_by_role("button", name="Keep it").click()
    expect(dialog).to_be_hidden()
    page.get_by_role("button", name="Delete this Job").click()
    dialog.get_by_label("Admin token").fill("wrong")
    dialog.get_by_role("button", name="Delete").click()
    expect(dialog).to_contain_text("deleting a Job needs the admin token")
    dialog.get_by_label("Admin token").fill("secret")
    dialog.get_by_label("Admin token").press("Enter")
    expect(dialog).to_be_hidden()
    expect(page.locator("#jobs-note")).to_have_text("No Jobs yet. Press Start, or copy the curl line.")
    assert server.jobs() == {}
    page.goto(f"{server.url}/#/jobs/{name}")
    expect(page.locator("#job-reason")).to_contain_text("no such Job")
    check_accessibility(page)


def test_only_the_job_of_the_question_is_deleted(serve, open_page, tmp_path):
    (tmp_path / "token").write_text("secret")
    server = serve("--admin-token-file", str(tmp_path / "token"), "--local-job-seconds", "3600")
    first, second = server.submit(), server.submit()
    page = open_page(server.url, f"/#/jobs/{first}")
    expect(page.locator("#job-title")).to_have_text(first)
    page.goto(f"{server.url}/#/jobs/{second}")
    expect(page.locator("#job-facts")).to_contain_text("mnist")
    page.get_by_role("button", name="Delete this Job").click()
    expect(page.get_by_role("heading", name=f"Delete {second}?")).to_be_visible()
    page.go_back()
    expect(page.locator("#job-title")).to_have_text(first)
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert set(server.jobs()) == {first, second}


def test_the_skip_link_keeps_the_view(serve, open_page):
    server = serve("--local-job-seconds", "3600")
    name = server.submit()
    page = open_page(server.url, f"/#/jobs/{name}")
    expect(page.locator("#job-facts")).to_contain_text("mnist")
    page.get_by_role("link", name="Skip to content").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    assert page.url.endswith(name)
    expect(page.locator("#job-title")).to_have_text(name)


def test_a_job_that_is_not_known_at_the_moment_is_not_shown_as_fresh(serve, open_page):
    server = serve("--local-job-seconds", "3600")
    name = server.submit()
    page = open_page(server.url, f"/#/jobs/{name}")
    expect(page.locator("#timeline [aria-current=step]")).to_contain_text("running")
    unknown = {"error": "the Jobs are not known yet; try again in a moment", "code": "jobs_unknown"}
    answer(page, f"/jobs/{name}", unknown, 503)
    expect(page.locator("#banners")).to_have_text(f"This Job: {unknown['error']}.")
    expect(page.locator("body")).to_have_class(re.compile("stale"))
    check_accessibility(page)
    page.unroute_all()
    expect(page.locator("#banners")).to_be_empty()
    expect(page.locator("body")).not_to_have_class(re.compile("stale"))
    # A failure of one view is none of another.
    answer(page, "/jobs", unknown, 503)
    page.goto(server.url + "/#/")
    expect(page.locator("#banners")).to_have_text(f"Jobs: {unknown['error']}.")
    page.goto(f"{server.url}/#/jobs/{name}")
    expect(page.locator("#banners")).to_be_empty()


def test_a_job_outside_the_filter_is_followed_beside_the_form(serve, open_page):
    server = serve("--local-job-seconds", "3")
    page = open_page(server.url)
    ready(page)
    page.get_by_role("search").get_by_label("Tier").select_option("premium")
    page.locator("#start").click()
    expect(page.locator("#submit-state")).to_contain_text("succeeded")
    expect(page.locator("#job-rows tr")).to_have_count(0)


def test_a_slow_kubernetes_delays_no_other_part(serve, open_page):
    server = serve("--local-job-seconds", "3600")
    name = server.submit()
    page = open_page(server.url, before=lambda page: page.route("**/readyz", lambda route: None))
    expect(row(page, name)).to_be_visible()
    row(page, name).get_by_role("link").first.click()
    expect(page.locator("#job-facts")).to_contain_text("mnist")
    expect(page.locator("#ready")).to_have_text("… loading")


def test_without_an_admin_token_nothing_can_be_deleted(serve, open_page):
    server = serve()
    page = open_page(server.url, f"/#/jobs/{server.submit()}")
    expect(page.locator("#timeline li")).to_have_count(5)
    expect(page.get_by_role("button", name="Delete this Job")).to_be_hidden()


def test_an_outage_of_the_server_and_its_return(serve, open_page):
    server = serve("--local-job-seconds", "3600")
    name = server.submit()
    page = open_page(server.url)
    expect(row(page, name)).to_be_visible()
    server.stop()
    expect(page.locator("#ready")).to_have_text("✗ no answer")
    expect(page.locator("#banners")).to_contain_text("The server has not answered since")
    expect(page.locator("#banners")).to_contain_text("Last update:")
    # What was shown stays, as old.
    expect(row(page, name)).to_be_visible()
    expect(page.locator("body")).to_have_class(re.compile("stale"))
    check_accessibility(page)
    server.start()
    ready(page)
    # The simulated cluster ended with the server.
    expect(page.locator("#jobs-note")).to_contain_text("No Jobs yet")
    expect(page.locator("#banners")).to_be_empty()


def test_an_outage_of_kubernetes_and_its_return(serve, open_page):
    cluster = serve("--local-job-seconds", "3600")
    server = serve("--kubeconfig", cluster.kubeconfig, "--kube-timeout", "1")
    name = server.submit()
    page = open_page(server.url)
    expect(row(page, name)).to_be_visible()
    ready(page)
    cluster.freeze()
    expect(page.locator("#ready")).to_have_text("✗ not ready")
    expect(page.locator("#banners")).to_contain_text("Not ready since")
    expect(page.locator("#banners")).to_contain_text("Jobs: the Jobs are not known")
    expect(row(page, name)).to_be_visible()
    expect(page.locator("body")).to_have_class(re.compile("stale"))
    check_accessibility(page)
    cluster.thaw()
    ready(page)
    expect(page.locator("#banners")).to_be_empty()
    expect(page.locator("body")).not_to_have_class(re.compile("stale"))


def test_a_missing_quota_is_named(serve, open_page):
    cluster = serve()
    server = serve("--kubeconfig", cluster.kubeconfig)
    page = open_page(server.url)
    ready(page)
    answer(page, "/readyz", {"error": "no quota limits the CPU of free-service; run img-classification setup", "code": "quota_missing"}, 503)
    answer(page, "/info", {**server.get("/info")[1], "free_slots": None})
    page.reload()
    expect(page.locator("#banners")).to_contain_text("no quota limits the CPU of free-service; run img-classification setup")
    expect(page.locator("#free-slots")).to_contain_text("0 in use")
    check_accessibility(page)


def test_one_node_only(serve, open_page):
    page = open_page(serve("--local-nodes", "1").url)
    expect(page.locator("#cluster-note")).to_contain_text("1 node,")


def test_without_a_watch_the_page_follows_its_own_jobs(serve, open_page):
    server = serve("--no-watch", "--local-job-seconds", "2")
    page = open_page(server.url)
    expect(page.locator("#banners")).to_contain_text("The server runs with --no-watch")
    check_accessibility(page)
    page.locator("#start").click()
    expect(page.locator("#submit-result")).to_contain_text("started")
    expect(page.locator("#job-rows tr")).to_have_count(1)
    expect(page.locator("#job-rows .state")).to_contain_text("succeeded")


def test_hostile_names_and_reasons_are_only_text(serve, open_page):
    server = serve()
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    hostile = job("free-mnist-evil", "failed", reason=evil, node=evil, accuracy=None)
    pods = [{"node": evil, "ip": evil, "namespace": evil, "name": evil, "status": evil}]

    def before(page):
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        answer(page, "/jobs", {"jobs": [hostile], "next": None})
        answer(page, "/jobs/free-mnist-evil", hostile)
        answer(page, "/jobs/free-mnist-evil/logs", evil)
        answer(page, "/config", {"pods": pods})

    page = open_page(server.url, before=before)
    expect(row(page, "free-mnist-evil").locator(".result")).to_contain_text(evil)
    expect(page.locator(".node")).to_contain_text(evil)
    row(page, "free-mnist-evil").get_by_role("link").first.click()
    expect(page.locator("#job-reason")).to_have_text(evil)
    expect(page.locator("#log")).to_have_text(evil)
    assert page.locator("main img, main script").count() == 0
    page.goto(f"{server.url}/#/jobs/%3Cimg%20src=x%20onerror=alert(3)%3E")
    expect(page.locator("#job-reason")).to_contain_text("no such")
    for path in ("%E0%A4%A", "../healthz", "free-mnist-evil/logs", "free-mnist-evil?wait=60"):
        page.goto(f"{server.url}/#/jobs/{path}")
        expect(page.locator("#job-reason")).to_have_text("no such Job.")


def test_control_sequences_and_long_lines_of_a_log(serve, open_page):
    server = serve()
    ended = job("free-mnist-log")
    lines = ["\x1b[31mred\x1b[0m\x1b]0;title\x07 \x00text", "50 %\r100 %", "x" * 1_000_000, "last"]

    def before(page):
        answer(page, "/jobs/free-mnist-log", ended)
        answer(page, "/jobs/free-mnist-log/logs", "\n".join(lines) + "\n", headers={"Content-Type": "text/plain; charset=utf-8"})

    page = open_page(server.url, "/#/jobs/free-mnist-log", before=before)
    expect(page.locator("#log")).to_contain_text("last")
    shown = page.locator("#log").text_content().split("\n")
    assert shown == ["red text", "50 %", "100 %", "x" * 10_000 + " … 990000 more characters", "last", ""]


def test_a_long_log_keeps_its_end(serve, open_page):
    server = serve()
    text = "".join(f"line {number}\n" for number in range(200_000))

    def before(page):
        answer(page, "/jobs/free-mnist-log", job("free-mnist-log"))
        answer(page, "/jobs/free-mnist-log/logs", text)

    page = open_page(server.url, "/#/jobs/free-mnist-log", before=before)
    expect(page.locator("#log-note")).to_have_text("End of the log.")
    expect(page.locator("#log-dropped")).to_be_visible()
    shown = page.locator("#log").text_content()
    assert shown.endswith("line 199999\n") and len(shown) < 600_000


def test_a_refused_log_can_be_read_again(serve, open_page):
    server = serve("--local-job-seconds", "3600")
    name = server.submit()
    busy = {"error": "16 logs are being read; try again later", "code": "overloaded"}
    page = open_page(server.url, f"/#/jobs/{name}", before=lambda page: answer(page, f"/jobs/{name}/logs", busy, 503))
    expect(page.locator("#log-note")).to_have_text(busy["error"] + ".")
    check_accessibility(page)
    page.unroute_all()
    page.get_by_role("button", name="Read the log again").click()
    expect(page.locator("#log")).to_contain_text("dataset: mnist")


def test_2000_jobs_are_shown_and_an_unchanged_row_is_left_alone(serve, open_page):
    server = serve()
    jobs = [job(f"free-mnist-{number:04}", "running" if number == 3 else "succeeded") for number in range(2_500)]

    def page_of_jobs(route):
        query = dict(part.split("=") for part in route.request.url.split("?")[1].split("&"))
        start, limit = int(query.get("after", 0)), int(query["limit"])
        end = start + limit
        route.fulfill(json={"jobs": jobs[start:end], "next": str(end) if end < len(jobs) else None})

    page = open_page(server.url, before=lambda page: page.route(re.compile(r"/jobs\?(?!.*tier=)"), page_of_jobs))
    rows, more = page.locator("#job-rows tr"), page.get_by_role("button", name="Show 100 more")
    for count in range(100, 2_001, 100):
        expect(rows).to_have_count(count)
        expect(page.locator("#jobs-note")).to_contain_text(f"The {count} newest Jobs.")
        if count < 2_000:
            more.click()
    expect(more).to_be_hidden()
    expect(page.locator("#jobs-note")).to_contain_text("filter to see others")
    page.evaluate(
        """() => {
            window.changes = new Set();
            const changed = (records) => records.forEach((record) => changes.add(record.target.closest?.("tr") ?? record.target.parentElement?.closest("tr")));
            new MutationObserver(changed).observe(document.querySelector("#job-rows"), { childList: true, characterData: true, subtree: true });
        }"""
    )
    jobs[7] = {**jobs[7], "accuracy": 0.5}
    expect(rows.nth(7)).to_contain_text("50.0 %")
    # Besides the row whose result changed, only that of the running Job, whose time passes.
    changed = page.evaluate("[...changes].map((row) => row?.firstChild.textContent)")
    assert set(changed) <= {"free-mnist-0007", "free-mnist-0003"} and "free-mnist-0007" in changed
    frames = page.evaluate(
        """async () => {
            const frames = [];
            for (let last = performance.now(), top = 0; top < 30_000; top += 300) {
                window.scrollTo(0, top);
                await new Promise(requestAnimationFrame);
                frames.push(performance.now() - last);
                last = performance.now();
            }
            return frames.sort((a, b) => a - b);
        }"""
    )
    print(f"scrolling 2,000 Jobs: median frame {frames[len(frames) // 2]:.0f} ms, longest {frames[-1]:.0f} ms")


def test_keyboard_alone_and_the_focus_stays(serve, open_page):
    server = serve("--local-job-seconds", "3")
    page = open_page(server.url)
    ready(page)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "start":
            break
    expect(page.locator("#start")).to_be_focused()
    page.keyboard.press("Enter")
    link = page.locator("#job-rows a").first
    expect(link).to_be_visible()
    link.focus()
    expect(page.locator("#job-rows .state").first).to_contain_text("running")
    log = page.locator("#job-rows").get_by_role("link", name="log of")
    log.focus()
    expect(page.locator("#job-rows .state").first).to_contain_text("succeeded")
    expect(log).to_be_focused()
    link.focus()
    server.submit()
    expect(page.locator("#job-rows tr")).to_have_count(2)
    expect(page.locator("#job-rows tr").nth(1).locator("a").first).to_be_focused()
    # The change was announced to screen readers.
    expect(page.locator("#announcer")).to_contain_text("succeeded")
    page.keyboard.press("Enter")
    expect(page.locator("#job-title")).to_be_focused()


def test_a_hidden_page_asks_for_nothing(serve, open_page):
    server = serve("--local-job-seconds", "3600")
    name = server.submit()
    page = open_page(server.url, f"/#/jobs/{name}", before=lambda page: page.clock.install())
    expect(page.locator("#log-note")).to_have_text("Live.")
    page.evaluate("Object.defineProperty(document, 'hidden', { configurable: true, value: true }); document.dispatchEvent(new Event('visibilitychange'))")
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.clock.run_for(600_000)
    # The log was given up as well: no stream is in use.
    wait(lambda: re.search(r'permits_in_use\{class="stream"\} 0', metrics(server)))
    assert requests == []
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    wait(lambda: page.evaluate("document.querySelector('#log-note').textContent") == "Live.")


def metrics(server):
    import urllib.request

    with urllib.request.urlopen(server.url + "/metrics", timeout=TIMEOUT) as response:
        return response.read().decode()


# A server that answers at once, in the page: a poll takes no real time, so that thousands of them take seconds. Each poll has a Job more and
# other states.
CHANGING_SERVER = """
    let polls = 0;
    const answers = {
        "/info": () => ({ version: "0", image: "x:1", cluster: "c", kubernetes: "v1.32.1", watch: true, free_slots: 2 }),
        "/readyz": () => ({ status: "ok" }),
        "/queue": () => ({ running: [], starting: [], waiting: JOBS.slice(0, polls++ % 9).map(({ job, created }) => ({ job, since: created })) }),
        "/jobs": () => ({ jobs: JOBS.map((job, place) => ({ ...job, job: `free-mnist-${polls + place}`, node: `node-${polls}` })), next: null }),
        "/config": () => ({ pods: JOBS.map(({ job }) => ({ node: `node-${polls % 5}`, ip: null, namespace: "default", name: `${job}-${polls}`, status: "Running" })) }),
    };
    window.fetch = async (path) => {
        const body = JSON.stringify(answers[path.split("?")[0]]());
        return new Response(body, { headers: { ETag: `"${polls}"`, "Content-Type": "application/json" } });
    };
    window.polls = () => polls;
"""


def test_a_hundred_minutes_leave_the_heap_as_it_was(serve, open_page):
    server = serve()
    jobs = json.dumps([job(f"free-mnist-{place}", "running" if place < 2 else "succeeded") for place in range(50)])

    def before(page):
        page.clock.install()
        page.add_init_script(f"const JOBS = {jobs};{CHANGING_SERVER}")

    page = open_page(server.url, before=before)
    ready(page)
    session = page.context.new_cdp_session(page)

    def heap():
        session.send("HeapProfiler.collectGarbage")
        return session.send("Runtime.getHeapUsage")["usedSize"]

    def minutes(count):
        for _ in range(count):
            page.clock.run_for(60_000)

    # The samples of the queue fill up in the first ten minutes.
    minutes(12)
    first = heap()
    minutes(88)
    growth = heap() - first
    polls = page.evaluate("polls()")
    print(f"heap after 12 min {first / 1e6:.2f} MB, after 100 min and {polls} polls {growth / 1e6:+.2f} MB")
    # Time does not always wait for an answer.
    assert polls > 1_000 and growth < 500_000
    expect(page.locator("#job-rows tr")).to_have_count(50)


def test_without_javascript_there_are_the_jobs_and_the_commands(serve, open_page):
    server = serve("--local-job-seconds", "3600")
    name = server.submit()
    page = open_page(server.url, java_script_enabled=False)
    expect(page.locator("#static")).to_contain_text(name)
    expect(page.locator("#static")).to_contain_text("Free tier: 1 of 2 slots in use, Jobs waiting: 0.")
    expect(page.locator("#static pre")).to_contain_text("curl -d '{\"dataset\":\"mnist\"}' http://SERVER/img-classification/free")
    expect(page.locator("#overview")).to_be_hidden()


@pytest.mark.parametrize("width", [360, 768, 1600])
def test_no_width_needs_to_scroll_sideways(serve, open_page, width):
    server = serve("--local-job-seconds", "3600")
    name = server.submit("premium", "kmnist")
    page = open_page(server.url, viewport={"width": width, "height": 800})
    for path in ("/", f"/#/jobs/{name}"):
        page.goto(server.url + path)
        expect(page.locator("h2:visible").first).to_be_visible()
        ready(page)
        check_accessibility(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path


def test_copy_works_on_a_page_of_plain_http(serve, open_page):
    server = serve()
    # No permission and no clipboard API, as on a host without TLS.
    page = open_page(server.url, before=lambda page: page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })"))
    ready(page)
    page.evaluate("document.addEventListener('copy', () => (window.copied = getSelection().toString()))")
    button = page.locator("[data-copy=submit-curl]")
    button.click()
    expect(button).to_have_text("Copied")
    expect(button).to_be_focused()
    assert page.evaluate("copied") == page.locator("#submit-curl").text_content()


def test_no_page(serve, browser):
    server = serve("--no-page")
    for path in ("/", "/page/app.js"):
        status, body = server.request("GET", path, headers={"Accept": "text/html"})
        assert (status, body["code"]) == (404, "not_found")


def test_pictures(serve, open_page, request):
    folder = request.config.getoption("--screenshots")
    if not folder:
        pytest.skip("only with --screenshots FOLDER")
    server = serve("--local-job-seconds", "12", "--local-nodes", "4")
    for tier, dataset in [("free", "mnist"), ("free", "kmnist"), ("premium", "mnist"), ("premium", "kmnist")]:
        server.submit(tier, dataset)
    page = open_page(server.url)
    wait(lambda: all(job["state"] == "succeeded" for job in server.jobs().values()))
    for dataset in ("mnist", "kmnist", "mnist", "mnist", "kmnist"):
        server.submit("free", dataset)
    premium = server.submit("premium")
    expect(row(page, premium).locator(".state")).to_contain_text("running")
    page.wait_for_timeout(5_000)
    page.screenshot(path=f"{folder}/page.png")
    page.set_viewport_size(NARROW)
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=f"{folder}/page-narrow-dark.png")
    page.set_viewport_size(WIDE)
    page.emulate_media(color_scheme="light")
    page.goto(f"{server.url}/#/jobs/{premium}")
    expect(page.locator("#log")).to_contain_text("Epoch")
    page.screenshot(path=f"{folder}/page-job.png")
