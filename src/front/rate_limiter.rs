//! The rates of requests of each client network: token buckets. [`Limiter`] is pure: the time is an argument.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most client networks in the table, 100 bytes each. Beyond it the table drops those that are least limited, which refills their
/// buckets.
const MAX_NETWORKS: usize = 4096;

/// Requests of a client network per minute that call Kubernetes and change nothing: forty browsers that ask every two seconds.
const READS_PER_MINUTE: u32 = 1200;

/// The rates of each client network.
pub struct Rates {
    posts: Mutex<Limiter>,
    reads: Mutex<Limiter>,
}

impl Rates {
    /// Full buckets.
    pub fn new(posts_per_minute: u32) -> Self {
        let limiter = |per_minute| Mutex::new(Limiter::new(per_minute));
        Self { posts: limiter(posts_per_minute), reads: limiter(READS_PER_MINUTE) }
    }

    /// Counts a request of `peer`: a POST, or a read that calls Kubernetes.
    ///
    /// # Errors
    /// Returns the time until the next one.
    pub fn count(&self, peer: IpAddr, is_read: bool) -> Result<(), Duration> {
        let limiter = if is_read { &self.reads } else { &self.posts };
        limiter.lock().unwrap_or_else(PoisonError::into_inner).take(peer, Instant::now())
    }
}

/// Buckets that fill with `per_minute` tokens a minute and hold as many.
pub struct Limiter {
    per_minute: f64,
    buckets: HashMap<IpAddr, Bucket>,
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Limiter {
    pub fn new(per_minute: u32) -> Self {
        Self { per_minute: f64::from(per_minute), buckets: HashMap::new() }
    }

    /// Takes a token for a request of `peer`.
    ///
    /// # Errors
    /// Returns the time until the next token.
    pub fn take(&mut self, peer: IpAddr, now: Instant) -> Result<(), Duration> {
        if self.buckets.len() >= MAX_NETWORKS {
            self.forget(now);
        }
        let full = self.per_minute;
        let bucket = self.buckets.entry(network(peer)).or_insert(Bucket { tokens: full, at: now });
        (bucket.tokens, bucket.at) = (bucket.tokens_at(now, full), now);
        if bucket.tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - bucket.tokens) * 60.0 / full));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }

    /// Drops full buckets, then the least limited ones down to half of the table. So a client with many networks, of which a /48 has
    /// 65,536, cannot refill one by requests from the others.
    fn forget(&mut self, now: Instant) {
        let full = self.per_minute;
        self.buckets.retain(|_, bucket| bucket.tokens_at(now, full) < full);
        if self.buckets.len() > MAX_NETWORKS / 2 {
            let tokens = |(peer, bucket): (&IpAddr, &Bucket)| (bucket.tokens_at(now, full), *peer);
            let mut all: Vec<_> = self.buckets.iter().map(tokens).collect();
            let (_, _, least_limited) =
                all.select_nth_unstable_by(MAX_NETWORKS / 2, |one, other| one.0.total_cmp(&other.0));
            for (_, peer) in least_limited {
                self.buckets.remove(peer);
            }
        }
    }
}

impl Bucket {
    /// The tokens at a later time, at most `full`, which fill in a minute.
    fn tokens_at(&self, now: Instant, full: f64) -> f64 {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.tokens + elapsed * full / 60.0).min(full)
    }
}

/// Returns the client network: an IPv4 address, or the /64 of an IPv6 address, which one host usually has to itself.
pub fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const BOB: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn a_burst_is_allowed_before_the_rate_applies() {
        let (mut limiter, start) = (Limiter::new(60), Instant::now());
        for _ in 0..60 {
            assert_eq!(limiter.take(ANN, start), Ok(()));
        }
        assert_eq!(limiter.take(ANN, start), Err(Duration::from_secs(1)));
        assert_eq!(limiter.take(BOB, start), Ok(()), "another address has a bucket of its own");
        assert_eq!(limiter.take(ANN, start + Duration::from_secs(1)), Ok(()));
        assert!(limiter.take(ANN, start + Duration::from_secs(1)).is_err());
    }

    #[test]
    fn addresses_of_one_network_share_a_bucket() {
        let (mut limiter, now) = (Limiter::new(1), Instant::now());
        let ip = |text: &str| text.parse::<IpAddr>().expect(text);
        assert!(limiter.take(ip("2001:db8::1"), now).is_ok());
        assert!(limiter.take(ip("2001:db8::2"), now).is_err());
        assert!(limiter.take(ip("2001:db8:0:1::1"), now).is_ok());
        assert!(limiter.take(ip("192.0.2.1"), now).is_ok());
        assert!(limiter.take(ip("::ffff:192.0.2.1"), now).is_err());
    }

    #[test]
    fn a_network_cannot_have_its_bucket_refilled_by_requests_from_others() {
        let (mut limiter, now) = (Limiter::new(60), Instant::now());
        while limiter.take(ANN, now).is_ok() {}
        for number in 0..65_536u32 {
            let peer = Ipv6Addr::from_bits((0x2001_0db8_0000 << 80) | (u128::from(number) << 64));
            assert!(limiter.take(IpAddr::V6(peer), now).is_ok());
        }
        assert!(limiter.take(ANN, now).is_err());
    }

    #[test]
    fn memory_is_bounded_for_any_number_of_networks() {
        let (mut limiter, now) = (Limiter::new(60), Instant::now());
        for number in 0..20_000u32 {
            let peer = IpAddr::V4(number.into());
            assert!(limiter.take(peer, now + Duration::from_micros(u64::from(number))).is_ok());
            assert!(limiter.buckets.len() <= MAX_NETWORKS);
        }
    }
}
