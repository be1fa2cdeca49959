//! Guests that send requests, or only make them.

use super::Task;
use super::granted::Texts;

/// A component with these texts that may call `wasi:http`.
pub(crate) fn asks(texts: &Texts, run: &str) -> String {
    Task {
        run,
        more: MORE,
        data: texts.escaped(),
        imports: IMPORTS,
        lowered: LOWERED,
        exports: EXPORTS,
        ..Task::default()
    }
    .wat()
}

const IMPORTS: &str = r#"
  (import "wasi:io/error@0.2.12" (instance $io-error (export "error" (type (sub resource)))))
  (alias export $io-error "error" (type $io-error-t))
  (import "wasi:io/streams@0.2.12" (instance $streams
    (alias outer 1 $io-error-t (type $e)) (export "error" (type $error (eq $e)))
    (export "output-stream" (type $out (sub resource)))
    (type $stream-error-v (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $stream-error-v)))
    (export "[method]output-stream.check-write" (func (param "self" (borrow $out)) (result (result u64 (error $stream-error)))))
    (export "[method]output-stream.write" (func (param "self" (borrow $out)) (param "contents" (list u8))
      (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $output-t))
  (import "wasi:http/types@0.2.12" (instance $http
    (alias outer 1 $output-t (type $o)) (export "output-stream" (type $out (eq $o)))
    (export "fields" (type $fields (sub resource)))
    (export "outgoing-request" (type $request (sub resource)))
    (export "outgoing-body" (type $body (sub resource)))
    (export "request-options" (type (sub resource)))
    (export "future-incoming-response" (type (sub resource)))
    (type $method-v (variant (case "get") (case "head") (case "post") (case "put") (case "delete") (case "connect")
      (case "options") (case "trace") (case "patch") (case "other" string)))
    (export "method" (type $method (eq $method-v)))
    (type $scheme-v (variant (case "HTTP") (case "HTTPS") (case "other" string)))
    (export "scheme" (type $scheme (eq $scheme-v)))
    (type $header-error-v (variant (case "invalid-syntax") (case "forbidden") (case "immutable")))
    (export "header-error" (type $header-error (eq $header-error-v)))
    (type $dns-r (record (field "rcode" (option string)) (field "info-code" (option u16))))
    (export "DNS-error-payload" (type $dns (eq $dns-r)))
    (type $alert-r (record (field "alert-id" (option u8)) (field "alert-message" (option string))))
    (export "TLS-alert-received-payload" (type $alert (eq $alert-r)))
    (type $field-r (record (field "field-name" (option string)) (field "field-size" (option u32))))
    (export "field-size-payload" (type $field (eq $field-r)))
    (type $error-code-v (variant
      (case "DNS-timeout") (case "DNS-error" $dns) (case "destination-not-found") (case "destination-unavailable")
      (case "destination-IP-prohibited") (case "destination-IP-unroutable") (case "connection-refused")
      (case "connection-terminated") (case "connection-timeout") (case "connection-read-timeout")
      (case "connection-write-timeout") (case "connection-limit-reached") (case "TLS-protocol-error")
      (case "TLS-certificate-error") (case "TLS-alert-received" $alert) (case "HTTP-request-denied")
      (case "HTTP-request-length-required") (case "HTTP-request-body-size" (option u64)) (case "HTTP-request-method-invalid")
      (case "HTTP-request-URI-invalid") (case "HTTP-request-URI-too-long") (case "HTTP-request-header-section-size" (option u32))
      (case "HTTP-request-header-size" (option $field)) (case "HTTP-request-trailer-section-size" (option u32))
      (case "HTTP-request-trailer-size" $field) (case "HTTP-response-incomplete")
      (case "HTTP-response-header-section-size" (option u32)) (case "HTTP-response-header-size" $field)
      (case "HTTP-response-body-size" (option u64)) (case "HTTP-response-trailer-section-size" (option u32))
      (case "HTTP-response-trailer-size" $field) (case "HTTP-response-transfer-coding" (option string))
      (case "HTTP-response-content-coding" (option string)) (case "HTTP-response-timeout") (case "HTTP-upgrade-failed")
      (case "HTTP-protocol-error") (case "loop-detected") (case "configuration-error") (case "internal-error" (option string))))
    (export "error-code" (type (eq $error-code-v)))
    (export "[constructor]fields" (func (result (own $fields))))
    (export "[method]fields.append" (func (param "self" (borrow $fields)) (param "name" string) (param "value" (list u8))
      (result (result (error $header-error)))))
    (export "[constructor]outgoing-request" (func (param "headers" (own $fields)) (result (own $request))))
    (export "[method]outgoing-request.set-method" (func (param "self" (borrow $request)) (param "method" $method) (result (result))))
    (export "[method]outgoing-request.set-scheme" (func (param "self" (borrow $request)) (param "scheme" (option $scheme))
      (result (result))))
    (export "[method]outgoing-request.set-authority" (func (param "self" (borrow $request)) (param "authority" (option string))
      (result (result))))
    (export "[method]outgoing-request.set-path-with-query" (func (param "self" (borrow $request))
      (param "path-with-query" (option string)) (result (result))))
    (export "[method]outgoing-request.body" (func (param "self" (borrow $request)) (result (result (own $body)))))
    (export "[method]outgoing-body.write" (func (param "self" (borrow $body)) (result (result (own $out)))))))
  (alias export $http "outgoing-request" (type $request-t))
  (alias export $http "request-options" (type $options-t))
  (alias export $http "future-incoming-response" (type $future-t))
  (alias export $http "error-code" (type $error-code-t))
  (import "wasi:http/outgoing-handler@0.2.12" (instance $outgoing
    (alias outer 1 $request-t (type $r)) (export "outgoing-request" (type $request (eq $r)))
    (alias outer 1 $options-t (type $o)) (export "request-options" (type $options (eq $o)))
    (alias outer 1 $future-t (type $f)) (export "future-incoming-response" (type $future (eq $f)))
    (alias outer 1 $error-code-t (type $e)) (export "error-code" (type $error-code (eq $e)))
    (export "handle" (func (param "request" (own $request)) (param "options" (option (own $options)))
      (result (result (own $future) (error $error-code)))))))
"#;

const LOWERED: &str = r#"
  (core func $check-write (canon lower (func $streams "[method]output-stream.check-write") (memory $memory)))
  (core func $write-piece (canon lower (func $streams "[method]output-stream.write") (memory $memory)))
  (core func $new-fields (canon lower (func $http "[constructor]fields")))
  (core func $append (canon lower (func $http "[method]fields.append") (memory $memory)))
  (core func $new-request (canon lower (func $http "[constructor]outgoing-request")))
  (core func $set-method (canon lower (func $http "[method]outgoing-request.set-method") (memory $memory)))
  (core func $set-scheme (canon lower (func $http "[method]outgoing-request.set-scheme") (memory $memory)))
  (core func $set-authority (canon lower (func $http "[method]outgoing-request.set-authority") (memory $memory)))
  (core func $set-path (canon lower (func $http "[method]outgoing-request.set-path-with-query") (memory $memory)))
  (core func $body (canon lower (func $http "[method]outgoing-request.body") (memory $memory)))
  (core func $body-stream (canon lower (func $http "[method]outgoing-body.write") (memory $memory)))
  (core func $handle (canon lower (func $outgoing "handle") (memory $memory) (realloc $realloc)))
"#;

const EXPORTS: &str = r#"
  (export "check-write" (func $check-write)) (export "write-piece" (func $write-piece)) (export "new-fields" (func $new-fields))
  (export "append" (func $append)) (export "new-request" (func $new-request)) (export "set-method" (func $set-method))
  (export "set-scheme" (func $set-scheme)) (export "set-authority" (func $set-authority)) (export "set-path" (func $set-path))
  (export "body" (func $body)) (export "body-stream" (func $body-stream)) (export "handle" (func $handle))
"#;

/// A last operand that is an address is where to put the answer. Functions that answer with a number say 1 for a refusal.
const MORE: &str = r#"
    (import "host" "check-write" (func $check-write (param i32 i32)))
    (import "host" "write-piece" (func $write-piece (param i32 i32 i32 i32)))
    (import "host" "new-fields" (func $new-fields (result i32)))
    ;; fields; name; value
    (import "host" "append" (func $append (param i32 i32 i32 i32 i32 i32)))
    (import "host" "new-request" (func $new-request (param i32) (result i32)))
    ;; request; number of the method, or 9 and its text
    (import "host" "set-method" (func $set-method (param i32 i32 i32 i32) (result i32)))
    (import "host" "set-scheme" (func $set-scheme (param i32 i32 i32 i32 i32) (result i32)))
    ;; request; 1 and a text
    (import "host" "set-authority" (func $set-authority (param i32 i32 i32 i32) (result i32)))
    (import "host" "set-path" (func $set-path (param i32 i32 i32 i32) (result i32)))
    (import "host" "body" (func $body (param i32 i32)))
    (import "host" "body-stream" (func $body-stream (param i32 i32)))
    (import "host" "handle" (func $handle (param i32 i32 i32 i32)))
    ---
    ;; a POST without TLS, to this host
    (func $post (param $at i32) (param $len i32) (result i32) (local $request i32)
      (local.set $request (call $new-request (call $new-fields)))
      (if (call $set-method (local.get $request) (i32.const 2) (i32.const 0) (i32.const 0)) (then unreachable))
      (if (call $set-scheme (local.get $request) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0)) (then unreachable))
      (if (call $set-authority (local.get $request) (i32.const 1) (local.get $at) (local.get $len)) (then unreachable))
      (local.get $request))
    ;; what its body is written to
    (func $writer (param $request i32) (result i32)
      (call $body (local.get $request) (i32.const 256))
      (if (i32.load8_u (i32.const 256)) (then unreachable))
      (call $body-stream (i32.load (i32.const 260)) (i32.const 256))
      (if (i32.load8_u (i32.const 256)) (then unreachable))
      (i32.load (i32.const 260)))
    ;; adds to the number at 384
    (func $took (param $size i32)
      (i64.store (i32.const 384) (i64.add (i64.load (i32.const 384)) (i64.extend_i32_u (local.get $size)))))
"#;
