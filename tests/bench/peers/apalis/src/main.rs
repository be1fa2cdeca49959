//! `worker CONCURRENCY BATCH`, `enqueue TASKS`, `rounds`.

use std::time::{Duration, Instant};

use apalis::prelude::*;
use apalis_redis::{Config, RedisStorage};

async fn noop(_: u32) -> Result<u32, BoxDynError> {
    Ok(1)
}

type Found = Result<Vec<TaskResult<u32>>, apalis_redis::Error>;

async fn check(storage: &mut RedisStorage<u32>, id: &TaskId) -> Found {
    storage.check_status([id.clone()]).await
}

#[tokio::main]
async fn main() -> Result<(), BoxDynError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments[at].parse::<usize>();
    let redis = apalis_redis::connect(std::env::var("REDIS_URL")?).await?;
    let storage = |batch| {
        RedisStorage::new(redis.clone())
            .with_config(Config::default().queue("noop").batch_size(batch))
    };
    match arguments[0].as_str() {
        "worker" => {
            // Without an interval an idle worker looks for tasks at its heartbeat only, every 30 s.
            WorkerBuilder::new("worker")
                .backend(storage(number(2)?).poll_with_interval(Duration::from_millis(100)))
                .concurrency(number(1)?)
                .build(noop)
                .run()
                .await?;
        }
        "enqueue" => {
            let tasks: Vec<u32> = vec![0; number(1)?];
            let mut storage = storage(10);
            for part in tasks.chunks(500) {
                storage.push_bulk(part.to_vec()).await?;
            }
        }
        _ => {
            let mut storage = storage(10);
            for (round, _) in std::io::stdin().lines().enumerate() {
                let start = Instant::now();
                let id = TaskId::from_string(format!("round-{round}"));
                storage.push_task(TaskBuilder::new(0_u32).task_id(id.clone()).build()).await?;
                // `wait_for` would look again after 100 ms.
                while check(&mut storage, &id).await?.is_empty() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                println!("{}", start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    Ok(())
}
