//! The one connection of a process to its Redis: made when it is needed, thrown away when it fails or is silent for too
//! long, made anew by the next call. Commands of all callers travel on it together, and so do wake-ups.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, PushInfo,
    PushKind, RedisError, ServerErrorKind, TlsCertificates, Value,
};
use stem_core::backend::ErrorClass;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::bell::Bells;
use crate::fault::Fault;
use crate::script::Script;
use crate::watch::Watches;

/// No answer takes longer, or the connection is given up. A server that was stopped is noticed after this.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// No greeting of a new connection takes longer.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(50);

/// How often one call may be sent to another node of a cluster.
const REDIRECTIONS: usize = 4;

/// A connection, with a number by which a caller says which one failed.
#[derive(Clone)]
struct Numbered {
    number: u64,
    connection: MultiplexedConnection,
    hears: Hears,
}

/// What comes over a connection, or is to come, by itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hears {
    /// Wake-ups.
    pub(crate) bell: bool,
    /// Records that this process waits for.
    pub(crate) tell: bool,
}

impl Hears {
    const NOTHING: Self = Self { bell: false, tell: false };
    /// Wake-ups.
    pub(crate) const BELL: Self = Self { bell: true, tell: false };
    /// Records.
    pub(crate) const TELL: Self = Self { bell: false, tell: true };

    fn holds(self, wanted: Self) -> bool {
        (self.bell || !wanted.bell) && (self.tell || !wanted.tell)
    }
}

#[derive(Default)]
struct Current {
    open: Option<Numbered>,
    last: u64,
    /// The node of a cluster that holds our keys, once it has been named.
    moved_to: Option<(String, u16)>,
    failed: Option<(Instant, Fault)>,
}

/// See the module.
pub(crate) struct Link {
    info: ConnectionInfo,
    certificates: Option<TlsCertificates>,
    ears: Arc<Ears>,
    runtime: Handle,
    current: Arc<Mutex<Current>>,
    /// Held while a connection is made, so that one is made and not many.
    making: tokio::sync::Mutex<()>,
}

/// What the server says by itself, and who is to hear it.
pub(crate) struct Ears {
    /// The channel of wake-ups, and who hears them.
    pub(crate) bell: String,
    pub(crate) bells: Arc<Bells>,
    /// The channel of records that this process waits for, and who waits.
    pub(crate) tell: String,
    pub(crate) watches: Arc<Watches>,
}

impl Ears {
    fn hear(&self, said: &[Value]) {
        let [Value::BulkString(channel), Value::BulkString(said)] = said else { return };
        if *channel == self.bell.as_bytes() {
            self.bells.ring(said);
        } else if *channel == self.tell.as_bytes() {
            self.watches.tell(said);
        }
    }

    /// Something may have been said that was not heard.
    fn all(&self) {
        self.bells.ring_all();
        self.watches.look_all();
    }
}

impl Link {
    pub(crate) fn new(
        info: ConnectionInfo,
        certificates: Option<TlsCertificates>,
        ears: Ears,
    ) -> Self {
        Self {
            info,
            certificates,
            ears: Arc::new(ears),
            runtime: Handle::current(),
            current: Arc::default(),
            making: tokio::sync::Mutex::default(),
        }
    }

    /// Runs a script, made ready by [`Script::call`]. An error of class [`ErrorClass::Transient`] leaves open whether it
    /// was executed.
    pub(crate) async fn run(&self, script: &Script, call: &Cmd) -> Result<Value, Fault> {
        self.send(Some(script), call).await
    }

    /// Runs a plain command, one that may be executed twice.
    pub(crate) async fn ask(&self, command: &Cmd) -> Result<Value, Fault> {
        self.send(None, command).await
    }

