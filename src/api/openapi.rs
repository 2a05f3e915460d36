//! GET /openapi.json: this API as an OpenAPI 3.1 document, which is part of the program.

use crate::api::response::Response;
use crate::api::{Request, conditional};

/// The document.
const DOCUMENT: &[u8] = include_bytes!("openapi.json");

/// Returns the document.
pub fn show(request: &Request<'_>) -> Response {
    conditional::json(request, DOCUMENT.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeSet;

    /// The words of this form in a text, between two texts.
    fn codes<'a>(text: &'a str, before: &str, after: &str) -> BTreeSet<&'a str> {
        let is_code =
            |code: &&str| !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        text.split(before).skip(1).filter_map(|rest| rest.split(after).next()).filter(is_code).collect()
    }

    #[test]
    fn the_document_has_every_code_of_an_error() {
        let document: Value = serde_json::from_slice(DOCUMENT).expect("JSON");
        let responses = document["components"]["responses"].as_object().expect("responses");
        let schema = "/content/application~1json/schema/allOf/1/properties/code/enum";
        let listed =
            responses.values().flat_map(|response| response.pointer(schema).and_then(Value::as_array).expect("codes"));
        let documented: BTreeSet<&str> = listed.filter_map(Value::as_str).collect();
        let table = include_str!("../../docs/api.md")
            .split("## Errors")
            .nth(1)
            .and_then(|errors| errors.split("|---|---|---|---|").nth(1))
            .expect("a table");
        assert_eq!(documented, codes(table, " | ", " | "));
        // Each answer is made with its status and its code.
        let sources = [include_str!("error.rs"), include_str!("../front/error.rs")].concat();
        let sources: String = sources.split_whitespace().collect();
        let quoted = codes(&sources, "\"", "\"");
        assert!(documented.is_subset(&quoted), "{:?}", documented.difference(&quoted));
        let in_answers: BTreeSet<&str> =
            sources.split("Answer::new(").skip(1).filter_map(|call| call.split('"').nth(1)).collect();
        assert!(in_answers.is_subset(&documented), "{:?}", in_answers.difference(&documented));
        // The front's statuses have no other quoted words.
        let statuses = include_str!("../front/error.rs").split("fn to_response").next().expect("the statuses");
        let in_front = codes(statuses, "\"", "\"");
        assert!(in_front.contains("overloaded") && in_front.is_subset(&documented), "{in_front:?}");
    }
}
