//! [`ControlPlane`](stem_core::backend::ControlPlane): a log with a cursor for each reader, and replies.

use std::time::Duration;

use stem_core::backend::control::{Position, REPLY_TTL};
use stem_core::control::wire::{self, CommandFrame, ReplyFrame};
use stem_core::control::{Answer, Command, ControlError, Drain, Order, Reply};
use stem_core::id::RequestId;
use tokio::time::Instant;

use crate::fixture::*;
use crate::{Backends, Harness};

crate::cases! { ($) control_suite control:
    a_command_comes_out_as_it_went_in,
    text_comes_out_as_it_went_in,
    an_unreadable_command_keeps_no_other_back,
    an_unreadable_reply_keeps_no_other_back,
    every_reader_sees_every_command,
    commands_come_in_order_after_a_position,
    the_position_is_the_end_of_the_log,
    the_position_never_goes_back,
    a_command_sent_twice_is_there_once,
    commands_of_another_namespace_are_not_seen,
    an_expired_command_is_never_returned,
    waiting_for_commands_is_bounded,
    waiting_for_commands_wakes_up_on_one_from_a_second_connection,
    a_reply_comes_back_to_its_request,
    replies_of_several_workers_are_all_there,
    a_second_reply_of_the_same_worker_is_dropped,
    replies_come_after_a_position,
    replies_of_another_namespace_are_not_seen,
    waiting_for_replies_wakes_up_on_one_from_a_second_connection,
    pruning_removes_expired_commands_and_later_their_replies,
}

pub(crate) fn request(text: &str) -> RequestId {
    RequestId::new(text).unwrap()
}

pub(crate) fn ping(h: &dyn Harness, id: &str) -> Command {
    Command {
        request_id: request(id),
        namespace: space("n"),
        targets: None,
        order: Order::Ping {},
        issued_at: h.now(),
        expires_at: h.now().after(Duration::from_secs(30)),
        requester: "ops".to_owned(),
    }
}

pub(crate) async fn send(b: &Backends, command: &Command) -> Position {
    b.control.send(&CommandFrame::plain(command)).await.unwrap()
}

async fn read(b: &Backends, after: Position) -> Vec<(Position, Command)> {
    commands(b.control.commands(&space("n"), after, Duration::ZERO).await.unwrap())
}

fn commands(texts: Vec<(Position, String)>) -> Vec<(Position, Command)> {
    texts
        .into_iter()
        .map(|(position, text)| (position, wire::command(text.as_bytes()).unwrap()))
        .collect()
}

fn names(commands: &[(Position, Command)]) -> Vec<&str> {
    commands.iter().map(|(_, command)| command.request_id.as_str()).collect()
}

pub(crate) fn pong(id: &str, by: &str) -> Reply {
    let payload = serde_json::json!({"state": "running", "by": by});
    Reply { request_id: request(id), worker: worker(by), answer: Answer::Ok { payload } }
}

pub(crate) async fn answer(b: &Backends, reply: &Reply) {
    b.control.reply(&space("n"), &ReplyFrame::plain(reply)).await.unwrap();
}

async fn replies(b: &Backends, id: &str, after: Position) -> Vec<(Position, Reply)> {
    read_replies(b.control.replies(&space("n"), &request(id), after, Duration::ZERO).await.unwrap())
}

fn read_replies(texts: Vec<(Position, String)>) -> Vec<(Position, Reply)> {
    texts
        .into_iter()
        .map(|(position, text)| (position, wire::reply(text.as_bytes()).unwrap()))
        .collect()
}

async fn a_command_comes_out_as_it_went_in(h: &dyn Harness) {
    let b = h.connect().await;
    let command = Command {
        targets: Some(vec![worker("w1"), worker("w2")]),
        order: Order::Shutdown { mode: Drain::Soft, grace_ms: Some(100) },
        ..ping(h, "r")
    };
    let position = send(&b, &command).await;
    assert_eq!(read(&b, Position(0)).await, [(position, command)]);
}

/// Texts that no reader makes sense of, and that a backend must not try to.
fn odd_texts() -> Vec<String> {
    let long = "\u{e9}\"\\'\n".repeat(1 << 18);
    ["", "nonsense", "{\"v\":2}\n{} ", "null", "0 1 2", "\u{feff}\u{1f980}", &long]
        .map(str::to_owned)
        .to_vec()
}

async fn text_comes_out_as_it_went_in(h: &dyn Harness) {
    let b = h.connect().await;
    for (n, text) in odd_texts().into_iter().enumerate() {
        let id = format!("r{n}");
        let command = CommandFrame { text: text.clone(), ..CommandFrame::plain(&ping(h, &id)) };
        let at = b.control.send(&command).await.unwrap();
        let before = Position(at.0 - 1);
        let read = b.control.commands(&space("n"), before, Duration::ZERO).await.unwrap();
        assert_eq!(read, [(at, text.clone())]);
        let reply = ReplyFrame { text: text.clone(), ..ReplyFrame::plain(&pong(&id, "w")) };
        b.control.reply(&space("n"), &reply).await.unwrap();
        let first = Position(0);
        let read = b.control.replies(&space("n"), &request(&id), first, Duration::ZERO).await;
        assert_eq!(read.unwrap()[0].1, text);
    }
}

