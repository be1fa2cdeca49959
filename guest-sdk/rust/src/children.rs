//! Starting further tasks.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::error::HostError;
use crate::host::{Here, Host};
use crate::payload::Binary;

/// Enqueues further tasks, from [`Context::children`](crate::Context::children).
///
/// ```
/// use stem_guest::testing::TestHost;
/// use stem_guest::{Child, Context, TaskError};
///
/// #[stem_guest::task]
/// fn resize(ctx: &Context, pictures: Vec<String>) -> Result<usize, TaskError> {
///     let thumbs = pictures.iter().map(|picture| Child::new("thumb.small", picture).dedup_key(picture));
///     let ids = ctx.children().on_success().enqueue_all(thumbs)?;
///     Ok(ids.len())
/// }
///
/// let host = TestHost::new().allow_children("thumb.*").args(&["a.png", "b.png"]);
/// let run = host.run(resize);
/// assert_eq!(run.children[1].child.dedup_key.as_deref(), Some("b.png"));
/// ```
#[derive(Clone, Copy)]
pub struct Children<'a> {
    pub(crate) host: &'a Here,
    pub(crate) release: Release,
}

/// When a child is enqueued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// At once. It stays enqueued however the attempt ends.
    Now,
    /// In the same step in which this attempt's result is recorded, or not at all.
    OnSuccess,
}

/// A task to enqueue.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// The name of the task.
    pub task_name: String,
    /// The queue it waits in; `None` for the one that this task came from.
    pub queue: Option<String>,
    /// Its arguments; what serde said where it could not write them.
    pub input: Result<Binary, String>,
    /// How long it is not to be started, at most 365 days.
    pub delay: Option<Duration>,
    /// Two children of one task with the same key are one child, over all of the task's attempts.
    pub dedup_key: Option<String>,
    /// Name and value pairs; no name twice.
    pub headers: Vec<(String, String)>,
}

impl Child {
    /// A task with these arguments, as JSON.
    pub fn new<T: Serialize + ?Sized>(task_name: impl Into<String>, args: &T) -> Self {
        let input = serde_json::to_vec(args).map(Binary::json).map_err(|error| error.to_string());
        Self { input, ..Self::with_payload(task_name, Binary::json(Vec::new())) }
    }

    /// A task with bytes of any media type.
    pub fn with_payload(task_name: impl Into<String>, payload: Binary) -> Self {
        Self {
            task_name: task_name.into(),
            queue: None,
            input: Ok(payload),
            delay: None,
            dedup_key: None,
            headers: Vec::new(),
        }
    }

    /// Sets the queue it waits in.
    #[must_use]
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// Sets how long it is not to be started, from now or from the success it waits for.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Sets the key that makes repeated requests one child. Wanted nearly always: an attempt may be repeated, and then
    /// enqueues again. 1 to 128 of the characters A-Z a-z 0-9 . _ : - beginning with a letter, a digit or _.
    #[must_use]
    pub fn dedup_key(mut self, key: impl Into<String>) -> Self {
        self.dedup_key = Some(key.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

impl Children<'_> {
    /// From here on children are enqueued with this attempt's success instead of at once.
    #[must_use]
    pub fn on_success(self) -> Self {
        Self { release: Release::OnSuccess, ..self }
    }

    /// Enqueues a task and returns its id.
    ///
    /// # Errors
    /// As for [`enqueue_all`](Self::enqueue_all).
    pub fn enqueue(&self, child: Child) -> Result<String, HostError> {
        let id = self.enqueue_all([child])?.pop();
        id.ok_or_else(|| HostError::Other("the worker answered without an id".to_owned()))
    }

    /// Enqueues all of the tasks or none, and returns their ids in order. At most 100 a call, 1,000 an attempt.
    ///
    /// # Errors
    /// [`HostError::Denied`] for a task that is not granted, [`HostError::Invalid`] and [`HostError::TooLarge`] for one out of
    /// its bounds, [`HostError::Quota`], and [`HostError::Unavailable`] when the broker cannot be reached: the tasks may then
    /// have been enqueued after all.
    pub fn enqueue_all(
        &self,
        children: impl IntoIterator<Item = Child>,
    ) -> Result<Vec<String>, HostError> {
        let children: Vec<_> = children.into_iter().collect();
        for child in &children {
            if let Err(error) = &child.input {
                return Err(HostError::Invalid(format!(
                    "arguments of {}: {error}",
                    child.task_name
                )));
            }
        }
        self.host.enqueue(children, self.release)
    }
}

impl fmt::Debug for Children<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Children").field("release", &self.release).finish_non_exhaustive()
    }
}
