//! Bugs that tests plant, to see that a check would find them: a check that never fails shows nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a check says of a planted bug.
#[track_caller]
pub(crate) fn found(check: impl FnOnce()) -> String {
    let said = catch_unwind(AssertUnwindSafe(check)).expect_err("the check sees nothing wrong");
    match said.downcast::<String>() {
        Ok(said) => *said,
        Err(said) => said.downcast_ref::<&str>().map(|&said| said.to_owned()).unwrap_or_default(),
    }
}
