//! `stem top`: workers, queues and running tasks on a terminal, and keys to steer them.
//!
//! | module | what it holds | reads or writes |
//! |---|---|---|
//! | [`gather`] | one round of looking after the other | services |
//! | [`picture`] | what was heard last, when, and what went wrong since | |
//! | [`rows`] | the picture, narrowed, sorted and in words | |
//! | [`model`] | the rows, and where the operator is among them | |
//! | [`keys`] | what keys mean | |
//! | [`deed`] | orders: beforehand what they will do, afterwards what became of them | |
//! | [`act`] | orders carried out | services |
//! | [`view`] | the model on a screen | |
//! | [`screen`] | the terminal taken over and given back | the terminal |
//! | [`words`] | figures in few letters | |

mod act;
mod deed;
mod gather;
mod keys;
mod model;
mod picture;
mod rows;
mod screen;
mod view;
mod words;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::crossterm::event::Event;
use ratatui::layout::Rect;
use stem_engine::RevokePolicy;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use self::act::Hand;
use self::deed::Report;
use self::gather::Gatherer;
use self::model::{Effect, Mode, Model, Place};
use self::picture::News;
use self::rows::Narrow;
use self::screen::Screen;
use self::view::Theme;
use super::Context;
use crate::args::TopArgs;
use crate::audit::AuditLog;
use crate::connect::{Opener, ServiceUrl};
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::identity;
use crate::output::say;

/// Ages are drawn anew so often, whether or not anything was heard.
const TICK: Duration = Duration::from_millis(500);

pub(super) async fn run(context: &Context, args: TopArgs) -> Outcome {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(CliError::usage(
            "stem top draws on a terminal, and standard input or output is none",
            "programs read `stem worker status --follow --json`; over ssh, `ssh -t HOST stem top` gives it one",
        ));
    }
    let settings = context
        .settings_on_screen(|flags| flags.namespace.clone_from(&args.namespace.namespace))?;
    if settings.broker_url.value == ServiceUrl::Memory {
        return Err(CliError::usage(
            format!(
                "memory:// ({}) is this process's own memory, in which no worker can be seen",
                settings.broker_url.source
            ),
            "name the store that the workers use, for instance STEM_BROKER_URL=sqlite:///path/to/stem.db",
        ));
    }
    // It looks before it orders, and what it orders is stored first: so a revoke store that is away is no reason not to look.
    let backends = Opener::new(&settings).all(RevokePolicy::FailOpen).await?;
    let namespace = settings.namespace.value.clone();
    let narrow = Narrow { workers: args.worker, queues: args.queue, ..Narrow::default() };
    let place = Place {
        namespace: namespace.to_string(),
        service: settings.broker_url.value.to_string(),
        interval: args.interval,
    };
    let (sender, news) = mpsc::channel(16);
    let nudge = Arc::new(Notify::new());
    let hand = Hand {
        backends: backends.clone(),
        namespace: namespace.clone(),
        timeout: settings.control_timeout.value,
        requester: identity::user(),
        keys: settings.signing.open()?,
        audit_log: AuditLog::open(&settings)?,
    };
    let gatherer = Gatherer {
        backends,
        namespace,
        narrow: narrow.clone(),
        interval: args.interval,
        requester: hand.requester.clone(),
        keys: Arc::clone(&hand.keys),
        nudge: Arc::clone(&nudge),
        news: sender,
    };
    let top = Top {
        model: Model::new(place, narrow, Instant::now()),
        area: Rect::default(),
        theme: if context.environment.no_color() { Theme::Plain } else { Theme::Coloured },
        hand,
        nudge,
        news,
        deed: None,
    };
    let gathering = tokio::spawn(gatherer.run());
    let ended = top.show().await;
    gathering.abort();
    ended
}

/// The view while it is open.
struct Top {
    model: Model,
    /// The screen that was drawn on last, which is what the operator sees when a key is pressed.
    area: Rect,
    theme: Theme,
    hand: Hand,
    nudge: Arc<Notify>,
    news: mpsc::Receiver<News>,
    /// The order that is being carried out.
    deed: Option<JoinHandle<Report>>,
}

