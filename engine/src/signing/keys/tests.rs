use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use stem_core::envelope::Payload;
use stem_core::id::{Digest, TaskId, TaskName};
use stem_core::seal::Roles;
use tempfile::TempDir;

use super::super::edit::{self, NewKey, Rotation};
use super::super::keyring::{Material, State};
use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    at("2026-11-22T12:00:00Z")
}

fn id(text: &str) -> KeyId {
    KeyId::new(text).unwrap()
}

/// A directory with files of keys, written by the same code as `stem keys`.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path
    }

    /// All three files, where they are there.
    fn files(&self) -> KeyFiles {
        KeyFiles {
            public: Some(self.path("public")),
            private: Some(self.path("private")),
            shared: None,
            active: None,
            algorithm: Algorithm::Ed25519,
        }
    }

    fn shared(&self) -> KeyFiles {
        KeyFiles {
            shared: Some(self.path("shared")),
            algorithm: Algorithm::HmacSha256,
            ..KeyFiles::default()
        }
    }

    fn replace(&self, name: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(self.path(name), text.replace(from, to)).unwrap();
    }
}

fn key(name: &str, roles: &[Role]) -> NewKey {
    NewKey {
        id: id(name),
        algorithm: Algorithm::Ed25519,
        roles: roles.to_vec(),
        namespaces: Vec::new(),
        queues: Vec::new(),
        workers: Vec::new(),
        not_after: None,
    }
}

const ALL: [Role; 4] = Role::ALL;

/// Keys that sign and check everything, of each kind.
fn both_kinds() -> Vec<(Place, Arc<Keys>)> {
    Algorithm::ALL
        .into_iter()
        .map(|algorithm| {
            let place = Place::new();
            let files = match algorithm {
                Algorithm::Ed25519 => place.files(),
                Algorithm::HmacSha256 => place.shared(),
            };
            edit::add(&files, &NewKey { algorithm, ..key("k", &ALL) }).unwrap();
            let keys = Keys::open(files).unwrap();
            (place, keys)
        })
        .collect()
}

fn envelope() -> Envelope {
    let name = TaskName::new("job").unwrap();
    let queue = QueueName::new("mail").unwrap();
    Envelope::new(TaskId::new("t").unwrap(), name, queue, Payload::json("{\"a\":1}"), now())
}

#[test]
fn what_is_signed_is_opened_and_nothing_else_of_it() {
    for (_place, keys) in both_kinds() {
        for (role, purpose) in [(Role::Control, Purpose::Command), (Role::Worker, Purpose::Reply)] {
            let sealed = keys.seal(role, "stem", b"{\"x\":1}".to_vec(), now()).unwrap();
            let opened = keys.open_sealed(purpose, "stem", &sealed, now()).unwrap();
            assert_eq!(opened.body, b"{\"x\":1}");
            assert_eq!(opened.by.unwrap().key, id("k"));
            let refused =
                |purpose, scope| keys.open_sealed(purpose, scope, &sealed, now()).unwrap_err();
            for other in Purpose::ALL.into_iter().filter(|other| *other != purpose) {
                assert_eq!(refused(other, "stem"), Refused::WrongPurpose);
            }
            assert_eq!(refused(purpose, "other"), Refused::WrongScope);
            // A byte less, a byte more, and another byte at each place.
            let mut changed = sealed.clone();
            changed.push(b' ');
            assert!(keys.open_sealed(purpose, "stem", &changed, now()).is_err());
            for place in 0..sealed.len() {
                let mut changed = sealed.clone();
                changed[place] ^= 1;
                match keys.open_sealed(purpose, "stem", &changed, now()) {
                    Err(_) => {}
                    // No seal any more: let through as unsigned, which is what is permitted here.
                    Ok(opened) => assert!(opened.by.is_none() && place < 7, "{place}"),
                }
            }
        }
    }
}

