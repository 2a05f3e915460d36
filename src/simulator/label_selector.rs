//! Label selectors, with the syntax and the messages of k8s.io/apimachinery/pkg/labels.

use std::collections::BTreeSet;

use serde_json::Value;

use super::names;

/// A condition on a label.
pub struct Requirement {
    key: String,
    operator: Operator,
}

enum Operator {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

impl Requirement {
    pub fn matches(&self, labels: &Value) -> bool {
        let value = labels.get(&self.key).and_then(Value::as_str);
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::Absent => value.is_none(),
            Operator::Greater(limit) => number().is_some_and(|number| number > *limit),
            Operator::Less(limit) => number().is_some_and(|number| number < *limit),
        }
    }
}

/// Parses a selector.
///
/// # Errors
/// The message.
pub fn parse(selector: &str) -> Result<Vec<Requirement>, String> {
    let mut tokens = Tokens { tokens: tokens(selector), at: 0 };
    let mut requirements = Vec::new();
    loop {
        match tokens.peek() {
            "" => return Ok(requirements),
            token if token == "!" || is_identifier(token) => {
                let requirement = tokens.requirement();
                requirements.push(requirement.map_err(|reason| format!("unable to parse requirement: {reason}"))?);
            }
            token => return Err(format!("found '{token}', expected: !, identifier, or 'end of string'")),
        }
        match (tokens.next(), tokens.peek()) {
            ("", _) => return Ok(requirements),
            (",", next) if next == "!" || is_identifier(next) => {}
            (",", next) => return Err(format!("found '{next}', expected: identifier after ','")),
            (token, _) => return Err(format!("found '{token}', expected: ',' or 'end of string'")),
        }
    }
}

/// Returns the symbols and words of a selector.
fn tokens(selector: &str) -> Vec<&str> {
    let (mut found, mut rest) = (Vec::new(), selector.trim_start());
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '=' | '!' if rest[1..].starts_with('=') => 2,
            '=' | '!' | '(' | ')' | ',' | '>' | '<' => 1,
            _ => rest.find(|c: char| "=!(),><".contains(c) || c.is_ascii_whitespace()).unwrap_or(rest.len()),
        };
        found.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    found
}

fn is_identifier(token: &str) -> bool {
    !token.is_empty() && !token.starts_with(['=', '!', '(', ')', ',', '>', '<'])
}

/// The tokens that are not yet parsed. The end is an empty token.
struct Tokens<'a> {
    tokens: Vec<&'a str>,
    at: usize,
}

impl<'a> Tokens<'a> {
    fn peek(&self) -> &'a str {
        self.tokens.get(self.at).copied().unwrap_or_default()
    }

    fn next(&mut self) -> &'a str {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let is_absent = self.peek() == "!";
        if is_absent {
            self.next();
        }
        let key = self.next();
        if !is_identifier(key) {
            return Err(format!("found '{key}', expected: identifier"));
        }
        names::check_key(key).map_err(|reason| format!("<nil>: Invalid value: {key:?}: {reason}"))?;
        let operator = match self.peek() {
            "" | "," if is_absent => Operator::Absent,
            "" | "," => Operator::Exists,
            _ => self.operator(key)?,
        };
        Ok(Requirement { key: key.to_owned(), operator })
    }

    fn operator(&mut self, key: &str) -> Result<Operator, String> {
        let symbol = self.next();
        let values = match symbol {
            "in" | "notin" => self.values()?,
            "=" | "==" | "!=" | ">" | "<" => BTreeSet::from([self.value()?]),
            other => return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        let invalid = |(index, value, reason): (usize, &str, String)| {
            format!("values[{index}][{key}]: Invalid value: {value:?}: {reason}")
        };
        for (index, value) in values.iter().enumerate() {
            names::check_value(value).map_err(|reason| invalid((index, value, reason)))?;
        }
        let number = || {
            let value = values.first().map_or("", String::as_str);
            let reason = "for 'Gt', 'Lt' operators, the value must be an integer";
            value.parse().map_err(|_| format!("values[0]: Invalid value: {value:?}: {reason}"))
        };
        Ok(match symbol {
            "in" | "=" | "==" => Operator::In(values),
            ">" => Operator::Greater(number()?),
            "<" => Operator::Less(number()?),
            _ => Operator::NotIn(values),
        })
    }

    /// Parses the value after an operator; it may be left out.
    fn value(&mut self) -> Result<String, String> {
        match self.peek() {
            "" | "," => Ok(String::new()),
            token if is_identifier(token) => Ok(self.next().to_owned()),
            token => Err(format!("found '{token}', expected: identifier")),
        }
    }

    /// Parses values in brackets; each may be left out.
    fn values(&mut self) -> Result<BTreeSet<String>, String> {
        let mut values = BTreeSet::new();
        match self.next() {
            "(" => {}
            token => return Err(format!("found '{token}' expected: '('")),
        }
        if !matches!(self.peek(), "," | ")") && !is_identifier(self.peek()) {
            return Err(format!("found '{}', expected: ',', ')' or identifier", self.peek()));
        }
        loop {
            let value = if is_identifier(self.peek()) { self.next() } else { "" };
            values.insert(value.to_owned());
            match self.next() {
                "," => {}
                ")" => return Ok(values),
                token => return Err(format!("found '{token}', expected: ',' or ')'")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_have_the_meaning_of_kubernetes() {
        let labels = json!({"a": "1", "tier/x": "free", "in": "in", "empty": ""});
        for (selector, expected) in [
            ("", true),
            (" ", true),
            ("a=1,tier/x=free", true),
            ("a == 1 , tier/x", true),
            ("a!=1", false),
            ("none!=1", true),
            ("none=", false),
            ("empty=", true),
            ("a in (1,2)", true),
            ("a in(2 , 3)", false),
            ("a notin (2,3),none notin (1)", true),
            ("empty in ()", true),
            ("empty in (x,)", true),
            ("in in (in)", true),
            ("!none,!other", true),
            ("!a", false),
            ("a>0,a<2", true),
            ("a>1", false),
            ("tier/x>1", false),
        ] {
            let parsed = parse(selector).expect(selector);
            assert_eq!(parsed.iter().all(|requirement| requirement.matches(&labels)), expected, "{selector}");
        }
    }

    #[test]
    fn malformed_selectors_have_the_messages_of_kubernetes() {
        for (selector, message) in [
            ("a in", "unable to parse requirement: found '' expected: '('"),
            ("a in (", "unable to parse requirement: found '', expected: ',', ')' or identifier"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a===b", "unable to parse requirement: found '=', expected: identifier"),
            (
                "a>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            (",a", "found ',', expected: !, identifier, or 'end of string'"),
            ("a,", "found '', expected: identifier after ','"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
        ] {
            assert_eq!(parse(selector).err().as_deref(), Some(message), "{selector}");
        }
        for selector in ["-a", "a/b/c", "/a", "a/", "A_/b", "a=-", "a=\u{e4}", &format!("a={}", "x".repeat(64))] {
            assert!(parse(selector).is_err_and(|message| message.contains("Invalid value")), "{selector}");
        }
    }
}
