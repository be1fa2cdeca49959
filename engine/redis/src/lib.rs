//! Every backend on one Redis, version 7.0 or newer.
//!
//! Every change is one Lua script, so it is one atomic step; batches travel in one script whatever their length. Leases are
//! fenced by the pair of incarnation and token, and measured by the server's own clock. All keys of one installation carry
//! one text in braces, so that Redis Cluster keeps them in one slot; the client follows when that slot is elsewhere.
//!
//! | module | what it holds |
//! |---|---|
//! | `options` | a URL, read and named without secrets |
//! | `link` | the one connection: made, watched, thrown away, made anew |
//! | `script`, `scripts/` | the scripts, with what each takes, answers, and why it is one step |
//! | `bell` | waking up whoever waits |
//! | `watch` | telling whoever waits for one record |
//! | `read` | answers to the core's types |
//! | `fault` | errors as classes, with what to do about them |
//! | `health` | what the server says of itself, and what is unsafe about it |
//! | `broker`, `records`, `dead_letter`, `revoke`, `control`, `presence`, `modules`, `buckets` | one trait each |
//!
//! # Keys
//!
//! Each begins with the prefix in braces, by default `{stem}/`. Names cannot hold a slash, so no two keys meet.
//!
//! | key | type | holds | lives | who writes |
//! |---|---|---|---|---|
//! | `q/seq` | number | the order of enqueueing | for ever | producers |
//! | `q/task/<id>` | hash | a delivery: queue, name, tenant, place, owner, and in one field phase, token, time, counts | until it is settled for good, or removed from the dead letters | producers, workers |
//! | `q/wire/<id>` | text | its envelope | as long | producers |
//! | `q/failed/<id>` | list | its failed attempts, the newest 20 | as long | workers |
//! | `q/ready/<queue>/<row>` | sorted set | what can be taken, by priority and order; a row is a task name, and for tasks with a tenant the name and a slash | while not empty | producers, workers |
//! | `q/lane/<queue>/<name>/<tenant>` | sorted set | what can be taken of one tenant, once more, for workers with quotas | while not empty | producers, workers |
//! | `q/lanes/<queue>/<name>` | sorted set | tenants with such a lane, by name | while not empty | producers, workers |
//! | `q/delayed/<queue>`, `q/leased/<queue>` | sorted set | what waits for a time, and until when leases last | while not empty | producers, workers |
//! | `q/names/<queue>` | set | rows with something ready | while not empty | producers, workers |
//! | `q/queues` | hash | every queue, with its pause | for ever | producers, operators |
//! | `q/unique` | hash | unique keys in use, with their tasks | while not empty | producers, workers |
//! | `q/dead` | sorted set | dead letters by time | while not empty | workers, operators |
//! | `q/idle`, `q/swept`, `q/clock`, `q/checked` | text | somebody waits for work; when all queues were last looked after; the latest time that leases were told by; a health check | a moment | workers |
//! | `q/got/<ticket>` | set | what one request took | until the next request says that its answer has come; its lease and a minute at most | workers |
//! | `q/void/<ticket>` | text | a request that was given up | 10 minutes | workers |
//! | `t/task/<id>` | hash | a record | 7 days after its end, see [`RECORD_TTL`](stem_core::backend::result::RECORD_TTL) | producers, workers |
//! | `t/failed/<id>` | list | its failed attempts, the newest 20 | with its record | workers |
//! | `t/checkpoint/<id>` | text | its checkpoint | until it ends | workers |
//! | `t/all`, `t/count` | sorted set, number | records in their order | with them | producers |
//! | `t/watch/<id>` | hash | the processes that wait for a record | 15 seconds after the last asking, or until it ends | whoever waits |
//! | `v/<namespace>/version` | number | the newest version | for ever | operators |
//! | `v/<namespace>/order` | sorted set | revocations, and traces of those taken back, by version | until they expire; a trace for a day | operators |
//! | `v/<namespace>/task`, `v/<namespace>/ends` | hash, sorted set | their versions by task; their tasks by end | as long | operators |
//! | `c/<namespace>/log` | stream | commands | until they expire | operators |
//! | `c/<namespace>/sent`, `c/spaces` | hash, set | places by request; namespaces with a log | as long; for ever | operators |
//! | `a/<namespace>/<request>`, `a/kept` | hash, sorted set | replies; until when | a minute after their command has expired | workers |
//! | `w/<namespace>` | hash | heartbeats by worker | until a worker is forgotten | workers |
//! | `m/bytes/<digest>` | hash | of which storing a module's bytes are, and in how many pieces | until its last release is removed | publishers |
//! | `m/put/<id>` | hash | the pieces of one storing | with what names them | publishers |
//! | `m/loose`, `m/staged` | sorted set | by time: modules that no release names, storings that are not whole | an hour or more | publishers |
//! | `m/named` | hash | how many releases name a module | while any does | publishers, operators |
//! | `m/name/<name>` | hash | a task name: its releases, what serves it, its last version | the last version for ever | publishers, operators |
//! | `m/serving`, `m/revision` | sorted set, number | names that something serves; the last change | while any is; for ever | publishers, operators |
//! | `k/<bucket>/<key>` | hash | a value of a bucket, its version, its end | until its end, or it is removed | tasks |
//! | `k/version` | number | the newest version of any value | for ever | tasks |
//! | `bell` | channel | wake-ups, one letter each | | whoever changes something |
//! | `tell/<process>` | channel | records that a process waits for | | whoever changes them |