impl Top {
    async fn show(mut self) -> Outcome {
        let mut signals = Signals::listen()?;
        let screen = Screen::open().map_err(|error| screen::lost(&error))?;
        let events = screen::events().map_err(|error| screen::lost(&error))?;
        let ended = self.until_left(screen, events, &mut signals).await;
        // What was agreed to is not left half done, and not left unsaid.
        if self.deed.is_some()
            && let Some(deed) = &self.model.busy
        {
            let title = deed.title();
            say(format!("{title}: waiting for its end; Ctrl-C does not wait"));
            tokio::select! {
                report = done(&mut self.deed) => say(report?.text),
                () = signals.any() => {
                    say(format!("{title}: its end was not waited for, and it MAY HAVE BEEN GIVEN"));
                }
            }
        }
        ended.map(|()| Ending::Done)
    }

    /// Draws and listens. Every arm is cancel-safe: channels and signals keep what was not taken, and a handle of a task
    /// can be polled again.
    async fn until_left(
        &mut self,
        mut screen: Screen,
        mut events: mpsc::Receiver<io::Result<Event>>,
        signals: &mut Signals,
    ) -> Result<(), CliError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = Instant::now();
            self.model.refresh(now);
            // This thread runs nothing else, so a slow terminal holds nobody up.
            screen.draw(|frame| self.draw(frame, now))?;
            tokio::select! {
                event = events.recv() => match event {
                    Some(Ok(event)) => if self.typed(&event) { return Ok(()) },
                    Some(Err(error)) => return Err(screen::lost(&error)),
                    None => return Err(screen::lost(&io::ErrorKind::UnexpectedEof.into())),
                },
                news = self.news.recv() => match news {
                    Some(news) => self.model.hear(news, Instant::now()),
                    None => return Err(CliError::failed(
                        "nobody looks at the services any more",
                        "report this as a bug, with what was written above",
                    )),
                },
                report = done(&mut self.deed) => {
                    self.deed = None;
                    self.model.report(report?, Instant::now());
                    self.nudge.notify_one();
                }
                () = signals.any() => return Ok(()),
                _ = tick.tick() => {}
            }
        }
    }

    /// Nothing is asked that cannot be read.
    fn draw(&mut self, frame: &mut Frame<'_>, now: Instant) {
        self.area = frame.area();
        if let Mode::Asking(question) = &self.model.mode
            && !view::fits_question(self.area, question)
        {
            self.model.withdraw(now);
        }
        view::draw(frame, &self.model, self.theme, now);
    }

    /// Whether to leave.
    fn typed(&mut self, event: &Event) -> bool {
        let action = if view::fits(self.area) {
            keys::action(&self.model.mode, event)
        } else {
            keys::unseen(event)
        };
        let Some(action) = action else { return false };
        match self.model.act(action, Instant::now()) {
            Some(Effect::Leave) => return true,
            Some(Effect::Do(deed, reason)) => {
                let hand = self.hand.clone();
                self.deed = Some(tokio::spawn(async move { hand.carry_out(deed, reason).await }));
            }
            None => {}
        }
        false
    }
}

/// When the order that is being carried out is done; never without one.
async fn done(deed: &mut Option<JoinHandle<Report>>) -> Result<Report, CliError> {
    let Some(deed) = deed else { return std::future::pending().await };
    deed.await.map_err(|error| {
        CliError::failed(
            format!("an order was broken off, and may have been given: {error}"),
            "report this as a bug, with what was written above",
        )
    })
}

/// What asks this program to end from outside.
struct Signals([Signal; 3]);

impl Signals {
    fn listen() -> Result<Self, CliError> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                CliError::failed(format!("cannot listen for signals: {error}"), "try again")
            })
        };
        Ok(Self([
            listen(SignalKind::terminate())?,
            listen(SignalKind::interrupt())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    async fn any(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