    async fn send(&self, script: Option<&Script>, call: &Cmd) -> Result<Value, Fault> {
        let mut redirected = 0;
        loop {
            let mut open = self.connection(Hears::NOTHING).await?;
            let answer = match (answer(&mut open.connection, call).await, script) {
                (Err(error), Some(script)) if is(&error, ServerErrorKind::NoScript) => {
                    // The server was restarted, or somebody has flushed its scripts.
                    let mut load = redis::cmd("SCRIPT");
                    load.arg("LOAD").arg(&script.source);
                    match answer(&mut open.connection, &load).await {
                        Ok(_) => answer(&mut open.connection, call).await,
                        Err(error) => Err(error),
                    }
                }
                (answer, _) => answer,
            };
            match answer {
                Ok(value) => return Ok(value),
                Err(error) => {
                    let moved = error.redirect_node().and_then(|(address, _)| {
                        let (host, port) = address.rsplit_once(':')?;
                        Some((host.to_owned(), port.parse().ok()?))
                    });
                    if self.give_up(&error, open.number, moved) && redirected < REDIRECTIONS {
                        redirected += 1;
                        continue;
                    }
                    return Err(error.into());
                }
            }
        }
    }

    /// Sees to it that these come.
    pub(crate) async fn listen(&self, wanted: Hears) -> Result<(), Fault> {
        self.connection(wanted).await.map(|_| ())
    }

    /// Throws a connection away that failed; says whether the call is to be sent again, to another node.
    fn give_up(&self, error: &RedisError, number: u64, moved: Option<(String, u16)>) -> bool {
        let answered = matches!(
            error.kind(),
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::UnexpectedReturnType
        );
        // A replica may have been the primary when the connection was made; the name may lead elsewhere by now.
        let stays = answered
            && moved.is_none()
            && !is(error, ServerErrorKind::ReadOnly)
            && !is(error, ServerErrorKind::MasterDown);
        if stays {
            return false;
        }
        let mut current = lock(&self.current);
        if current.open.as_ref().is_some_and(|open| open.number == number) {
            current.open = None;
        }
        if !answered {
            // The node that was named may be gone: begin at the door again.
            current.moved_to = None;
        }
        let again = moved.is_some();
        if again {
            current.moved_to = moved;
        }
        again
    }

    async fn connection(&self, wanted: Hears) -> Result<Numbered, Fault> {
        let ready =
            |current: &Current| current.open.clone().filter(|open| open.hears.holds(wanted));
        if let Some(open) = ready(&lock(&self.current)) {
            return Ok(open);
        }
        let _making = self.making.lock().await;
        let (open, moved_to, failed) = {
            let current = lock(&self.current);
            if let Some(open) = ready(&current) {
                return Ok(open);
            }
            (current.open.clone(), current.moved_to.clone(), current.failed.clone())
        };
        if let Some((at, fault)) = failed
            && at.elapsed() < PAUSE
        {
            return Err(fault);
        }
        let made = match open {
            Some(open) => Ok(open),
            None => self.make(moved_to).await,
        };
        let heard = match made {
            Ok(made) => {
                let heard = self.subscribe(made.clone(), wanted).await;
                // What the server refuses to let us hear does not keep us from asking.
                if let Err(fault) = &heard
                    && fault.class == ErrorClass::Refused
                {
                    lock(&self.current).open = Some(made);
                    return heard;
                }
                heard
            }
            Err(fault) => Err(fault),
        };
        let mut current = lock(&self.current);
        match heard {
            Ok(made) => {
                current.failed = None;
                current.open = Some(made.clone());
                Ok(made)
            }
            Err(fault) => {
                current.failed = Some((Instant::now(), fault.clone()));
                current.open = None;
                // The name that was given may lead to a node that answers.
                current.moved_to = None;
                Err(fault)
            }
        }
    }

