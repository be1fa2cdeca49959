//! The conformance task of a language through a broker: a worker of its own, asked and stopped by the program's commands.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::PATIENCE;

struct Place {
    folder: tempfile::TempDir,
    worker: Option<Child>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(worker) = &mut self.worker {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

/// Results, progress, each kind of failure, another attempt, the limit of memory, and both ways to be terminated.
pub(crate) fn serves(project: &Path) {
    let mut place = Place { folder: tempfile::tempdir().unwrap(), worker: None };
    let modules = project.to_str().unwrap();
    let mut worker = place.command(&["worker", "start", "--modules", modules]);
    worker.env("STEM_LOG", "error").stdout(Stdio::null());
    place.worker = Some(worker.spawn().unwrap());

    let done = place.ended(&json!({ "op": "progress", "steps": 3 }), &[]);
    assert_eq!(done["state"], "succeeded", "{done}");
    assert_eq!(done["progress"], json!({ "fraction": 1.0, "message": "step 3 of 3" }), "{done}");
    let id = done["id"].as_str().unwrap();
    assert_eq!(place.stem(&["task", "result", id]).trim_end(), r#"{"steps":3}"#);

    let again = place.ended(&json!({ "op": "checkpoint", "steps": 4, "stopAt": 2 }), &[]);
    assert_eq!((&again["state"], &again["attempt"]), (&json!("succeeded"), &json!(2)), "{again}");
    let id = again["id"].as_str().unwrap();
    assert_eq!(place.stem(&["task", "result", id]).trim_end(), r#"{"from":2,"steps":4}"#);

    for (kind, retries, attempts) in [("fatal", "3", 1), ("retryable", "1", 2)] {
        let fails = json!({ "op": "fail", "kind": kind, "code": "c", "message": "m" });
        let failed = place.ended(&fails, &["--max-retries", retries]);
        assert_eq!((&failed["state"], &failed["attempt"]), (&json!("failed"), &json!(attempts)));
        let failure = json!({ "kind": "error", "code": "c", "message": "m" });
        assert_eq!(failed["failure"], failure, "{failed}");
    }

    let bomb = place.ended(&json!({ "op": "allocate", "mib": 1000 }), &["--max-retries", "0"]);
    assert_eq!(bomb["failure"]["kind"], "memory-limit", "{bomb}");

    for (op, message, order, how) in [
        ("beat", "beating", "--cooperative", "checkpoint"),
        ("spin", "spinning", "--terminate", "preempted"),
    ] {
        let id = place.enqueue(&json!({ "op": op }), &[]);
        place.until(&id, |record| record["progress"]["message"] == message);
        place.stem(&["worker", "revoke", "--task", &id, order]);
        let record = place.until(&id, |record| record["state"] == "revoked");
        assert_eq!(record["revocation"]["how"], how, "{record}");
    }
}

impl Place {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stem-under-test"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("STEM_") {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .current_dir(self.folder.path())
            .env("XDG_STATE_HOME", self.folder.path())
            // The one that the sandbox of this test has filled.
            .env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"))
            .stdin(Stdio::null());
        command
    }

    fn stem(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "stem {}: {said}", args.join(" "));
        String::from_utf8(output.stdout).unwrap()
    }

    fn enqueue(&self, args: &Value, more: &[&str]) -> String {
        let args = args.to_string();
        let mut words = vec!["task", "enqueue", "conformance", "--json-args", &args];
        words.extend(more);
        self.stem(&words).trim().to_owned()
    }

    /// The record of a task at its end.
    fn ended(&self, args: &Value, more: &[&str]) -> Value {
        let id = self.enqueue(args, more);
        self.until(&id, |record| record.get("finishedAt").is_some())
    }

    #[track_caller]
    fn until(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let since = Instant::now();
        loop {
            let record = self.stem(&["task", "show", id, "--json"]);
            let record: Value = serde_json::from_str(&record).unwrap();
            if wanted(&record) {
                return record;
            }
            // Compiling takes a while at the first task.
            assert!(since.elapsed() < PATIENCE, "{record}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}
