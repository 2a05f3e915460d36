//! `doctor` and `setup`.

use super::{FREE, PREMIUM, SOON, command, empty_cluster, image, jobs, kubectl_ok, pods, post_ok, server, within};

fn doctor() -> (String, bool) {
    command("doctor", &["--listen", "0.0.0.0:0", "--image", &image("short")])
}

#[test]
fn doctor_is_content_with_a_cluster_after_setup_and_changes_nothing() {
    empty_cluster();
    let before = (pods(FREE), pods(PREMIUM), jobs(FREE), jobs(PREMIUM));
    let (said, content) = doctor();
    assert!(content, "{said}");
    for start in [
        "ok API: ",
        "ok permission: ",
        "ok namespace: ",
        "ok quota: ",
        "ok dry run: a free pod",
        "ok dry run: a premium pod",
    ] {
        assert!(said.lines().any(|line| line.starts_with(start)), "no {start:?} in\n{said}");
    }
    assert!(said.contains("2 classifiers of 900m CPU run at a time"), "{said}");
    assert_eq!((pods(FREE), pods(PREMIUM), jobs(FREE), jobs(PREMIUM)), before);
}

#[test]
fn what_doctor_finds_wrong_with_a_quota_setup_repairs() {
    empty_cluster();
    let broken = [
        (r#"{"spec":{"hard":{"requests.cpu":"900m"}}}"#, "requests.cpu 900m: only 1 classifier"),
        (r#"{"spec":{"hard":{"requests.memory":"1Gi"}}}"#, "has requests.memory"),
        (r#"{"spec":{"hard":{"limits.cpu":null}}}"#, "nothing there limits limits.cpu"),
    ];
    for (patch, words) in broken {
        kubectl_ok(&["patch", "resourcequota", "free-cpu", "-n", FREE, "--type", "merge", "-p", patch]);
        let (said, content) = doctor();
        let line =
            said.lines().find(|line| line.starts_with("FAIL quota: ")).unwrap_or_else(|| panic!("{patch}:\n{said}"));
        assert!(line.contains(words) && line.ends_with("; to do: img-classification setup"), "{line}");
        assert!(!content, "{said}");
        let (said, done) = command("setup", &[]);
        assert!(done, "{said}");
        within(SOON, "doctor's content", || doctor().1.then_some(()));
    }
    kubectl_ok(&["delete", "resourcequota", "free-cpu", "-n", FREE]);
    let (said, content) = doctor();
    assert!(!content && said.contains("FAIL quota: no ResourceQuota limits CPU in free-service"), "{said}");
    assert!(command("setup", &[]).1);
    within(SOON, "doctor's content", || doctor().1.then_some(()));
}

#[test]
fn doctor_takes_a_full_quota_for_what_it_is_and_counts_jobs() {
    empty_cluster();
    let server = server("long");
    for _ in 0..3 {
        post_ok(&server, "free", "mnist");
    }
    within(SOON, "two pods", || (pods(FREE).len() == 2).then_some(()));
    let said = within(SOON, "doctor's word on the full quota", || {
        let (said, content) = doctor();
        assert!(content, "{said}");
        said.contains("ok dry run: free-service is in full use").then_some(said)
    });
    assert!(said.contains("warning leftover Jobs: 0 finished, 2 running, 1 waiting in free-service"), "{said}");
}
