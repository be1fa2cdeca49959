//! The task on its real photograph, with a test host in the worker's place.

use base64::Engine as _;
use render_image::{Picture, Wanted, render, render_image};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use stem_guest::StopNotice;
use stem_guest::testing::{End, TestHost};

const PHOTO: &[u8] = include_bytes!("../data/photo.jpg");

fn args(width: u32, tile: u32) -> serde_json::Value {
    json!({ "image": base64::prelude::BASE64_STANDARD.encode(PHOTO), "width": width, "tile": tile })
}

fn natively(width: u32, tile: u32) -> Vec<u8> {
    let wanted = Wanted { width, height: None, tile };
    render(PHOTO, &wanted, |_, _| Ok::<(), ()>(())).expect("the photograph renders")
}

#[test]
fn the_photograph_becomes_a_png_of_the_wanted_width_and_its_own_proportions() {
    let run = TestHost::new().args(&args(256, 64)).run(render_image);
    let result = run.result();
    assert_eq!(result.media_type, "image/png");
    let picture = Picture::decode(&result.bytes).unwrap();
    assert_eq!((picture.width, picture.height), (256, 171));
    assert_eq!(result.bytes, natively(256, 64));
}

/// The digest was taken from the component's own result, so this is the comparison of both builds. A new release of the PNG
/// encoder may change it: build the guests, run the task and take the new one.
#[test]
fn native_code_makes_the_bytes_that_the_component_makes() {
    const COMPONENTS: [u8; 32] = [
        0x2d, 0x16, 0x56, 0xde, 0x62, 0x6d, 0x52, 0x2d, 0xdd, 0x7f, 0x4f, 0x86, 0xce, 0x9d, 0xc4,
        0xb2, 0x4b, 0xad, 0xeb, 0xcb, 0x26, 0xf8, 0x8a, 0xa0, 0x7f, 0x11, 0x26, 0xfd, 0x99, 0xca,
        0x73, 0x0c,
    ];
    assert_eq!(Sha256::digest(natively(256, 64)).as_slice(), COMPONENTS);
}

#[test]
fn each_tile_is_followed_by_progress() {
    let run = TestHost::new().args(&args(256, 64)).run(render_image);
    let fractions: Vec<_> = run.progress.iter().map(|update| update.fraction).collect();
    assert_eq!(fractions.len(), 4 * 3);
    assert!(fractions.is_sorted());
    assert_eq!(fractions[11], Some(1.0));
    assert_eq!(run.progress[0].message.as_deref(), Some("tile 1 of 12"));
    assert_eq!(run.beats, 13);
}

#[test]
fn the_size_of_tiles_does_not_show() {
    let whole = natively(256, 4096);
    for tile in [0, 7, 64, u32::MAX] {
        assert!(natively(256, tile) == whole, "tile {tile}");
    }
}

#[test]
fn the_same_size_gives_the_same_pixels_and_a_png_can_go_in() {
    let photo = Picture::decode(PHOTO).unwrap();
    let same = natively(photo.width, 64);
    assert!(Picture::decode(&same).unwrap() == photo);
}

/// The mean colour is what resizing by area keeps, up to the rounding of each pixel.
#[test]
fn the_mean_colour_stays() {
    let mean = |picture: &Picture| {
        let mut sums = [0_u64; 3];
        for pixel in picture.rgb.chunks_exact(3) {
            for (sum, channel) in sums.iter_mut().zip(pixel) {
                *sum += u64::from(*channel);
            }
        }
        sums.map(|sum| sum * 10 / (picture.rgb.len() as u64 / 3))
    };
    let photo = mean(&Picture::decode(PHOTO).unwrap());
    for width in [60, 256, 601] {
        let small = mean(&Picture::decode(&natively(width, 64)).unwrap());
        assert!(
            photo.iter().zip(small).all(|(a, b)| a.abs_diff(b) <= 10),
            "{width}: {photo:?} {small:?}"
        );
    }
}

#[test]
fn a_stop_notice_ends_it_between_tiles() {
    let run = TestHost::new()
        .args(&args(256, 64))
        .stop_after(5, StopNotice::new("revoked"))
        .run(render_image);
    assert_eq!(run.failure().code(), "revoked");
    assert!(run.progress.len() < 12);
}

#[test]
fn terminate_ends_it_without_a_result() {
    let run = TestHost::new().args(&args(256, 64)).terminate_after(5).run(render_image);
    assert_eq!(run.end, End::Terminated);
}

#[test]
fn bad_arguments_are_fatal_and_say_what_is_wrong() {
    let image = |bytes: &[u8]| base64::prelude::BASE64_STANDARD.encode(bytes);
    for (args, code) in [
        (json!({}), "invalid-arguments"),
        (json!({ "image": "%", "width": 1 }), "invalid-arguments"),
        (json!({ "image": image(b"GIF89a"), "width": 1 }), "unreadable-image"),
        (json!({ "image": image(&PHOTO[..2000]), "width": 1 }), "unreadable-image"),
        (json!({ "image": image(PHOTO), "width": 0 }), "invalid-size"),
        (json!({ "image": image(PHOTO), "width": 5000 }), "invalid-size"),
        (json!({ "image": image(PHOTO), "width": 4096, "height": 4096 }), "invalid-size"),
        (json!({ "image": image(PHOTO), "width": 10, "heigth": 10 }), "invalid-arguments"),
    ] {
        let run = TestHost::new().args(&args).run(render_image);
        let failure = run.failure();
        assert_eq!(failure.code(), code, "{failure}");
        assert!(!failure.is_retryable() && !failure.message().is_empty());
    }
}
