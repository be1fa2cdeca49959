//! Guests in the text format. What a component's compiler would generate is written out by hand here, once.

pub(crate) mod granted;
pub(crate) mod http;

use std::fmt::Write as _;

/// A component for world `task`.
///
/// Memory of its core module, in bytes:
///
/// | at | holds |
/// |---|---|
/// | 16 | `application/json` |
/// | 64 | what `run` returns: `result<payload, task-error>`, 72 bytes |
/// | 256 | what host functions return, at most 96 bytes |
/// | 512 | strings of the test (`data`) |
/// | 65536 | what the host writes into the guest: input, strings, lists |
///
/// Layouts by the canonical ABI, which align as their widest part does:
///
/// ```text
/// result<payload, task-error>      0 tag │ 8 media type ptr, 12 len, 16 bytes ptr, 20 len
///                                        │ 8 tag of the error, 16 code ptr, len, 24 message ptr, len, 32 detail tag, 36…
///                                        │   retryable only: 56 tag of not-before, 64 milliseconds
/// option<stop-notice>              0 tag │ 8 code ptr, len, 16 message ptr, len, 24 tag of grace, 32 milliseconds
/// result<option<…>, host-error>    0 tag │ 8 tag of either, 16 as above, or text ptr, len, or a number
/// ```
#[derive(Clone, Debug)]
pub(crate) struct Task<'a> {
    /// The body of `run (param $type i32) (param $type-len i32) (param $in i32) (param $len i32) (result i32)`.
    pub(crate) run: &'a str,
    /// More functions, globals, memories of the same core module.
    pub(crate) more: &'a str,
    /// Bytes at 512.
    pub(crate) data: &'a str,
    /// The body of `cabi_realloc`; empty for one that works.
    pub(crate) realloc: &'a str,
    /// The body of the post-return function.
    pub(crate) post_return: &'a str,
    /// More imports of the component.
    pub(crate) imports: &'a str,
    /// More core functions made of them, and their names in the core module `wasi`: `(export "x" (func $x))`.
    pub(crate) lowered: &'a str,
    pub(crate) exports: &'a str,
}

impl Default for Task<'_> {
    fn default() -> Self {
        Self {
            run: "(call $ok (local.get $in) (local.get $len))",
            more: "",
            data: "",
            realloc: "",
            post_return: "",
            imports: "",
            lowered: "",
            exports: "",
        }
    }
}

/// The types of `stem:task/types`, imported so that they have names.
const TYPES: &str = r#"
  (import "stem:task/types@0.1.0" (instance $types
    (type $payload-r (record (field "media-type" string) (field "bytes" (list u8))))
    (export "payload" (type $payload (eq $payload-r)))
    (type $failure-r (record (field "code" string) (field "message" string) (field "detail" (option $payload))))
    (export "failure" (type $failure (eq $failure-r)))
    (type $retryable-r (record (field "cause" $failure) (field "not-before" (option u64))))
    (export "retryable-failure" (type $retryable (eq $retryable-r)))
    (type $task-error-v (variant (case "retryable" $retryable) (case "fatal" $failure) (case "cancelled" $failure)))
    (export "task-error" (type $task-error (eq $task-error-v)))
    (type $host-error-v (variant (case "denied" string) (case "invalid" string) (case "too-large" u64) (case "not-found")
      (case "conflict") (case "quota" string) (case "unavailable" string) (case "stopping") (case "other" string)))
    (export "host-error" (type $host-error (eq $host-error-v)))
    (type $notice-r (record (field "code" string) (field "message" string) (field "grace" (option u64))))
    (export "stop-notice" (type $notice (eq $notice-r)))))
  (alias export $types "payload" (type $payload))
  (alias export $types "task-error" (type $task-error))
  (alias export $types "host-error" (type $host-error))
  (alias export $types "stop-notice" (type $notice))
"#;

