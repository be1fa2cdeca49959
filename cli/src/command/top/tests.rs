//! Where the operator is among the rows, and what the rows are made of.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::Rect;
use serde_json::json;
use stem_core::control::{Answer, Heartbeat};
use stem_core::id::TaskId;
use tokio::sync::{Notify, mpsc};

use super::deed::Deed;
use super::keys::Action;
use super::model::{Effect, Mode, Model, Pane};
use super::picture::News;
use super::testing::{self, Look};
use super::view::Theme;
use super::{Top, act};

fn ids(model: &Model) -> Vec<&str> {
    model.rows.tasks.iter().map(|row| row.running.id.as_str()).collect()
}

fn chosen(model: &Model) -> &str {
    model.task().map_or("none", |row| row.running.id.as_str())
}

#[test]
fn the_mark_stays_on_its_task_wherever_that_goes() {
    let mut model = testing::model();
    let now = model.picture.since;
    let (a, b) = ("0198c0de-0000-7000-8000-00000000aaaa", "0198c0de-0000-7000-8000-00000000bbbb");
    assert_eq!(ids(&model), [b, a, "mail:1"], "the longest first");
    model.act(Action::Move(1), now);
    assert_eq!(chosen(&model), a);
    for expected in [[b, a, "mail:1"], [a, b, "mail:1"], [a, b, "mail:1"], [b, a, "mail:1"]] {
        model.act(Action::Sort, now);
        // By CPU, memory, id, and run time again.
        assert_eq!((ids(&model), chosen(&model)), (expected.to_vec(), a), "{:?}", model.sort);
    }
    // It ends: whatever is in its place is chosen, and never a row that there is not.
    let Look { answers, .. } = testing::look_with(&[testing::running(b, "spin", &json!({}))]);
    model.hear(answers, now);
    assert_eq!((ids(&model), chosen(&model)), (vec![b, "mail:1"], "mail:1"));
    model.act(Action::Move(isize::MAX), now);
    assert_eq!(chosen(&model), "mail:1");
    model.act(Action::Move(isize::MIN), now);
    assert_eq!(chosen(&model), b);
}

#[test]
fn what_is_agreed_to_is_what_was_asked_about() {
    let mut model = testing::model();
    let now = model.picture.since;
    let asked = TaskId::new(chosen(&model)).unwrap();
    model.act(Action::Revoke { terminate: true }, now);
    // Meanwhile it ends, and the mark goes to another.
    let Look { answers, .. } = testing::look_with(&[]);
    model.hear(answers, now);
    assert_ne!(chosen(&model), asked.as_str());
    model.act(Action::Type(" wrong\u{1b} input ".into()), now);
    let Some(Effect::Do(deed, reason)) = model.act(Action::Agree, now) else {
        panic!("it was agreed to")
    };
    assert_eq!(deed, Deed::Revoke { task: asked, terminate: true });
    assert_eq!(reason.as_deref(), Some("wrong input"));
}

#[test]
fn a_key_orders_only_in_its_own_table() {
    let mut model = testing::model();
    let now = model.picture.since;
    for (pane, own) in [
        (Pane::Workers, Action::Drain),
        (Pane::Queues, Action::Pause),
        (Pane::Tasks, Action::Revoke { terminate: true }),
    ] {
        for action in [Action::Drain, Action::Pause, Action::Revoke { terminate: true }] {
            model.act(Action::Show(pane), now);
            model.act(action.clone(), now);
            let asks = matches!(model.mode, Mode::Asking(_));
            assert_eq!(asks, action == own, "{pane:?} {action:?}");
            if !asks {
                assert!(model.said.as_ref().unwrap().report.text.contains("go to the"));
            }
            model.act(Action::Close, now);
        }
    }
}

