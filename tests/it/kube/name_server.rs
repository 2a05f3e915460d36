//! A name server that swallows queries, in namespaces of the server's own.

use crate::support::kubeconfig::Kubeconfig;
use crate::support::process::folder;
use crate::support::server::{Server, Setup};
use std::net::TcpListener;
use std::process::Command;

/// A user's own network and mounts. The listening socket is inherited, so that the test reaches the server.
const NAMESPACES: [&str; 5] = ["unshare", "--user", "--map-root-user", "--net", "--mount"];

/// Binds the name server's port without ever reading from it, and replaces resolv.conf by the first argument. Then
/// executes the rest with standard input as the activation socket.
const SILENT_NAME_SERVER: &str = r#"
    use POSIX;
    use Socket;
    $^F = 255;
    POSIX::dup2(0, 3) or die "no descriptor 3: $!";
    open(STDIN, '<', '/dev/null') or die;
    socket(my $server, PF_INET, SOCK_DGRAM, 0) or die "no socket: $!";
    my $up = pack('a16 s x22', 'lo', 0x41);
    ioctl($server, 0x8914, $up) or die "loopback is not up: $!";
    bind($server, sockaddr_in(53, INADDR_LOOPBACK)) or die "port 53: $!";
    system('mount', '--bind', shift, '/etc/resolv.conf') == 0 or die;
    @ENV{'LISTEN_PID', 'LISTEN_FDS'} = ($$, 1);
    exec @ARGV;
"#;

/// The number of the server's look-ups.
fn lookups(server: &Server) -> usize {
    let tasks = std::fs::read_dir(format!("{}/task", folder(server))).unwrap();
    let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
    names.filter(|name| name == "dns\n").count()
}

#[test]
fn silent_name_server_is_an_outage_and_gets_one_query_at_a_time() {
    const POSTS: usize = 20;
    let (unshare, options) = NAMESPACES.split_first().unwrap();
    if !Command::new(unshare).args(options).arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: a container without the permission to unshare");
        return;
    }
    let setup = Setup::new().kubeconfig(Kubeconfig::new("https://kubernetes.example:6443").yaml());
    let config = setup.file("resolv.conf", "nameserver 127.0.0.1\n");
    let command = [&NAMESPACES[..], &["perl", "-e", SILENT_NAME_SERVER, config.to_str().unwrap()]].concat();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = setup.args(&["--kube-timeout", "3"]).stdin(listener).through(&command).start();
    std::thread::scope(|scope| {
        for _ in 0..POSTS {
            scope.spawn(|| {
                let response = server.post_job();
                assert_eq!(response.status, 503, "{}", response.text());
                assert!(response.error().contains("cannot be reached"), "{}", response.text());
            });
        }
    });
    server.wait_for_log("of the outage", |line| line.starts_with("error: cluster unreachable"));
    // The resolver of the system gives up after 10 s.
    assert!(lookups(&server) <= 1, "{} look-ups", lookups(&server));
    assert_eq!(server.get("/config").status, 503);
}