/// Every other interface of the worker.
const INTERFACES: &str = r#"
  (import "stem:task/lifecycle@0.1.0" (instance $lifecycle
    (alias outer 1 $payload (type $p)) (export "payload" (type $payload (eq $p)))
    (alias outer 1 $host-error (type $h)) (export "host-error" (type $host-error (eq $h)))
    (alias outer 1 $notice (type $n)) (export "stop-notice" (type $notice (eq $n)))
    (type $update-r (record (field "fraction" (option f64)) (field "message" (option string)) (field "data" (option $payload))))
    (export "progress-update" (type $update (eq $update-r)))
    (export "heartbeat" (func (result (option $notice))))
    (export "stop-requested" (func (result (option $notice))))
    (export "progress" (func (param "update" $update) (result (result (option $notice) (error $host-error)))))
    (export "sleep" (func (param "duration" u64) (result (result (error $host-error)))))
    (export "extend-lease" (func (param "by" u64) (result (result u64 (error $host-error)))))
    (export "time-left" (func (result (tuple (option u64) (option u64)))))))
  (import "stem:task/context@0.1.0" (instance $context
    (type $info-r (record (field "task-id" string) (field "task-name" string) (field "queue" string) (field "attempt" u32)
      (field "max-attempts" (option u32)) (field "enqueued-at" u64) (field "parent-id" (option string)) (field "root-id" string)
      (field "idempotency-key" string) (field "trace-parent" (option string)) (field "headers" (list (tuple string string)))))
    (export "task-info" (type $info (eq $info-r)))
    (export "info" (func (result $info)))))
  (import "stem:task/log@0.1.0" (instance $log
    (type $level-e (enum "trace" "debug" "info" "warn" "error"))
    (export "level" (type $level (eq $level-e)))
    (export "write" (func (param "level" $level) (param "message" string) (param "fields" (list (tuple string string)))))
    (export "is-enabled" (func (param "level" $level) (result bool)))))
  (import "stem:task/checkpoint@0.1.0" (instance $checkpoint
    (alias outer 1 $host-error (type $h)) (export "host-error" (type $host-error (eq $h)))
    (export "load" (func (result (result (option (list u8)) (error $host-error)))))
    (export "save" (func (param "state" (list u8)) (result (result (error $host-error)))))))
"#;

/// The worker's functions as core functions: their types in the core module, and how they are made.
const LOWERED: [(&str, &str, &str); 10] = [
    ("heartbeat", "lifecycle", "(param i32)"),
    ("stop-requested", "lifecycle", "(param i32)"),
    // fraction: tag, value; message: tag, ptr, len; data: tag, media type, bytes; where to put the answer
    ("progress", "lifecycle", "(param i32 f64 i32 i32 i32 i32 i32 i32 i32 i32 i32)"),
    ("sleep", "lifecycle", "(param i64 i32)"),
    ("extend-lease", "lifecycle", "(param i64 i32)"),
    ("time-left", "lifecycle", "(param i32)"),
    ("info", "context", "(param i32)"),
    ("write", "log", "(param i32 i32 i32 i32 i32)"),
    ("load", "checkpoint", "(param i32)"),
    ("save", "checkpoint", "(param i32 i32 i32)"),
];

/// What every core module here begins with: an allocator that never frees, and the makers of results.
const PRELUDE: &str = r"
    (func $ok (param $at i32) (param $len i32) (result i32)
      (i32.store8 (i32.const 64) (i32.const 0))
      (i32.store (i32.const 72) (i32.const 16)) (i32.store (i32.const 76) (i32.const 16))
      (i32.store (i32.const 80) (local.get $at)) (i32.store (i32.const 84) (local.get $len))
      (i32.const 64))
    ;; kind 0 retryable, 1 fatal, 2 cancelled; the same text is code and message
    (func $err (param $kind i32) (param $at i32) (param $len i32) (result i32)
      (i32.store8 (i32.const 64) (i32.const 1))
      (i32.store8 (i32.const 72) (local.get $kind))
      (i32.store (i32.const 80) (local.get $at)) (i32.store (i32.const 84) (local.get $len))
      (i32.store (i32.const 88) (local.get $at)) (i32.store (i32.const 92) (local.get $len))
      (i32.const 64))
    ;; tells the worker where the guest is, without looking at the answer
    (func $here
      (call $progress (i32.const 0) (f64.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 256)))
    ;; the first so many bytes of what the host answered, as the result
    (func $answer (param $len i32) (result i32) (call $ok (i32.const 256) (local.get $len)))
