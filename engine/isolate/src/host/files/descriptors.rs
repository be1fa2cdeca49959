//! Descriptors of the process. What guests have open is taken from the same number as the worker's connections, so a share
//! of it is all that they get together.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files and directories that an attempt may have open, where the system gives so many.
const MOST: usize = 64;
/// Fewer no program is written for.
const LEAST: usize = 4;
/// What an attempt takes beside those: its directories, and what a call under way has open.
const BESIDE: u64 = 8;
/// Left to the worker.
const RESERVED: u64 = 256;

/// How many files each of so many attempts may have open. Raises the limit of this process as far as that takes and the
/// system allows: most begin with far fewer than they may have.
pub(crate) fn for_each(attempts: u32) -> usize {
    let wanted = RESERVED + u64::from(attempts) * (MOST as u64 + BESIDE);
    let limit = getrlimit(Resource::Nofile);
    let mut current = limit.current.unwrap_or(u64::MAX);
    let allowed = limit.maximum.unwrap_or(u64::MAX).min(wanted);
    if current < allowed {
        let raised = Rlimit { current: Some(allowed), maximum: limit.maximum };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => current = allowed,
            Err(error) => tracing::info!(%error, "the limit on open files stays as it is"),
        }
    }
    let each = share(current, attempts);
    if each < MOST {
        tracing::info!(
            limit = current,
            each,
            "few files may be open at once (ulimit -n), so each attempt may open fewer"
        );
    }
    each
}

fn share(limit: u64, attempts: u32) -> usize {
    let left = limit.saturating_sub(RESERVED.min(limit / 2));
    let each = (left / u64::from(attempts.max(1))).saturating_sub(BESIDE);
    usize::try_from(each).unwrap_or(MOST).clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_together_leave_the_worker_its_part() {
        assert_eq!(share(u64::MAX, 1), MOST);
        assert_eq!(share(20_000, 28), MOST);
        assert_eq!(share(1_024, 28), 19);
        for (limit, attempts) in [(1_024, 28), (4_096, 133), (65_536, 1_258)] {
            let taken = (share(limit, attempts) as u64 + BESIDE) * u64::from(attempts);
            assert!(taken + RESERVED <= limit, "{limit}, {attempts}: {taken}");
        }
        assert_eq!((share(64, 1_000), share(0, 0)), (LEAST, LEAST));
    }
}
