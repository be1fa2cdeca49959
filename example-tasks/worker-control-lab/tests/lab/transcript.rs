//! What stays the same from run to run: everything else becomes `…`, and tables are aligned again.

/// Stands for what differs.
const OTHER: &str = "…";
/// Columns whose cells differ.
const COLUMNS: [&str; 4] = ["BOOT", "HOST", "PID", "UPTIME"];

/// The transcript without what differs from run to run.
pub(crate) fn steady(printed: &str) -> String {
    let mut steady = String::new();
    let mut lines = printed.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("$ ") {
            // A command is the script's own words.
            steady += line;
            steady.push('\n');
        } else if let Some(columns) = header(line) {
            let mut rows = vec![cells(line, &columns)];
            while let Some(row) = lines.next_if(|row| is_row(row, line, &columns)) {
                rows.push(cells(row, &columns));
            }
            steady += &table(rows);
        } else {
            steady += &words(line);
            steady.push('\n');
        }
    }
    steady
}

/// Where the columns of a table begin, if this is the head of one.
fn header(line: &str) -> Option<Vec<usize>> {
    let mut columns = Vec::new();
    let mut before = ' ';
    for (at, c) in line.chars().enumerate() {
        if c != ' ' && before == ' ' {
            columns.push(at);
        }
        if c != ' ' && !c.is_ascii_uppercase() {
            return None;
        }
        before = c;
    }
    // The first column keeps its indent.
    *columns.first_mut()? = 0;
    (columns.len() > 1).then_some(columns)
}

fn is_row(line: &str, header: &str, columns: &[usize]) -> bool {
    let line: Vec<char> = line.chars().collect();
    let indent = |text: &[char]| text.iter().take_while(|c| **c == ' ').count();
    let header: Vec<char> = header.chars().collect();
    line.len() > columns[1]
        && indent(&line) == indent(&header)
        && columns[1..]
            .iter()
            .filter(|at| **at < line.len())
            .all(|at| line[at - 2..*at] == [' ', ' '])
}

fn cells(line: &str, columns: &[usize]) -> Vec<String> {
    let line: Vec<char> = line.chars().collect();
    let ends = columns[1..].iter().copied().chain([usize::MAX]);
    let cell = |(from, to): (&usize, usize)| {
        let to = to.min(line.len());
        line.get(*from..to).unwrap_or_default().iter().collect::<String>().trim_end().to_owned()
    };
    columns.iter().zip(ends).map(cell).collect()
}

fn table(mut rows: Vec<Vec<String>>) -> String {
    let head = rows[0].clone();
    for row in &mut rows[1..] {
        for (name, cell) in head.iter().zip(row) {
            let differs = COLUMNS.contains(&name.as_str());
            *cell = if differs { OTHER.to_owned() } else { words(cell) };
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).filter_map(width).collect();
    let mut table = String::new();
    for row in &rows {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}  "));
        table += padded.collect::<String>().trim_end();
        table.push('\n');
    }
    table
}

/// A line, or a cell, without the words that differ.
fn words(line: &str) -> String {
    let mut steady: Vec<String> = Vec::new();
    let words: Vec<&str> = line.split(' ').collect();
    for (at, word) in words.iter().enumerate() {
        let next = words.get(at + 1).copied().unwrap_or_default();
        let before = at.checked_sub(1).map_or("", |before| words[before]);
        let open = word.find(|c: char| !"(\"".contains(c)).unwrap_or(0);
        let (open, rest) = word.split_at(open);
        let close = rest.trim_end_matches([')', '"', ',', ':', ';']).len();
        let (core, close) = rest.split_at(close);
        steady.push(match stand_in(before, core, next) {
            Some(core) => format!("{open}{core}{close}"),
            None => (*word).to_owned(),
        });
    }
    steady.join(" ")
}

/// What stands for a word that differs, depending on its neighbours.
fn stand_in(before: &str, word: &str, next: &str) -> Option<String> {
    let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit() || c == '.');
    let unit = &word[digits.len()..];
    let time = word.len() >= 20 && word.ends_with('Z') && word.as_bytes()[10] == b'T';
    let counted = ["ms", "KiB", "MiB"].iter().any(|unit| next.starts_with(unit));
    if time || word.starts_with("sha256:") || (number && unit.is_empty() && counted) {
        return Some(OTHER.to_owned());
    }
    let percent = word.strip_suffix('%').is_some_and(|number| number.parse::<f64>().is_ok());
    if percent || (number && (matches!(unit, "ms" | "s") || before == "item")) {
        return Some(OTHER.to_owned());
    }
    word.split_once("item=").map(|(before, _)| format!("{before}item={OTHER}"))
}

/// Lines that only one of the texts has, and two around each.
pub(crate) fn difference(old: &str, new: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    // How many lines they have in common from each pair of places on.
    let mut common = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = if old[i] == new[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push((' ', old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(('-', old[i]));
            i += 1;
        } else {
            lines.push(('+', new[j]));
            j += 1;
        }
    }
    let near = |at: usize| {
        let around = at.saturating_sub(2)..(at + 3).min(lines.len());
        lines[around].iter().any(|(sign, _)| *sign != ' ')
    };
    let shown = lines.iter().enumerate().filter(|(at, _)| near(*at));
    shown.map(|(_, (sign, line))| format!("{sign} {line}")).collect::<Vec<_>>().join("\n")
}
