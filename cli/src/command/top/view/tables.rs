//! The three tables. Each has a heading that counts it, columns for 80 places, and more columns where there is room.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::super::model::{Model, Pane};
use super::super::rows::{QueueRow, Sort, TaskRow, Tone, WorkerRow};
use super::super::words;
use super::{Theme, WIDE, bytes};

/// A column: its heading and how wide it is.
#[derive(Clone, Copy)]
enum Column {
    /// Text, in so many places.
    Text(&'static str, u16),
    /// A figure, to the right of so many places.
    Figure(&'static str, u16),
    /// Text, in what is left.
    Rest(&'static str),
}

use Column::{Figure, Rest, Text as Words};

impl Column {
    fn constraint(self) -> Constraint {
        match self {
            Self::Text(_, width) | Self::Figure(_, width) => Constraint::Length(width),
            Self::Rest(_) => Constraint::Fill(1),
        }
    }

    fn cell(self, text: String) -> Cell<'static> {
        match self {
            Self::Text(..) | Self::Rest(_) => Cell::from(text),
            Self::Figure(..) => Cell::from(Text::from(text).right_aligned()),
        }
    }

    fn heading(self) -> Cell<'static> {
        let (Self::Text(text, _) | Self::Figure(text, _) | Self::Rest(text)) = self;
        self.cell(text.to_owned())
    }
}

/// The words of one row, and how the whole of it is to be seen.
struct Cells {
    texts: Vec<String>,
    tone: Tone,
}

/// Draws one table with its heading.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, pane: Pane, theme: Theme) {
    let wide = area.width >= WIDE;
    let height = usize::from(area.height.saturating_sub(1));
    let here = model.pane == pane;
    let (name, columns, count) = match pane {
        Pane::Workers => ("WORKERS", workers(wide), model.rows.workers.len()),
        Pane::Queues => ("QUEUES", queues(wide), model.rows.queues.len()),
        Pane::Tasks => ("TASKS", tasks(wide, model.sort), model.rows.tasks.len()),
    };
    let first = first_row(model.chosen(pane), count, height);
    let shown = first..count.min(first + height);
    let heading = if shown.len() < count {
        format!("{name} {}-{}/{count}", shown.start + 1, shown.end)
    } else {
        format!("{name} {count}")
    };
    let cells: Vec<Cells> = match pane {
        Pane::Workers => {
            model.rows.workers[shown.clone()].iter().map(|row| worker(row, wide)).collect()
        }
        Pane::Queues => {
            model.rows.queues[shown.clone()].iter().map(|row| queue(row, wide)).collect()
        }
        Pane::Tasks => model.rows.tasks[shown.clone()].iter().map(|row| task(row, wide)).collect(),
    };
    let rest = rest(&columns, area.width);
    let rows = cells.into_iter().zip(shown).map(|(cells, at)| {
        let chosen = here && at == model.chosen(pane);
        let style = if chosen { Theme::chosen() } else { theme.of(cells.tone) };
        let mark = Cell::from(if chosen { ">" } else { " " });
        let cells = columns.iter().zip(cells.texts).map(|(column, text)| match column {
            Rest(_) if pane == Pane::Tasks => column.cell(words::cut(&text, rest)),
            Rest(_) => column.cell(words::tail(&text, rest)),
            Words(..) | Figure(..) => column.cell(text),
        });
        Row::new(std::iter::once(mark).chain(cells)).style(style)
    });
    let widths = std::iter::once(Constraint::Length(1))
        .chain(columns.iter().map(|column| column.constraint()));
    let mark = Cell::from(if here { ">" } else { " " });
    let headings = columns.iter().skip(1).map(|column| column.heading());
    let header = Row::new([mark, Cell::from(heading)].into_iter().chain(headings))
        .style(theme.heading(here));
    frame.render_widget(Table::new(rows, widths).header(header).column_spacing(1), area);
    if count == 0 && height > 0 {
        let line = Line::styled(format!("  {}", empty(model, pane)), theme.of(Tone::Faint));
        frame.render_widget(Paragraph::new(line), Rect { y: area.y + 1, height: 1, ..area });
    }
}

