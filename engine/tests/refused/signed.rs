//! Where commands must be signed: forged, replayed, expired, from elsewhere and beyond a key's role, none acts, and each is
//! counted once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use stem_core::backend::control::Position;
use stem_core::control::{Answer, Command, Drain, Order, Reply, wire};
use stem_core::id::{KeyId, RequestId, WorkerId};
use stem_core::machine::gate::{LONGEST, SKEW};
use stem_core::seal::{self, COMMAND_BYTES, LINE_BYTES, Purpose, Refused, Role, Seal};
use stem_core::time::{Clock, Timestamp};
use stem_engine::SystemClock;
use stem_engine::signing::{KeyFiles, Keys};

use super::{Scene, namespace, pause, text};
use crate::support::PATIENCE;

/// Whom the worker believes, by role and what else an entry says. The place in the list is the seed of the key.
const SIGNERS: [(&str, &str, &str); 6] = [
    ("ops", "control", ""),
    ("eyes", "inspect", ""),
    ("shop", "publish", ""),
    ("staging", "control", "namespaces = [\"staging\"]"),
    ("old", "control", "not-after = \"2026-01-01T00:00:00Z\""),
    ("w", "worker", "workers = [\"w\"]"),
];

#[derive(Clone, Copy)]
enum Algorithm {
    /// Who verifies cannot sign.
    Ed25519,
    /// One secret for both.
    Hmac,
}

fn seed(key: &str) -> [u8; 32] {
    let place = SIGNERS.iter().position(|(id, ..)| *id == key).unwrap_or(99);
    [u8::try_from(place).unwrap() + 1; 32]
}

fn half(key: &str) -> SigningKey {
    SigningKey::from_bytes(&seed(key))
}

/// The files of a worker, and of an operator who listens to workers.
struct Files {
    directory: tempfile::TempDir,
    algorithm: Algorithm,
}

impl Files {
    fn make(algorithm: Algorithm) -> Self {
        let files = Self { directory: tempfile::tempdir().unwrap(), algorithm };
        let entries = SIGNERS.map(|(id, role, more)| {
            let (name, half) = match algorithm {
                Algorithm::Ed25519 => {
                    let public = STANDARD.encode(half(id).verifying_key().as_bytes());
                    ("ed25519", format!("public = \"{public}\""))
                }
                Algorithm::Hmac => {
                    ("hmac-sha256", format!("secret = \"{}\"", STANDARD.encode(seed(id))))
                }
            };
            format!("[[key]]\nid = \"{id}\"\nalgorithm = \"{name}\"\n{half}\nroles = [\"{role}\"]\n{more}\n")
        });
        let levels = "commands = \"required\"\nreplies = \"required\"\ntasks = \"unchecked\"\n";
        files.write("signers.toml", &format!("version = 1\n{levels}{}", entries.concat()));
        let private = STANDARD.encode(seed("w"));
        files.write("w.toml", &format!("version = 1\n[[key]]\nid = \"w\"\nalgorithm = \"ed25519\"\nprivate = \"{private}\"\nroles = [\"worker\"]\nworkers = [\"w\"]\n"));
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(self.path(name), text).unwrap();
        let only_mine = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(self.path(name), only_mine).unwrap();
    }

    fn keys(&self) -> Arc<Keys> {
        let signers = Some(self.path("signers.toml"));
        Keys::open(match self.algorithm {
            Algorithm::Ed25519 => {
                let private = Some(self.path("w.toml"));
                KeyFiles { public: signers, private, ..KeyFiles::default() }
            }
            Algorithm::Hmac => KeyFiles { shared: signers, ..KeyFiles::default() },
        })
        .unwrap()
    }