async fn an_unreadable_command_keeps_no_other_back(h: &dyn Harness) {
    let b = h.connect().await;
    send(&b, &ping(h, "before")).await;
    for (n, text) in odd_texts().into_iter().enumerate() {
        let frame = CommandFrame::plain(&ping(h, &format!("odd{n}")));
        b.control.send(&CommandFrame { text, ..frame }).await.unwrap();
    }
    let end = send(&b, &ping(h, "after")).await;
    let read = b.control.commands(&space("n"), Position(0), Duration::ZERO).await.unwrap();
    assert_eq!((read.len(), read.last().unwrap().0), (odd_texts().len() + 2, end));
    let readable: Vec<_> =
        read.iter().filter_map(|(_, text)| wire::command(text.as_bytes()).ok()).collect();
    assert_eq!(readable, [ping(h, "before"), ping(h, "after")]);
}

async fn an_unreadable_reply_keeps_no_other_back(h: &dyn Harness) {
    let b = h.connect().await;
    send(&b, &ping(h, "r")).await;
    answer(&b, &pong("r", "before")).await;
    for (n, text) in odd_texts().into_iter().enumerate() {
        let frame = ReplyFrame::plain(&pong("r", &format!("odd{n}")));
        b.control.reply(&space("n"), &ReplyFrame { text, ..frame }).await.unwrap();
    }
    answer(&b, &pong("r", "after")).await;
    let first = Position(0);
    let read = b.control.replies(&space("n"), &request("r"), first, Duration::ZERO).await.unwrap();
    assert_eq!(read.len(), odd_texts().len() + 2);
    let readable: Vec<_> =
        read.iter().filter_map(|(_, text)| wire::reply(text.as_bytes()).ok()).collect();
    assert_eq!(readable, [pong("r", "before"), pong("r", "after")]);
}

async fn every_reader_sees_every_command(h: &dyn Harness) {
    let (b, other) = (h.connect().await, h.connect().await);
    send(&b, &ping(h, "r")).await;
    for reader in [&b, &other, &b] {
        assert_eq!(names(&read(reader, Position(0)).await), ["r"]);
    }
}

async fn commands_come_in_order_after_a_position(h: &dyn Harness) {
    let b = h.connect().await;
    let mut positions = Vec::new();
    for id in ["z", "a", "m"] {
        positions.push(send(&b, &ping(h, id)).await);
    }
    assert!(positions.is_sorted());
    assert_eq!(names(&read(&b, Position(0)).await), ["z", "a", "m"]);
    assert_eq!(names(&read(&b, positions[0]).await), ["a", "m"]);
    assert_eq!(read(&b, positions[2]).await, []);
}

async fn the_position_is_the_end_of_the_log(h: &dyn Harness) {
    let b = h.connect().await;
    send(&b, &ping(h, "before")).await;
    let end = b.control.position(&space("n")).await.unwrap();
    assert_eq!(read(&b, end).await, []);
    send(&b, &ping(h, "after")).await;
    assert_eq!(names(&read(&b, end).await), ["after"]);
}

async fn the_position_never_goes_back(h: &dyn Harness) {
    let b = h.connect().await;
    send(&b, &ping(h, "r")).await;
    let before = b.control.position(&space("n")).await.unwrap();
    h.advance(Duration::from_mins(1));
    b.control.prune().await.unwrap();
    assert!(b.control.position(&space("n")).await.unwrap() >= before);
    assert!(send(&b, &ping(h, "s")).await > before);
}

async fn a_command_sent_twice_is_there_once(h: &dyn Harness) {
    let b = h.connect().await;
    let first = send(&b, &ping(h, "r")).await;
    assert_eq!(send(&b, &ping(h, "r")).await, first);
    assert_eq!(read(&b, Position(0)).await.len(), 1);
}

async fn commands_of_another_namespace_are_not_seen(h: &dyn Harness) {
    let b = h.connect().await;
    send(&b, &Command { namespace: space("other"), ..ping(h, "r") }).await;
    assert_eq!(read(&b, Position(0)).await, []);
}

async fn an_expired_command_is_never_returned(h: &dyn Harness) {
    let b = h.connect().await;
    send(&b, &ping(h, "old")).await;
    h.advance(Duration::from_secs(30));
    send(&b, &ping(h, "new")).await;
    assert_eq!(names(&read(&b, Position(0)).await), ["new"]);
}

