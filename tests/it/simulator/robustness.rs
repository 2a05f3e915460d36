//! Malformed input, many watches, and the files left behind.

use super::{JOBS, Local, PODS, STRATEGIC, job, pod, start, start_with, text};
use crate::support::kubernetes::{APPLY, Kubernetes, MERGE};
use crate::support::server::{Server, Setup};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Prefix of the line with the simulator's kubeconfig.
const EXPORT: &str = "export KUBECONFIG=";

/// The user ID of `nobody`.
const NOBODY: u32 = 65534;

#[test]
fn malformed_objects_do_not_stop_the_simulator() {
    let local = start("long");
    let odd = [json!("x"), json!(1), json!([]), json!([1]), json!(true), Value::Null, json!({}), json!({"a": 1})];
    let collections = [
        JOBS,
        PODS,
        "/api/v1/namespaces/default/resourcequotas",
        "/api/v1/namespaces",
        "/api/v1/nodes",
        "/api/v1/namespaces/default/events",
    ];
    let fine = |status: u16, what: &str, value: &Value| assert!(status < 500, "{what} with {value}: {status}");
    for (number, value) in odd.iter().enumerate() {
        for path in collections {
            let named = |rest: Value| {
                let mut object = json!({"metadata": {"name": format!("odd-{number}")}});
                object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
                object
            };
            for object in [
                value.clone(),
                json!({"metadata": value}),
                named(json!({"spec": value, "status": value})),
                named(json!({"spec": {"template": value, "hard": value, "containers": value}})),
                named(json!({"spec": {"template": {"metadata": value, "spec": value}, "containers": [value]}})),
                named(json!({"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [value]}}}})),
            ] {
                fine(local.kube.post(path, &object).0, path, &object);
            }
        }
    }
    local.kube.post(PODS, &pod("victim", "long", "1m"));
    local.kube.post(JOBS, &job("victim", "long"));
    for value in &odd {
        for path in [
            format!("{PODS}/victim"),
            format!("{JOBS}/victim"),
            "/api/v1/namespaces/free-service/resourcequotas/free-cpu".into(),
        ] {
            for patch in [
                json!({"status": value}),
                json!({"spec": value}),
                json!({"metadata": {"deletionTimestamp": value, "labels": value}}),
            ] {
                for media_type in [MERGE, STRATEGIC, APPLY] {
                    fine(local.kube.patch(&format!("{path}?fieldManager=x"), media_type, &patch).0, &path, &patch);
                }
            }
        }
    }
    for seconds in [json!(u64::MAX), json!(i64::MAX), json!(-1), json!(1e300), json!(i32::MAX)] {
        for field in ["ttlSecondsAfterFinished", "backoffLimit", "parallelism", "activeDeadlineSeconds"] {
            let mut object = job("late", "short");
            object["spec"][field] = seconds.clone();
            fine(local.kube.post(JOBS, &object).0, field, &seconds);
            local.kube.delete(&format!("{JOBS}/late"), &json!({"gracePeriodSeconds": seconds}));
        }
    }
    for cpu in ["9".repeat(37), "1E".to_owned(), "-1".to_owned(), "x".to_owned()] {
        fine(local.kube.post(PODS, &pod(&format!("cpu-{}", cpu.len()), "long", &cpu)).0, "cpu", &json!(cpu));
    }
    local.is_sound();
}

#[test]
fn malformed_bytes_do_not_stop_the_simulator() {
    let local = start("long");
    for (line, framing, body) in [
        ("nonsense", "", &b""[..]),
        ("GET /\u{0}", "", b""),
        ("POST /api/v1/namespaces", "Content-Length: x\r\n", b""),
        ("POST /api/v1/namespaces", "Content-Length: 99999999999999\r\n", b"{}"),
        ("POST /api/v1/namespaces", "Transfer-Encoding: chunked\r\n", b"zz\r\n{}\r\n0\r\n\r\n"),
        ("POST /api/v1/namespaces", "Transfer-Encoding: chunked\r\n", b"ffffffffffffffff\r\n{}"),
        (
            "POST /api/v1/namespaces",
            "Content-Type: application/vnd.kubernetes.protobuf\r\nContent-Length: 5\r\n",
            b"k8s\0\xff",
        ),
        ("GET /api/v1/pods?%ff=%zz&&=&limit=-1&continue=%20", "", b""),
    ] {
        // A response and a closed connection are both acceptable.
        let response = local.kube.send(line, framing, body);
        assert!(response.as_ref().is_ok_and(|response| response.status < 500) || response.is_err(), "{line}");
    }
    let deep = "[".repeat(10_000);
    let framing = format!("Content-Length: {}\r\n", deep.len());
    assert_eq!(local.kube.send(&format!("POST {JOBS}"), &framing, deep.as_bytes()).unwrap().status, 400);
    let pieces =
        ["{\"metadata\":{\"name\":", "\"in-pieces\"", "}}"].map(|piece| format!("{:x}\r\n{piece}\r\n", piece.len()));
    let chunks = format!("{}0\r\n\r\n", pieces.concat());
    let framing = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n";
    assert_eq!(local.kube.send("POST /api/v1/namespaces", framing, chunks.as_bytes()).unwrap().status, 201);
    local.is_sound();
}

#[test]
fn fifty_watches_receive_every_event_of_thirty_jobs() {
    // With more Jobs a watch could lag behind the thousand changes that the simulator keeps.
    const NEW: usize = 30;
    let local = start("short");
    let mut watches: Vec<_> = (0..50).map(|_| local.kube.watch(&format!("{JOBS}?watch=1"))).collect();
    for number in 0..NEW {
        assert_eq!(local.kube.post(JOBS, &job(&format!("job-{number}"), "long")).0, 201);
    }
    for watch in &mut watches {
        let mut missing: BTreeSet<String> = (0..NEW).map(|number| format!("job-{number}")).collect();
        while !missing.is_empty() {
            let event = watch.until("the last Job", |event| event["type"] == "ADDED");
            assert!(missing.remove(&text(&event, "/object/metadata/name")), "{event}");
        }
    }
}

#[test]
fn kubeconfig_is_private_and_removed_at_exit_despite_open_watches() {
    for signal in crate::support::ending_signals() {
        let local = start("long");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let folder = local.kubeconfig.parent().unwrap().to_owned();
        assert_eq!((mode(&local.kubeconfig), mode(&folder)), (0o600, 0o700));
        let _watches: Vec<_> = (0..5).map(|_| local.kube.watch(&format!("{PODS}?watch=1"))).collect();
        let Local { mut server, .. } = local;
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{signal:?}: {}", server.stderr());
        assert!(!folder.exists(), "{signal:?}: {}", folder.display());
    }
}

#[test]
fn signal_during_the_start_leaves_no_file_behind() {
    // At several moments of the start, which takes about 50 ms.
    for delay in (0..60).step_by(3) {
        let folder = tempfile::TempDir::new().unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_img-classification"));
        command.args(["serve", "--local", "--listen", "127.0.0.1:0"]).env("TMPDIR", folder.path());
        let mut child = crate::support::spawn(command.stderr(std::process::Stdio::null()));
        std::thread::park_timeout(std::time::Duration::from_millis(delay));
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
        child.wait().unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "after {delay} ms");
    }
}

#[test]
fn folder_that_cannot_be_created_is_named() {
    let end = Setup::new().env("TMPDIR", "/nonexistent").run(&["serve", "--local"]);
    assert_eq!(end.code, Some(1), "{end:?}");
    assert!(end.stderr.contains("/nonexistent (TMPDIR)"), "{}", end.stderr);
}

#[test]
fn kubeconfig_keeps_its_path_over_restarts() {
    let home = tempfile::TempDir::new().unwrap();
    let path = home.path().join("local");
    let start = || start_with("short", &["--local-kubeconfig", path.to_str().unwrap()]);
    let first = start();
    assert_eq!(first.kubeconfig, path);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(first.kube.get(PODS).0, 200);
    // A later server has replaced the file, so the stop of the first one leaves it.
    let second = start();
    let stop = |mut local: Local| {
        local.server.signal(Signal::TERM);
        assert_eq!(local.server.wait().code(), Some(0));
    };
    stop(first);
    assert_eq!(Kubernetes::new(&path).get(PODS).0, 200);
    stop(second);
    assert!(!path.exists());
    let mut killed = start();
    killed.server.signal(Signal::KILL);
    killed.server.wait();
    assert!(path.exists());
    stop(start());
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn kubeconfig_of_the_user_is_not_replaced() {
    let setup = Setup::new();
    let path = setup.file("config", "apiVersion: v1\n");
    let end = setup.run(&["serve", "--local", "--local-kubeconfig", path.to_str().unwrap()]);
    let line = format!(
        "img-classification: cannot start the simulator with its kubeconfig at {} (--local-kubeconfig): the file exists, \
         and is not that of a simulator; fix: choose another path, or remove the file",
        path.display()
    );
    assert_eq!((end.code, end.stderr), (Some(1), line));
    let end = Setup::new().env("LOCAL_KUBECONFIG", "/nowhere/config").run(&["serve", "--local"]);
    let line = "at /nowhere/config (--local-kubeconfig): No such file or directory (os error 2)";
    assert!(end.code == Some(1) && end.stderr.ends_with(line), "{end:?}");
}

#[test]
fn folder_of_a_killed_server_is_removed_by_the_next_start() {
    let shared = tempfile::TempDir::new().unwrap();
    let start = || Setup::new().env("TMPDIR", shared.path()).args(&["--local"]).start();
    let folder = |server: &Server| {
        let line = server.wait_for_log("with the kubeconfig", |line| line.starts_with(EXPORT));
        Path::new(&line[EXPORT.len()..]).parent().unwrap().to_owned()
    };
    let (running, mut killed) = (start(), start());
    let (kept, left) = (folder(&running), folder(&killed));
    killed.signal(Signal::KILL);
    killed.wait();
    assert!(left.join("kubeconfig").exists());

    let elsewhere = tempfile::TempDir::new().unwrap();
    std::fs::write(elsewhere.path().join("file"), "").unwrap();
    let link = shared.path().join("img-classification-local-link");
    std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
    let foreign = shared.path().join("img-classification-local-foreign");
    // Only root can give a folder to another user.
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::fs::create_dir(&foreign).unwrap();
        std::os::unix::fs::chown(&foreign, Some(NOBODY), None).unwrap();
    }

    // At once, so that they find the folder, and each other's new ones, at the same time.
    let servers: Vec<Server> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(start)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(!left.exists());
    assert!(link.is_symlink() && elsewhere.path().join("file").exists());
    assert_eq!(foreign.exists(), is_root);
    for folder in servers.iter().map(folder).chain([kept]) {
        assert!(folder.join("kubeconfig").exists(), "{}", folder.display());
    }
}