/// A field, and how somebody changes it.
type Change = (&'static str, fn(&mut Envelope));

#[test]
fn a_task_is_signed_as_a_whole() {
    for (_place, keys) in both_kinds() {
        let mut signed = envelope();
        keys.seal_task(&mut signed, now()).unwrap();
        let check = |envelope: &Envelope| {
            keys.check_task(envelope, &envelope.queue, now()).map(|by| by.map(|by| by.key))
        };
        assert_eq!(check(&signed), Ok(Some(id("k"))));
        // As it comes out of a store.
        let bytes = wire::encode(&signed);
        assert_eq!(check(&wire::decode(&bytes).unwrap()), Ok(Some(id("k"))));
        let changes: [Change; 12] = [
            ("id", |it| it.id = TaskId::new("u").unwrap()),
            ("name", |it| it.name = TaskName::new("other").unwrap()),
            ("payload", |it| it.payload.bytes = b"{\"a\":2}".to_vec()),
            ("media type", |it| it.payload.media_type = "text/plain".to_owned()),
            ("enqueued", |it| it.enqueued_at = it.enqueued_at.after(Duration::from_millis(1))),
            ("not before", |it| it.not_before = Some(now())),
            ("expiry", |it| it.expires_at = Some(now().after(Duration::from_hours(1)))),
            ("priority", |it| it.priority = stem_core::envelope::Priority::new(9).unwrap()),
            ("retries", |it| it.retry.max_retries = 1_000),
            ("timeout", |it| it.timeout = Some(Duration::from_hours(1))),
            ("build", |it| it.module = Some(Digest([1; 32]))),
            ("headers", |it| drop(it.headers.insert("a".to_owned(), "b".to_owned()))),
        ];
        for (field, change) in changes {
            let mut changed = signed.clone();
            change(&mut changed);
            assert_eq!(check(&changed), Err(Refused::WrongSignature), "{field}");
            // The same, written into the bytes by somebody who has them.
            let plain = Envelope { seal: None, ..changed };
            let (line, _) =
                bytes.split_at(bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1);
            let forged = wire::decode(&[line, &wire::encode(&plain)].concat()).unwrap();
            assert_eq!(check(&forged), Err(Refused::WrongSignature), "{field}");
        }
        let moved = Envelope { queue: QueueName::new("other").unwrap(), ..signed.clone() };
        assert_eq!(check(&moved), Err(Refused::WrongScope));
        let old = now().after(Duration::from_hours(30 * 24));
        assert!(keys.check_task(&signed, &signed.queue, old).is_ok());
        let late = old.after(Duration::from_millis(1));
        assert_eq!(keys.check_task(&signed, &signed.queue, late), Err(Refused::TooOld));
    }
}

/// Written by another implementation of both algorithms.
#[test]
fn the_golden_envelopes_hold() {
    let place = Place::new();
    let golden = |kind: &str| {
        let file = format!("core/tests/golden/envelope.sealed-{kind}.bin");
        let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        wire::decode(&bytes).unwrap()
    };
    let head = "version = 1\ncommands = \"unchecked\"\nreplies = \"unchecked\"\ntasks = \"required\"\ntask-max-age = \"never\"\n";
    let secret = STANDARD.encode([7; 32]);
    let public = ed25519_dalek::SigningKey::from_bytes(&[9; 32]).verifying_key();
    let public = STANDARD.encode(public.as_bytes());
    for (kind, algorithm, word, half) in
        [("hmac", "hmac-sha256", "secret", secret), ("ed25519", "ed25519", "public", public)]
    {
        let entry = format!(
            "[[key]]\nid = \"shop\"\nalgorithm = \"{algorithm}\"\n{word} = \"{half}\"\nroles = [\"publish\"]\n"
        );
        let path = place.write(kind, &format!("{head}{entry}"), 0o600);
        let files = match word {
            "public" => KeyFiles { public: Some(path), ..KeyFiles::default() },
            _ => KeyFiles { shared: Some(path), ..KeyFiles::default() },
        };
        let (keys, envelope) = (Keys::open(files).unwrap(), golden(kind));
        let by = keys.check_task(&envelope, &envelope.queue, now()).unwrap().unwrap();
        assert_eq!((by.key, by.may), (id("shop"), Roles::new([Role::Publish])));
        let plain = Envelope { seal: None, ..envelope };
        assert_eq!(keys.check_task(&plain, &plain.queue, now()), Err(Refused::Unsigned));
    }
}

#[test]
fn a_public_key_is_no_secret_of_the_other_kind() {
    let place = Place::new();
    edit::add(&place.files(), &key("k", &ALL)).unwrap();
    let keys = Keys::open(place.files()).unwrap();
    let ring = keys.ring();
    let Material::Public(public) = &ring.keys[&id("k")].verifies.as_ref().unwrap().material else {
        panic!("{ring:?}");
    };
    let secret = Material::Shared(public.as_bytes().to_vec().into());
    let message = [seal::before(Purpose::Command, "stem", &id("k")), b"body".to_vec()].concat();
    let forged = Seal {
        purpose: Purpose::Command,
        scope: "stem".to_owned(),
        key: id("k"),
        signature: secret.sign(&message),
    };
    let forged = seal::join(&forged, b"body");
    let refused = keys.open_sealed(Purpose::Command, "stem", &forged, now());
    assert_eq!(refused, Err(Refused::WrongSignature));
}

#[test]
fn a_key_is_good_for_its_roles_places_and_time_only() {
    let place = Place::new();
    let files = place.files();
    let mut narrow = key("narrow", &[Role::Inspect, Role::Publish, Role::Worker]);
    narrow.namespaces = vec!["blue".parse().unwrap()];
    narrow.queues = vec!["mail".parse().unwrap()];
    narrow.not_after = Some(at("2026-11-23T00:00:00Z"));
    edit::add(&files, &narrow).unwrap();
    let keys = Keys::open(files.clone()).unwrap();
    let control = keys.seal(Role::Control, "blue", Vec::new(), now()).unwrap_err();
    assert_eq!((control.role, control.purpose), (Role::Control, Purpose::Command));
    let sealed = keys.seal(Role::Inspect, "blue", b"{}".to_vec(), now()).unwrap();
    let open = |now| keys.open_sealed(Purpose::Command, "blue", &sealed, now).map(|it| it.by);
    let by = open(now()).unwrap().unwrap();
    assert!(by.may.allow(Role::Inspect) && !by.may.allow(Role::Control));
    let end = at("2026-11-23T00:00:00Z");
    assert!(open(Timestamp::from_unix_millis(end.unix_millis() - 1)).is_ok());
    assert_eq!(open(end), Err(Refused::KeyNotValid));
    assert!(keys.seal(Role::Inspect, "blue", Vec::new(), end).is_err());
    assert!(keys.seal(Role::Inspect, "green", Vec::new(), now()).is_err());
    let mut elsewhere = Envelope { queue: "other".parse().unwrap(), ..envelope() };
    assert!(keys.seal_task(&mut elsewhere, now()).is_err());
    // Who signs with it all the same, since his own copy says otherwise, is not believed.
    place.replace("private", "queues = [\"mail\"]\n", "");
    place.replace("private", "namespaces = [\"blue\"]\n", "");
    let bold = Keys::open(files).unwrap();
    bold.seal_task(&mut elsewhere, now()).unwrap();
    let judged = keys.check_task(&elsewhere, &elsewhere.queue, now());
    assert_eq!(judged, Err(Refused::WrongScope));
    // A key for something else, and one that nobody knows.
    let stranger = Place::new();
    edit::add(&stranger.files(), &key("narrow", &ALL)).unwrap();
    edit::add(&stranger.files(), &key("new", &[Role::Control])).unwrap();
    let active =
        |name: &str| Keys::open(KeyFiles { active: Some(id(name)), ..stranger.files() }).unwrap();
    for (name, reason) in [("narrow", Refused::WrongSignature), ("new", Refused::UnknownKey)] {
        let sealed = active(name).seal(Role::Control, "blue", Vec::new(), now()).unwrap();
        let opened = keys.open_sealed(Purpose::Command, "blue", &sealed, now());
        assert_eq!(opened, Err(reason), "{name}");
    }
}

#[test]
fn levels_say_what_becomes_of_what_is_not_signed() {
    let place = Place::new();
    edit::add(&place.files(), &key("k", &[Role::Control])).unwrap();
    let written = std::fs::read_to_string(place.path("public")).unwrap();
    assert!(written.contains("commands = \"permitted\"\nreplies = \"unchecked\""), "{written}");
    let keys = Keys::open(place.files()).unwrap();
    let open = |keys: &Keys, bytes: &[u8]| {
        keys.open_sealed(Purpose::Command, "stem", bytes, now()).map(|it| it.by.is_some())
    };
    let sealed = keys.seal(Role::Control, "stem", b"{}".to_vec(), now()).unwrap();
    let mut wrong = sealed.clone();
    *wrong.last_mut().unwrap() = b'!';
    assert_eq!(open(&keys, b"{}"), Ok(false));
    assert_eq!(open(&keys, &wrong), Err(Refused::WrongSignature), "permitted lets no wrong one in");
    assert_eq!(open(&keys, b"{\"v\":2,"), Err(Refused::Malformed));
    // What is not checked is opened without a look, and so it is without files.
    assert!(keys.open_sealed(Purpose::Reply, "stem", &wrong, now()).is_ok());
    assert_eq!(open(&Keys::none(), &wrong), Ok(false));
    assert_eq!(Keys::none().seal(Role::Control, "stem", b"{}".to_vec(), now()), Ok(b"{}".to_vec()));
    place.replace("public", "commands = \"permitted\"", "commands = \"required\"");
    keys.read_again(&place.files());
    assert_eq!(open(&keys, b"{}"), Err(Refused::Unsigned));
    assert_eq!(open(&keys, &sealed), Ok(true));
    // Files that cannot be used change nothing, and that is known.
    place.replace("public", "commands = \"required\"", "commands = \"reqired\"");
    keys.read_again(&place.files());
    assert!(keys.problem().unwrap().contains("commands is not"), "{:?}", keys.problem());
    assert_eq!(open(&keys, b"{}"), Err(Refused::Unsigned));
    place.replace("public", "commands = \"reqired\"", "commands = \"unchecked\"");
    keys.read_again(&place.files());
    assert_eq!((keys.problem(), open(&keys, &wrong)), (None, Ok(false)));
}

#[test]
fn a_rotation_leaves_no_moment_without_a_good_key() {
    for algorithm in Algorithm::ALL {
        let place = Place::new();
        let files = if algorithm == Algorithm::Ed25519 { place.files() } else { place.shared() };
        edit::add(&files, &NewKey { algorithm, ..key("a", &ALL) }).unwrap();
        let lead = Duration::from_hours(1);
        let rotation = Rotation { lead, overlap: Some(Duration::from_hours(2)) };
        let rotated = edit::rotate(&files, &id("a"), &id("b"), rotation, now()).unwrap();
        let keys = Keys::open(files.clone()).unwrap();
        let after = |minutes| now().after(Duration::from_mins(minutes));
        assert_eq!((rotated.signs_from, rotated.old_until), (after(60), after(180)));
        let mut by_old = Vec::new();
        for (minutes, signer) in [(0, "a"), (59, "a"), (60, "b"), (300, "b")] {
            let sealed = keys.seal(Role::Control, "n", b"{}".to_vec(), after(minutes)).unwrap();
            let opened = keys.open_sealed(Purpose::Command, "n", &sealed, after(minutes)).unwrap();
            assert_eq!(opened.by.unwrap().key, id(signer), "{minutes}");
            // A verifier whose clock is behind.
            assert!(keys.open_sealed(Purpose::Command, "n", &sealed, now()).is_ok());
            if signer == "a" {
                by_old = sealed.clone();
            }
        }
        let old =
            |minutes| keys.open_sealed(Purpose::Command, "n", &by_old, after(minutes)).is_ok();
        assert!(old(179) && !old(180));
        let states: Vec<_> = keys.rows(now()).iter().map(|row| row.state).collect();
        assert_eq!(states, [State::EndsSoon, State::Upcoming]);
        // The one that is to come can be taken back before it has signed anything.
        edit::retire(&files, &id("b"), now()).unwrap();
        let keys = Keys::open(files.clone()).unwrap();
        assert!(keys.rows(now()).iter().any(|row| row.id == id("b") && row.state == State::Ended));
        assert!(edit::rotate(&files, &id("gone"), &id("c"), rotation, now()).is_err());
        // One that ends earlier anyway keeps its end, and that is what is told.
        let soon = Some(after(30));
        let new = NewKey { algorithm, not_after: soon, ..key("short", &ALL) };
        edit::add(&files, &new).unwrap();
        let rotated = edit::rotate(&files, &id("short"), &id("long"), rotation, now()).unwrap();
        assert_eq!(Some(rotated.old_until), soon);
        assert!(edit::add(&files, &NewKey { algorithm, ..key("a", &ALL) }).is_err());
    }
}

#[test]
fn files_that_say_too_little_or_too_much_are_refused_and_show_no_secret() {
    let place = Place::new();
    edit::add(&place.files(), &key("k", &ALL)).unwrap();
    let read = |name: &str| std::fs::read_to_string(place.path(name)).unwrap();
    let (public, private) = (read("public"), read("private"));
    let half = private.split("private = \"").nth(1).unwrap().split('"').next().unwrap();
    assert!(!format!("{:?}", Keys::open(place.files()).unwrap()).contains(half));
    let open = |public: &str, private: &str, mode: u32| {
        place.write("public", public, 0o644);
        place.write("private", private, mode);
        Keys::open(place.files()).map(drop)
    };
    assert_eq!(open(&public, &private, 0o600), Ok(()));
    let other = Place::new();
    edit::add(&other.files(), &key("k", &ALL)).unwrap();
    let others = std::fs::read_to_string(other.path("private")).unwrap();
    let weak = STANDARD.encode([0; 32]);
    let halved = public.split("public = \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let misplaced = |from: &str| private.replace(from, &format!("{from} = \"{half}\"\n#"));
    for (what, public, private, mode) in [
        ("mode 0640", public.clone(), private.clone(), 0o640),
        ("mode 0622", public.clone(), private.clone(), 0o622),
        ("is not 32 bytes", public.clone(), private.replace(half, "AAAA"), 0o600),
        ("not base64", public.clone(), private.replace(half, &format!("{half}!")), 0o600),
        ("not the other half", public.clone(), others, 0o600),
        ("no public key", public.replace(&halved, &weak), private.clone(), 0o600),
        ("tasks is missing", public.replace("tasks =", "#"), private.clone(), 0o600),
        ("must say what must", public.split_off_levels(), private.clone(), 0o600),
        ("what must be signed is said", public.clone(), public.levels() + &private[12..], 0o600),
        ("version = 1", public.replace("version = 1", "version = 2"), private.clone(), 0o600),
        ("unknown key", public.replace("replies =", "replys ="), private.clone(), 0o600),
        ("there twice", format!("{public}{}", public.entry()), private.clone(), 0o600),
        (
            "names none",
            public.replace("\"inspect\", \"control\", \"publish\", \"worker\"", ""),
            private.clone(),
            0o600,
        ),
        ("is none of", public.replace("\"inspect\"", "\"admin\""), private.clone(), 0o600),
        (
            "fits none",
            public.replace("\"publish\", ", "") + "queues = [\"q\"]\n",
            private.clone(),
            0o600,
        ),
        ("RFC 3339", public.clone() + "not-before = \"today\"\n", private.clone(), 0o600),
        ("may sign", public.replace("\"inspect\", \"control\", ", ""), private.clone(), 0o600),
        ("another file", public.replace("public =", "secret ="), private.clone(), 0o600),
        ("not TOML", public.clone(), misplaced("algorithm").replace(" =", ""), 0o600),
        ("neither", public.clone(), misplaced("algorithm"), 0o600),
    ] {
        let error = open(&public, &private, mode).unwrap_err();
        assert!(error.contains(what), "{what}: {error}");
        assert!(!error.contains(half), "{error}");
    }
}

/// Parts of a file of public keys.
trait Parts {
    fn levels(&self) -> String;
    fn entry(&self) -> String;
    fn split_off_levels(&self) -> String;
}

impl Parts for String {
    fn levels(&self) -> String {
        self.split("\n[[key]]").next().unwrap().to_owned()
    }

    fn entry(&self) -> String {
        format!("\n[[key]]{}", self.split("\n[[key]]").nth(1).unwrap())
    }

    fn split_off_levels(&self) -> String {
        format!("version = 1\n{}", self.entry())
    }
}