#[test]
fn narrowing_hides_tasks_workers_and_queues() {
    let mut model = testing::model();
    let now = model.picture.since;
    model.act(Action::Search, now);
    model.act(Action::Type("MAIL".into()), now);
    assert_eq!(ids(&model), ["mail:1"]);
    model.act(Action::Agree, now);
    assert_eq!((ids(&model).len(), &model.mode), (1, &Mode::Looking));
    model.act(Action::Close, now);
    assert_eq!(ids(&model).len(), 3);

    model.narrow.workers = vec![testing::worker("mailer")];
    model.refresh(now);
    assert_eq!((ids(&model).len(), model.rows.workers.len(), model.rows.queues.len()), (1, 1, 3));
    model.narrow.workers.clear();
    model.narrow.queues = vec!["nobodys".parse().unwrap()];
    model.refresh(now);
    assert_eq!((ids(&model).len(), model.rows.workers.len(), model.rows.queues.len()), (0, 0, 1));
}

#[test]
fn workers_that_are_gone_are_counted_and_shown_when_asked_for() {
    let mut model = testing::model();
    let now = model.picture.since;
    let states = |model: &Model| -> Vec<String> {
        model.rows.workers.iter().map(|row| format!("{} {}", row.id, row.state)).collect()
    };
    let there =
        ["host-1-4711-aaaaaa running", "mailer draining", "slow no answer 0.0s", "stale stale 25s"];
    assert_eq!((states(&model), model.rows.gone), (there.map(String::from).to_vec(), 2));
    model.act(Action::Gone, now);
    assert_eq!(model.rows.gone, 0);
    assert!(states(&model).contains(&"ended stopped".to_owned()), "{:?}", states(&model));
    assert!(states(&model).contains(&"left gone 6m".to_owned()), "{:?}", states(&model));
}

#[test]
fn a_worker_that_falls_silent_keeps_its_tasks_with_their_age_and_answers_again() {
    let mut model = testing::model();
    let start = model.picture.since;
    let later = start + Duration::from_secs(8);
    let Look { answers, .. } = testing::look_where("mailer", None);
    model.hear(answers, later);
    let mailer = |model: &Model| {
        model.rows.workers.iter().find(|row| row.id.as_str() == "mailer").unwrap().clone()
    };
    assert_eq!((mailer(&model).state.as_str(), mailer(&model).answers), ("no answer 8.0s", false));
    let row = model.rows.tasks.iter().find(|row| row.running.id.as_str() == "mail:1").unwrap();
    assert_eq!(row.old, Some(Duration::from_secs(8)));
    let Look { answers, .. } = testing::look();
    model.hear(answers, later);
    assert_eq!((mailer(&model).state.as_str(), mailer(&model).answers), ("draining", true));
}

#[test]
fn a_worker_that_refuses_says_why() {
    let mut model = testing::model();
    let now = model.picture.since;
    let Look { answers, .. } = testing::look_where("mailer", Some("the broker\u{1b} is away"));
    model.hear(answers, now);
    let row = model.rows.workers.iter().find(|row| row.id.as_str() == "mailer").unwrap();
    assert_eq!(row.state, "in trouble");
    assert_eq!(row.told.refused.as_deref(), Some("the broker\\u{1b} is away"));
}

#[test]
fn the_share_of_a_core_is_counted_from_look_to_look() {
    let mut model = testing::model();
    let now = model.picture.since;
    let id = "0198c0de-0000-7000-8000-00000000aaaa";
    let rate = |model: &Model| {
        model.rows.tasks.iter().find(|row| row.running.id.as_str() == id).unwrap().running.cpu_rate
    };
    assert!((rate(&model).unwrap() - 11_200.4 / 12_345.6).abs() < 1e-9);
    let later = testing::running(id, "spin", &json!({"runtimeMs": 13_345.6, "cpuMs": 11_700.4}));
    let Look { answers, .. } = testing::look_with(std::slice::from_ref(&later));
    model.hear(answers, now);
    assert!((rate(&model).unwrap() - 0.5).abs() < 1e-9);
    // Another attempt counts from its own start.
    let again =
        testing::running(id, "spin", &json!({"runtimeMs": 100.0, "cpuMs": 25.0, "attempt": 2}));
    let Look { answers, .. } = testing::look_with(&[again]);
    model.hear(answers, now);
    assert!((rate(&model).unwrap() - 0.25).abs() < 1e-9);
}