";

const REALLOC: &str = r"
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
      (global.set $heap (i32.add (local.get $at) (local.get $size)))
      (if (i32.gt_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536)))
        (then (if (i32.eq (i32.const -1) (memory.grow (i32.add (i32.shr_u (local.get $size) (i32.const 16)) (i32.const 1))))
          (then unreachable))))
      (local.get $at)";

impl Task<'_> {
    /// The component's text.
    pub(crate) fn wat(&self) -> String {
        let Self { run, more, data, realloc, post_return, imports, lowered, exports } = self;
        let realloc = if realloc.is_empty() { REALLOC } else { realloc };
        let mut makes = String::new();
        let mut names = String::new();
        let mut takes = String::new();
        for (name, interface, ty) in LOWERED {
            writeln!(
                makes,
                "(core func ${name} (canon lower (func ${interface} \"{name}\") (memory $memory) (realloc $realloc)))"
            )
            .unwrap();
            write!(names, "(export \"{name}\" (func ${name}))").unwrap();
            writeln!(takes, "(import \"host\" \"{name}\" (func ${name} {ty}))").unwrap();
        }
        // The allocator and the memory stand in a module of their own, because the worker's functions need them before
        // the module that calls these functions can be made.
        format!(
            r#"(component {TYPES} {INTERFACES} {imports}
  (core module $space-m
    (memory (export "memory") 2)
    (global $heap (mut i32) (i32.const 65536))
    (data (i32.const 16) "application/json")
    (data (i32.const 512) "{data}")
    (func (export "realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32) {realloc}))
  (core instance $space (instantiate $space-m))
  (alias core export $space "memory" (core memory $memory))
  (alias core export $space "realloc" (core func $realloc))
  {makes} {lowered}
  (core module $main-m
    (import "space" "memory" (memory 2))
    {takes} {more_imports}
    {PRELUDE} {more_items}
    (func (export "run") (param $type i32) (param $type-len i32) (param $in i32) (param $len i32) (result i32)
      {run})
    (func (export "post-return") (param i32) {post_return}))
  (core instance $main (instantiate $main-m (with "space" (instance $space)) (with "host" (instance {names} {exports}))))
  (func $run (param "input" $payload) (result (result $payload (error $task-error)))
    (canon lift (core func $main "run") (memory $memory) (realloc $realloc) (post-return (core func $main "post-return"))))
  (instance $handler (export "run" (func $run)))
  (export "stem:task/handler@0.1.0" (instance $handler)))"#,
            more_imports = Self::imports_of(more),
            more_items = Self::items_of(more),
        )
    }

    /// This task as one part of a component, the other part being a component `$maker` that gives it `things`. What
    /// surrounds them only hands its own imports on.
    pub(crate) fn composed_with(&self, maker: &str) -> String {
        let user = self.wat().replacen("(component", "(component $user", 1);
        format!(
            r#"(component {TYPES} {INTERFACES} {maker} {user}
  (instance $made (instantiate $maker))
  (instance $used (instantiate $user
    (with "things" (instance $made))
    (with "stem:task/types@0.1.0" (instance $types))
    (with "stem:task/lifecycle@0.1.0" (instance $lifecycle))
    (with "stem:task/context@0.1.0" (instance $context))
    (with "stem:task/log@0.1.0" (instance $log))
    (with "stem:task/checkpoint@0.1.0" (instance $checkpoint))))
  (export "stem:task/handler@0.1.0" (instance $used "stem:task/handler@0.1.0")))"#
        )
    }

    /// Imports come before everything else in a module's text; a line `---` ends those of the test.
    fn imports_of(more: &str) -> &str {
        more.split_once("---").map_or("", |(imports, _)| imports)
    }

    fn items_of(more: &str) -> &str {
        more.split_once("---").map_or(more, |(_, items)| items)
    }
}

