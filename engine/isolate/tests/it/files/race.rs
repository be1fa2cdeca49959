//! A way into a directory that is swapped for a link out of it, while it is followed.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::guest::{Do, Script};
use super::{Yard, input};

/// Reads of each guest that must have found the way inside, and as many the link.
const READS: u32 = 300;

#[tokio::test]
async fn a_link_that_is_swapped_while_it_is_followed_leads_nowhere() {
    let yard = Yard::new().await;
    let outside = yard.dir.path().join("outside");
    let inside = yard.dir.path().join("inputs/x");
    fs::create_dir_all(inside.join("way")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "nobody inside may read this").unwrap();
    fs::write(inside.join("way/file"), "inside").unwrap();
    symlink("../../outside", inside.join("link")).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let swapping = {
        let (over, way, link) = (Arc::clone(&over), inside.join("way"), inside.join("link"));
        std::thread::spawn(move || {
            let mut swaps = 0_u64;
            while !over.load(Ordering::Relaxed) {
                renameat_with(CWD, &way, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                swaps += 1;
            }
            swaps
        })
    };
    let script = (0..100).fold(Script::default(), |script, _| script.at(Do::Read, "way/file"));
    for guest in &yard.guests {
        let (mut found, mut refused) = (0, 0);
        while found < READS || refused < READS {
            for answer in yard.run(guest, &script, input(inside.clone())).await {
                match (answer.errno, &answer.data[..]) {
                    (0, b"inside") => found += 1,
                    (0, data) => panic!("{:?}", String::from_utf8_lossy(data)),
                    _ => refused += 1,
                }
            }
        }
        println!("{found} reads found the way, {refused} were refused");
    }
    over.store(true, Ordering::Relaxed);
    println!("{} swaps", swapping.join().unwrap());
}
