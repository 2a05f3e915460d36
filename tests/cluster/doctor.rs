//! `doctor` and `setup`.

use super::{FREE, PREMIUM, SOON, command, empty_cluster, image, jobs, kubectl_ok, pods, post_ok, server, within};

fn doctor() -> (String, bool) {
    command("doctor", &["--listen", "0.0.0.0:0", "--image", &image("short")])
}

#[test]
fn doctor_passes_after_setup_and_changes_nothing() {
    empty_cluster();
    let before = (pods(FREE), pods(PREMIUM), jobs(FREE), jobs(PREMIUM));
    let (output, passed) = doctor();
    assert!(passed, "{output}");
    for start in [
        "ok API: ",
        "ok permission: ",
        "ok namespace: ",
        "ok quota: ",
        "ok dry run: a free pod",
        "ok dry run: a premium pod",
    ] {
        assert!(output.lines().any(|line| line.starts_with(start)), "no {start:?} in\n{output}");
    }
    assert!(output.contains("2 classifiers of 900m CPU run at a time"), "{output}");
    assert_eq!((pods(FREE), pods(PREMIUM), jobs(FREE), jobs(PREMIUM)), before);
}

#[test]
fn setup_repairs_the_quota_faults_that_doctor_finds() {
    empty_cluster();
    let broken = [
        (r#"{"spec":{"hard":{"requests.cpu":"900m"}}}"#, "requests.cpu 900m: only 1 classifier"),
        (r#"{"spec":{"hard":{"requests.memory":"1Gi"}}}"#, "has requests.memory"),
        (r#"{"spec":{"hard":{"limits.cpu":null}}}"#, "no quota limits limits.cpu"),
    ];
    for (patch, words) in broken {
        kubectl_ok(&["patch", "resourcequota", "free-cpu", "-n", FREE, "--type", "merge", "-p", patch]);
        let (output, passed) = doctor();
        let line = output
            .lines()
            .find(|line| line.starts_with("FAIL quota: "))
            .unwrap_or_else(|| panic!("{patch}:\n{output}"));
        assert!(line.contains(words) && line.ends_with("; fix: img-classification setup"), "{line}");
        assert!(!passed, "{output}");
        let (output, succeeded) = command("setup", &[]);
        assert!(succeeded, "{output}");
        within(SOON, "doctor's content", || doctor().1.then_some(()));
    }
    kubectl_ok(&["delete", "resourcequota", "free-cpu", "-n", FREE]);
    let (output, passed) = doctor();
    assert!(!passed && output.contains("FAIL quota: no ResourceQuota limits CPU in free-service"), "{output}");
    assert!(command("setup", &[]).1);
    within(SOON, "doctor's content", || doctor().1.then_some(()));
}

#[test]
fn doctor_accepts_a_full_quota_and_counts_jobs() {
    empty_cluster();
    let server = server("long");
    for _ in 0..3 {
        post_ok(&server, "free", "mnist");
    }
    within(SOON, "two pods", || (pods(FREE).len() == 2).then_some(()));
    within(SOON, "doctor's lines about the full quota and the Jobs", || {
        let (output, passed) = doctor();
        assert!(passed, "{output}");
        // Both pods run a moment after they exist.
        let counts = "warning leftover Jobs: 0 finished, 2 running, 0 pending, 1 queued in free-service";
        (output.contains("ok dry run: the quota of free-service is used up") && output.contains(counts)).then_some(())
    });
}
