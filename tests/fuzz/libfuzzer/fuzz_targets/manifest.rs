#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = stem_fuzz::manifest::check(bytes);
});
