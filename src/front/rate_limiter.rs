//! The rate of POSTs of each client network: a token bucket. Pure: the time is an argument.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Most client networks in the table, 100 bytes each. Beyond it the table drops those that were quiet longest, which refills their
/// buckets.
const MAX_NETWORKS: usize = 4096;

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
        let per_second = full / 60.0;
        let bucket = self.buckets.entry(network(peer)).or_insert(Bucket { tokens: full, at: now });
        let elapsed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + elapsed * per_second).min(full);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - bucket.tokens) / per_second));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }

    /// Drops the half that was quiet longest. A bucket is full again after a minute.
    fn forget(&mut self, now: Instant) {
        self.buckets.retain(|_, bucket| now.saturating_duration_since(bucket.at) < Duration::from_secs(60));
        if self.buckets.len() >= MAX_NETWORKS {
            let mut times: Vec<Instant> = self.buckets.values().map(|bucket| bucket.at).collect();
            let (_, median, _) = times.select_nth_unstable(MAX_NETWORKS / 2);
            let median = *median;
            self.buckets.retain(|_, bucket| bucket.at > median);
        }
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
    fn memory_is_bounded_for_any_number_of_networks() {
        let (mut limiter, now) = (Limiter::new(60), Instant::now());
        for number in 0..20_000u32 {
            let peer = IpAddr::V4(number.into());
            assert!(limiter.take(peer, now + Duration::from_micros(u64::from(number))).is_ok());
            assert!(limiter.buckets.len() <= MAX_NETWORKS);
        }
    }
}
