//! What a command prints: one document on standard output, everything else on standard error.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table};
use ensign_bundle::reason::Code;
use ensign_bundle::text::printable;
use serde::Serialize;

use crate::difference::Difference;
use crate::failure::{Failure, Result, fail};

/// Longest foreign text in a table, characters.
const CELL: usize = 60;
/// Narrower than this nothing is wrapped, columns.
const NARROW: u16 = 40;
/// Longest foreign text in a sentence, characters.
const SENTENCE: usize = 400;
/// Names that are shown of a long list.
const NAMES: usize = 8;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
    Yaml,
}

/// How this run talks to its operator.
#[derive(Clone, Debug, Default)]
pub struct Shell {
    pub format: Format,
    /// Do not ask.
    pub yes: bool,
    /// Change nothing.
    pub dry_run: bool,
    /// Why the operator does this; goes into what is signed and into the log.
    pub reason: String,
    pub verbose: bool,
    pub quiet: bool,
    /// `HOST:PORT` instead of the context's.
    pub controller: Option<String>,
}

/// Something that can be shown to people and to scripts.
pub trait Document: Serialize {
    /// For people; ends with a line feed unless empty.
    fn table(&self, paint: Paint) -> String;
}

/// What `--dry-run` prints.
#[derive(Debug, Serialize)]
struct Intended<'a> {
    dry_run: bool,
    would: Vec<String>,
    /// What a signature would change.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<&'a Difference>,
}

impl Document for Intended<'_> {
    fn table(&self, paint: Paint) -> String {
        let lines = self
            .would
            .iter()
            .map(|what| format!("would {}\n", printable(what, SENTENCE)));
        let lines: String = lines.collect();
        if lines.is_empty() {
            format!("{}\n", paint.dim("nothing would change"))
        } else {
            lines + &self.changes.map(|changes| changes.text(paint)).unwrap_or_default()
        }
    }
}

/// Colours, or none: they are for terminals, and `NO_COLOR` switches them off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint(pub bool);

