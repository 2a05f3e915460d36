//! The parameters of a target's query. Pure.

use std::borrow::Cow;

use crate::api::error::ApiError;

/// Returns the decoded parameters of a target in their order.
pub fn parameters(target: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    let query = target.split('#').next().and_then(|target| target.split_once('?')).map_or("", |(_, query)| query);
    form_urlencoded::parse(query.as_bytes())
}

/// Sets a parameter to its parsed `value`, which is `None` for an unknown one; `values` names the known ones.
///
/// # Errors
/// 400 for an unknown value, or for a parameter that is already set.
pub fn set<T>(
    parameter: &mut Option<T>,
    name: &'static str,
    value: Option<T>,
    values: &'static str,
) -> Result<(), ApiError> {
    if parameter.is_some() {
        return Err(ApiError::RepeatedParameter(name));
    }
    *parameter = Some(value.ok_or(ApiError::BadQuery(name, values))?);
    Ok(())
}

/// Parses a decimal number in a range.
pub fn number(value: &str, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|number| is_number && range.contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let parsed: Vec<_> = parameters("/jobs?a=b%20c+d&%61fter=%C3%BC&x&&y=1=2&bad=%zz#e=f").collect();
        let expected = [("a", "b c d"), ("after", "ü"), ("x", ""), ("y", "1=2"), ("bad", "%zz")];
        assert!(parsed.iter().map(|(name, value)| (&**name, &**value)).eq(expected), "{parsed:?}");
        assert_eq!(parameters("/jobs").count(), 0);
        assert_eq!(parameters("/jobs#?a=b").count(), 0);
    }

    #[test]
    fn a_parameter_is_given_once() {
        let mut limit = None;
        assert!(set(&mut limit, "limit", number("7", 1..=9), "a number").is_ok());
        assert_eq!(limit, Some(7));
        assert!(matches!(set(&mut limit, "limit", Some(7), ""), Err(ApiError::RepeatedParameter("limit"))));
        assert!(matches!(set(&mut None, "limit", number("10", 1..=9), ""), Err(ApiError::BadQuery("limit", _))));
    }

    #[test]
    fn a_number_has_only_digits() {
        for (text, expected) in
            [("1", Some(1)), ("500", Some(500)), ("0", None), ("501", None), ("+1", None), ("", None)]
        {
            assert_eq!(number(text, 1..=500), expected, "{text}");
        }
    }
}
