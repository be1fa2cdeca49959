//! Runs a short one, and looks at what it prints and draws.
use std::process::Command;

#[test]
fn it_grows_with_the_backlog_shrinks_after_it_and_draws_both() {
    let dir = tempfile::tempdir().unwrap();
    let picture = dir.path().join("autoscale.svg");
    let run = Command::new(env!("CARGO_BIN_EXE_autoscale-demo"))
        .args(["--max", "4", "--half", "2s", "--waves", "1", "--rate", "40", "--out"])
        .arg(&picture)
        .output()
        .unwrap();
    let said = String::from_utf8(run.stdout).unwrap();
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    for expected in [" 1 -> 2 ", " 2 -> 3 ", "at-max", " 2 -> 1 ", "wait, "] {
        assert!(said.contains(expected), "{expected:?} is not in\n{said}");
    }
    let svg = std::fs::read_to_string(picture).unwrap();
    let lines = svg.matches("<polyline").count();
    assert!(svg.trim_end().ends_with("</svg>") && lines >= 3, "{lines} lines");
}
