//! Names that lie: a name server of this test's own, in a network of its own, where a public address is this machine too.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::json;

use super::server::Server;
use super::{fetch, lab, refused};
use crate::lab::PATIENCE;

/// Says to a test that it runs inside.
const INSIDE: &str = "IN_A_NETWORK_OF_ITS_OWN";
/// Somebody's on the internet, and inside of that network ours.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);
const OURS: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Runs a command of the system, which has to succeed.
fn run(words: &[&str]) {
    // Debian has `ip` where only root looks for programs.
    let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(words[0]).args(&words[1..]).env("PATH", path).output();
    let output = output.unwrap_or_else(|error| {
        panic!("{words:?}: {error} (hint: the tests need iproute2 and util-linux)")
    });
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs the calling test once more, in a network and with a list of name servers of its own; `true` in there. Root may
/// do that, and on most systems everybody.
fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let apart = |user: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(user).args(["--mount", "--net", "--"]);
        command
    };
    // Where nobody may have users of their own, root needs none.
    let users: &[&str] = &["--map-root-user"];
    let has_users = apart(users).arg("true").output().is_ok_and(|output| output.status.success());
    let mut own = apart(if has_users { users } else { &[] });
    own.arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, "");
    let output = own
        .output()
        .unwrap_or_else(|error| panic!("unshare: {error} (hint: the tests need util-linux)"));
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("running 1 test"),
        "{said}\n{errors}\nhint: this test needs a network of its own: root, or a system that lets everybody have one"
    );
    assert!(output.status.success(), "{said}\n{errors}");
    false
}

/// Answers for each name; the last answer again and again.
struct NameServer {
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl NameServer {
    fn start(names: &[(&str, &[&[Ipv4Addr]])]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
        let names: BTreeMap<String, Vec<Vec<Ipv4Addr>>> = names
            .iter()
            .map(|(name, answers)| {
                ((*name).to_owned(), answers.iter().map(|answer| answer.to_vec()).collect())
            })
            .collect();
        let asked = Arc::<Mutex<BTreeMap<String, usize>>>::default();
        let counts = Arc::clone(&asked);
        // Ends with the process.
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((size, from)) = socket.recv_from(&mut query) {
                let query = &query[..size];
                let (name, kind, end) = question(query);
                // Whoever is not known is never answered.
                let Some(answers) = names.get(&name) else { continue };
                let mut addresses: &[Ipv4Addr] = &[];
                // A; there is nothing of any other kind.
                if kind == 1 {
                    let mut counts = counts.lock().unwrap();
                    let count = counts.entry(name).or_default();
                    addresses = &answers[(*count).min(answers.len() - 1)];
                    *count += 1;
                }
                let count = u8::try_from(addresses.len()).unwrap();
                // Its number, "an answer without an error", one question, so many answers; the question again.
                let mut answer = query[..2].to_vec();
                answer.extend([0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0]);
                answer.extend(&query[12..end]);
                for address in addresses {
                    // The name of the question; A, IN, good for no second; four bytes.
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                    answer.extend(address.octets());
                }
                socket.send_to(&answer, from).unwrap();
            }
        });
        Self { asked }
    }

    /// How often a name's addresses were asked for.
    fn asked(&self, name: &str) -> usize {
        self.asked.lock().unwrap().get(name).copied().unwrap_or_default()
    }
}

/// The name that is asked for, what is asked of it, and where the question ends.
fn question(query: &[u8]) -> (String, u8, usize) {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] > 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
        at = end;
    }
    (labels.join("."), query[at + 2], at + 5)
}

#[test]
fn a_name_that_changes_its_mind_leads_nowhere_else() {
    if !is_inside("http::names::a_name_that_changes_its_mind_leads_nowhere_else") {
        return;
    }
    run(&["ip", "link", "set", "lo", "up"]);
    run(&["ip", "address", "add", &format!("{PUBLIC}/32"), "dev", "lo"]);
    let lab = lab(
        "http = [{ hosts = [\"*.example.org:80\"], plain = true, timeout = \"2s\" }, { hosts = [\"inside.example.net:80\"], plain = true, private = true }]",
    );
    for (name, text) in [
        ("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:5\n"),
        ("nsswitch.conf", "hosts: files dns\n"),
    ] {
        let ours = lab.path(name);
        std::fs::write(&ours, text).unwrap();
        // A system without the second file does what ours says.
        if let Ok(theirs) = Path::new("/etc").join(name).canonicalize() {
            run(&["mount", "--bind", ours.to_str().unwrap(), theirs.to_str().unwrap()]);
        }
    }
    let names = NameServer::start(&[
        ("rebind.example.org", &[&[PUBLIC], &[OURS]]),
        ("mixed-a.example.org", &[&[PUBLIC, OURS]]),
        ("mixed-b.example.org", &[&[OURS, PUBLIC]]),
        ("inside.example.net", &[&[OURS]]),
    ]);
    let outside = Server::on(TcpListener::bind((PUBLIC, 80)).unwrap());
    let inside = Server::on(TcpListener::bind((OURS, 80)).unwrap());
    let ask = |name: &str, times: u32| {
        fetch(&lab, &json!({ "url": format!("http://{name}/"), "times": times }))
    };
    let prohibited = ("denied".to_owned(), "ErrorCode::DestinationIpProhibited".to_owned());

    // The first request is answered by whom the name named, and asks no second time between looking and going there.
    // The second finds the name inside.
    assert_eq!(refused(&ask("rebind.example.org", 2)), prohibited);
    assert_eq!(names.asked("rebind.example.org"), 2);
    assert_eq!((outside.connections(), inside.connections()), (1, 0));

    for name in ["mixed-a.example.org", "mixed-b.example.org"] {
        assert_eq!(refused(&ask(name, 1)), prohibited, "{name}");
    }
    assert_eq!((outside.connections(), inside.connections()), (1, 0));

    // A name server that does not answer holds nobody longer than the grant says.
    let since = Instant::now();
    let (code, message) = refused(&ask("silent.example.org", 1));
    assert_eq!((code.as_str(), message.as_str()), ("no-answer", "ErrorCode::DnsTimeout"));
    assert!(since.elapsed() < PATIENCE);

    // There is something to be found inside, by whoever may go there.
    ask("inside.example.net", 1).ok();
    assert_eq!((outside.connections(), inside.connections()), (1, 1));
}