/// How many places are left for the column that takes the rest; there is a gap of one behind each, and the mark in front.
fn rest(columns: &[Column], width: u16) -> usize {
    let taken = columns.iter().map(|column| match column {
        Words(_, width) | Figure(_, width) => usize::from(*width) + 1,
        Rest(_) => 1,
    });
    usize::from(width).saturating_sub(1 + taken.sum::<usize>())
}

/// The first row that is shown, so that the chosen one is among them, in the middle where it can be.
fn first_row(chosen: usize, count: usize, height: usize) -> usize {
    chosen.saturating_sub(height / 2).min(count.saturating_sub(height))
}

fn empty(model: &Model, pane: Pane) -> String {
    if !model.picture.is_complete() {
        return "not seen yet".to_owned();
    }
    match pane {
        Pane::Workers if model.rows.gone > 0 => "all are gone; g shows them".to_owned(),
        Pane::Workers => {
            let namespace = &model.place.namespace;
            format!("none in namespace {namespace}; start one with `stem worker start`")
        }
        Pane::Queues => "none holds or held anything".to_owned(),
        Pane::Tasks if !model.narrow.text.is_empty() => {
            format!("none has {:?} in it; Esc shows all", model.narrow.text)
        }
        Pane::Tasks => "nothing runs".to_owned(),
    }
}

fn workers(wide: bool) -> Vec<Column> {
    let mut columns = vec![
        Rest("WORKERS"),
        Words("STATE", 14),
        Figure("BUSY", 7),
        Figure("CPU%", 5),
        Figure("MEM", 8),
        Figure("DONE", 8),
        Figure("FAILED", 7),
    ];
    if wide {
        columns.extend([
            Figure("RETRIED", 8),
            Figure("REVOKED", 8),
            Figure("SEEN", 5),
            Figure("UPTIME", 7),
            Figure("PID", 8),
            Words("HOST", 20),
            Words("QUEUES", 30),
        ]);
    }
    columns
}

fn worker(row: &WorkerRow, wide: bool) -> Cells {
    let figures = row.told.figures;
    let count = |of: fn(&super::super::picture::Counters) -> u64| {
        figures.map_or_else(|| "-".to_owned(), |figures| of(&figures.counters).to_string())
    };
    let mut texts = vec![
        row.id.to_string(),
        row.state.clone(),
        format!("{}/{}", row.inflight, row.concurrency),
        row.cpu.map_or_else(|| "-".to_owned(), words::percent),
        bytes(figures.and_then(|figures| figures.rss_bytes)),
        count(|counters| counters.succeeded),
        count(|counters| counters.failed),
    ];
    if wide {
        let queues: Vec<&str> =
            row.heartbeat.queues.keys().map(stem_core::id::QueueName::as_str).collect();
        texts.extend([
            count(|counters| counters.retried),
            count(|counters| counters.revoked),
            words::age(row.silent),
            words::run(row.uptime),
            row.heartbeat.pid.to_string(),
            stem_core::text::printable(&row.heartbeat.host, 100),
            queues.join(","),
        ]);
    }
    Cells { texts, tone: row.tone }
}

fn queues(wide: bool) -> Vec<Column> {
    let mut columns = vec![
        Rest("QUEUES"),
        Words("STATE", 14),
        Figure("READY", 8),
        Figure("DELAYED", 8),
        Figure("INFLIGHT", 8),
        Figure("WORKERS", 7),
        Figure("UNROUTABLE", 10),
    ];
    if wide {
        columns.push(Words("WAITING TASKS, OR WHY IT IS PAUSED", 70));
    }
    columns
}

