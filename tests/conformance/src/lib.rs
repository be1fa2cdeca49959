//! The contract of each backend trait, as cases that every backend runs.
//!
//! A case is a private function whose name is the sentence it shows. `cases!` lists the cases of a module and makes
//! of them a macro that gives a backend one test for each. A case that is not listed is dead code, which this crate
//! denies, so none can be forgotten; and a backend takes a whole suite or nothing, so none can be skipped.
//!
//! A backend's test file holds a function that makes its [`Harness`], and one line for each suite,
//!
//! ```text
//! stem_conformance::broker_suite!(harness);
//! ```
//!
//! or [`every_suite!`](crate::every_suite) for all of them.
#![deny(dead_code)]
// The cases are tests in all but the attribute, which only the file that runs them can give.
#![allow(clippy::unwrap_used, reason = "every line of this crate is test code")]
#![allow(clippy::wildcard_imports, reason = "the fixture is the vocabulary of every case")]

pub mod broker;
pub mod buckets;
pub mod children;
pub mod control;
pub mod dead_letter;
mod faulty;
mod fixture;
mod harness;
pub mod lease;
pub mod model;
pub mod modules;
pub mod planted;
pub mod presence;
pub mod progress;
pub mod queue;
pub mod result;
pub mod revoke;
pub mod settle;
pub mod tenants;
pub mod watch;

pub use faulty::{Faults, Faulty, FaultyHarness, Injected};
pub use harness::{Backends, Harness, ManualClock, ModuleHarness, RevokeHarness, run, stand_in};

/// Lists the cases of a module under the name of its suite. The first token lets the macro that this makes have
/// variables of its own. What a case asks of a backend is [`Harness`] unless another trait is named.
macro_rules! cases {
    (($dollar:tt) $suite:ident $module:ident: $($case:ident),+ $(,)?) => {
        $crate::cases! { ($dollar) $suite $module for Harness: $($case),+ }
    };
    (($dollar:tt) $suite:ident $module:ident for $harness:ident: $($case:ident),+ $(,)?) => {
        /// What the suite's macro calls.
        #[doc(hidden)]
        pub mod listed {
            $(
                #[allow(missing_docs, reason = "the name is the sentence")]
                pub async fn $case(harness: &dyn $crate::$harness) {
                    super::$case(harness).await;
                }
            )+
        }

        /// One test for each case of the suite; the argument is the function that makes a harness.
        #[macro_export]
        macro_rules! $suite {
            ($dollar make:ident) => {
                mod $module {
                    $(
                        #[tokio::test]
                        async fn $case() {
                            let harness = super::$dollar make().await;
                            $crate::run($crate::$module::listed::$case(&harness)).await;
                        }
                    )+
                }
            };
        }
    };
}
pub(crate) use cases;

/// Every suite, for a backend that is all eight traits; the argument is the function that makes a harness.
#[macro_export]
macro_rules! every_suite {
    ($make:ident) => {
        $crate::broker_suite!($make);
        $crate::queue_suite!($make);
        $crate::lease_suite!($make);
        $crate::settle_suite!($make);
        $crate::tenants_suite!($make);
        $crate::children_suite!($make);
        $crate::result_suite!($make);
        $crate::progress_suite!($make);
        $crate::watch_suite!($make);
        $crate::dead_letter_suite!($make);
        $crate::revoke_suite!($make);
        $crate::control_suite!($make);
        $crate::presence_suite!($make);
        $crate::modules_suite!($make);
        $crate::buckets_suite!($make);
    };
}