    /// Each channel by itself: who may not hear the one may hear the other.
    async fn subscribe(&self, mut open: Numbered, wanted: Hears) -> Result<Numbered, Fault> {
        let mut hear = async |channel: &str| -> Result<(), Fault> {
            let heard = tokio::time::timeout(CONNECT_WITHIN, open.connection.subscribe(channel));
            Ok(heard.await.map_err(|_| silent(CONNECT_WITHIN))??)
        };
        let mut hears = open.hears;
        if wanted.bell && !hears.bell {
            hear(&self.ears.bell).await?;
            hears.bell = true;
        }
        if wanted.tell && !hears.tell {
            hear(&self.ears.tell).await?;
            hears.tell = true;
        }
        open.hears = hears;
        Ok(open)
    }

    /// Connects. Whoever listened before is woken, as wake-ups may have been lost meanwhile.
    async fn make(&self, moved_to: Option<(String, u16)>) -> Result<Numbered, Fault> {
        let number = {
            let mut current = lock(&self.current);
            current.last += 1;
            current.last
        };
        let mut info = self.info.clone();
        if let Some((moved_to, port)) = moved_to {
            // A node that does not know another's address means the one it was asked at.
            let unknown = moved_to.is_empty() || moved_to == "?";
            let named = |host: String| if unknown { host } else { moved_to };
            let addr = match info.addr().clone() {
                ConnectionAddr::TcpTls { host, insecure, tls_params, .. } => {
                    ConnectionAddr::TcpTls { host: named(host), port, insecure, tls_params }
                }
                ConnectionAddr::Tcp(host, _) => ConnectionAddr::Tcp(named(host), port),
                other => other,
            };
            info = info.set_addr(addr);
        }
        let client = match &self.certificates {
            Some(certificates) => Client::build_with_tls(info, certificates.clone()),
            None => Client::open(info),
        }?;
        let (ears, current) = (Arc::clone(&self.ears), Arc::downgrade(&self.current));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_WITHIN))
            .set_response_timeout(Some(ANSWER_WITHIN))
            .set_push_sender(move |push: PushInfo| {
                match push.kind {
                    PushKind::Message => ears.hear(&push.data),
                    PushKind::Disconnection => {
                        if let Some(current) = current.upgrade() {
                            let mut current = lock(&current);
                            if current.open.as_ref().is_some_and(|open| open.number == number) {
                                current.open = None;
                            }
                        }
                        ears.all();
                    }
                    _ => {}
                }
                Ok::<(), std::convert::Infallible>(())
            });
        // On the runtime of whoever opened us: the connection must outlive the runtime of this caller.
        let connecting = self.runtime.spawn(async move {
            client.get_multiplexed_async_connection_with_config(&config).await
        });
        let connection = tokio::time::timeout(CONNECT_WITHIN + PAUSE, connecting)
            .await
            .map_err(|_| silent(CONNECT_WITHIN))?
            .map_err(|_| Fault::new(ErrorClass::Transient, "its runtime is shutting down"))??;
        let made = Numbered { number, connection, hears: Hears::default() };
        if number > 1 {
            let wanted = Hears {
                bell: self.ears.bells.any_listener(),
                tell: self.ears.watches.any_watcher(),
            };
            let heard = self.subscribe(made.clone(), wanted).await;
            self.ears.all();
            return match heard {
                Err(fault) if fault.class == ErrorClass::Refused => Ok(made),
                heard => heard,
            };
        }
        Ok(made)
    }
}

async fn answer(
    connection: &mut MultiplexedConnection,
    command: &Cmd,
) -> Result<Value, RedisError> {
    connection.send_packed_command(command).await?.extract_error()
}

fn is(error: &RedisError, kind: ServerErrorKind) -> bool {
    error.kind() == ErrorKind::Server(kind)
}

fn silent(limit: Duration) -> Fault {
    let problem =
        format!("no answer within {} s; is the server stopped or out of reach?", limit.as_secs());
    Fault::new(ErrorClass::Transient, problem)
}

fn lock(current: &Mutex<Current>) -> std::sync::MutexGuard<'_, Current> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}
