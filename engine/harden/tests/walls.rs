//! What a process can still do after it gave up everything but a little: tried by one that did.

#![expect(clippy::unwrap_used, reason = "a test says by panicking what it did not expect")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const PROBE: &str = env!("CARGO_BIN_EXE_stem-harden-probe");
const OK: &str = "ok";
const EPERM: &str = "1";
const EACCES: &str = "13";
const EXDEV: &str = "18";
const ENOSYS: i64 = 38;

/// The version of Landlock in a report.
#[track_caller]
fn version(report: &str) -> u32 {
    let version = report.split("(abi ").nth(1).and_then(|rest| rest.split(')').next());
    version.and_then(|version| version.parse().ok()).unwrap_or_else(|| {
        panic!(
            "these tests need a kernel with Landlock (Linux 5.19) that lets them use it: {report}"
        )
    })
}

/// A directory with `given` (to read), `own` (to write) and `other` (neither), each with a file `file`.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for name in ["given", "own", "other"] {
            fs::create_dir(place.path(name)).unwrap();
            fs::write(place.path(name).join("file"), name).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// With the paths of this place in place of `@`.
    fn words(&self, words: &[&str]) -> Vec<String> {
        let at = format!("{}/", self.0.path().display());
        words.iter().map(|word| word.replace('@', &at)).collect()
    }

    /// Runs the probe; its first line, and how each action went. The actions show `@` again.
    #[track_caller]
    fn probe(&self, wanted: &[&str], actions: &[&str]) -> (String, BTreeMap<String, String>) {
        let mut probe = Command::new(PROBE);
        probe.args(self.words(wanted)).arg("--").args(self.words(actions));
        let output = probe.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let at = format!("{}/", self.0.path().display());
        let went = text.lines().filter_map(|line| line.split_once('\t'));
        let went = went.map(|(action, went)| (action.replace(&at, "@"), went.to_owned())).collect();
        (text.lines().next().unwrap_or_default().to_owned(), went)
    }
}

const USUAL: [&str; 6] =
    ["require", "read:@given", "write:@own", "program:", "read:/proc", "read:/dev/null"];

#[test]
fn a_hardened_process_reaches_what_it_was_given_and_nothing_else() {
    let place = Place::new();
    symlink(place.path("other/file"), place.path("given/out")).unwrap();
    symlink(place.path("own/file"), place.path("given/over")).unwrap();
    let parent = std::process::id();
    let (environ, signal) = (format!("read:/proc/{parent}/environ"), format!("signal:{parent}"));
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("listen:{free}");
    let tries = [
        ("read:@given/file", OK),
        ("list:@given", OK),
        ("read:@given/over", OK),
        ("write:@own/new", OK),
        ("rename:@own/new:@own/newer", OK),
        ("make:@own/deep", OK),
        ("rename:@own/newer:@own/deep/newest", OK),
        ("remove:@own/deep/newest", OK),
        ("write:@given/file", EACCES),
        ("make:@given/new", EACCES),
        ("remove:@given/file", EACCES),
        ("socket:@own/socket", EACCES),
        ("read:@other/file", EACCES),
        ("read:@given/out", EACCES),
        ("read:@given/../other/file", EACCES),
        ("write:@other/file", EACCES),
        ("list:@", EACCES),
        ("list:/", EACCES),
        ("read:/etc/passwd", EACCES),
        ("rename:@other/file:@own/stolen", EACCES),
        ("link:@other/file:@own/stolen", EXDEV),
        // Landlock does not look at these.
        ("mode:@own/file", EPERM),
        ("mode:@other/file", EPERM),
        ("run:/bin/true", EACCES),
        (environ.as_str(), EACCES),
        (signal.as_str(), EPERM),
        (listen.as_str(), EACCES),
        ("thread:read:@given/file", OK),
        ("thread:read:@other/file", EACCES),
        ("child:read:@given/file", OK),
        ("child:read:@other/file", EACCES),
    ];
    let actions = tries.map(|(action, _)| action);
    let (report, went) = place.probe(&USUAL, &actions);
    assert!(report.starts_with("no_new_privs, landlock (abi "), "{report}");
    assert!(report.ends_with("), seccomp"), "{report}");
    let abi = version(&report);
    for (action, expected) in tries {
        // Kernels learned the last things later than the first.
        let since = if action == signal {
            6
        } else if action == listen {
            4
        } else {
            2
        };
        if abi < since {
            continue;
        }
        // One that is refused twice over is told by either.
        let went = &went[action];
        let either = expected == EXDEV && went == EACCES || expected == EACCES && went == EXDEV;
        assert!(went == expected || either, "{action}: {went}, not {expected}");
    }
    // And it is the wall that refuses: the same without.
    let free = Place::new();
    let (_, went) = free.probe(
        &["off"],
        &["read:@other/file", "list:/", "mode:@own/file", &environ, &signal, &listen],
    );
    assert!(went.values().all(|went| went == OK), "{went:?}");
}

