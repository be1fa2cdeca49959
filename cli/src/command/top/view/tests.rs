//! Whole screens. `snapshots/NAME.txt` holds each as it must be; a test that fails leaves what it drew in the
//! directory for temporary files, to be looked at and copied.

use std::path::Path;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::Color;

use super::super::deed::{Deed, Report};
use super::super::keys::Action;
use super::super::model::{Effect, Mode, Model, Pane};
use super::super::picture::News;
use super::super::rows::Tone;
use super::super::testing;
use super::{Theme, draw, shares};

fn drawn(model: &Model, (width, height): (u16, u16), theme: Theme, now: Instant) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, theme, now)).unwrap();
    terminal.backend().buffer().clone()
}

fn lines(buffer: &Buffer) -> Vec<String> {
    let rows = (0..buffer.area.height)
        .map(|y| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>());
    rows.map(|line| line.trim_end().to_owned()).collect()
}

fn text(model: &Model, size: (u16, u16), now: Instant) -> String {
    lines(&drawn(model, size, Theme::Plain, now)).join("\n") + "\n"
}

#[track_caller]
fn assert_screen(name: &str, model: &Model, size: (u16, u16), now: Instant) {
    let drawn = text(model, size, now);
    let snapshots = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/command/top/view/snapshots");
    let expected =
        std::fs::read_to_string(snapshots.join(format!("{name}.txt"))).unwrap_or_default();
    if drawn != expected {
        let path = std::env::temp_dir().join(format!("stem-top-{name}.txt"));
        std::fs::write(&path, &drawn).unwrap();
        panic!("{name} is drawn as in {}:\n{drawn}", path.display());
    }
}

/// As the operator sees it two seconds after the picture was taken.
fn model() -> (Model, Instant) {
    let mut model = testing::model();
    let now = model.picture.since + Duration::from_secs(2);
    model.refresh(now);
    (model, now)
}

const SMALL: (u16, u16) = (80, 24);
const LARGE: (u16, u16) = (200, 50);

#[test]
fn everything_fits_on_80_by_24_and_more_on_a_larger_screen() {
    let (model, now) = model();
    assert_screen("80x24", &model, SMALL, now);
    assert_screen("200x50", &model, LARGE, now);
}

#[test]
fn a_question_names_what_will_happen_to_what() {
    let (mut model, now) = model();
    model.act(Action::Revoke { terminate: true }, now);
    model.act(Action::Type("wrong input".into()), now);
    assert_screen("terminate", &model, SMALL, now);
    model.act(Action::Close, now);
    model.act(Action::Show(Pane::Queues), now);
    model.act(Action::Move(1), now);
    model.act(Action::Pause, now);
    assert_screen("resume", &model, SMALL, now);
    model.act(Action::Close, now);
    model.act(Action::Show(Pane::Workers), now);
    model.act(Action::Last, now);
    model.act(Action::Drain, now);
    assert_screen("drain", &model, SMALL, now);
}

#[test]
fn a_question_shows_ids_of_any_length_to_their_end() {
    let (mut model, now) = model();
    let long = |kind: &str| format!("{}-{}z", kind, "0123456789".repeat(12));
    let (id, name, queue) = (long("id"), long("task"), long("queue"));
    let more = serde_json::json!({"queue": queue, "runtimeMs": 1e9});
    let testing::Look { answers, .. } = testing::look_with(&[testing::running(&id, &name, &more)]);
    model.hear(answers, now);
    model.act(Action::First, now);
    model.act(Action::Revoke { terminate: true }, now);
    for size in [SMALL, LARGE] {
        let screen = text(&model, size, now);
        let framed = screen.lines().filter_map(|line| {
            line.split_once('|')?.1.rsplit_once('|').map(|(inside, _)| inside.trim())
        });
        let inside: String = framed.collect();
        for whole in [&id, &name, &queue] {
            assert!(inside.contains(whole), "{whole} is not whole in\n{screen}");
        }
        assert!(screen.contains("Enter does it."), "{screen}");
    }
}

#[test]
fn the_help_fits_too() {
    let (mut model, now) = model();
    model.act(Action::Help, now);
    assert_screen("help", &model, SMALL, now);
}