fn queue(row: &QueueRow, wide: bool) -> Cells {
    let status = &row.status;
    let (state, tone) = match &row.paused {
        Some((age, _)) => (format!("paused {}", words::age(*age)), Tone::Warning),
        None if row.workers == 0 && status.ready > 0 => ("not served".to_owned(), Tone::Bad),
        None => ("open".to_owned(), Tone::Plain),
    };
    let mut texts = vec![
        status.name.to_string(),
        state,
        status.ready.to_string(),
        status.delayed.to_string(),
        status.inflight.to_string(),
        row.workers.to_string(),
        row.unroutable.to_string(),
    ];
    if wide {
        let waiting: Vec<String> =
            status.names.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let reason = row.paused.as_ref().and_then(|(_, reason)| reason.clone());
        texts.push(reason.unwrap_or_else(|| words::list(&waiting)));
    }
    Cells { texts, tone }
}

/// By what they are sorted is marked.
fn tasks(wide: bool, sort: Sort) -> Vec<Column> {
    let run = Figure(if sort == Sort::Run { "RUN v" } else { "RUN" }, 6);
    let cpu = Figure(if sort == Sort::Cpu { "CPU v" } else { "CPU" }, 8);
    let memory = Figure(if sort == Sort::Memory { "MEM v" } else { "MEM" }, 8);
    if wide {
        return vec![
            Words("TASKS", 36),
            Rest("NAME"),
            Words("QUEUE", 14),
            Words("WORKER", 24),
            Figure("TRY", 4),
            Words("KIND", 7),
            run,
            cpu,
            Figure("CPU%", 5),
            memory,
            Figure("SIGN", 5),
            Figure("LEASE", 5),
            Words("PROGRESS", 18),
            Words("MESSAGE", 30),
        ];
    }
    vec![
        Words("TASKS", 13),
        Rest("NAME"),
        Words("WORKER", 10),
        run,
        cpu,
        memory,
        Words("PROGRESS", 13),
    ]
}

fn task(row: &TaskRow, wide: bool) -> Cells {
    let running = &row.running;
    let progress = running.progress.as_ref();
    let message = progress.and_then(|progress| progress.message.clone());
    let bar = |places| {
        progress.and_then(|progress| progress.fraction).map(|fraction| words::bar(fraction, places))
    };
    let (state, tone) =
        row.state().map_or((None, Tone::Plain), |(state, tone)| (Some(state), tone));
    let run = row.run().map_or_else(|| "-".to_owned(), words::run);
    let cpu = running.cpu_ms.map_or_else(|| "-".to_owned(), words::cpu);
    let texts = if wide {
        vec![
            words::tail(running.id.as_str(), 36),
            row.name().to_string(),
            running.queue.to_string(),
            words::tail(row.worker.as_str(), 24),
            running.attempt.to_string(),
            row.kind().to_owned(),
            run,
            cpu,
            running.cpu_rate.map_or_else(|| "-".to_owned(), words::percent),
            bytes(running.memory_bytes),
            row.checkpoint(),
            words::age(row.lease()),
            state.or_else(|| bar(11)).unwrap_or_default(),
            message.unwrap_or_default(),
        ]
    } else {
        vec![
            words::tail(running.id.as_str(), 13),
            row.name().to_string(),
            words::tail(row.worker.as_str(), 10),
            run,
            cpu,
            bytes(running.memory_bytes),
            state.or_else(|| bar(6)).or(message).unwrap_or_default(),
        ]
    };
    Cells { texts, tone }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_row_is_always_shown() {
        for (chosen, count, height, first) in
            [(0, 3, 5, 0), (9, 10, 4, 6), (5, 10, 4, 3), (0, 0, 4, 0), (7, 8, 1, 7), (2, 8, 0, 2)]
        {
            assert_eq!(first_row(chosen, count, height), first, "{chosen} of {count} in {height}");
        }
        for chosen in 0..20 {
            let first = first_row(chosen, 20, 6);
            assert!((first..first + 6).contains(&chosen) && first + 6 <= 20);
        }
    }
}
