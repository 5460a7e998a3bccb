//! Prints rows in the form that was asked for.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use jiff::Timestamp;

use crate::args::Output;
use crate::row::Row;

/// Prints rows to one place, all at once or one by one.
pub(crate) struct Printer<W> {
    out: W,
    output: Output,
    streaming: bool,
    header_done: bool,
    width: Option<u16>,
}

impl<W: Write> Printer<W> {
    /// A printer. `streaming`: rows will go on coming, so each is printed as a unit of its own.
    /// `width`: columns of the terminal; none in a pipe, where nothing is cut.
    pub(crate) fn new(out: W, output: Output, streaming: bool, width: Option<u16>) -> Self {
        Self { out, output, streaming, header_done: false, width }
    }

    /// Prints rows.
    ///
    /// # Errors
    /// What the output says; what cannot be serialised.
    pub(crate) fn rows<R: Row>(&mut self, rows: &[R], now: Timestamp) -> io::Result<()> {
        match self.output {
            Output::Table => self.table(rows, R::NARROW, now)?,
            Output::Wide => self.table(rows, R::COLUMNS.len(), now)?,
            Output::Json if self.streaming => {
                for row in rows {
                    serde_json::to_writer(&mut self.out, row)?;
                    writeln!(self.out)?;
                }
            }
            Output::Json => {
                serde_json::to_writer_pretty(&mut self.out, rows)?;
                writeln!(self.out)?;
            }
            Output::Yaml if self.streaming => {
                for row in rows {
                    writeln!(self.out, "---\n{}", yaml(row)?.trim_end())?;
                }
            }
            Output::Yaml => write!(self.out, "{}", yaml(&rows)?)?,
            Output::Csv => self.csv(rows, now)?,
        }
        self.out.flush()
    }

    fn table<R: Row>(&mut self, rows: &[R], columns: usize, now: Timestamp) -> io::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        match self.width {
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic);
                table.set_width(width);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        if !self.header_done {
            table.set_header(&R::COLUMNS[..columns.min(R::COLUMNS.len())]);
            self.header_done = true;
        }
        for row in rows {
            let mut cells = row.cells(now);
            cells.truncate(columns);
            table.add_row(cells.iter().map(|c| one_line(c)));
        }
        for line in table.lines() {
            writeln!(self.out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    fn csv<R: Row>(&mut self, rows: &[R], now: Timestamp) -> io::Result<()> {
        let mut csv = csv::WriterBuilder::new().from_writer(Vec::new());
        if !self.header_done {
            csv.write_record(R::COLUMNS.iter().map(|c| c.to_lowercase().replace(' ', "_")))
                .map_err(io::Error::other)?;
            self.header_done = true;
        }
        for row in rows {
            csv.write_record(row.cells(now).iter().map(|c| harmless(&one_line(c)))).map_err(io::Error::other)?;
        }
        self.out.write_all(&csv.into_inner().map_err(|e| io::Error::other(e.to_string()))?)
    }
}

fn yaml(value: &impl serde::Serialize) -> io::Result<String> {
    serde_saphyr::to_string(value).map_err(io::Error::other)
}

/// Names in audit logs are chosen by attackers: control characters must not reach a terminal.
fn one_line(cell: &str) -> String {
    cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A cell that starts like a formula is run by spreadsheets; a leading apostrophe makes it text (CWE-1236).
fn harmless(cell: &str) -> String {
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{cell}") } else { cell.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Serialize)]
    struct Thing {
        name: &'static str,
        size: u32,
    }

    impl Row for Thing {
        const COLUMNS: &'static [&'static str] = &["NAME", "SIZE"];
        const NARROW: usize = 1;

        fn cells(&self, _now: Timestamp) -> Vec<String> {
            vec![self.name.to_owned(), self.size.to_string()]
        }
    }

    fn check(output: Output, streaming: bool) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, output, streaming, None);
        let rows = [Thing { name: "a\x1b[2J", size: 1 }, Thing { name: "=1+1", size: 2 }];
        for chunk in rows.chunks(if streaming { 1 } else { 2 }) {
            printer.rows(chunk, Timestamp::UNIX_EPOCH).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_form_prints_every_row_and_no_control_character_reaches_a_terminal() {
        insta::assert_snapshot!(check(Output::Table, false), @r"
         NAME
         a [2J
         =1+1
        ");
        insta::assert_snapshot!(check(Output::Wide, false), @r"
         NAME   SIZE
         a [2J  1
         =1+1   2
        ");
        insta::assert_snapshot!(check(Output::Csv, true), @r"
        name,size
        a [2J,1
        '=1+1,2
        ");
        insta::assert_snapshot!(check(Output::Json, true), @r#"
        {"name":"a\u001b[2J","size":1}
        {"name":"=1+1","size":2}
        "#);
        let whole: serde_json::Value = serde_json::from_str(&check(Output::Json, false)).unwrap();
        assert_eq!(whole[1]["size"], 2);
    }
}
