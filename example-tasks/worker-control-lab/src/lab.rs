//! What the script is written in: steps, commands that are shown, looks that are not, and checks.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::programs::{PATIENCE, PAUSE, Place, Said, Worker};

/// The place and the workers that run in it.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) place: Place,
    workers: BTreeMap<&'static str, Worker>,
    steps: u32,
}

impl Lab {
    pub(crate) fn new(place: Place) -> Self {
        Self { place, workers: BTreeMap::new(), steps: 0 }
    }

    /// Says what is shown next.
    pub(crate) fn step(&mut self, words: &str) {
        self.steps += 1;
        let gap = if self.steps == 1 { "" } else { "\n" };
        println!("{gap}{}. {words}", self.steps);
    }

    /// Runs `stem` as an operator would, and shows it. It must end with this exit code.
    pub(crate) fn stem(&self, code: i32, line: &str) -> Result<String> {
        self.show(code, line, "")
    }

    /// Enqueues a task by this id, and shows it.
    pub(crate) fn enqueue(&self, name: &str, queue: &str, id: &str, more: &str) -> Result<()> {
        let line = format!("task enqueue {name} --queue {queue} --id {id} {more}");
        // It prints the id, which everybody has just read.
        self.show(0, &line, id).map(drop)
    }

    /// Runs `stem`, and shows what it prints but for a line that says nothing new.
    fn show(&self, code: i32, line: &str, known: &str) -> Result<String> {
        println!("$ stem {line}");
        let Said { code: ended, text } = self.place.stem(line)?;
        for line in text.lines().filter(|line| known.is_empty() || *line != known) {
            println!("{line}");
        }
        if ended != 0 {
            println!("(exit code {ended})");
        }
        ensure!(ended == code, "`stem {line}` ended with exit code {ended}; {code} was expected");
        Ok(text)
    }

    /// A task's record.
    pub(crate) fn task(&self, id: &str) -> Result<Value> {
        self.place.json(&format!("task show {id}"), 0)
    }

    /// What a control command's reply of this worker holds.
    pub(crate) fn payload(&self, command: &str, worker: &str) -> Result<Value> {
        let answers = self.place.json(&format!("worker {command} --worker {worker}"), 0)?;
        Ok(answers["replies"][0]["payload"].clone())
    }

    /// A worker's row of a task that it runs.
    pub(crate) fn active(&self, worker: &str, task: &str) -> Result<Option<Value>> {
        let inspected = self.payload("inspect", worker)?;
        let rows = inspected["active"].as_array().context("inspect lists no active tasks")?;
        Ok(rows.iter().find(|row| row["id"] == task).cloned())
    }

    /// Looks until something is there.
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let since = Instant::now();
        let mut early = None;
        loop {
            if let Some(found) = look(self).with_context(|| format!("waiting until {what}"))? {
                return Ok(found);
            }
            ensure!(
                early.is_none(),
                "{} left while waiting until {what}",
                early.unwrap_or_default()
            );
            ensure!(since.elapsed() < PATIENCE, "it took too long until {what}");
            for worker in self.workers.values_mut() {
                if worker.ended()?.is_some() {
                    // What is waited for may have come just before; one more look.
                    early = Some(worker.name);
                }
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Looks until a task's record is in this state.
    pub(crate) fn until_state(&mut self, id: &str, state: &str) -> Result<Value> {
        self.until(&format!("{id} is {state}"), |lab| {
            Ok(Some(lab.task(id)?).filter(|record| record["state"] == state))
        })
    }

    /// Looks until a worker runs a task's own code: its record says running from the lease on.
    pub(crate) fn until_at_work(&mut self, worker: &str, id: &str) -> Result<Value> {
        self.until(&format!("{worker} computes {id}"), |lab| {
            Ok(lab.active(worker, id)?.filter(|row| {
                row["kind"] == "inline" || row["cpuMs"].as_f64().is_some_and(|cpu| cpu > 0.0)
            }))
        })
    }

    /// Starts a worker, and shows it.
    pub(crate) fn start(&mut self, name: &'static str, queues: &str) -> Result<()> {
        println!("$ worker-control-lab worker {name} --queue {queues} &");
        let worker = Worker::start(&self.place, name, queues)?;
        self.workers.insert(name, worker);
        Ok(())
    }

    pub(crate) fn worker(&self, name: &str) -> Result<&Worker> {
        self.workers.get(name).with_context(|| format!("{name} does not run"))
    }

    /// Waits until a worker has left by itself, in good order.
    pub(crate) fn left(&mut self, name: &str) -> Result<()> {
        let mut worker =
            self.workers.remove(name).with_context(|| format!("{name} does not run"))?;
        let since = Instant::now();
        loop {
            if let Some(code) = worker.ended()? {
                println!("{name} has left (exit code {code})");
                ensure!(code == 0, "{name} did not leave in good order\n{}", worker.last_words());
                return Ok(());
            }
            ensure!(since.elapsed() < PATIENCE, "{name} does not leave\n{}", worker.last_words());
            std::thread::sleep(PAUSE);
        }
    }

    /// What the workers logged last.
    pub(crate) fn last_words(&self) -> String {
        self.workers.values().map(Worker::last_words).collect::<Vec<_>>().join("\n")
    }
}

/// Checks parts of a document, each named by its place in it.
pub(crate) fn check(what: &str, document: &Value, parts: &[(&str, Value)]) -> Result<()> {
    for (place, expected) in parts {
        let found = document.pointer(place).unwrap_or(&Value::Null);
        ensure!(
            found == expected,
            "{what}: {place} is {found}; {expected} was expected\n{document}"
        );
    }
    Ok(())
}