impl Shell {
    /// Prints the one document of this run.
    pub fn print<D: Document + ?Sized>(&self, document: &D) -> Result<()> {
        let text = self.render(document, Paint::of(&io::stdout()))?;
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // A reader that has seen enough (`| head`) is no failure.
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                fail!(Io, "cannot write to standard output: {e}")
            }
            _ => Ok(()),
        }
    }

    fn render<D: Document + ?Sized>(&self, document: &D, paint: Paint) -> Result<String> {
        let failed = |e: String| Failure::new(Code::Failed, e);
        match self.format {
            Format::Table => Ok(document.table(paint)),
            Format::Json => serde_json::to_string_pretty(document)
                .map(|text| text + "\n")
                .map_err(|e| failed(e.to_string())),
            Format::Yaml => serde_yaml::to_string(document).map_err(|e| failed(e.to_string())),
        }
    }

    /// The document of a run with `--dry-run`: what it would have done, beginning with a verb. Nothing was.
    pub fn would(&self, what: impl Into<String>) -> Result<()> {
        self.would_all(vec![what.into()])
    }

    /// The same for several things.
    pub fn would_all(&self, would: Vec<String>) -> Result<()> {
        self.print(&Intended {
            dry_run: true,
            would,
            changes: None,
        })
    }

    /// The same for a signature, with what it would change.
    pub fn would_change(&self, what: impl Into<String>, changes: &Difference) -> Result<()> {
        self.would_change_all(vec![what.into()], changes)
    }

    /// The same for several things.
    pub fn would_change_all(&self, would: Vec<String>, changes: &Difference) -> Result<()> {
        self.print(&Intended {
            dry_run: true,
            would,
            changes: Some(changes).filter(|changes| !changes.is_empty()),
        })
    }

    /// A line for the operator that is not part of the document.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }

    /// A detail that only `-v` asks for.
    pub fn detail(&self, text: &str) {
        if self.verbose {
            say(text);
        }
    }

    /// Something the operator should not miss, `--quiet` or not.
    pub fn warn(text: &str) {
        say(&format!("{} {text}", Paint::of(&io::stderr()).yellow("warning:")));
    }

    /// Several lines that belong together, as they are.
    pub fn block(&self, text: &str) {
        if !self.quiet {
            // Standard error is gone: nobody is left to tell.
            let _ = io::stderr().lock().write_all(text.as_bytes());
        }
    }

    /// Progress bars and live views: only for someone who watches.
    pub fn is_watched(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }

    /// Whether somebody can be asked.
    pub fn can_ask() -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks before something that cannot be taken back; `not_done` says what a no leaves as it is. Without a terminal `--yes` is needed
    /// (exit 2).
    pub fn confirm(&self, question: &str, not_done: &str) -> Result<()> {
        if self.yes || self.dry_run {
            return Ok(());
        }
        if !Self::can_ask() {
            return Err(Failure::usage(format!("there is no terminal to ask: {question}")).hint("add --yes"));
        }
        let mut err = io::stderr().lock();
        // If the question cannot be shown, the answer cannot be yes.
        let asked = write!(err, "{question} [y/N] ").and_then(|()| err.flush());
        let mut answer = String::new();
        let read = asked.and_then(|()| io::stdin().read_line(&mut answer));
        if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes" | "Yes") {
            return Ok(());
        }
        Err(Failure::new(Code::Failed, format!("not confirmed: {not_done}")).hint("answer y, or add --yes"))
    }

    /// Prints how the run failed.
    pub fn print_failure(&self, failure: &Failure) {
        let text = match self.format {
            Format::Json => {
                serde_json::to_string_pretty(&failure.document()).unwrap_or_else(|_| failure.text.clone()) + "\n"
            }
            _ => failure_text(failure, Paint::of(&io::stderr())),
        };
        // Standard error is gone: nobody is left to tell.
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }
}

/// A line on standard error. Where that is gone, nobody is left to tell.
fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// The failure for people: what, with its code, and the hint on a line of its own.
pub fn failure_text(failure: &Failure, paint: Paint) -> String {
    format!(
        "{} {failure} ({})\n{} {}\n",
        paint.red("error:"),
        failure.code,
        paint.dim("hint:"),
        failure.hint_text()
    )
}

impl Paint {
    /// For standard error.
    pub fn of_diagnostics() -> Self {
        Self::of(&io::stderr())
    }

    fn of(stream: &impl io::IsTerminal) -> Self {
        Self(stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()))
    }

    pub fn red(self, text: &str) -> String {
        self.wrap("31", text)
    }

    pub fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Rows under headers, columns aligned, nothing drawn around them.
#[derive(Debug)]
pub struct Grid {
    table: Table,
    paint: Paint,
    sentences: bool,
}

/// What a cell means: colour follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Plain,
    Good,
    Busy,
    Bad,
    Faint,
}

