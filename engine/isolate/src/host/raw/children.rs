//! `stem0.children_enqueue`: tasks as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use stem_core::envelope::Payload;
use stem_host_abi::raw;
use wasmtime::Linker;

use super::super::Release;
use super::super::children::Asked;
use super::{CoreState, End, Here, answer, ended, owned};

pub(super) fn add_to_linker(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        raw::MODULE,
        raw::CHILDREN_ENQUEUE,
        |mut here: Here<'_>, (from, len, release, to, capacity): (i32, i32, i32, i32, i32)| {
            Box::new(async move {
                ended(enqueue(&mut here, (from, len), release, (to, capacity)).await)
            })
        },
    )?;
    Ok(())
}

async fn enqueue(
    here: &mut Here<'_>,
    (from, len): (i32, i32),
    release: i32,
    (to, capacity): (i32, i32),
) -> Result<i32, End> {
    here.data_mut().attempt.enter()?;
    let text = owned(here, from, len, raw::CHILDREN_BYTES)?;
    // Before anything is enqueued: an answer that has no place to go would come too late.
    answer(here, &[], to, capacity)?;
    let asked = read(&text).ok_or(End::Code(raw::ERR_INVALID))?;
    let release = match release {
        raw::RELEASE_NOW => Release::Now,
        raw::RELEASE_ON_SUCCESS => Release::OnSuccess,
        _ => return Err(End::Code(raw::ERR_INVALID)),
    };
    let ids = here.data_mut().attempt.enqueue(asked, release).await??;
    let ids = serde_json::to_vec(&ids).expect("texts can be written");
    answer(here, &ids, to, capacity)
}

/// A task as a core module asks for it.
#[derive(Deserialize)]
struct Told<'a> {
    task_name: String,
    #[serde(default)]
    queue: Option<String>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
    #[serde(default)]
    input_base64: Option<String>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    delay_ms: Option<u64>,
    #[serde(default)]
    dedup_key: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// Reads the tasks; `None` is an invalid argument.
fn read(text: &str) -> Option<Vec<Asked>> {
    let told: Vec<Told<'_>> = serde_json::from_str(text).ok()?;
    told.into_iter().map(Told::asked).collect()
}

impl Told<'_> {
    fn asked(self) -> Option<Asked> {
        let bytes = match (self.input, self.input_base64) {
            (Some(_), Some(_)) => return None,
            (Some(json), None) => json.get().as_bytes().to_vec(),
            (None, Some(text)) => STANDARD.decode(text).ok()?,
            (None, None) => b"null".to_vec(),
        };
        let media_type = self.media_type.unwrap_or_else(|| stem_host_abi::JSON.to_owned());
        Some(Asked {
            task_name: self.task_name,
            queue: self.queue,
            input: super::super::abi::known(Payload { media_type, bytes }),
            delay: self.delay_ms.map(Duration::from_millis),
            dedup_key: self.dedup_key,
            headers: self.headers.into_iter().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_golden_samples_are_read() {
        let full = include_str!("../../../../../host-abi/golden/children.json");
        let read_full = read(full).unwrap();
        let [json, bytes] = &read_full[..] else { panic!("{read_full:?}") };
        assert_eq!(json.task_name, "thumb.small");
        assert_eq!(json.queue.as_deref(), Some("images"));
        assert_eq!(json.input, Payload::json(r#"{"picture":"a.png"}"#));
        assert_eq!(json.delay, Some(Duration::from_millis(1500)));
        assert_eq!(json.dedup_key.as_deref(), Some("a.png"));
        assert_eq!(json.headers, [("tenant".to_owned(), "blue".to_owned())]);
        assert_eq!(bytes.input.media_type, "image/png");
        assert_eq!(bytes.input.bytes, [0x89, b'P', b'N', b'G']);
        let minimal = include_str!("../../../../../host-abi/golden/children.minimal.json");
        let read_minimal = read(minimal).unwrap();
        assert_eq!(read_minimal.len(), 1);
        assert_eq!(read_minimal[0].input, Payload::json("null"));
        for bad in [
            "",
            "{}",
            r#"[{"queue":"q"}]"#,
            r#"[{"task_name":1}]"#,
            r#"[{"task_name":"t","input":1,"input_base64":"AA=="}]"#,
            r#"[{"task_name":"t","input_base64":"?"}]"#,
            r#"[{"task_name":"t","delay_ms":-1}]"#,
        ] {
            assert!(read(bad).is_none(), "{bad}");
        }
    }
}
