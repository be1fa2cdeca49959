//! What stands in the log of commands and replies, with a seal in front or without one, and heartbeats. Anybody who can
//! write to the store of commands can write all of them.

use std::cell::RefCell;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use stem_core::control::wire::{CommandFrame, ReplyFrame, command, reply};
use stem_core::control::{Command, Heartbeat};
use stem_core::id::{Namespace, WorkerId};
use stem_core::machine::gate::{Gate, LONGEST, SKEW, Verdict};
use stem_core::seal::{self, By, Framed, Level, Purpose, Role};
use stem_core::time::Timestamp;
use stem_engine::signing::{Algorithm, KeyFiles, Keys};

use crate::Met;
use crate::told::told;

/// Keys of commands, replies, heartbeats and seals.
pub const WORDS: &[&str] = &[
    "{\"v\":2,\"for\":\"command\",\"in\":\"stem\",\"key\":\"fuzz\",\"sig\":\"",
    "\"for\":\"reply\"",
    "\"for\":\"task\"",
    "{\"requestId\":\"r\",",
    "\"targets\":[],",
    "\"targets\":[\"w\"],",
    "\"type\":\"ping\",\"payload\":{}",
    "\"type\":\"inspect\",\"payload\":{\"includeRevoked\":true}",
    "\"type\":\"stats\",\"payload\":{}",
    "\"type\":\"revoke\",\"payload\":{\"revocations\":[]}",
    "\"type\":\"shutdown\",\"payload\":{\"mode\":\"hard\"}",
    "\"type\":\"pause\",\"payload\":{\"queues\":[\"q\"]}",
    "\"graceMs\":1",
    "\"issuedAt\":\"2026-11-22T00:00:00Z\",",
    "\"expiresAt\":\"2026-11-22T00:00:30Z\",",
    "9999-12-31T23:59:59Z",
    "+23:59",
    "\"status\":\"ok\",\"payload\":null",
    "\"status\":\"error\",\"error\":{\"code\":\"c\",\"message\":\"m\"}",
    "\"worker\":\"w\",",
    "\"oldestWithoutProgress\":",
    "$serde_json::private::RawValue",
    "null",
    "\\u001b[2J",
    "}\n",
];

/// The longest that is said of one that is refused: 256 bytes of what it holds, and the words around them.
const TOLD: usize = 300;

/// A worker that has been up for ten minutes at a fixed time, with two sets of keys: nothing need be signed, and all must
/// be.
struct Desk {
    open: Arc<Keys>,
    strict: Arc<Keys>,
    _place: tempfile::TempDir,
}

const UP: Duration = Duration::from_mins(10);

/// A file of keys. The key signs the corpus too; it is for this only.
const KEYS: &str = include_str!("../keys.toml");

impl Desk {
    fn new() -> Self {
        let place = crate::place();
        let file = place.path().join("keys");
        std::fs::write(&file, KEYS).expect("a small file can be written");
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&file, private).expect("it is ours");
        let files = KeyFiles {
            shared: Some(file),
            algorithm: Algorithm::HmacSha256,
            ..KeyFiles::default()
        };
        let strict = Keys::open(files).expect("the file of keys is one");
        assert_eq!(strict.level(Purpose::Command), Level::Required);
        assert_eq!(strict.level(Purpose::Reply), Level::Required);
        Self { open: Keys::none(), strict, _place: place }
    }
}

thread_local! {
    static DESK: RefCell<Option<Desk>> = const { RefCell::new(None) };
}

fn now() -> Timestamp {
    Timestamp::from_unix_millis(1_795_305_600_000)
}

fn namespace() -> Namespace {
    Namespace::new("stem").expect("it is a name")
}

fn worker() -> WorkerId {
    WorkerId::new("w").expect("it is a name")
}