#[test]
fn a_file_that_is_replaced_stays_readable_and_a_directory_does_not() {
    let place = Place::new();
    let mut probe = Command::new(PROBE);
    let actions = ["wait:", "read:@given/file", "read:@other/file", "list:@other"];
    let wanted = ["require", "read:@given", "read:@other", "read:@given/file"];
    probe.args(place.words(&wanted)).arg("--").args(place.words(&actions));
    let mut probe = probe.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(probe.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.by_ref().nth(1).unwrap(), "waiting");
    fs::write(place.path("given/new"), "new").unwrap();
    fs::rename(place.path("given/new"), place.path("given/file")).unwrap();
    fs::remove_dir_all(place.path("other")).unwrap();
    fs::create_dir(place.path("other")).unwrap();
    fs::write(place.path("other/file"), "new").unwrap();
    probe.stdin.take().unwrap().write_all(b"\n").unwrap();
    let went: Vec<_> = lines.filter_map(|line| Some(line.split_once('\t')?.1.to_owned())).collect();
    assert_eq!(went, [OK, OK, EACCES, EACCES]);
    assert!(probe.wait().unwrap().success());
}

/// `CAP_CHOWN`, `CAP_DAC_OVERRIDE`, `CAP_DAC_READ_SEARCH`, `CAP_FOWNER`, `CAP_FSETID`, `CAP_NET_BIND_SERVICE`,
/// `CAP_SYS_NICE`, `CAP_SYS_RESOURCE`: their bits in the kernel's words.
const KEPT: u64 = 0b1_1111 | 1 << 10 | 1 << 23 | 1 << 24;

#[test]
fn every_thread_says_that_it_holds() {
    let place = Place::new();
    for action in ["status:", "thread:status:"] {
        let output =
            Command::new(PROBE).args(place.words(&USUAL)).args(["--", action]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.matches("NoNewPrivs:\t1").count(), 1, "{action}: {text}");
        assert_eq!(text.matches("Seccomp:\t2").count(), 1, "{action}: {text}");
        // Also of root: what looks into other processes and owns the machine is gone.
        for set in ["CapEff:", "CapPrm:"] {
            let line = text.lines().find_map(|line| line.strip_prefix(set)).unwrap();
            let left = u64::from_str_radix(line.trim(), 16).unwrap();
            assert_eq!(left & !KEPT, 0, "{set} {action}: {text}");
        }
    }
}

