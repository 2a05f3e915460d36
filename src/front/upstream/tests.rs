//! The pool with scripted connections.

use std::net::Ipv4Addr;
use std::sync::mpsc;

use super::*;

const LONG: Duration = Duration::from_secs(60);
const ANN: Origin = Origin { network: network(1), is_read: false, is_held: false };
const BOB: Origin = Origin { network: network(2), ..ANN };

const fn network(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
}

fn pool(max: usize, max_waiting: usize) -> Pool {
    Pool::new(Size { max, max_reads: max, max_per_network: max, max_waiting, max_waiting_reads: max_waiting })
}

fn connect() -> io::Result<PrivateConnection> {
    let (stream, other) = UnixStream::pair()?;
    Ok(PrivateConnection { stream, number: None, count: Box::new(other) })
}

impl Pool {
    /// Takes a place and waits.
    fn acquire(
        &self,
        origin: Origin,
        timeout: Duration,
        connect: impl FnOnce() -> io::Result<PrivateConnection>,
    ) -> Result<Permit<'_>, AcquireError> {
        self.enter(origin).ok_or(AcquireError::Overloaded)?.wait(timeout, connect)
    }
}

#[test]
fn permits_are_granted_in_the_order_of_arrival() {
    let pool = pool(1, 100);
    let first = pool.acquire(ANN, Duration::ZERO, connect).expect("an empty pool has a permit");
    assert!(matches!(pool.acquire(ANN, Duration::ZERO, connect), Err(AcquireError::Overloaded)));
    thread::scope(|scope| {
        let (sender, order) = mpsc::channel();
        for number in 0..20 {
            let (sender, pool) = (sender.clone(), &pool);
            scope.spawn(move || {
                let refused = || panic!("the connection before is intact");
                let permit = pool.acquire(ANN, LONG, refused).expect("granted");
                sender.send(number).expect("the test receives");
                permit.give_back();
            });
            while pool.lock().waiting.len() <= number {
                thread::yield_now();
            }
        }
        first.give_back();
        let seen: Vec<_> = order.iter().take(20).collect();
        assert_eq!(seen, (0..20).collect::<Vec<_>>());
    });
    let state = pool.lock();
    assert_eq!((state.in_use, state.idle.len()), (0, 1));
}

#[test]
fn a_broken_connection_gives_its_permit_to_a_new_one() {
    let pool = pool(1, 4);
    drop(pool.acquire(ANN, Duration::ZERO, connect).expect("granted"));
    assert!(pool.lock().idle.is_empty());
    let refused = pool.acquire(ANN, Duration::ZERO, || Err(io::ErrorKind::ConnectionRefused.into()));
    assert!(matches!(refused, Err(AcquireError::Connect(_))));
    drop(refused);
    assert!(pool.acquire(ANN, Duration::ZERO, connect).is_ok(), "a failure to connect keeps no permit");
}

#[test]
fn a_network_gets_a_quarter_of_the_waiting_places() {
    let pool = pool(1, 8);
    let permit = pool.acquire(ANN, Duration::ZERO, connect).expect("granted");
    thread::scope(|scope| {
        for number in 0..2 {
            scope.spawn(|| pool.acquire(ANN, LONG, connect).map(Permit::give_back).expect("granted"));
            while pool.lock().waiting.len() <= number {
                thread::yield_now();
            }
        }
        assert!(matches!(pool.acquire(ANN, LONG, connect), Err(AcquireError::Overloaded)), "no wait");
        scope.spawn(|| pool.acquire(BOB, LONG, connect).map(Permit::give_back).expect("granted"));
        while pool.lock().waiting.len() < 3 {
            thread::yield_now();
        }
        permit.give_back();
    });
}

