//! Kubernetes quantities, such as `900m`, `2` and `1Gi`. Pure.

/// Thousandths of a unit, the finest step that quotas and the scheduler count.
pub type Milli = i128;

/// Suffixes as powers of ten, from k8s.io/apimachinery/pkg/api/resource (suffix.go).
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

/// Suffixes as powers of two.
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

/// Parses a quantity. Finer fractions than a thousandth are rounded away from zero, as Kubernetes does.
///
/// Returns `None` if the text is not a quantity, or overflows 128 bits.
pub fn parse(text: &str) -> Option<Milli> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (factor, power) = unit(suffix)?;
    let power = power.checked_add(3)?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let ten = 10i128.checked_pow(power.unsigned_abs())?;
    let count = digits.checked_mul(factor)?;
    let milli = if power >= 0 { count.checked_mul(ten)? } else { count.checked_add(ten - 1)? / ten };
    Some(if text.starts_with('-') { -milli } else { milli })
}

/// Splits a suffix into (factor, power of ten).
fn unit(suffix: &str) -> Option<(i128, i32)> {
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((1, *power));
    }
    if let Some((_, power)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Some((1 << power, 0));
    }
    Some((1, suffix.strip_prefix(['e', 'E'])?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_the_values_of_kubernetes() {
        let table = [
            ("900m", 900),
            ("0.9", 900),
            (".9", 900),
            ("2", 2000),
            ("2.", 2000),
            ("+2", 2000),
            ("-1", -1000),
            ("0", 0),
            ("1e3", 1_000_000),
            ("1E-3", 1),
            ("1E", 1_000_000_000_000_000_000_000),
            ("1k", 1_000_000),
            ("1P", 1_000_000_000_000_000_000),
            ("1Ki", 1024 * 1000),
            ("1.5Gi", 1536 * 1024 * 1024 * 1000),
            ("1Ei", (1 << 60) * 1000),
            ("100n", 1),
            ("1u", 1),
            ("1500u", 2),
            ("-1500u", -2),
            ("1000000n", 1),
            ("1000001n", 2),
            ("1930m", 1930),
            ("0.0009", 1),
        ];
        for (text, milli) in table {
            assert_eq!(parse(text), Some(milli), "{text}");
        }
    }

    #[test]
    fn other_texts_are_not_quantities() {
        let table = ["", ".", "m", "x", "1x", "1 ", " 1", "--1", "1.2.3", "1e", "1e99", "1Zi", "²", "1K", "1mm"];
        for text in table {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert_eq!(parse(&"9".repeat(60)), None);
    }
}