#[test]
fn who_left_is_forgotten() {
    let mut model = testing::model();
    let now = model.picture.since;
    let News::Heartbeats(Ok((heartbeats, at))) = testing::look().heartbeats else {
        panic!("it was heard")
    };
    let without: Vec<Heartbeat> =
        heartbeats.into_iter().filter(|heartbeat| heartbeat.worker.as_str() != "mailer").collect();
    model.hear(News::Heartbeats(Ok((without, at))), now);
    assert!(!model.picture.told.contains_key(&testing::worker("mailer")));
    assert!(!ids(&model).contains(&"mail:1"));
}

#[test]
fn what_workers_of_this_version_say_is_understood() {
    let Look { answers, .. } = testing::look();
    let News::Answers(Ok(asked)) = answers else { panic!("they answered") };
    let Answer::Ok { payload } = &asked.inspected.replies[0].answer else { panic!("it is well") };
    assert_eq!(payload["active"].as_array().unwrap().len(), 2);
}

/// The view on a screen of this size, with everything there is to see.
fn top(size: (u16, u16)) -> Top {
    let mut top = Top {
        model: testing::model(),
        area: Rect::default(),
        theme: Theme::Plain,
        hand: act::tests::hand(),
        nudge: Arc::new(Notify::new()),
        news: mpsc::channel(1).1,
        deed: None,
    };
    drawn_on(&mut top, size);
    top
}

fn drawn_on(top: &mut Top, (width, height): (u16, u16)) -> String {
    let now = top.model.picture.since;
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| top.draw(frame, now)).unwrap();
    terminal.backend().to_string()
}

fn press(top: &mut Top, code: KeyCode) -> bool {
    top.typed(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

#[tokio::test]
async fn nothing_is_ordered_on_a_screen_that_does_not_show_what() {
    for size in [(59, 24), (80, 15), (1, 1)] {
        let mut top = top(size);
        for code in [KeyCode::Char('t'), KeyCode::Char('x'), KeyCode::Enter, KeyCode::Char('/')] {
            assert!(!press(&mut top, code));
            assert_eq!((&top.model.mode, top.deed.is_some()), (&Mode::Looking, false), "{size:?}");
        }
        // The one key that the screen names, whatever it means elsewhere.
        top.model.mode = Mode::Searching;
        assert!(press(&mut top, KeyCode::Char('q')));
        let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(top.typed(&Event::Key(key)));
    }
}

#[tokio::test]
async fn a_question_does_not_outlive_the_room_for_it() {
    let mut top = top((80, 24));
    press(&mut top, KeyCode::Char('t'));
    assert!(drawn_on(&mut top, (60, 16)).contains("Enter does it."));
    drawn_on(&mut top, (40, 10));
    assert_eq!(top.model.mode, Mode::Looking);
    let screen = drawn_on(&mut top, (80, 24));
    assert!(screen.contains("nothing was ordered") && !screen.contains("Enter does it."));
    press(&mut top, KeyCode::Enter);
    assert!(top.deed.is_none());
    press(&mut top, KeyCode::Char('t'));
    drawn_on(&mut top, (80, 24));
    press(&mut top, KeyCode::Enter);
    assert!(top.deed.is_some(), "with room for it, it is obeyed");
}

#[test]
fn a_question_that_does_not_fit_is_not_asked() {
    let mut top = top((80, 24));
    let long = "n".repeat(128);
    let id = format!("{}z", "i".repeat(127));
    let more = json!({"queue": long, "task": long, "runtimeMs": 1e9});
    let Look { answers, .. } = testing::look_with(&[testing::running(&id, "spin", &more)]);
    let now: Instant = top.model.picture.since;
    top.model.hear(answers, now);
    top.model.act(Action::First, now);
    assert_eq!(chosen(&top.model), id);
    press(&mut top, KeyCode::Char('t'));
    assert!(drawn_on(&mut top, (80, 24)).contains("Enter does it."));
    let screen = drawn_on(&mut top, (60, 16));
    assert!(screen.contains("nothing was ordered"), "{screen}");
    assert_eq!(top.model.mode, Mode::Looking);
}