/// A seal has one form; only what the key itself would have signed passes where that is asked for; a command acts on who is
/// meant, in its time; and what is read is the same when it is written and read again.
pub fn check(bytes: &[u8]) -> Met {
    match seal::split(bytes) {
        Ok(Framed::Plain(body)) => assert_eq!(body, bytes),
        Ok(Framed::Sealed { seal, body }) => assert_eq!(seal::join(&seal, body), bytes),
        Err(error) => return Met::Refused(told(&error, TOLD)),
    }
    DESK.with_borrow_mut(|desk| {
        let desk = desk.get_or_insert_with(Desk::new);
        let mut signed = Vec::new();
        for (purpose, role) in [(Purpose::Command, Role::Control), (Purpose::Reply, Role::Worker)] {
            match desk.strict.open_sealed(purpose, "stem", bytes, now()) {
                Ok(opened) => {
                    let by = opened.by.expect("nothing passes without a signature");
                    let again = desk.strict.seal(role, "stem", opened.body.to_vec(), now());
                    assert_eq!(again.as_deref(), Ok(bytes), "a {} was forged", purpose.as_str());
                    if purpose == Purpose::Command {
                        signed.push(commanded(opened.body, Some(&by)));
                    }
                }
                Err(refused) => signed.push(Err(refused.to_string())),
            }
        }
        let opened = desk.open.open_sealed(Purpose::Command, "stem", bytes, now());
        let body = opened.expect("a seal that is one is opened where nobody looks").body;
        let plain = commanded(body, None);
        let read = [plain, replied(body), heard(body)];
        let words = format!("{signed:?} {read:?}");
        if read.iter().any(Result::is_ok) { Met::Read(words) } else { Met::Refused(words) }
    })
}

/// What a worker does with it.
fn commanded(body: &[u8], by: Option<&By>) -> Result<String, String> {
    let read = command(body).map_err(|error| told(&error, TOLD))?;
    let again = CommandFrame::plain(&read);
    assert_eq!(command(again.text.as_bytes()).as_ref(), Ok(&read), "read again it is another");
    assert_eq!((&again.request_id, &again.namespace), (&read.request_id, &read.namespace));
    let mut gate = Gate::new(namespace(), worker());
    let verdict = gate.judge(now(), UP, &read, by);
    if verdict == Verdict::Act {
        acts(&read, by.is_some());
        let again = gate.judge(now(), UP, &read, by);
        assert!(matches!(again, Verdict::Refused(_)), "it acts a second time: {again:?}");
    }
    Ok(format!("{} {verdict:?}", read.order.as_str()))
}

fn acts(command: &Command, is_signed: bool) {
    assert_eq!(command.namespace, namespace());
    assert!(command.targets.as_ref().is_none_or(|targets| targets.contains(&worker())));
    assert!(command.expires_at > now());
    if is_signed {
        assert!(command.issued_at <= now().after(SKEW));
        assert!(command.expires_at.since(command.issued_at) <= LONGEST);
        assert!(command.order.role() == Role::Inspect || now().since(command.issued_at) <= UP);
    }
}

/// What an operator's program makes of it. What stands in it may hold numbers that JSON gives back rounded.
fn replied(body: &[u8]) -> Result<String, String> {
    let read = reply(body).map_err(|error| told(&error, TOLD))?;
    let again = ReplyFrame::plain(&read);
    let again = reply(again.text.as_bytes()).expect("what was read is written as a reply");
    assert_eq!((&again.request_id, &again.worker), (&read.request_id, &read.worker));
    Ok("a reply".to_owned())
}

/// What whoever lists workers makes of it.
fn heard(body: &[u8]) -> Result<String, String> {
    let read: Heartbeat = serde_json::from_slice(body).map_err(|_| "no heartbeat".to_owned())?;
    let again = serde_json::to_vec(&read).expect("it holds only text and numbers");
    assert_eq!(serde_json::from_slice::<Heartbeat>(&again).ok().as_ref(), Some(&read));
    Ok(format!("a heartbeat, fresh {}", read.is_fresh(now())))
}