/// A task whose `run` has this body.
pub(crate) fn task(run: &str) -> String {
    Task { run, ..Task::default() }.wat()
}

/// A task with this body, these functions and these bytes at 512.
pub(crate) fn task_with(more: &str, data: &str, run: &str) -> String {
    Task { run, more, data, ..Task::default() }.wat()
}

/// The good task: flips one bit of each byte and beats.
pub(crate) fn good() -> String {
    task(
        r"(local $i i32)
      (call $heartbeat (i32.const 256))
      (block $done (loop $next
        (br_if $done (i32.ge_u (local.get $i) (local.get $len)))
        (i32.store8 (i32.add (local.get $in) (local.get $i))
          (i32.xor (i32.const 0x20) (i32.load8_u (i32.add (local.get $in) (local.get $i)))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
      (call $ok (local.get $in) (local.get $len))",
    )
}

/// Says where it is and computes for ever.
pub(crate) const SPIN: &str = "(call $here) (loop $again (br $again)) (unreachable)";

/// A core module with all of `stem0`, `$at` helpers none: the test writes `stem_run`'s body. Bytes at 512.
pub(crate) fn raw(more: &str, data: &str, run: &str) -> String {
    format!(
        r#"(module {RAW_IMPORTS}
  (memory (export "memory") 2)
  (data (i32.const 512) "{data}")
  {more}
  (func (export "stem_run") (result i32) {run}))"#
    )
}

/// Every function of `stem0`.
pub(crate) const RAW_IMPORTS: &str = r#"
  (import "stem0" "input_len" (func $input_len (result i64)))
  (import "stem0" "input_read" (func $input_read (param i32 i64 i32) (result i32)))
  (import "stem0" "output_write" (func $output_write (param i32 i32) (result i32)))
  (import "stem0" "fail" (func $fail (param i32 i64 i32 i32) (result i32)))
  (import "stem0" "heartbeat" (func $heartbeat (result i32)))
  (import "stem0" "stop_notice" (func $stop_notice (param i32 i32) (result i32)))
  (import "stem0" "extend_lease" (func $extend_lease (param i64) (result i64)))
  (import "stem0" "progress" (func $progress (param i32 i32 i32) (result i32)))
  (import "stem0" "log" (func $log (param i32 i32 i32)))
  (import "stem0" "sleep" (func $sleep (param i64) (result i32)))
  (import "stem0" "time_left" (func $time_left (param i32) (result i64)))
  (import "stem0" "info" (func $info (param i32 i32) (result i32)))
  (import "stem0" "checkpoint_load" (func $checkpoint_load (param i32 i32) (result i32)))
  (import "stem0" "checkpoint_save" (func $checkpoint_save (param i32 i32) (result i32)))
  (import "stem0" "children_enqueue" (func $children_enqueue (param i32 i32 i32 i32 i32) (result i32)))
  (import "stem0" "kv_get" (func $kv_get (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "stem0" "kv_put" (func $kv_put (param i32 i32 i32 i32 i32 i32 i32 i64 i64) (result i64)))
  (import "stem0" "kv_remove" (func $kv_remove (param i32 i32 i32 i32 i32 i64) (result i32)))
  (import "stem0" "config_get" (func $config_get (param i32 i32 i32 i32) (result i32)))
  (import "stem0" "secret_placeholder" (func $secret_placeholder (param i32 i32 i32 i32) (result i32)))
  (import "stem0" "secret_reveal" (func $secret_reveal (param i32 i32 i32 i32) (result i32)))
"#;

/// A preview 1 command: functions of WASI it may call, bytes at 512, the body of `_start`. An i/o vector stands at 0, counts
/// at 8.
pub(crate) fn command(more: &str, data: &str, start: &str) -> String {
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  {imports}
  (memory (export "memory") 4)
  (data (i32.const 512) "{data}")
  (func $write (param $fd i32) (param $at i32) (param $len i32) (result i32)
    (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $len))
    (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
  {items}
  (func (export "_start") {start}))"#,
        imports = Task::imports_of(more),
        items = Task::items_of(more),
    )
}
