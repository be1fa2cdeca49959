//! Each bug that is planted is found by its rule, and the seed that finds it is clean without it.

use stem_sim::plants::{PLANTS, by_name};
use stem_sim::{Options, run};

/// A bug must show itself within so many seeds.
const SEEDS: u64 = 300;

fn is_found(name: &str) {
    let plant = by_name(name).expect("a plant");
    let options = Options { plant: Some(plant), ..Options::default() };
    for seed in 0..SEEDS {
        let Some(found) = run(seed, &options).violation else { continue };
        assert!(
            found.rule == plant.rule || plant.also.contains(&found.rule),
            "{name} is {}'s to find; seed {seed}: {found}",
            plant.rule
        );
        if found.rule == plant.rule {
            println!("{name}: seed {seed}, {found}");
            let clean = run(seed, &Options::default()).violation;
            assert_eq!(clean, None, "seed {seed} without {name}");
            stem_services::count("plants", 1);
            return;
        }
    }
    panic!("{name} was not found by {} in {SEEDS} seeds", plant.rule);
}

macro_rules! planted {
    ($($name:ident $plant:literal,)+) => {
        $(
            #[test]
            fn $name() {
                is_found($plant);
            }
        )+

        #[test]
        fn every_plant_has_its_test() {
            let tested = [$($plant),+];
            for plant in PLANTS {
                assert!(tested.contains(&plant.name), "{plant:?}");
            }
        }
    };
}

planted! {
    says_stored "says-stored",
    loses_retries "loses-retries",
    keeps_what_ended "keeps-what-ended",
    childless "childless",
    joins_the_last_chance "joins-the-last-chance",
    starts_what_came_with_it "starts-what-came-with-it",
    brings_the_last_chance_in "brings-the-last-chance-in",
    takes_stale_settlements "takes-stale-settlements",
    takes_stale_renewals "takes-stale-renewals",
    takes_stale_progress "takes-stale-progress",
    takes_stale_checkpoints "takes-stale-checkpoints",
    two_holders "two-holders",
    token_stands_still "token-stands-still",
    long_leases "long-leases",
    sleeps_on_work "sleeps-on-work",
    forgets_losses "forgets-losses",
    replays_twice "replays-twice",
    shared_group "shared-group",
    clock_stops_in_pause "clock-stops-in-pause",
    frozen_after_step_back "frozen-after-step-back",
    wrong_result "wrong-result",
    never_renews "never-renews",
    renews_too_late "renews-too-late",
    poison_at_once "poison-at-once",
    patient_with_poison "patient-with-poison",
    hoards "hoards",
    tells_first "tells-first",
    deaf_to_revocations "deaf-to-revocations",
    hydrates_then_subscribes "hydrates-then-subscribes",
    trusts_the_reading_ahead "trusts-the-reading-ahead",
    executes_twice "executes-twice",
    ignores_undo "ignores-undo",
    first_word_wins "first-word-wins",
    replays_the_log "replays-the-log",
    never_expires "never-expires",
    expires_early "expires-early",
    goes_by_its_own_clock "goes-by-its-own-clock",
    fails_open "fails-open",
    too_gentle "too-gentle",
    burns_attempts "burns-attempts",
    deaf_to_shutdown "deaf-to-shutdown",
    deaf_to_escalation "deaf-to-escalation",
    flaps "flaps",
    beyond_bounds "beyond-bounds",
    waits_politely "waits-politely",
    unbounded_call "unbounded-call",
}
