//! Redis held to the contract. Every case has a server of its own, and every `connect` is another connection to it.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stem_conformance::{Backends, Harness, ManualClock};
use stem_core::backend::Records;
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::time::{Clock, Timestamp};
use stem_redis::{Redis, RedisOptions};
use stem_services::RedisServer;

struct OnRedis {
    clock: Arc<ManualClock>,
    server: RedisServer,
}

#[async_trait]
impl Harness for OnRedis {
    async fn connect(&self) -> Backends {
        let clock: Arc<dyn Clock> = self.clock.clone();
        let options = RedisOptions { url: self.server.url(), clock: Some(clock) };
        Backends::of(Redis::open(options).await.unwrap())
    }

    fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn set_back(&self, by: Duration) {
        self.clock.set_back(by);
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn plant_raw_envelope(
        &self,
        queue: &QueueName,
        id: &TaskId,
        name: &TaskName,
        bytes: &[u8],
    ) {
        let whole = stem_conformance::stand_in(self, queue, id, name);
        self.connect().await.broker.publish(&[whole], Records::Here).await.unwrap();
        let client = redis::Client::open(self.server.url()).unwrap();
        let mut plain = client.get_multiplexed_async_connection().await.unwrap();
        let key = format!("{{stem}}/q/wire/{id}");
        redis::cmd("SET").arg(key).arg(bytes).arg("XX").exec_async(&mut plain).await.unwrap();
    }
}

async fn harness() -> OnRedis {
    OnRedis { clock: ManualClock::new(), server: RedisServer::start() }
}

stem_conformance::every_suite!(harness);

#[tokio::test]
async fn what_somebody_else_wrote_hides_nothing() {
    let harness = harness().await;
    let client = redis::Client::open(harness.server.url()).unwrap();
    let plant = async {
        let mut plain = client.get_multiplexed_async_connection().await.unwrap();
        let (log, replies) = ("{stem}/c/n/log", "{stem}/a/n/before");
        for words in [
            &["XADD", log, "*", "what", "ever"][..],
            &["XADD", log, "*", "e", "9999999999999", "r", "a"],
            &["XADD", log, "*", "e", "late", "r", "a", "c", "nonsense"],
            &["XADD", log, "*", "e", "9999999999999", "r", "a", "c", "nonsense"],
            &["HSET", replies, "a", "nonsense", "b", "9 nonsense", "c", "", "d", "late nonsense"],
            &["HSET", "{stem}/w/n", "x", "nonsense", "y", "", "z", "9999999999999 b 1 0 nonsense"],
            &["HSET", "{stem}/m/name/bad", "r1", "nonsense", "what", "ever"],
            &["HSET", "{stem}/m/name/torn", "serves", "[1"],
            &["ZADD", "{stem}/m/serving", "0", "no name"],
            &["SET", "{stem}/m/name/no name", "nonsense"],
        ] {
            redis::cmd(words[0]).arg(&words[1..]).exec_async(&mut plain).await.unwrap();
        }
        let bytes: &[u8] = b"9999999999999 \xff 1 0 \xff";
        redis::cmd("HSET").arg(replies).arg("e").arg(bytes).exec_async(&mut plain).await.unwrap();
        let heartbeats = redis::cmd("HSET").arg("{stem}/w/n").arg("v").arg(bytes).clone();
        heartbeats.exec_async(&mut plain).await.unwrap();
        let mut command = redis::cmd("XADD");
        command
            .arg(log)
            .arg("*")
            .arg("e")
            .arg("9999999999999")
            .arg("r")
            .arg("a")
            .arg("c")
            .arg(bytes);
        command.exec_async(&mut plain).await.unwrap();
        // The server could not go on from here.
        let last = "18446744073709551615-18446744073709551615";
        let words = ["e", "9999999999999", "r", "a", "c", "nonsense"];
        redis::cmd("XADD").arg(log).arg(last).arg(&words).exec_async(&mut plain).await.unwrap();
    };
    stem_conformance::planted::hides_nothing(&harness, plant).await;
}

#[tokio::test]
async fn no_random_sequence_gets_a_stale_operation_accepted() {
    let refused = stem_conformance::model::fencing_holds(&harness().await, 1_000).await;
    println!("{refused} stale operations refused, 0 accepted");
    assert!(refused > 10_000, "the sequences must try stale operations, not only {refused}");
}

/// The same suites through a decorator that delays calls, keeps some from arriving, and makes writes twice.
mod through_faults {
    use stem_conformance::{Faults, FaultyHarness};

    use super::OnRedis;

    async fn harness() -> FaultyHarness<OnRedis> {
        FaultyHarness::new(super::harness().await, Faults::unnoticed(3))
    }

    stem_conformance::every_suite!(harness);
}
