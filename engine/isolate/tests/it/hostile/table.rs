//! The table in docs/hostile-input.md: what guests try, and what it comes to, as this run saw it. After each of them a
//! good task gives the right result, and the memory of the process comes back to what it was.

mod bombs;
mod guests;

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use stem_core::outcome::{FailureKind, Outcome};
use stem_isolate::{Compiler, RuntimeConfig};
use stem_services::marked;

use crate::bench::{
    Bench, PATIENCE, When, Worker, block_on, config, exit, has_a_process_of_its_own, resident,
};

/// How often each attack is made; what leaks grows with it. Those on the compiler take seconds, and are made once.
const ROUNDS: usize = 3;
/// How much more may be resident after one attack than before the first. Slots of the pool and threads of the host are
/// used for the first time by one or another, and the allocator keeps some of what it had.
const AFTER_ONE: u64 = 32 << 20;
/// How much more after the last round than after the first.
const AFTER_ALL: u64 = 8 << 20;

/// One thing that a guest does.
struct Attack {
    /// In the words of the table.
    what: &'static str,
    module: fn() -> Vec<u8>,
    /// What is different for it in the bench.
    prepare: fn(&mut Bench),
    answer: Answer,
}

/// What it must come to.
#[derive(Clone, Copy)]
enum Answer {
    /// It is not registered, and these words say why.
    Refused(&'static str),
    /// The attempt fails, by kind and code.
    Fails(FailureKind, &'static str),
    /// It would go on for ever, and is stopped by force.
    Stopped(When),
    /// It finds out by itself that it is refused, and ends well. It traps where it is not refused.
    EndsWell,
}

impl Answer {
    fn told(self) -> String {
        match self {
            Self::Refused(words) => format!("refused: “{words}”"),
            Self::Fails(kind, code) => failed(kind, code),
            Self::Stopped(_) => "goes on until it is stopped".to_owned(),
            Self::EndsWell => "finds itself refused or bounded, and ends well".to_owned(),
        }
    }
}

fn failed(kind: FailureKind, code: &str) -> String {
    format!("fails: `{}`, `{code}`", kind.as_str())
}

fn attack(what: &'static str, module: fn() -> Vec<u8>, answer: Answer) -> Attack {
    Attack { what, module, prepare: |_| {}, answer }
}

impl Attack {
    /// Makes it; says what it came to, in the words of [`Answer::told`] where it is the right answer.
    async fn against(&self, bench: &Bench, module: &[u8]) -> String {
        let mut bench = Bench { worker: std::sync::Arc::<Worker>::default(), ..bench.clone() };
        (self.prepare)(&mut bench);
        let module = match bench.runtime.load(module).await {
            Ok(module) => module,
            Err(error) => {
                let told = error.to_string();
                return match self.answer {
                    Answer::Refused(words) if told.contains(words) => self.answer.told(),
                    _ => format!("refused: {told}"),
                };
            }
        };
        let exit = match self.answer {
            Answer::Stopped(when) => bench.run_and_stop(&module, when).await,
            _ => exit(bench.start(&module, b"payload")).await,
        };
        match &exit.outcome {
            Outcome::Succeeded(_) => Answer::EndsWell.told(),
            Outcome::Failed { failure, .. } => failed(failure.kind, &failure.code),
            Outcome::Stopped { .. } => Answer::Stopped(When::Called).told(),
        }
    }
}

/// What is resident once that is no more than so much, or after so long.
async fn settled(enough: u64, patience: Duration) -> u64 {
    let began = Instant::now();
    loop {
        let now = resident();
        if now <= enough || began.elapsed() > patience {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What was seen.
struct Run {
    bench: Bench,
    /// What was resident before the first.
    baseline: u64,
    /// How long it may take until what an attack used is given back.
    patience: Duration,
    /// The table of the documentation.
    table: String,
    /// The same with what differs from run to run.
    measured: String,
    findings: Vec<String>,
}

impl Run {
    /// Makes each attack. Their modules are built before, as that takes memory too.
    async fn round(&mut self, attacks: &[(Attack, Vec<u8>)]) {
        for (attack, module) in attacks {
            let began = Instant::now();
            let got = attack.against(&self.bench, module).await;
            let took = began.elapsed();
            self.bench.assert_good_task_runs().await;
            let enough = self.baseline + AFTER_ONE;
            let now = settled(enough, self.patience).await;
            let grown = now.saturating_sub(self.baseline) >> 10;
            if now > enough && has_a_process_of_its_own() {
                self.findings.push(format!("{}: {grown} KiB stay", attack.what));
                self.baseline = now;
            }
            if got != attack.answer.told() {
                self.findings.push(format!("{}: {got}", attack.what));
            }
            writeln!(self.table, "| {} | {got} |", attack.what).unwrap();
            writeln!(self.measured, "| {} | {got} | {took:.1?} | {grown} |", attack.what).unwrap();
        }
    }
}

/// A bench that compiles as a worker does, and nothing seen yet.
async fn begun() -> Run {
    let program = env!("CARGO_BIN_EXE_stem-compile").into();
    let compiler = Compiler::Child { program, args: vec![], env: vec![] };
    let bench = Bench::of(&RuntimeConfig { compiler, ..config() }).await;
    Run {
        bench,
        baseline: resident(),
        patience: PATIENCE / 3,
        table: String::new(),
        measured: String::new(),
        findings: Vec::new(),
    }
}

fn built(attacks: Vec<Attack>) -> Vec<(Attack, Vec<u8>)> {
    let built = |attack: Attack| {
        let module = (attack.module)();
        (attack, module)
    };
    attacks.into_iter().map(built).collect()
}

#[test]
fn each_attack_gets_its_answer_and_a_good_task_and_the_memory_are_as_before() {
    let (table, Run { measured, findings, .. }) = block_on(async {
        let mut run = begun().await;
        let (guests, bombs) = (built(guests::attacks()), built(bombs::attacks()));
        for _ in 0..50 {
            run.bench.assert_good_task_runs().await;
        }
        run.baseline = resident();
        run.round(&guests).await;
        let (mut table, first) = (std::mem::take(&mut run.table), resident());
        for _ in 1..ROUNDS {
            run.round(&guests).await;
        }
        let last = settled(first + AFTER_ALL, run.patience).await;
        println!("resident: {first} bytes after one round, {last} after {ROUNDS}");
        if last > first + AFTER_ALL && has_a_process_of_its_own() {
            run.findings.push(format!("{ROUNDS} rounds: from {first} to {last} bytes"));
        }
        run.table.clear();
        run.round(&bombs).await;
        table += &run.table;
        (table, run)
    });
    let head = "| attack | answer | took | KiB more than before the first |\n|---|---|---|---|\n";
    let report = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile-guests.md");
    std::fs::write(&report, format!("{head}{measured}")).unwrap();
    println!("{} has the times and sizes of this run", report.display());
    stem_services::count("hostile-guests", u64::try_from(table.lines().count()).unwrap());
    let expected = format!("| attack | answer |\n|---|---|\n{table}");
    assert!(findings.is_empty(), "{findings:#?}\n{expected}");
    assert_documented(&expected);
}

#[track_caller]
fn assert_documented(expected: &str) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/hostile-input.md");
    let text = std::fs::read_to_string(page).unwrap();
    assert!(
        marked::part(&text, "attacks") == Some(expected),
        "docs/hostile-input.md must have between its marks of `attacks`:\n\n{expected}"
    );
}

/// The attack of this name, as the list has it.
fn listed(what: &str) -> Attack {
    guests::attacks().into_iter().find(|attack| attack.what == what).unwrap()
}

#[test]
fn a_planted_sandbox_without_a_bound_and_one_that_keeps_memory_are_found() {
    const RESULT: &str = "gives a result of 1 MB";
    let unbounded = |bench: &mut Bench| bench.limits.result_bytes = 1 << 30;
    let keeping = |_: &mut Bench| std::mem::forget(vec![1_u8; 64 << 20]);
    block_on(async {
        let mut run = begun().await;
        run.patience = Duration::from_secs(1);
        run.round(&built(vec![listed(RESULT)])).await;
        assert!(run.findings.is_empty(), "{:?}", run.findings);
        run.round(&built(vec![Attack { prepare: unbounded, ..listed(RESULT) }])).await;
        assert_eq!(run.findings, [format!("{RESULT}: {}", Answer::EndsWell.told())]);
        run.findings.clear();
        run.round(&built(vec![Attack { prepare: keeping, ..listed(RESULT) }])).await;
        if has_a_process_of_its_own() {
            let [said] = &run.findings[..] else { panic!("{:?}", run.findings) };
            assert!(said.starts_with(RESULT) && said.ends_with(" KiB stay"), "{said}");
        }
    });
    stem_services::count("plants", 2);
}