mod bell;
mod broker;
mod buckets;
mod control;
mod dead_letter;
mod fault;
mod health;
mod link;
mod modules;
mod options;
mod presence;
mod read;
mod records;
mod revoke;
mod script;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value};
use stem_core::backend::{BackendError, ServiceId};
use stem_core::time::Clock;

pub use link::ANSWER_WITHIN;
pub use options::{PREFIX, RedisOptions, check_url};

use bell::{Bells, Topic};
use fault::Fault;
use link::{Ears, Hears, Link};
use script::Script;
use watch::Watches;

/// A waiter looks again at least this often, whatever the bells say.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// One Redis as every backend. Several of these, in one process or many, may use one server.
///
/// A call that is dropped has happened whole or not at all. One that fails with
/// [`Transient`](stem_core::backend::ErrorClass::Transient) may have happened: its answer did not come.
pub struct Redis {
    inner: Arc<Inner>,
}

/// What calls share, and what a request that was given up needs to give back what it took.
struct Inner {
    service: ServiceId,
    prefix: String,
    clock: Option<Arc<dyn Clock>>,
    link: Link,
    bells: Arc<Bells>,
    watches: Arc<Watches>,
    encrypted: bool,
    loopback: bool,
    /// Tickets of requests for deliveries whose answer has come, for the next request to tell.
    come: std::sync::Mutex<Vec<String>>,
}

impl Redis {
    /// Connects and checks that the server is new enough. Must be called inside a Tokio runtime, which must outlive the
    /// value; calls may come from other runtimes.
    pub async fn open(options: RedisOptions) -> Result<Arc<Self>, BackendError> {
        const ACTION: &str = "connect";
        let nameless = ServiceId("redis".to_owned());
        let place =
            options::place(&options.url).map_err(|fault| fault.during(&nameless, ACTION))?;
        // One provider for every TLS client of the process; that it has been chosen before is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let bells = Arc::new(Bells::default());
        let watches = Arc::new(Watches::default());
        let ears = Ears {
            bell: format!("{}bell", place.prefix),
            tell: watches.channel(&place.prefix),
            bells: Arc::clone(&bells),
            watches: Arc::clone(&watches),
        };
        let redis = Self {
            inner: Arc::new(Inner {
                service: place.service,
                prefix: place.prefix,
                clock: options.clock,
                link: Link::new(place.info, place.certificates, ears),
                bells,
                watches,
                encrypted: place.encrypted,
                loopback: place.loopback,
                come: std::sync::Mutex::default(),
            }),
        };
        let info = redis.inner.info().await.map_err(|fault| redis.inner.during(fault, ACTION))?;
        info.check_version().map_err(|fault| redis.inner.during(fault, ACTION))?;
        Ok(Arc::new(redis))
    }
}

impl Inner {
    /// Begins a call of a script.
    fn call(&self, script: &Script) -> Cmd {
        let now = self.clock.as_ref().map(|clock| clock.now().unix_millis());
        script.call(&self.prefix, now)
    }

    async fn run(&self, script: &Script, call: &Cmd) -> Result<Value, Fault> {
        self.link.run(script, call).await
    }

    fn during(&self, fault: Fault, action: &'static str) -> BackendError {
        fault.during(&self.service, action)
    }

    /// Waits for news of one kind, at most `wait`.
    async fn news(&self, topic: Topic, wait: Duration) -> Result<(), Fault> {
        self.link.listen(Hears::BELL).await?;
        self.bells.wait_loosely(topic, wait.min(LOOK_AGAIN)).await;
        Ok(())
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Redis").field(&self.inner.service.0).finish()
    }
}
