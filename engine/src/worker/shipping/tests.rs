//! What changes while a release is made.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use stem_core::backend::modules::Pushed;
use stem_core::id::WorkerId;
use stem_core::release::{Push, PushId, Rollout};
use stem_isolate::{Compiler, IsolateRuntime, RuntimeConfig, admission};
use stem_memory::Memory;

use super::super::builder::Publishers;
use super::super::config::WorkerConfig;
use super::*;
use crate::Backends;
use crate::clock::SystemClock;
use crate::policy::PolicyFile;
use crate::signing::{PublisherKey, TrustFile};

const MANIFEST: &str =
    "[handlers.job]\nsource = \"file:job.wasm\"\n[handlers.job.grants]\nkv = [\"a:rw\"]\n";

fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::rename(&new, path).unwrap();
}

struct Bench {
    dir: tempfile::TempDir,
    key: PublisherKey,
    policy: Arc<PolicyFile>,
    trust: Arc<TrustFile>,
    follower: Follower,
}

impl Bench {
    /// A follower that knows of a release which serves, signed, and of which nothing is at hand.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = PublisherKey::generate().unwrap();
        write(&dir.path().join("policy"), "[grants]\nkv = [\"*:rw\"]\n");
        write(&dir.path().join("trust"), &format!("{} ann\n", key.public()));
        let policy = Arc::new(PolicyFile::open(&dir.path().join("policy")).unwrap());
        let trust = Arc::new(TrustFile::open(&dir.path().join("trust")).unwrap());
        let runtime = RuntimeConfig {
            isolates: 1,
            memory_cap_bytes: RuntimeConfig::MEMORY_CAP_BYTES,
            threads: 1,
            slice: RuntimeConfig::SLICE,
            compiler: Compiler::InProcess,
            cache_dir: None,
            scratch_dir: None,
        };
        let backends = Backends::all_in_one(Memory::new(Arc::new(SystemClock)));
        let source = Arc::new(Source {
            store: Arc::clone(&backends.modules),
            runtime: IsolateRuntime::new(&runtime).unwrap(),
            publishers: Publishers::Listed(Arc::clone(&trust)),
        });
        let config = WorkerConfig {
            policy: Arc::clone(&policy),
            ..WorkerConfig::new(WorkerId::new("w").unwrap())
        };
        let shared = Shared::alone(config, backends);
        let text = r#"(module (memory (export "memory") 1) (func (export "stem_run") (result i32) (i32.const 0)))"#;
        let wasm = wat::parse_str(text).unwrap();
        let mut push = Push {
            id: PushId::fresh(),
            name: TaskName::new("job").unwrap(),
            digest: admission::digest(&wasm),
            size: wasm.len() as u64,
            manifest: MANIFEST.to_owned(),
            pushed_by: None,
            signatures: Vec::new(),
        };
        push.signatures = vec![key.sign(&push)];
        source.store.put(&push.digest, &wasm).await.unwrap();
        let pushed = source.store.push(&push, Rollout::Whole).await.unwrap();
        assert!(matches!(pushed, Pushed::Release(_)));
        let mut follower = Follower::new(shared, source);
        follower.catalogue = follower.source.store.catalogue().await.unwrap();
        assert_eq!(follower.follow_catalogue().len(), 1);
        Self { dir, key, policy, trust, follower }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The release as a job made it that has ended and was not looked at yet.
    async fn made(&self) -> Arc<Serving> {
        let release = Arc::new(self.follower.catalogue.served[0].releases[0].clone());
        prepare(&self.follower.shared, &self.follower.source, release).await.unwrap()
    }

    fn at_hand(&mut self, build: Arc<Serving>) {
        let pushed_at = self.follower.catalogue.served[0].releases[0].pushed_at;
        self.follower.at_hand(Job::Serve(build.name.clone(), 1, pushed_at), build);
    }

    /// Puts another list in the place of the one that is followed, and waits until that is known.
    async fn trust_in(&self, key: &PublisherKey) {
        let mut news = self.trust.subscribe();
        write(&self.file("trust"), &format!("{} bob\n", key.public()));
        tokio::select! {
            () = self.trust.follow() => {}
            changed = news.changed() => changed.unwrap(),
        }
    }

    /// The grants of each build in service, in words.
    fn granted(&self) -> Vec<Vec<String>> {
        let rows = self.follower.shared.routes().rows();
        rows.iter()
            .map(|row| crate::policy::words::all(&row.handler.granted().unwrap().grants))
            .collect()
    }
}

#[tokio::test]
async fn what_the_policy_took_away_while_a_release_was_made_it_does_not_get() {
    let mut bench = Bench::new().await;
    let build = bench.made().await;
    let mut news = bench.policy.subscribe();
    write(&bench.file("policy"), "[grants]\nscratch = true\n");
    let policy = Arc::clone(&bench.policy);
    tokio::select! {
        () = policy.follow() => {}
        changed = news.changed() => changed.unwrap(),
    }
    bench.at_hand(build);
    assert_eq!(bench.granted(), [Vec::<String>::new()]);
}

#[tokio::test]
async fn a_release_whose_publisher_was_taken_off_the_list_while_it_was_made_does_not_serve() {
    let mut bench = Bench::new().await;
    let build = bench.made().await;
    bench.trust_in(&PublisherKey::generate().unwrap()).await;
    bench.at_hand(Arc::clone(&build));
    assert_eq!((bench.granted().len(), bench.follower.shared.names().len()), (0, 0));
    let failing = bench.follower.failing.values().next().unwrap();
    assert_eq!(failing.trouble.code(), "module-untrusted");
    // And the other way round.
    let key = PublisherKey::read(&bench.key.to_file()).unwrap();
    bench.trust_in(&key).await;
    bench.follower.apply_trust();
    assert!(bench.follower.failing.is_empty(), "it is tried again");
    bench.at_hand(build);
    assert_eq!(bench.granted().len(), 1);
    bench.trust_in(&PublisherKey::generate().unwrap()).await;
    bench.follower.apply_trust();
    assert_eq!((bench.granted().len(), bench.follower.shared.names().len()), (0, 0));
}

#[tokio::test]
async fn a_name_that_cannot_be_read_any_more_goes_on_serving() {
    let mut bench = Bench::new().await;
    let build = bench.made().await;
    bench.at_hand(build);
    assert_eq!(bench.granted().len(), 1);
    let of = |unreadable| Catalogue { revision: 9, served: Vec::new(), unreadable };
    bench.follower.take(of(vec![TaskName::new("job").unwrap()]));
    assert!(bench.follower.follow_catalogue().is_empty());
    assert_eq!(bench.granted().len(), 1);
    bench.follower.take(of(Vec::new()));
    assert!(bench.follower.follow_catalogue().is_empty());
    assert!(bench.granted().is_empty());
}
