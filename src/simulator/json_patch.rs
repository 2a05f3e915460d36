//! JSON patches, RFC 6902, as the Python client sends lists. Pure.

use serde_json::Value;

/// The reason why a patch has no result.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    /// It is not a list of operations.
    Malformed,
    /// An operation does not fit the object.
    Failed(String),
}

/// Applies a patch to a copy of an object.
///
/// # Errors
/// [`Problem`]
pub fn apply(object: &Value, patch: &Value) -> Result<Value, Problem> {
    let mut object = object.clone();
    for operation in patch.as_array().ok_or(Problem::Malformed)? {
        let field = |name: &str| operation[name].as_str().ok_or(Problem::Malformed);
        let (name, path) = (field("op")?, field("path")?);
        let value = || operation.get("value").cloned().ok_or(Problem::Malformed);
        match name {
            "add" => add(&mut object, path, value()?)?,
            "remove" => drop(remove(&mut object, path)?),
            "replace" => *object.pointer_mut(path).ok_or_else(|| missing(name, path))? = value()?,
            "move" => {
                let moved = remove(&mut object, field("from")?)?;
                add(&mut object, path, moved)?;
            }
            "copy" => {
                let copied = object.pointer(field("from")?).cloned().ok_or_else(|| missing(name, path))?;
                add(&mut object, path, copied)?;
            }
            "test" if object.pointer(path) == Some(&value()?) => {}
            "test" => return Err(Problem::Failed(format!("testing value {path} failed: test failed"))),
            _ => return Err(Problem::Malformed),
        }
    }
    Ok(object)
}

fn missing(operation: &str, path: &str) -> Problem {
    Problem::Failed(format!("{operation} operation does not apply: doc is missing path: {path}: missing value"))
}

/// Splits a pointer into the pointer of the parent and the last key, RFC 6901.
fn split(path: &str) -> Result<(&str, String), Problem> {
    let (parent, key) = path.rsplit_once('/').ok_or_else(|| missing("patch", path))?;
    Ok((parent, key.replace("~1", "/").replace("~0", "~")))
}

fn add(object: &mut Value, path: &str, value: Value) -> Result<(), Problem> {
    let (parent, key) = split(path)?;
    match object.pointer_mut(parent) {
        Some(Value::Object(map)) => drop(map.insert(key, value)),
        Some(Value::Array(items)) if key == "-" => items.push(value),
        Some(Value::Array(items)) => {
            let index = key.parse().ok().filter(|index| *index <= items.len()).ok_or_else(|| missing("add", path))?;
            items.insert(index, value);
        }
        _ => return Err(missing("add", path)),
    }
    Ok(())
}

fn remove(object: &mut Value, path: &str) -> Result<Value, Problem> {
    let (parent, key) = split(path)?;
    let removed = match object.pointer_mut(parent) {
        Some(Value::Object(map)) => map.remove(&key),
        Some(Value::Array(items)) => {
            key.parse().ok().filter(|index| *index < items.len()).map(|index| items.remove(index))
        }
        _ => None,
    };
    removed.ok_or_else(|| missing("remove", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations_have_the_results_of_rfc_6902() {
        let object = json!({"a": {"b/c": 1}, "l": [1, 2]});
        for (patch, result) in [
            (json!([{"op": "add", "path": "/a/x", "value": 2}]), json!({"a": {"b/c": 1, "x": 2}, "l": [1, 2]})),
            (
                json!([{"op": "add", "path": "/l/1", "value": 9}, {"op": "add", "path": "/l/-", "value": 3}]),
                json!({"a": {"b/c": 1}, "l": [1, 9, 2, 3]}),
            ),
            (
                json!([{"op": "remove", "path": "/a/b~1c"}, {"op": "remove", "path": "/l/0"}]),
                json!({"a": {}, "l": [2]}),
            ),
            (
                json!([{"op": "test", "path": "/l/0", "value": 1}, {"op": "replace", "path": "/l/0", "value": 7}]),
                json!({"a": {"b/c": 1}, "l": [7, 2]}),
            ),
            (json!([{"op": "move", "from": "/a/b~1c", "path": "/m"}]), json!({"a": {}, "l": [1, 2], "m": 1})),
            (json!([{"op": "copy", "from": "/l", "path": "/a/l"}]), json!({"a": {"b/c": 1, "l": [1, 2]}, "l": [1, 2]})),
        ] {
            assert_eq!(apply(&object, &patch), Ok(result), "{patch}");
        }
        for patch in [
            json!({"op": "add"}),
            json!([{"op": "add", "path": "/a"}]),
            json!([{"op": "dance", "path": "/a", "value": 1}]),
            json!(["add"]),
        ] {
            assert_eq!(apply(&object, &patch), Err(Problem::Malformed), "{patch}");
        }
        for patch in [
            json!([{"op": "remove", "path": "/x"}]),
            json!([{"op": "replace", "path": "/x", "value": 1}]),
            json!([{"op": "add", "path": "/l/9", "value": 1}]),
            json!([{"op": "add", "path": "/x/y", "value": 1}]),
            json!([{"op": "test", "path": "/l/0", "value": 2}]),
            json!([{"op": "add", "path": "a", "value": 2}]),
        ] {
            assert!(matches!(apply(&object, &patch), Err(Problem::Failed(_))), "{patch}");
        }
    }
}
