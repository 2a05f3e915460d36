//! The output of `doctor`: lines or one JSON object.

use serde_json::{Value, json};

use crate::commands::output::{Check, CheckStatus, Printer, print_line};

/// Prints each check at once, or collects all for one JSON object at the end.
pub struct Report {
    printer: Printer,
    /// Print one JSON object instead of lines.
    pub json: bool,
    checks: Vec<Value>,
    worst: CheckStatus,
}

impl Report {
    /// Creates an empty report.
    pub fn new(json: bool, printer: Printer) -> Self {
        Self { printer, json, checks: Vec::new(), worst: CheckStatus::Ok }
    }

    /// Adds a check, and prints it unless the report is JSON.
    pub fn add(&mut self, check: &Check) {
        self.worst = self.worst.max(check.status);
        if self.json {
            self.checks.push(check.to_json());
        } else {
            self.printer.check(check);
        }
    }

    /// Adds the checks of another report in JSON.
    pub fn extend(&mut self, object: &Value) {
        self.checks.extend(object["checks"].as_array().into_iter().flatten().cloned());
        if object["result"] != "ok" {
            self.worst = CheckStatus::Fail;
        }
    }

    /// Prints the JSON object, if wanted. Returns true if no check failed.
    pub fn finish(self) -> bool {
        let is_ok = self.worst < CheckStatus::Fail;
        if self.json {
            let result = if is_ok { "ok" } else { "fail" };
            print_line(&json!({ "checks": self.checks, "result": result }).to_string());
        }
        is_ok
    }
}