    /// As whoever holds the key would seal it, for anything.
    fn seal_as(&self, key: &str, purpose: Purpose, scope: &str, body: &str) -> String {
        let id = KeyId::new(key).unwrap();
        let message = [&seal::before(purpose, scope, &id), body.as_bytes()].concat();
        let signature = match self.algorithm {
            Algorithm::Ed25519 => STANDARD.encode(half(key).sign(&message).to_bytes()),
            Algorithm::Hmac => {
                let mac = Hmac::<Sha256>::new_from_slice(&seed(key)).unwrap();
                STANDARD.encode(mac.chain_update(&message).finalize().into_bytes())
            }
        };
        let seal = Seal { purpose, scope: scope.to_owned(), key: id, signature };
        String::from_utf8(seal::join(&seal, body.as_bytes())).unwrap()
    }

    fn by_ops(&self, command: &Command) -> String {
        self.seal_as("ops", Purpose::Command, "stem", &text(command))
    }

    fn lasting(&self, id: &str, issued: i64, expires: i64) -> String {
        let command = pause(id);
        let now = command.issued_at;
        let (issued_at, expires_at) = (moved(now, issued), moved(now, expires));
        self.by_ops(&Command { issued_at, expires_at, ..command })
    }
}

impl Scene {
    async fn signed(files: &Files) -> Self {
        Self::with(files.keys()).await
    }

    async fn replies(&self, id: &str, wait: Duration) -> Vec<String> {
        let (request, first) = (RequestId::new(id).unwrap(), Position(0));
        let control = &self.backends.control;
        let replies = control.replies(&namespace("stem"), &request, first, wait).await.unwrap();
        replies.into_iter().map(|(_, text)| text).collect()
    }
}

/// The worker answers what was signed; everything before that in the log it has judged.
async fn asked(scene: &mut Scene, files: &Files, keys: &Keys) -> Vec<String> {
    scene.asked += 1;
    let id = format!("last-{}", scene.asked);
    let ping = Command { order: Order::Ping {}, ..pause(&id) };
    scene.plant(&id, files.seal_as("eyes", Purpose::Command, "stem", &text(&ping))).await;
    let reply = scene.replies(&id, PATIENCE).await.remove(0);
    let opened = keys.open_sealed(Purpose::Reply, "stem", reply.as_bytes(), SystemClock.now());
    let opened = opened.unwrap();
    assert_eq!(opened.by.unwrap().key.as_str(), "w");
    let reply = wire::reply(opened.body).unwrap();
    assert!(matches!(reply.answer, Answer::Ok { .. }), "{reply:?}");
    let mut lines = scene.counts.take();
    assert_eq!(lines.pop().as_deref(), Some("ping"));
    lines
}

