//! Ten minutes (SOAK_SECONDS) of valid, malformed, slow and abusive clients at once, in front of a Kubernetes with
//! random faults.
//!
//! Run: `cargo test --release --test soak -- --nocapture`. SOAK_SEED repeats the random choices of a run, not its
//! timing.
//!
//! During the run every response must match the contract. After the run Kubernetes must hold exactly the requested
//! Jobs, and the process must be as small as after the warm-up.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each test crate uses a part")]
mod support;

mod bad_clients;
mod check;
mod clients;
mod faults;
mod requests;

use check::{Size, check_jobs, print_summary};
use clients::CLIENTS;
use faults::{Faults, Lists, inject_outages};
use requests::{Random, World};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use support::api::{ApiServer, Listen};
use support::kubeconfig::Kubeconfig;
use support::plugin::{Plugin, credential};
use support::server::{Server, Setup};

/// Duration of the run in seconds, warm-up included.
const SECONDS: u64 = 600;

/// Duration of the warm-up. After it and a pause the process has its usual size.
const WARM_UP: Duration = Duration::from_secs(30);

/// --kube-timeout: requests survive an outage of two seconds, not of four.
const KUBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest time from a client's disconnect to its Job: the wait for a permit, Kubernetes, and one second of tolerance.
const MAX_CREATE_DELAY: Duration = Duration::from_secs(2 * KUBE_TIMEOUT.as_secs() + 1);

/// Longest time for a create that the server has given up to reach the API server.
const IN_TRANSIT: Duration = Duration::from_secs(1);

/// Bad requests use one kind of Job for this time; good requests avoid that kind meanwhile.
const SHIFT: Duration = Duration::from_secs(30);

/// Time in which good requests of the previous shift may still create Jobs: five seconds of slow sending, then the
/// longest create delay.
const SHIFT_OVERLAP: Duration = Duration::from_secs(5 + MAX_CREATE_DELAY.as_secs());

/// Rate limit in POSTs per minute and address; only the bursts exceed it.
const POSTS_PER_MINUTE: &str = "900";

/// The server's timeouts: ten seconds for a head and for an idle connection, thirty for a response.
const SERVER_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// The first request after thirty idle seconds drops the connections to Kubernetes.
const KUBE_IDLE: Duration = Duration::from_secs(32);

/// The server closes refused connections after a second.
const REFUSED_CLOSE_TIME: Duration = Duration::from_secs(2);

/// Longest time for the process to return to its usual size.
const MAX_SHRINK_TIME: Duration = Duration::from_secs(90);

/// Address of the API server. No client uses it, so its port stays free during an outage.
const KUBERNETES: &str = "127.0.0.2";

/// Runs all clients for this time against a Kubernetes with faults.
fn run_clients(world: &World, api: &mut ApiServer, faults: &Faults, random: &mut Random, time: Duration) {
    let until = Instant::now() + time;
    world.stopped.store(false, Ordering::SeqCst);
    faults.off.store(false, Ordering::SeqCst);
    std::thread::scope(|scope| {
        for (group, (count, client)) in (1..).zip(CLIENTS) {
            for number in 1..=count {
                let (ip, mut random) = (Ipv4Addr::new(127, 1, group, number), Random(random.next()));
                scope.spawn(move || {
                    while world.is_running() {
                        client(world, &mut random, ip);
                    }
                });
            }
        }
        inject_outages(world, api, faults, random, until);
        world.stopped.store(true, Ordering::SeqCst);
    });
    faults.off.store(true, Ordering::SeqCst);
    // Uses up the remaining connection faults.
    for _ in 0..8 {
        drop(TcpStream::connect(api.address()).unwrap());
    }
}

/// Waits until only permanent resources are left, then measures the process.
fn settled_size(server: &Server) -> Size {
    std::thread::sleep(KUBE_IDLE);
    // This request drops the idle connections.
    assert_eq!(server.get("/readyz").status, 200);
    std::thread::sleep(REFUSED_CLOSE_TIME);
    Size::of(server.pid())
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}

#[test]
fn mixed_load_for_ten_minutes_leaves_jobs_and_size_correct() {
    let time = Duration::from_secs(number("SOAK_SECONDS").unwrap_or(SECONDS));
    let seed = number("SOAK_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos())
    });
    println!("SOAK_SEED={seed} SOAK_SECONDS={}", time.as_secs());
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();

    let mut random = Random(seed);
    let mut api = ApiServer::listen(&Listen { ip: KUBERNETES, ..Listen::default() });
    let faults = Arc::new(Faults::default());
    let (lists, mut choices, shared) = (Lists::new(), Random(random.next()), Arc::clone(&faults));
    api.script(move |request| shared.response(request, &mut choices, &lists));
    let setup = Setup::new();
    // The token holds the number of the run, and is valid for 30 seconds.
    let status = json!({"token": "token-NUMBER", "expirationTimestamp": "EXPIRY"});
    let script = format!(
        "N=$(wc -l <\"$HERE/token.pids\")\nE=$(date -u -d '+30 seconds' +%Y-%m-%dT%H:%M:%SZ)\n\
         sed -e \"s/NUMBER/$N/\" -e \"s/EXPIRY/$E/\" <<'END'\n{}\nEND",
        credential("v1", &status)
    );
    let plugin = Plugin::write(setup.home(), "token", &script);
    let timeout = KUBE_TIMEOUT.as_secs().to_string();
    let server = setup
        .kubeconfig(Kubeconfig::new(&api.url()).user(plugin.user()).yaml())
        .args(&["--kube-timeout", &timeout])
        .env("POSTS_PER_MINUTE", POSTS_PER_MINUTE)
        .start();

    let (server_address, start) = (server.address(), Instant::now());
    let world = World { server: server_address, start, stopped: AtomicBool::new(false), record: Mutex::default() };
    let at_start = Size::of(server.pid());
    run_clients(&world, &mut api, &faults, &mut random, WARM_UP.min(time / 2));
    let before = settled_size(&server);
    println!("at the start {at_start}; after the warm-up {before}");
    run_clients(&world, &mut api, &faults, &mut random, time - WARM_UP.min(time / 2));
    let busy = Size::of(server.pid());

    let mut after = settled_size(&server);
    let deadline = Instant::now() + MAX_SHRINK_TIME - KUBE_IDLE - REFUSED_CLOSE_TIME;
    while !after.is_back_at(before) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_secs(1));
        after = Size::of(server.pid());
    }
    let jobs = check_jobs(&world, &api);
    print_summary(&world, &faults);
    println!("{jobs}");
    println!("{} runs of the credential plugin", plugin.runs());
    println!("at the start {at_start}\nafter the warm-up {before}\nat the end of the mix {busy}\nafter a rest {after}");

    assert_eq!(world.record().failures, [""; 0]);
    assert!(after.is_back_at(before), "{after} instead of {before}");
    let log = server.log_until_now();
    for word in ["panicked", "bug"] {
        assert!(!log.contains(word), "{word:?} in the log");
    }
    // Proves that the outages took effect.
    let outages = faults.counted("outage longer than the timeout");
    for line in ["cluster unreachable", "cluster reachable again"] {
        assert!(outages == 0 || log.contains(line), "{line:?} is not in the log");
    }
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(server.get("/config").status, 200);
    assert_eq!(server.post_job().status, 200);
    assert_eq!(server.terminate().code(), Some(0));
}