async fn waiting_for_commands_is_bounded(h: &dyn Harness) {
    let b = h.connect().await;
    let started = Instant::now();
    let wait = Duration::from_millis(50);
    let none = b.control.commands(&space("n"), Position(0), wait).await.unwrap();
    assert_eq!(none, []);
    let none = b.control.replies(&space("n"), &request("r"), Position(0), wait).await.unwrap();
    assert_eq!(none, []);
    assert!(started.elapsed() >= wait * 2 && started.elapsed() < LONG);
}

async fn waiting_for_commands_wakes_up_on_one_from_a_second_connection(h: &dyn Harness) {
    let (b, other) = (h.connect().await, h.connect().await);
    let started = Instant::now();
    let waiting = tokio::spawn(async move {
        commands(b.control.commands(&space("n"), Position(0), LONG).await.unwrap())
    });
    tokio::time::sleep(Duration::from_millis(40)).await;
    send(&other, &ping(h, "r")).await;
    assert_eq!(names(&waiting.await.unwrap()), ["r"]);
    assert!(started.elapsed() < LONG / 2);
}

async fn a_reply_comes_back_to_its_request(h: &dyn Harness) {
    let b = h.connect().await;
    send(&b, &ping(h, "r")).await;
    send(&b, &ping(h, "s")).await;
    let error = ControlError { code: "unknown".to_owned(), message: "what?".to_owned() };
    let refusal =
        Reply { request_id: request("s"), worker: worker("w"), answer: Answer::Error { error } };
    answer(&b, &pong("r", "w")).await;
    answer(&b, &refusal).await;
    let to_r = replies(&b, "r", Position(0)).await;
    assert_eq!(to_r.iter().map(|(_, reply)| reply).collect::<Vec<_>>(), [&pong("r", "w")]);
    let to_s = replies(&b, "s", Position(0)).await;
    assert_eq!(to_s.iter().map(|(_, reply)| reply).collect::<Vec<_>>(), [&refusal]);
}

async fn replies_of_several_workers_are_all_there(h: &dyn Harness) {
    let b = h.connect().await;
    send(&b, &ping(h, "r")).await;
    for by in ["w2", "w1", "w3"] {
        let b = h.connect().await;
        answer(&b, &pong("r", by)).await;
    }
    let replies = replies(&b, "r", Position(0)).await;
    let workers: Vec<_> = replies.iter().map(|(_, reply)| reply.worker.as_str()).collect();
    assert_eq!(workers, ["w2", "w1", "w3"]);
}

async fn a_second_reply_of_the_same_worker_is_dropped(h: &dyn Harness) {
    let b = h.connect().await;
    send(&b, &ping(h, "r")).await;
    answer(&b, &pong("r", "w")).await;
    let second = Reply { answer: Answer::Ok { payload: serde_json::json!(2) }, ..pong("r", "w") };
    answer(&b, &second).await;
    let replies = replies(&b, "r", Position(0)).await;
    assert_eq!(replies.iter().map(|(_, reply)| reply).collect::<Vec<_>>(), [&pong("r", "w")]);
}

async fn replies_come_after_a_position(h: &dyn Harness) {
    let b = h.connect().await;
    send(&b, &ping(h, "r")).await;
    answer(&b, &pong("r", "w1")).await;
    let (after, _) = replies(&b, "r", Position(0)).await.remove(0);
    assert_eq!(replies(&b, "r", after).await, []);
    answer(&b, &pong("r", "w2")).await;
    assert_eq!(replies(&b, "r", after).await[0].1, pong("r", "w2"));
}

async fn replies_of_another_namespace_are_not_seen(h: &dyn Harness) {
    let b = h.connect().await;
    b.control.reply(&space("other"), &ReplyFrame::plain(&pong("r", "w"))).await.unwrap();
    assert_eq!(replies(&b, "r", Position(0)).await, []);
}

async fn waiting_for_replies_wakes_up_on_one_from_a_second_connection(h: &dyn Harness) {
    let (b, other) = (h.connect().await, h.connect().await);
    send(&b, &ping(h, "r")).await;
    let started = Instant::now();
    let waiting = tokio::spawn(async move {
        read_replies(
            b.control.replies(&space("n"), &request("r"), Position(0), LONG).await.unwrap(),
        )
    });
    tokio::time::sleep(Duration::from_millis(40)).await;
    answer(&other, &pong("r", "w")).await;
    assert_eq!(waiting.await.unwrap()[0].1, pong("r", "w"));
    assert!(started.elapsed() < LONG / 2);
}

async fn pruning_removes_expired_commands_and_later_their_replies(h: &dyn Harness) {
    let b = h.connect().await;
    send(&b, &ping(h, "r")).await;
    answer(&b, &pong("r", "w")).await;
    assert_eq!(b.control.prune().await.unwrap(), 0);
    h.advance(Duration::from_secs(30));
    assert_eq!(b.control.prune().await.unwrap(), 1);
    assert_eq!(replies(&b, "r", Position(0)).await.len(), 1);
    h.advance(REPLY_TTL);
    assert_eq!(b.control.prune().await.unwrap(), 1);
    assert_eq!(replies(&b, "r", Position(0)).await, []);
}