impl Grid {
    pub fn new(headers: &[&str], paint: Paint) -> Self {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        if paint.0 {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(headers.iter().map(|h| Cell::new(h).add_attribute(Attribute::Dim)));
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self {
            table,
            paint,
            sentences: false,
        }
    }

    /// Numbers line up on the right.
    #[must_use]
    pub fn right(mut self, columns: &[usize]) -> Self {
        for column in columns {
            if let Some(column) = self.table.column_mut(*column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self
    }

    /// Cells of the last column are whole sentences: they wrap at the terminal's edge, and stand whole where there is none.
    #[must_use]
    pub fn sentences(mut self, width: Option<u16>) -> Self {
        self.sentences = true;
        if let Some(width) = width.filter(|width| *width >= NARROW) {
            self.table
                .set_content_arrangement(ContentArrangement::Dynamic)
                .set_width(width);
            let last = self.table.column_count().saturating_sub(1);
            for (index, column) in self.table.column_iter_mut().enumerate() {
                if index != last {
                    column.set_constraint(ColumnConstraint::ContentWidth);
                }
            }
        }
        self
    }

    /// A row of foreign or own text; each cell is made printable here.
    pub fn row<'a>(&mut self, cells: impl IntoIterator<Item = (&'a str, Mood)>) {
        let most = if self.sentences { SENTENCE } else { CELL };
        let cells = cells.into_iter().map(|(text, mood)| {
            let cell = Cell::new(printable(text, most));
            match mood {
                Mood::Plain => cell,
                Mood::Good => cell.fg(Color::Green),
                Mood::Busy => cell.fg(Color::Yellow),
                Mood::Bad => cell.fg(Color::Red),
                Mood::Faint => cell.add_attribute(Attribute::Dim),
            }
        });
        self.table.add_row(cells);
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The rows, or `nothing` where there are none.
    pub fn or(self, nothing: &str) -> String {
        if self.is_empty() {
            return format!("{}\n", self.paint.dim(nothing));
        }
        self.text()
    }

    pub fn text(self) -> String {
        let mut out = String::new();
        for line in self.table.lines() {
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Lines of `key  value`, keys aligned. Values are made printable here.
#[derive(Debug, Default)]
pub struct Facts(Vec<(String, String)>);

impl Facts {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn add(&mut self, key: &str, value: impl AsRef<str>) -> &mut Self {
        self.0.push((key.to_owned(), printable(value.as_ref(), SENTENCE)));
        self
    }

    pub fn text(&self, paint: Paint) -> String {
        let width = self.0.iter().map(|(k, _)| k.len()).max().unwrap_or(0);
        self.0.iter().fold(String::new(), |mut out, (key, value)| {
            let pad = " ".repeat(width - key.len() + 2);
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{}{pad}{value}", paint.dim(key));
            out
        })
    }
}

/// The steps of a hint, a line each: `words: command`, or the command alone. They stand where a person looks next.
pub fn steps(hint: &str, paint: Paint) -> String {
    let mut out = String::new();
    if hint.is_empty() {
        return out;
    }
    let steps: Vec<(&str, &str)> = hint
        .split("; ")
        .map(|step| match step.split_once('`') {
            Some((words, command)) => (words.trim_end_matches([':', ' ']), command.trim_end_matches('`')),
            None => (step, ""),
        })
        .collect();
    let width = steps.iter().map(|(words, _)| words.chars().count()).max().unwrap_or(0);
    out.push_str("\nNext:\n");
    for (words, command) in steps {
        let command = printable(command, SENTENCE);
        let words = printable(words, SENTENCE);
        let line = if width == 0 {
            format!("  {}", paint.bold(&command))
        } else {
            format!("  {words:<width$}  {}", paint.bold(&command))
        };
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Columns of the terminal behind standard error or output, whichever is one; none = a pipe or a file.
pub fn terminal_width() -> Option<u16> {
    let width = |table: &Table| table.width();
    if io::stderr().is_terminal() {
        return width(Table::new().use_stderr());
    }
    io::stdout().is_terminal().then(|| width(&Table::new())).flatten()
}

/// Lines that `text` takes on the terminal behind standard error, long ones wrapped.
pub fn rows_on_terminal(text: &str) -> usize {
    let width = Table::new().use_stderr().width().map_or(usize::MAX, usize::from).max(1);
    rows(text, width)
}

fn rows(text: &str, width: usize) -> usize {
    text.lines().map(|line| visible(line).div_ceil(width).max(1)).sum()
}

/// Characters of a line without colours (`ESC [ ... m`).
fn visible(line: &str) -> usize {
    let mut colour = false;
    line.chars()
        .filter(|c| {
            let shown = !colour && *c != '\u{1b}';
            colour = if colour { *c != 'm' } else { *c == '\u{1b}' };
            shown
        })
        .count()
}

/// `██████░░`: how much of `whole` is `part`.
pub fn bar(part: u64, whole: u64, width: usize) -> String {
    let filled = match whole {
        0 => 0,
        _ => usize::try_from(u128::from(part.min(whole)) * width as u128 / u128::from(whole)).unwrap_or(width),
    };
    "█".repeat(filled) + &"░".repeat(width - filled)
}

/// Some names, and how many more.
pub fn some_of(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(NAMES).map(|n| printable(n, 63)).collect();
    match names.len().saturating_sub(NAMES) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_align_and_escape() {
        let mut grid = Grid::new(&["NAME", "FILES"], Paint(false)).right(&[1]);
        grid.row([("web", Mood::Plain), ("7", Mood::Good)]);
        grid.row([("a\u{1b}[2J\u{202e}b", Mood::Bad), ("1200", Mood::Plain)]);
        insta::assert_snapshot!(grid.text(), @r"
        NAME                 FILES
        web                      7
        a\u{1b}[2J\u{202e}b   1200
        ");
    }

    #[test]
    fn sentences_wrap_at_the_edge_and_are_whole_in_pipes() {
        let brake = "2 failed or 2 dark (2% failed from 20 finished on), or below 32 of 35 healthy";
        let text = |width| {
            let mut grid = Grid::new(&["WAVE", "HALTS AT"], Paint(false)).sentences(width);
            grid.row([("1", Mood::Plain), (brake, Mood::Plain)]);
            grid.text()
        };
        assert!(text(None).contains(brake), "{}", text(None));
        let narrow = text(Some(50));
        assert!(narrow.lines().all(|line| line.chars().count() <= 50), "{narrow}");
        let words: Vec<&str> = narrow.split_whitespace().collect();
        assert!(words.join(" ").ends_with(brake), "{narrow}");
    }

    #[test]
    fn failures_have_their_hint_on_its_own_line() {
        let failure = Failure::new(Code::NotFound, "there is no release app@9.9.9").hint("`ensign release ls`");
        insta::assert_snapshot!(failure_text(&failure, Paint(false)), @r"
        error: there is no release app@9.9.9 (not-found)
        hint: `ensign release ls`
        ");
    }

    #[test]
    fn long_lines_take_several_rows() {
        assert_eq!(rows("abc\n\nabcdefgh\n", 4), 1 + 1 + 2);
        let red = Paint(true).red("abcd");
        assert_eq!((visible(&red), rows(&red, 4)), (4, 1));
    }

    #[test]
    fn bars_fill() {
        assert_eq!(bar(0, 10, 8), "░░░░░░░░");
        assert_eq!(bar(6, 8, 8), "██████░░");
        assert_eq!(bar(20, 10, 4), "████");
        assert_eq!(bar(1, 0, 2), "░░");
    }

    #[test]
    fn facts_align() {
        let mut facts = Facts::new();
        facts.add("id", "1").add("version", "2");
        assert_eq!(facts.text(Paint(false)), "id       1\nversion  2\n");
    }

    #[test]
    fn steps_line_up() {
        insta::assert_snapshot!(steps("see why: `ensign rollout why`; or end it: `ensign rollout abort app --keep`", Paint(false)), @r"

        Next:
          see why    ensign rollout why
          or end it  ensign rollout abort app --keep
        ");
        insta::assert_snapshot!(steps("`ensign fleet unfreeze`", Paint(false)), @r"

        Next:
          ensign fleet unfreeze
        ");
        assert_eq!(steps("nothing to do", Paint(false)), "\nNext:\n  nothing to do\n");
        assert_eq!(steps("", Paint(false)), "");
    }

    #[test]
    fn long_lists_are_cut() {
        let names = |n: usize| vec!["x".to_owned(); n];
        assert_eq!(some_of(&names(2)), "x, x");
        assert_eq!(some_of(&names(11)), "x, x, x, x, x, x, x, x and 3 more");
    }
}