#[test]
fn a_port_that_is_named_can_be_listened_on_and_no_other() {
    let place = Place::new();
    let port = |listener: std::net::TcpListener| listener.local_addr().unwrap().port();
    let port = port(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let (given, any) = (format!("listen:{port}"), "listen:0");
    let (report, went) = place.probe(&["require", &given], &[&given, any]);
    if version(&report) < 4 {
        assert_eq!(went[any], OK, "this kernel cannot bound it");
        return;
    }
    assert_eq!((went[&given].as_str(), went[any].as_str()), (OK, EACCES));
    let (_, went) = place.probe(&["require", any], &[&given, any]);
    assert_eq!((went[&given].as_str(), went[any].as_str()), (EACCES, OK));
}

#[test]
fn trying_it_out_tells_what_it_comes_to_and_takes_nothing_away() {
    let tried = stem_harden::try_out().unwrap().to_string();
    let place = Place::new();
    let (report, _) = place.probe(&["auto", "read:/proc"], &[]);
    assert_eq!(tried, report);
    assert!(fs::read_dir("/").is_ok() && Command::new("/bin/true").status().unwrap().success());
}

#[test]
fn a_process_with_threads_is_not_hardened_by_half() {
    let place = Place::new();
    let (said, went) = place.probe(&["require", "threads:"], &["read:@other/file"]);
    assert!(said.contains("has 2 threads") && went.is_empty(), "{said} {went:?}");
    // A library that somebody loads into a worker may start some; then nothing holds, and that is said.
    let (said, went) = place.probe(&["auto", "threads:"], &["read:@other/file"]);
    assert_eq!(went["read:@other/file"], OK);
    for wall in ["no no_new_privs: ", "no landlock: ", "no seccomp: "] {
        assert!(said.contains(&format!("{wall}this process has 2 threads")), "{said}");
    }
}

#[test]
fn what_the_kernel_lacks_is_said_and_with_require_the_end() {
    let place = Place::new();
    for (lacks, words) in [
        ("lacks:landlock", "no_new_privs, seccomp, no landlock: the kernel has no Landlock"),
        ("lacks:seccomp", "no seccomp: the kernel refuses it"),
    ] {
        let wanted = ["auto", lacks, "read:@given"];
        let (said, went) = place.probe(&wanted, &["read:@given/file"]);
        assert!(said.contains(words) && went["read:@given/file"] == OK, "{said} {went:?}");
        let wanted = ["require", lacks, "read:@given"];
        let (said, went) = place.probe(&wanted, &["read:@given/file"]);
        assert!(said.starts_with("there is no ") && went.is_empty(), "{said} {went:?}");
    }
    let (said, _) = place.probe(&["auto", "read:/"], &[]);
    assert!(said.contains("no landlock: / itself is in use"), "{said}");
    let (said, _) = place.probe(&["auto", "read:@nowhere"], &[]);
    assert!(!said.contains("no landlock"), "{said}");
}

/// What a compiler has no business with.
const OF_NO_COMPILER: [&str; 8] = [
    "read:/proc/self/status",
    "list:/",
    "read:@given/file",
    "write:@own/new",
    "remove:@own/file",
    "make:@own/made",
    "run:/bin/true",
    "thread:list:/",
];

/// Those of them that did not go like this.
fn otherwise(went: &BTreeMap<String, String>, expected: &str) -> Vec<&'static str> {
    OF_NO_COMPILER.into_iter().filter(|action| went[*action] != expected).collect()
}

#[test]
fn a_compiler_keeps_nothing_but_what_it_holds() {
    let place = Place::new();
    // Each wall by itself, too: not every machine has both.
    for (wanted, expected) in [
        (&["off", "compiler:"][..], EPERM),
        (&["off", "lacks:landlock", "compiler:"], EPERM),
        (&["off", "lacks:seccomp", "compiler:"], EACCES),
    ] {
        let (_, went) = place.probe(wanted, &[&OF_NO_COMPILER[..], &["listen:0"]].concat());
        assert!(otherwise(&went, expected).is_empty(), "{wanted:?}: {went:?}");
        // Ports have been bounded for a shorter time than files.
        assert!(went["listen:0"] != OK || wanted.contains(&"lacks:seccomp"), "{wanted:?}");
    }
    assert!(place.path("own/file").exists());
}

#[test]
fn a_planted_compiler_without_walls_is_found_at_everything_it_does() {
    let actions = [&OF_NO_COMPILER[..], &["listen:0"]].concat();
    for wanted in [&["off"][..], &["off", "lacks:landlock", "lacks:seccomp", "compiler:"]] {
        let place = Place::new();
        let (_, went) = place.probe(wanted, &actions);
        for expected in [EPERM, EACCES] {
            assert_eq!(otherwise(&went, expected), OF_NO_COMPILER, "{wanted:?}: {went:?}");
        }
        assert!(went.values().all(|went| went == OK), "{wanted:?}: {went:?}");
        assert!(!place.path("own/file").exists());
    }
    stem_services::count("plants", 2);
}

/// Makes each call of the form `name=number=argument…`, and says what the kernel answered: 0, or the error.
const CALL: &str = r#"for (@ARGV) { my ($name, @call) = split /=/; $_ += 0 for @call;
    $! = 0; my $answer = syscall($call[0], $call[1] // 0, $call[2] // 0, $call[3] // 0, $call[4] // 0);
    print "$name ", ($answer == -1) * ($! + 0), "\n"; }"#;

/// What the kernel answers to each of these calls (`name=number=argument…`) of a program that the probe starts.
#[track_caller]
fn answers(place: &Place, mode: &str, calls: &[String]) -> BTreeMap<String, i64> {
    let mut words = vec![mode, "program:", "read:/proc", "read:/dev", "read:/etc"];
    words.extend(["exec:/usr", "read:/usr", "exec:/lib", "exec:/lib64", "exec:/bin"]);
    let output = Command::new(PROBE)
        .args(place.words(&words))
        .args(["--", &format!("run:perl:-e:{}:{}", CALL, calls.join(":"))])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let answers: BTreeMap<String, i64> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, answer)| Some((name.to_owned(), answer.parse().ok()?)))
        .collect();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(answers.len(), calls.len(), "perl is needed: {text}{said}");
    answers
}

