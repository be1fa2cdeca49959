//! [`ready`]: calls to services in memory that do not wait.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// What a future has at its first look.
///
/// # Panics
///
/// If it waits for something: such a call is none for the simulation's services.
pub(crate) fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(out) => out,
        Poll::Pending => panic!("a call to a service in memory waits"),
    }
}