fn moved(at: Timestamp, millis: i64) -> Timestamp {
    Timestamp::from_unix_millis(at.unix_millis() + millis)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_replayed_expired_foreign_and_wrong_role_commands_do_nothing_and_are_counted() {
    none_acts(Algorithm::Ed25519).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_holds_where_one_secret_signs_and_verifies() {
    none_acts(Algorithm::Hmac).await;
}

/// What is not to act, each under the name of its request, with what it is counted as.
fn attacks(files: &Files) -> Vec<(&'static str, String, Refused)> {
    use Refused::{
        Expired, FromTheFuture, KeyNotValid, Malformed, TooLarge, TooLong, UnknownKey, Unsigned,
        WrongPurpose, WrongScope, WrongSignature,
    };
    let body = |id: &str| text(&pause(id));
    let seal = |key: &str, id: &str| files.seal_as(key, Purpose::Command, "stem", &body(id));
    let elsewhere = Command { namespace: namespace("staging"), ..pause("elsewhere") };
    let skew = i64::try_from(SKEW.as_millis()).unwrap();
    let hour = i64::try_from(LONGEST.as_millis()).unwrap();
    let nonsense = files.seal_as("eyes", Purpose::Command, "stem", "nonsense");
    vec![
        ("unsigned", body("unsigned"), Unsigned),
        ("stripped", seal("ops", "stripped").split_once('\n').unwrap().1.to_owned(), Unsigned),
        ("nonsense", "nonsense".to_owned(), Unsigned),
        // Nobody reads what is signed before its signature is known to be right.
        ("unread", nonsense.replace("\"eyes\"", "\"ops\""), WrongSignature),
        ("unknown", seal("nobody", "unknown"), UnknownKey),
        ("swapped", seal("eyes", "swapped").replace("\"eyes\"", "\"ops\""), WrongSignature),
        ("changed", seal("ops", "changed").replace("\"q\"", "\"r\""), WrongSignature),
        ("longer", seal("ops", "longer") + " ", WrongSignature),
        ("cut", seal("ops", "cut").replace("\"sig\":\"", "\"sig\":\"A"), WrongSignature),
        ("spaced", seal("ops", "spaced").replacen("\"for\":", "\"for\": ", 1), Malformed),
        ("empty", files.seal_as("ops", Purpose::Command, "stem", ""), Malformed),
        (
            "other",
            files.seal_as("ops", Purpose::Command, "stem", "{\"requestId\":\"r\"}"),
            Malformed,
        ),
        ("reply", files.seal_as("ops", Purpose::Reply, "stem", &body("reply")), WrongPurpose),
        ("task", files.seal_as("ops", Purpose::Task, "stem", &body("task")), WrongPurpose),
        ("shop", seal("shop", "shop"), WrongPurpose),
        ("answers", seal("w", "answers"), WrongPurpose),
        (
            "copied",
            files.seal_as("ops", Purpose::Command, "staging", &text(&elsewhere)),
            WrongScope,
        ),
        ("resealed", files.by_ops(&elsewhere), WrongScope),
        ("staging", seal("staging", "staging"), WrongScope),
        ("old", seal("old", "old"), KeyNotValid),
        ("prolonged", files.lasting("prolonged", -1, 0), Expired),
        ("future", files.lasting("future", skew + 1_800_000, skew + 1_830_000), FromTheFuture),
        ("long", files.lasting("long", 0, hour + 1), TooLong),
        ("early", files.lasting("early", -3_000_000, 300_000), Refused::BeforeStart),
        ("large", " ".repeat(COMMAND_BYTES + LINE_BYTES + 1), TooLarge),
    ]
}

async fn none_acts(algorithm: Algorithm) {
    let files = Files::make(algorithm);
    let keys = files.keys();
    let mut scene = Scene::signed(&files).await;
    let seal =
        |key: &str, id: &str| files.seal_as(key, Purpose::Command, "stem", &text(&pause(id)));
    for (id, text, reason) in attacks(&files) {
        scene.plant(id, text).await;
        assert_eq!(asked(&mut scene, &files, &keys).await, [format!("command: {reason}")], "{id}");
        assert_eq!(scene.replies(id, Duration::ZERO).await, [""; 0], "{id}");
        assert!(!scene.is_paused().await, "{id}");
    }
    // Who holds a key learns what it may not.
    scene.plant("eyes", seal("eyes", "eyes")).await;
    assert_eq!(asked(&mut scene, &files, &keys).await, ["command: wrong-role"]);
    let told = scene.replies("eyes", PATIENCE).await.remove(0);
    let opened = keys.open_sealed(Purpose::Reply, "stem", told.as_bytes(), SystemClock.now());
    let Answer::Error { error } = wire::reply(opened.unwrap().body).unwrap().answer else {
        panic!("{told}")
    };
    assert_eq!(error.code, "not-allowed");
    let shutdown = Order::Shutdown { mode: Drain::Hard, grace_ms: None };
    let stop = Command { order: shutdown, ..pause("stop") };
    scene.plant("stop", files.seal_as("eyes", Purpose::Command, "stem", &text(&stop))).await;
    let revoke = Command { order: Order::Revoke { revocations: vec![] }, ..pause("revoke") };
    scene.plant("revoke", files.seal_as("eyes", Purpose::Command, "stem", &text(&revoke))).await;
    assert_eq!(
        asked(&mut scene, &files, &keys).await,
        ["command: wrong-role", "command: wrong-role"]
    );
    // To somebody else: nothing at all.
    let targets = Some(vec![WorkerId::new("v").unwrap()]);
    scene.plant("v", files.by_ops(&Command { targets, ..pause("v") })).await;
    assert!(asked(&mut scene, &files, &keys).await.is_empty());
    assert!(!scene.is_paused().await && !scene.bench.running.is_finished());

    let good = seal("ops", "good");
    for id in ["good", "again", "and-again"] {
        scene.plant(id, good.clone()).await;
    }
    let counted = asked(&mut scene, &files, &keys).await;
    assert_eq!(counted, ["pause", "command: replayed", "command: replayed"]);
    assert!(scene.is_paused().await);

    // A worker that was started again has forgotten what it obeyed, and obeys nothing of before.
    let queue = "q".parse().unwrap();
    scene.backends.broker.set_paused(&queue, None).await.unwrap();
    let backends = scene.backends.clone();
    scene.bench.stop(Drain::Warm).await;
    let mut again = Scene::over(backends, files.keys()).await;
    again.asked = 1_000;
    again.plant("restarted", good).await;
    assert_eq!(asked(&mut again, &files, &keys).await, ["command: before-start"]);
    assert!(!again.is_paused().await);
    again.bench.stop(Drain::Warm).await;
}

/// Anybody can sign nothing and send it often: leases, and the commands of others, are not held up for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_forgeries_is_counted_and_the_next_command_acts() {
    let files = Files::make(Algorithm::Ed25519);
    let keys = files.keys();
    let mut scene = Scene::signed(&files).await;
    let forged = files.seal_as("ops", Purpose::Command, "stem", "{}").replace("{}", "{ }");
    for n in 0..50 {
        scene.plant(&format!("forged-{n}"), forged.clone()).await;
    }
    assert_eq!(asked(&mut scene, &files, &keys).await, vec!["command: wrong-signature"; 50]);
    scene.plant("good", files.by_ops(&pause("good"))).await;
    assert_eq!(asked(&mut scene, &files, &keys).await, ["pause"]);
    scene.bench.stop(Drain::Warm).await;
}

/// The same commands where no signature is asked for, which is a worker that does not look: they are no attacks there, and
/// what is counted says so. What is no command by itself, or is not in its time, is refused there too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planted_worker_that_looks_at_no_signature_is_found() {
    let files = Files::make(Algorithm::Ed25519);
    let mut scene = Scene::set().await;
    let mut acted = Vec::new();
    for (id, text, reason) in attacks(&files) {
        scene.plant(id, text).await;
        if scene.counted().await != [format!("command: {reason}")] && scene.is_paused().await {
            acted.push(id);
        }
        for queue in ["q", "r"] {
            scene.backends.broker.set_paused(&queue.parse().unwrap(), None).await.unwrap();
        }
    }
    let signature_alone = [
        "unsigned", "stripped", "unknown", "swapped", "changed", "longer", "reply", "task", "shop",
        "answers", "staging", "old", "future", "long",
    ];
    for id in signature_alone {
        assert!(acted.contains(&id), "{id} acts without a look at its signature: {acted:?}");
    }
    scene.bench.stop(Drain::Warm).await;
    stem_services::count("plants", 1);
}

