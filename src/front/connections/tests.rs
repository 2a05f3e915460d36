//! The table with clients on loopback.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};

use super::*;

/// A client's end and the server's.
type Pair = (TcpStream, Arc<TcpStream>);

fn pair() -> Pair {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    (client, Arc::new(listener.accept().expect("accepted").0))
}

fn is_open(client: &TcpStream) -> bool {
    client.set_nonblocking(true).expect("a socket");
    let mut client = client;
    client.read(&mut [0; 1]).is_err()
}

fn peer(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
}

/// A table, clients of the networks, and their places.
fn table(max: usize, peers: &[u8]) -> (Arc<Connections>, Vec<Pair>, Vec<ConnectionGuard>) {
    let table = Arc::new(Connections::new(max));
    let clients: Vec<_> = peers.iter().map(|_| pair()).collect();
    let register = |((_, stream), last): (&Pair, &u8)| table.register(stream, peer(*last), false);
    let guards = clients.iter().zip(peers).map(register).map(|guard| guard.expect("a place")).collect();
    (table, clients, guards)
}

/// Tries to register one more connection of the network.
fn register(table: &Arc<Connections>, last: u8, is_local: bool) -> Option<ConnectionGuard> {
    table.register(&pair().1, peer(last), is_local)
}

fn open(clients: &[Pair]) -> Vec<bool> {
    clients.iter().map(|(client, _)| is_open(client)).collect()
}

/// Sets the time of the last progress.
fn set_since(guard: &ConnectionGuard, since: Instant) {
    guard.connections.lock().open.get_mut(&guard.key).expect("open").since = since;
}

fn stall(guard: &ConnectionGuard) {
    set_since(guard, Instant::now().checked_sub(PROGRESS_TIME).expect("the host runs for longer"));
}

#[test]
fn the_slowest_client_loses_its_response_when_all_exceed_the_budget() {
    let (_, clients, guards) = table(8, &[1, 2, 3, 4]);
    const THIRD: usize = MAX_UNSENT / 3 - KERNEL_SEND_BUFFER;
    guards[..3].iter().for_each(|guard| guard.count_unsent(Phase::Writing(THIRD)));
    assert_eq!(open(&clients), [true; 4]);
    guards[3].count_unsent(Phase::Writing(THIRD));
    assert_eq!(open(&clients), [false, true, true, true]);
    assert!(!guards[0].set_phase(Phase::Idle) && guards[1].set_phase(Phase::Idle));
    // One response beyond the budget is sent, alone.
    guards[3].count_unsent(Phase::Writing(2 * MAX_UNSENT));
    assert_eq!(open(&clients), [false, true, false, true], "an idle client has nothing to lose");
}

#[test]
fn the_network_with_most_unsent_bytes_loses_a_response_first() {
    const QUARTER: usize = MAX_UNSENT / 4;
    let (_table, clients, guards) = table(8, &[1, 2, 2, 3]);
    guards[..3].iter().for_each(|guard| guard.count_unsent(Phase::Writing(QUARTER)));
    guards[3].count_unsent(Phase::Writing(QUARTER));
    assert_eq!(open(&clients), [true, false, true, true], "the first client has waited longer, and has fewer bytes");
}

#[test]
fn the_longest_idle_client_makes_room() {
    let (table, clients, mut guards) = table(3, &[1, 2]);
    guards[0].restart_idle();
    let third = register(&table, 3, false).expect("the second makes room");
    assert_eq!(open(&clients), [true, false]);
    drop(guards.pop());
    guards[0].set_phase(Phase::Handling);
    third.set_phase(Phase::Handling);
    assert!(register(&table, 4, false).is_none(), "no client is idle");
    assert!(register(&table, 4, true).is_some(), "a place is kept for clients on this host");
    drop(third);
    assert!(register(&table, 1, true).is_none(), "half of the places for each network, rounded down");
    assert!(register(&table, 4, false).is_some());
}

#[test]
fn a_client_of_the_network_with_most_connections_makes_room() {
    let (table, clients, guards) = table(5, &[1, 2, 2, 3]);
    guards[1].count_unsent(Phase::Backlogged(200));
    stall(&guards[1]);
    guards[2].set_phase(Phase::Handling);
    let other = register(&table, 4, false).expect("the backlogged client makes room");
    assert_eq!(open(&clients), [true, false, true, true]);
    other.set_phase(Phase::Handling);
    guards[3].count_unsent(Phase::Writing(1));
    stall(&guards[3]);
    let _other = register(&table, 5, false).expect("an idle client loses nothing, so it goes before a stalled one");
    assert_eq!(open(&clients), [false, false, true, true]);
}

#[test]
fn a_client_without_progress_makes_room() {
    let (table, clients, guards) = table(4, &[1, 2, 3]);
    guards.iter().for_each(|guard| guard.count_unsent(Phase::Writing(1_000_000)));
    // However slow the test is.
    let later = Instant::now() + Duration::from_secs(3600);
    guards.iter().for_each(|guard| set_since(guard, later));
    assert!(register(&table, 4, false).is_none(), "a response has just begun");
    guards.iter().for_each(stall);
    for (guard, taken) in guards.iter().zip([PROGRESS_BYTES, PROGRESS_BYTES - 1, PROGRESS_BYTES]) {
        guard.count_taken(taken);
    }
    let _fourth = register(&table, 4, false).expect("the second makes room");
    assert_eq!(open(&clients), [true, false, true]);
}
