//! `stem0.stop_notice`: why the attempt is asked to stop. Like `stop-requested` it counts as no heartbeat.

use serde::Serialize;
use stem_core::outcome::StopNotice;
use stem_host_abi::raw;
use wasmtime::Linker;

use super::super::abi::millis;
use super::{CoreState, End, Here, answer, ended};

/// A notice as a core module reads it.
#[derive(Serialize)]
struct Told<'a> {
    code: &'a str,
    message: &'a str,
    /// What is left until the end by force; absent if nobody means to.
    #[serde(skip_serializing_if = "Option::is_none")]
    grace_ms: Option<u64>,
}

pub(super) fn add_to_linker(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    linker.func_wrap(
        raw::MODULE,
        raw::STOP_NOTICE,
        |mut here: Here<'_>, to: i32, capacity: i32| ended(tell(&mut here, to, capacity)),
    )?;
    Ok(())
}

fn tell(here: &mut Here<'_>, to: i32, capacity: i32) -> Result<i32, End> {
    let attempt = &mut here.data_mut().attempt;
    attempt.enter()?;
    let notice = attempt.notice().ok_or(End::Code(raw::ERR_NOT_FOUND))?;
    answer(here, &written(&notice), to, capacity)
}

fn written(notice: &StopNotice) -> Vec<u8> {
    let told = Told {
        code: notice.code,
        message: &notice.message,
        grace_ms: notice.force_after.map(millis),
    };
    serde_json::to_vec(&told).expect("a notice holds only text and a number")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn notices_are_written_as_the_golden_samples_say() {
        let full = StopNotice {
            code: "revoked",
            message: "the \"blue\" tenant is closed".to_owned(),
            force_after: Some(Duration::from_millis(9500)),
        };
        let golden = include_bytes!("../../../../../host-abi/golden/stop-notice.json");
        assert_eq!(written(&full), golden);
        let minimal =
            StopNotice { code: "worker-drain", message: String::new(), force_after: None };
        let golden = include_bytes!("../../../../../host-abi/golden/stop-notice.minimal.json");
        assert_eq!(written(&minimal), golden);
    }
}