/// What each seal says, one after the other: nothing of a signed message can be changed.
#[test]
fn every_byte_of_a_command_and_of_a_reply_is_signed() {
    for algorithm in [Algorithm::Ed25519, Algorithm::Hmac] {
        every_byte_is_signed(algorithm);
    }
}

fn reply() -> String {
    let reply = Reply {
        request_id: RequestId::new("r").unwrap(),
        worker: WorkerId::new("w").unwrap(),
        answer: Answer::Ok { payload: serde_json::json!({ "state": "running" }) },
    };
    serde_json::to_string(&reply).unwrap()
}

/// What is opened of a command and a reply that are not as they were signed, or not for what they were; what is not opened
/// that should be.
fn opened_wrongly(files: &Files, open: impl Fn(Purpose, &str, &[u8]) -> bool) -> Vec<String> {
    let messages = [
        (Purpose::Command, files.by_ops(&pause("r"))),
        (Purpose::Reply, files.seal_as("w", Purpose::Reply, "stem", &reply())),
    ];
    let mut wrong = Vec::new();
    for (purpose, message) in messages {
        // In the line that says who signed it every byte, in what was signed every fifth: each costs a verification.
        let line = message.find('\n').unwrap();
        for place in (0..=line).chain((line..message.len()).step_by(5)) {
            let mut bytes = message.clone().into_bytes();
            bytes[place] ^= 1;
            if open(purpose, "stem", &bytes) {
                wrong.push(format!("changed at {place}: {}", String::from_utf8_lossy(&bytes)));
            }
        }
        for end in (0..message.len()).step_by(17) {
            if open(purpose, "stem", &message.as_bytes()[..end]) {
                wrong.push(format!("cut at {end}"));
            }
        }
        for (other, scope) in [
            (Purpose::Task, "stem"),
            (Purpose::Command, "stem"),
            (Purpose::Reply, "stem"),
            (purpose, "staging"),
        ] {
            // Tasks are not looked at here.
            let may = (other == purpose && scope == "stem") || other == Purpose::Task;
            if open(other, scope, message.as_bytes()) != may {
                wrong.push(format!("for {} in {scope}", other.as_str()));
            }
        }
    }
    wrong
}