#[test]
fn a_place_is_kept_for_posts() {
    let pool = Pool::new(Size { max: 2, max_reads: 1, max_per_network: 2, max_waiting: 4, max_waiting_reads: 4 });
    let read = Origin { is_read: true, ..ANN };
    let first = pool.acquire(read, Duration::ZERO, connect).expect("granted");
    thread::scope(|scope| {
        let second = scope.spawn(|| pool.acquire(read, LONG, connect));
        while pool.lock().waiting.is_empty() {
            thread::yield_now();
        }
        pool.acquire(BOB, Duration::ZERO, connect).expect("a POST overtakes a read").give_back();
        assert_eq!(pool.lock().waiting.len(), 1, "a POST that ends makes no room for a read");
        first.give_back();
        assert!(second.join().expect("no panic").is_ok());
    });
    let state = pool.lock();
    assert_eq!((state.in_use, state.reads), (0, 0));
}

#[test]
fn a_waiting_place_is_kept_for_posts() {
    let pool = Pool::new(Size { max: 1, max_reads: 1, max_per_network: 2, max_waiting: 4, max_waiting_reads: 3 });
    let _permit = pool.enter(BOB).expect("a permit");
    let read = |last| Origin { network: network(last), is_read: true, ..ANN };
    let _reads = [3, 4, 5].map(|last| pool.enter(read(last)).expect("a waiting place"));
    assert!(pool.enter(read(6)).is_none());
    assert!(pool.enter(ANN).is_some());
}

#[test]
fn a_waiter_that_times_out_leaves_the_queue() {
    let pool = pool(1, 4);
    let permit = pool.acquire(ANN, Duration::ZERO, connect).expect("granted");
    assert!(pool.acquire(ANN, Duration::from_millis(5), connect).is_err());
    assert!(pool.lock().waiting.is_empty());
    permit.give_back();
    assert!(pool.acquire(ANN, Duration::ZERO, connect).is_ok());
}

#[test]
fn a_place_that_is_given_up_passes_its_permit_on() {
    let pool = pool(1, 4);
    let (first, second) = (pool.enter(ANN).expect("a permit"), pool.enter(ANN).expect("a waiting place"));
    drop(pool.enter(BOB).expect("a waiting place"));
    drop(first);
    assert!(second.wait(Duration::ZERO, connect).is_ok());
    let state = pool.lock();
    assert_eq!((state.in_use, state.waiting.len()), (0, 0));
}

#[test]
fn a_pool_in_use_without_progress_is_stuck() {
    let pool = pool(2, 4);
    assert!(pool.is_alive(Duration::ZERO));
    let _permit = pool.acquire(ANN, LONG, connect).expect("granted");
    assert!(pool.is_alive(LONG) && !pool.is_alive(Duration::ZERO));
}

#[test]
fn only_old_idle_connections_are_closed() {
    let pool = pool(2, 4);
    let two = [pool.acquire(ANN, LONG, connect), pool.acquire(ANN, LONG, connect)];
    two.into_iter().for_each(|permit| permit.expect("granted").give_back());
    if let Some(past) = Instant::now().checked_sub(IDLE_TIMEOUT) {
        pool.lock().idle[0].1 = past;
        pool.close_idle();
        assert_eq!(pool.lock().idle.len(), 1);
    }
}

#[test]
fn requests_that_were_held_back_wait_beside_the_others() {
    let pool = pool(1, 4);
    let _permit = pool.enter(BOB).expect("a permit");
    let held: Vec<_> =
        (0..9).map(|_| pool.enter(Origin { is_held: true, ..ANN }).expect("a place of its own")).collect();
    let _place = pool.enter(ANN).expect("held requests take none of these places");
    assert!(pool.enter(ANN).is_none() && held.len() == 9);
}

#[test]
fn one_network_has_its_share_of_the_permits() {
    let pool = Pool::new(Size { max: 3, max_reads: 3, max_per_network: 2, max_waiting: 0, max_waiting_reads: 0 });
    let held = [(); 2].map(|()| pool.acquire(ANN, Duration::ZERO, connect).expect("within the share"));
    assert!(pool.enter(ANN).is_none());
    assert!(pool.enter(BOB).is_some());
    drop(held);
    assert!(pool.enter(ANN).is_some());
}