/// Calls that do nothing with zeros for arguments, or with what is written here; so they can be made without the filter.
const HARMLESS: [(&str, &str); 20] = [
    ("ptrace", "=4294967295"),
    ("process_vm_readv", ""),
    ("process_vm_writev", ""),
    ("kcmp", ""),
    ("pidfd_getfd", "=1000000"),
    ("process_madvise", "=1000000"),
    ("mount", ""),
    ("umount2", ""),
    ("move_mount", "=1000000"),
    ("fsopen", ""),
    ("fsmount", "=1000000"),
    ("fspick", "=1000000"),
    ("setns", "=1000000"),
    ("open_by_handle_at", "=1000000"),
    ("name_to_handle_at", "=1000000"),
    ("bpf", "=1000000"),
    ("perf_event_open", ""),
    ("io_uring_register", "=1000000"),
    ("keyctl", "=1000000"),
    ("add_key", ""),
];

#[test]
fn the_calls_of_the_list_are_refused_and_only_by_the_filter() {
    let place = Place::new();
    let denied: Vec<_> = stem_harden::denied_calls().collect();
    let harmless = |name: &str| HARMLESS.iter().find(|(known, _)| *known == name);
    // A filter sees numbers alone, so all of them may be called behind it.
    let line = |(name, number): &(&str, i64)| {
        // Should the filter fail, these must not do what they are for.
        let too_long = if name.ends_with("name") { "=0=1000000" } else { "" };
        format!("{name}={number}{}", harmless(name).map_or(too_long, |(_, arguments)| arguments))
    };
    let behind = answers(&place, "require", &denied.iter().map(line).collect::<Vec<_>>());
    let passed: Vec<_> = behind.iter().filter(|(_, answer)| **answer != 1).collect();
    assert!(passed.is_empty(), "{passed:?}");
    assert!(denied.len() > 80, "{}", denied.len());

    let known = denied.iter().filter(|(name, _)| harmless(name).is_some());
    let without = answers(&place, "off", &known.map(line).collect::<Vec<_>>());
    assert_eq!(without.len(), HARMLESS.len(), "{without:?}");
    // A container may deny some of them too.
    let other = without.values().filter(|answer| **answer != 1).count();
    assert!(other >= 8, "the test could not tell: {without:?}");
}

#[test]
fn ways_round_the_list_are_closed() {
    let place = Place::new();
    let mut calls = vec![
        // A new namespace of users, with the signal at the end of a child.
        format!("clone={}={}", libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD),
        format!("clone-among={}={}", libc::SYS_clone, libc::CLONE_NEWNET | libc::CLONE_NEWPID),
        format!("clone3={}", libc::SYS_clone3),
        format!("packet={}={}=3", libc::SYS_socket, libc::AF_PACKET),
        format!("vsock={}={}=1", libc::SYS_socket, libc::AF_VSOCK),
        format!("alg={}={}=5", libc::SYS_socket, libc::AF_ALG),
        format!("inet={}={}=1", libc::SYS_socket, libc::AF_INET),
        format!("unix={}={}=1", libc::SYS_socket, libc::AF_UNIX),
        format!("netlink={}={}=3", libc::SYS_socket, libc::AF_NETLINK),
        // The limits of the process that runs this, and its own.
        format!("limits={}={}=4", libc::SYS_prlimit64, std::process::id()),
        format!("own-limits={}=0=4", libc::SYS_prlimit64),
    ];
    let x86 = cfg!(target_arch = "x86_64");
    if x86 {
        // The same calls by their other numbers.
        calls.push(format!("second={}", libc::SYS_bpf | 0x4000_0000));
        calls.push(format!("third={}", 0x209 | 0x4000_0000));
    }
    let went = answers(&place, "require", &calls);
    for name in ["clone", "clone-among", "packet", "vsock", "alg", "limits"] {
        assert_eq!(went[name], 1, "{name}: {went:?}");
    }
    assert_eq!(went["clone3"], ENOSYS);
    for name in ["inet", "unix", "netlink", "own-limits"] {
        assert_eq!(went[name], 0, "{name}: {went:?}");
    }
    if x86 {
        assert_eq!((went["second"], went["third"]), (1, 1), "{went:?}");
    }
}