#[test]
fn each_planted_look_at_a_seal_that_leaves_something_out_is_found() {
    type Open<'a> = &'a dyn Fn(Purpose, &str, &[u8]) -> bool;
    let files = Files::make(Algorithm::Hmac);
    let (keys, none) = (files.keys(), Keys::none());
    let right = |purpose, scope: &str, bytes: &[u8]| {
        keys.open_sealed(purpose, scope, bytes, SystemClock.now()).is_ok()
    };
    let plants: [(Open<'_>, &str); 4] = [
        (
            &|purpose, scope, bytes| {
                none.open_sealed(purpose, scope, bytes, SystemClock.now()).is_ok()
            },
            "changed",
        ),
        (
            &|_, scope, bytes| {
                [Purpose::Command, Purpose::Reply].iter().any(|it| right(*it, scope, bytes))
            },
            "for reply in stem",
        ),
        (&|purpose, _, bytes| right(purpose, "stem", bytes), "in staging"),
        (&|_, _, _| false, "for"),
    ];
    let many = plants.len() as u64;
    for (open, found) in plants {
        let wrong = opened_wrongly(&files, open);
        assert!(wrong.iter().any(|it| it.contains(found)), "{found}: {wrong:?}");
    }
    stem_services::count("plants", many);
}

fn every_byte_is_signed(algorithm: Algorithm) {
    let files = Files::make(algorithm);
    let keys = files.keys();
    let opened = opened_wrongly(&files, |purpose, scope, bytes| {
        keys.open_sealed(purpose, scope, bytes, SystemClock.now()).is_ok()
    });
    assert_eq!(opened, [""; 0]);
    let reply = reply();
    let signed = keys.seal(Role::Worker, "stem", reply.clone().into_bytes(), SystemClock.now());
    let signed = signed.unwrap();
    let opened = keys.open_sealed(Purpose::Reply, "stem", &signed, SystemClock.now()).unwrap();
    assert_eq!(opened.body, reply.as_bytes());
    let none = Keys::none();
    let unlooked = none.open_sealed(Purpose::Reply, "other", &signed, SystemClock.now()).unwrap();
    assert_eq!((unlooked.body, unlooked.by), (reply.as_bytes(), None));
}