#[test]
fn a_service_that_is_away_leaves_the_last_picture_with_its_age() {
    let (mut model, now) = model();
    let away =
        || "redis://queue.example.com/0: failed to list the workers: Connection refused".to_owned();
    for news in
        [News::Heartbeats(Err(away())), News::Queues(Err(away())), News::Answers(Err(away()))]
    {
        model.hear(news, now);
    }
    let later = now + Duration::from_secs(40);
    model.refresh(later);
    let screen = text(&model, SMALL, later);
    assert!(screen.contains("! 42s OLD: redis://queue.example.com/0: failed"), "{screen}");
    assert!(screen.contains("…00000000bbbb") && screen.contains("mailer"), "{screen}");
    // It comes back by itself.
    let testing::Look { heartbeats, queues, answers } = testing::look();
    for news in [heartbeats, queues, answers] {
        model.hear(news, later);
    }
    let screen = text(&model, SMALL, later);
    assert!(!screen.contains('!') && screen.contains("4 workers"), "{screen}");
    // Nothing fails and nothing comes: that is said, too.
    let much_later = later + Duration::from_secs(12);
    model.refresh(much_later);
    let screen = text(&model, SMALL, much_later);
    assert!(screen.contains("! 12s OLD: no answer yet"), "{screen}");
}

#[test]
fn before_the_first_look_nothing_is_called_empty() {
    let now = Instant::now();
    let model = Model::new(testing::model().place, super::super::rows::Narrow::default(), now);
    let screen = text(&model, SMALL, now);
    assert!(screen.contains("not seen yet") && !screen.contains("nothing runs"), "{screen}");
}

#[test]
fn no_control_character_of_others_reaches_the_screen() {
    let (mut model, now) = model();
    for pane in [Pane::Workers, Pane::Queues, Pane::Tasks] {
        model.act(Action::Show(pane), now);
        for _ in 0..4 {
            for size in [SMALL, LARGE] {
                let buffer = drawn(&model, size, Theme::Plain, now);
                let odd =
                    buffer.content().iter().find(|cell| cell.symbol().contains(char::is_control));
                assert!(odd.is_none(), "{odd:?}");
            }
            model.act(Action::Move(1), now);
        }
    }
    model.report(Report::failed(&Deed::Pause("q".parse().unwrap()), "a\u{1b}[31mb"), now);
    assert!(text(&model, SMALL, now).contains("a\\u{1b}[31mb"));
}

#[test]
fn without_colour_there_is_none_and_nothing_is_lost() {
    let (mut model, now) = model();
    model.report(Report { text: "it failed".into(), tone: Tone::Bad }, now);
    for mode in [Mode::Looking, Mode::Help, Mode::Searching] {
        model.mode = mode;
        let plain = drawn(&model, SMALL, Theme::Plain, now);
        let coloured = drawn(&model, SMALL, Theme::Coloured, now);
        assert_eq!(lines(&plain), lines(&coloured));
        let has_colour = |buffer: &Buffer| {
            buffer.content().iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
        };
        assert!(!has_colour(&plain) && has_colour(&coloured));
    }
}

#[test]
fn no_size_is_too_odd_to_draw_on() {
    let (mut model, now) = model();
    for mode in [Mode::Looking, Mode::Help, Mode::Searching] {
        model.mode = mode;
        for width in [1, 10, 59, 60, 79, 139, 140, 400] {
            for height in [1, 5, 15, 16, 23, 100] {
                drawn(&model, (width, height), Theme::Coloured, now);
            }
        }
    }
    model.mode = Mode::Looking;
    assert!(text(&model, (40, 10), now).contains("made for 80 x 24"));
}

#[test]
fn tables_share_the_room_and_tasks_get_what_is_left() {
    assert_eq!(shares(14, [0, 0, 0]), [1, 1, 12]);
    assert_eq!(shares(14, [100, 100, 100]), [4, 3, 7]);
    assert_eq!(shares(14, [2, 9, 1]), [2, 9, 3]);
    assert_eq!(shares(40, [100, 100, 0]), [29, 10, 1]);
    assert_eq!(shares(6, [9, 9, 9]), [2, 1, 3]);
}

#[test]
fn an_order_is_given_once_and_its_end_is_said() {
    let (mut model, now) = model();
    let task = model.task().unwrap().running.id.clone();
    model.act(Action::Revoke { terminate: true }, now);
    let effect = model.act(Action::Agree, now);
    let deed = Deed::Revoke { task, terminate: true };
    assert_eq!(effect, Some(Effect::Do(deed.clone(), Some("by hand in stem top".into()))));
    assert_eq!(model.act(Action::Agree, now), None);
    model.act(Action::Revoke { terminate: false }, now);
    assert_eq!(model.mode, Mode::Looking, "one after the other");
    assert!(
        text(&model, SMALL, now)
            .contains("terminate task 0198c0de-0000-7000-8000-00000000bbbb ...")
    );
    let answers = testing::answers(&["a", "b"], &["a"]);
    model.report(Report::told(&deed, &["stored".into()], &answers), now);
    let screen = text(&model, SMALL, now + Duration::from_secs(10));
    assert!(
        screen.contains(
            "10s ago: terminate task 0198c0de-0000-7000-8000-00000000bbbb: stored; NO ANSWER"
        ),
        "{screen}"
    );
    assert!(screen.contains("from b; acknowledged by a"), "{screen}");
}
