//! Guests that use what is granted.

use std::fmt::Write as _;

use super::{Task, raw};

/// Texts in a guest's memory, from 512 on.
#[derive(Debug)]
pub(crate) struct Texts {
    escaped: String,
    end: usize,
}

impl Texts {
    pub(crate) fn new() -> Self {
        Self { escaped: String::new(), end: 512 }
    }

    /// Adds a text, and tells where it is: two operands, its offset and its length.
    pub(crate) fn put(&mut self, text: &str) -> String {
        for byte in text.bytes() {
            write!(self.escaped, "\\{byte:02x}").unwrap();
        }
        let at = self.end;
        self.end += text.len();
        format!("(i32.const {at}) (i32.const {})", text.len())
    }

    /// All of them, as a module's text has them.
    pub(crate) fn escaped(&self) -> &str {
        &self.escaped
    }

    /// A core module with these texts.
    pub(crate) fn raw(&self, run: &str) -> String {
        raw("", &self.escaped, run)
    }

    /// A component with these texts. Memory as in [`Task`].
    pub(crate) fn task(&self, run: &str) -> String {
        Task {
            run,
            more: MORE,
            data: &self.escaped,
            imports: IMPORTS,
            lowered: LOWERED,
            exports: EXPORTS,
            ..Task::default()
        }
        .wat()
    }
}

/// The interfaces, as a component's compiler would import them.
const IMPORTS: &str = r#"
  (import "stem:task/children@0.1.0" (instance $children
    (alias outer 1 $payload (type $p)) (export "payload" (type $payload (eq $p)))
    (alias outer 1 $host-error (type $h)) (export "host-error" (type $host-error (eq $h)))
    (type $release-e (enum "now" "on-success")) (export "release" (type $release (eq $release-e)))
    (type $request-r (record (field "task-name" string) (field "queue" (option string)) (field "input" $payload)
      (field "delay" (option u64)) (field "dedup-key" (option string)) (field "headers" (list (tuple string string)))))
    (export "request" (type $request (eq $request-r)))
    (export "enqueue" (func (param "requests" (list $request)) (param "release" $release)
      (result (result (list string) (error $host-error)))))))
  (import "stem:task/kv@0.1.0" (instance $kv
    (alias outer 1 $host-error (type $h)) (export "host-error" (type $host-error (eq $h)))
    (type $entry-r (record (field "value" (list u8)) (field "version" u64))) (export "entry" (type $entry (eq $entry-r)))
    (type $condition-v (variant (case "always") (case "if-absent") (case "if-version" u64)))
    (export "condition" (type $condition (eq $condition-v)))
    (export "get" (func (param "bucket" string) (param "key" string) (result (result (option $entry) (error $host-error)))))
    (export "put" (func (param "bucket" string) (param "key" string) (param "value" (list u8)) (param "when" $condition)
      (param "ttl" (option u64)) (result (result u64 (error $host-error)))))
    (export "remove" (func (param "bucket" string) (param "key" string) (param "when" $condition)
      (result (result (error $host-error)))))))
  (import "stem:task/config@0.1.0" (instance $config
    (alias outer 1 $host-error (type $h)) (export "host-error" (type $host-error (eq $h)))
    (export "get" (func (param "key" string) (result (result (option string) (error $host-error)))))))
  (import "stem:task/secrets@0.1.0" (instance $secrets
    (alias outer 1 $host-error (type $h)) (export "host-error" (type $host-error (eq $h)))
    (export "placeholder" (func (param "name" string) (result (result string (error $host-error)))))
    (export "reveal" (func (param "name" string) (result (result (list u8) (error $host-error)))))))
"#;

const LOWERED: &str = r#"
  (core func $enqueue (canon lower (func $children "enqueue") (memory $memory) (realloc $realloc)))
  (core func $get (canon lower (func $kv "get") (memory $memory) (realloc $realloc)))
  (core func $put (canon lower (func $kv "put") (memory $memory) (realloc $realloc)))
  (core func $remove (canon lower (func $kv "remove") (memory $memory) (realloc $realloc)))
  (core func $setting (canon lower (func $config "get") (memory $memory) (realloc $realloc)))
  (core func $placeholder (canon lower (func $secrets "placeholder") (memory $memory) (realloc $realloc)))
  (core func $reveal (canon lower (func $secrets "reveal") (memory $memory) (realloc $realloc)))
"#;

const EXPORTS: &str = r#"
  (export "enqueue" (func $enqueue)) (export "get" (func $get)) (export "put" (func $put)) (export "remove" (func $remove))
  (export "setting" (func $setting)) (export "placeholder" (func $placeholder)) (export "reveal" (func $reveal))
"#;

/// The last operand of each is where to put the answer.
const MORE: &str = r#"
    (import "host" "enqueue" (func $enqueue (param i32 i32 i32 i32)))
    (import "host" "get" (func $get (param i32 i32 i32 i32 i32)))
    ;; bucket, key, value; tag and number of the condition; tag and number of the time to live
    (import "host" "put" (func $put (param i32 i32 i32 i32 i32 i32 i32 i64 i32 i64 i32)))
    (import "host" "remove" (func $remove (param i32 i32 i32 i32 i32 i64 i32)))
    (import "host" "setting" (func $setting (param i32 i32 i32)))
    (import "host" "placeholder" (func $placeholder (param i32 i32 i32)))
    (import "host" "reveal" (func $reveal (param i32 i32 i32)))
    ---
    ;; fails for good with the text of the refusal at 256
    (func $refused (result i32) (call $err (i32.const 1) (i32.load (i32.const 272)) (i32.load (i32.const 276))))
"#;
