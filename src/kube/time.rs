//! Times of RFC 3339. Pure.

use std::time::{Duration, SystemTime};

/// Parses a time with any offset from UTC; humantime parses UTC only. Returns `None` if it is malformed.
pub fn parse(text: &str) -> Option<SystemTime> {
    let (local, zone) = text.split_at_checked(text.len().checked_sub("+00:00".len())?)?;
    let [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] = zone.as_bytes() else {
        return humantime::parse_rfc3339(text).ok();
    };
    let digit = |byte: &u8| char::from(*byte).to_digit(10).map(u64::from);
    let hours = digit(h1)? * 10 + digit(h2)?;
    let minutes = digit(m1)? * 10 + digit(m2)?;
    let offset = Duration::from_secs(hours * 3600 + minutes * 60);
    let time = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    if *sign == b'+' { time.checked_sub(offset) } else { time.checked_add(offset) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_any_offset() {
        let utc = parse("2026-01-02T03:04:05Z");
        assert!(utc.is_some());
        for same in [
            "2026-01-02T03:04:05+00:00",
            "2026-01-02T05:04:05+02:00",
            "2026-01-01T21:34:05-05:30",
            "2026-01-02T03:04:05.000000Z",
        ] {
            assert_eq!(parse(same), utc, "{same}");
        }
        for bad in ["", "soon", "2026-01-02", "2026-13-02T03:04:05Z", "2026-01-02T03:04:05", "€€€€€€€"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
