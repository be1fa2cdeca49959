//! What a build has left that had a field for each part of a delivery and of a record, and what becomes of it.

use stem_core::backend::dead_letter::Replayed;
use stem_core::task::TaskState;

use super::*;

/// Gives every delivery and every record the form that they had.
const AS_BEFORE: &str = r"
for _, key in ipairs(redis.call('KEYS', '{stem}/q/task/*')) do
  local h = redis.call('HGET', key, 'h')
  if h then
    local ph, k, at, d, r, l = string.match(h, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$')
    redis.call('HSET', key, 'ph', ph, 'k', k, 'at', at, 'd', d, 'r', r, 'l', l)
    redis.call('HDEL', key, 'h')
  end
end
local names = { 'st', 'k', 'sk', 'fa', 'a', 'dc', 'sa' }
for _, key in ipairs(redis.call('KEYS', '{stem}/t/task/*')) do
  local said, n = redis.call('HGET', key, 'r'), 0
  if said then
    redis.call('HDEL', key, 'r', unpack(names))
    for word in string.gmatch(said, '%S+') do
      n = n + 1
      if word ~= '-' then
        redis.call('HSET', key, names[n], word)
      end
    end
  end
end
return 'ok'";

#[tokio::test]
async fn what_an_older_build_left_goes_on_from_where_it_was() {
    let server = RedisServer::start();
    let as_before = || {
        let said = server.command(&["EVAL", AS_BEFORE, "0"]).unwrap();
        assert!(said.contains("ok"), "{said}");
    };
    let redis = open(server.url()).await;
    for id in ["a", "b", "c", "d", "e"] {
        assert_eq!(publish(&redis, id).await.unwrap(), Published::Stored);
    }
    as_before();
    let existing = TaskId::new("a").unwrap();
    assert_eq!(publish(&redis, "a").await.unwrap(), Published::Duplicate { existing });
    let record = async |id: &str| {
        let record = redis.fetch(&TaskId::new(id).unwrap()).await.unwrap().unwrap();
        let times = (record.started_at.is_some(), record.finished_at.is_some());
        (record.state, record.attempt, record.delivery_count, record.token.0, times)
    };
    assert_eq!(record("a").await, (TaskState::Queued, 0, 0, 0, (false, false)));

    let taken = redis.receive(&asking(4, Duration::ZERO)).await.unwrap();
    let counts = |it: &Delivery| (it.receipt.token.0, it.attempt, it.deliveries, it.losses);
    assert!(taken.len() == 4 && taken.iter().all(|it| counts(it) == (1, 1, 1, 0)), "{taken:?}");
    assert_eq!(record("d").await, (TaskState::Running, 1, 1, 1, (true, false)));
    as_before();
    assert_eq!(record("d").await, (TaskState::Running, 1, 1, 1, (true, false)));
    let lease = Duration::from_mins(1);
    let renewals: Vec<_> =
        taken.iter().map(|it| Renewal { receipt: it.receipt.clone(), lease }).collect();
    for renewed in redis.renew(&renewals).await.unwrap() {
        assert!(matches!(renewed, Renewed::Until(_)), "{renewed:?}");
    }
    as_before();
    let failure = Failure::new(FailureKind::Error, "e", "e");
    let [a, b, c, d] = taken.try_into().unwrap();
    let ends = [
        settle(&a, Settlement::Succeed(Payload::json(*b"{}"))),
        settle(&b, Settlement::Fail { failure: failure.clone(), reason: DeadReason::Fatal }),
        settle(&c, Settlement::Retry { failure, not_before: Timestamp::from_unix_millis(0) }),
        settle(&d, Settlement::Release),
    ];
    assert_eq!(redis.settle(&ends, Records::Here).await.unwrap(), [Settled::Done; 4]);
    // First beside what the older build had left, then as it would have left all of it.
    for again in [false, true] {
        if again {
            as_before();
        }
        assert_eq!(redis.settle(&ends, Records::Here).await.unwrap(), [Settled::Stale; 4]);
        assert_eq!(record("a").await, (TaskState::Succeeded, 1, 1, 1, (true, true)));
        assert_eq!(record("b").await, (TaskState::Failed, 1, 1, 1, (true, true)));
        assert_eq!(record("c").await, (TaskState::Retrying, 1, 1, 1, (true, false)));
        assert_eq!(record("d").await, (TaskState::Queued, 0, 0, 1, (false, false)));
    }

    let all = DeadFilter { limit: 9, ..DeadFilter::default() };
    let dead = DeadLetters::list(&*redis, &all).await.unwrap();
    assert_eq!(dead.iter().map(|it| it.deliveries).collect::<Vec<_>>(), [1]);
    let replayed =
        redis.replay(&[(dead[0].task.clone(), dead[0].token)], Records::Here).await.unwrap();
    assert_eq!(replayed, [Replayed::Queued]);
    as_before();
    assert_eq!(record("b").await, (TaskState::Queued, 0, 0, 1, (false, false)));
    // Leases that are lost: what was taken is there again, and each loss is counted.
    let brief = ReceiveRequest { lease: Duration::from_millis(1), ..asking(9, Duration::ZERO) };
    assert_eq!(redis.receive(&brief).await.unwrap().len(), 4);
    as_before();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut rest = redis.receive(&asking(9, Duration::ZERO)).await.unwrap();
    rest.sort_by(|one, other| one.receipt.task.cmp(&other.receipt.task));
    let counted: Vec<_> = rest.iter().map(counts).collect();
    assert_eq!(counted, [(3, 1, 2, 1), (3, 2, 3, 1), (3, 1, 2, 1), (2, 1, 2, 1)]);
    for one in &rest {
        assert_eq!(succeed(&redis, one).await.unwrap(), Settled::Done);
    }
    for id in ["a", "b", "c", "d", "e"] {
        assert_eq!(record(id).await.0, TaskState::Succeeded);
    }
    let left = "return 'left: ' .. #redis.call('KEYS', '{stem}/q/task/*')";
    assert!(server.command(&["EVAL", left, "0"]).unwrap().contains("left: 0"));
}
