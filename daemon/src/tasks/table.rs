//! CSV as rows: the first line names the columns, and every cell is text.

use super::rows::{ROW_BYTES_MAX, ROW_PARTS_MAX};
use ptv2_common::error::Explained;
use serde_json::{Map, Value};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::rc::Rc;

/// Gives each record to `take` with its line, until that breaks.
///
/// # Errors
/// With the line of the first record that is no row of the table, and those of `take`.
pub(super) fn each(
    source: impl Read,
    place: impl Fn(u64) -> String,
    mut take: impl FnMut(u64, &Value) -> Result<ControlFlow<()>, Explained>,
) -> Result<(), Explained> {
    let allowance = Allowance::default();
    let mut reader = csv::Reader::from_reader(Bounded { source, allowance: allowance.clone() });
    let columns = reader.headers().map_err(|error| refused(&error, &place, 1))?.clone();
    let mut seen = BTreeSet::new();
    if let Some(twice) = columns.iter().find(|name| !seen.insert(*name)) {
        return Err(Explained::new(format!("the column `{twice}` is named twice"))
            .at(place(1))
            .expected("a first line that names each column once")
            .hint("rename one of the two"));
    }
    let mut records = reader.records();
    while let Some(record) = records.next() {
        let near = records.reader().position().line();
        let record = record.map_err(|error| refused(&error, &place, near))?;
        allowance.renew();
        let line = record.position().map_or(near, csv::Position::line);
        let cells = record.iter().map(|cell| Value::String(cell.into()));
        let row: Map<String, Value> = columns.iter().map(str::to_owned).zip(cells).collect();
        if take(line, &Value::Object(row))?.is_break() {
            break;
        }
    }
    Ok(())
}

/// What may still be read of a record.
#[derive(Clone)]
struct Allowance {
    bytes: Rc<Cell<u64>>,
    commas: Rc<Cell<u64>>,
}

impl Default for Allowance {
    fn default() -> Self {
        let all = |count| Rc::new(Cell::new(count));
        Self { bytes: all(ROW_BYTES_MAX), commas: all(ROW_PARTS_MAX) }
    }
}

impl Allowance {
    /// A record has come: the next one may have as much.
    fn renew(&self) {
        self.bytes.set(ROW_BYTES_MAX);
        self.commas.set(ROW_PARTS_MAX);
    }
}

/// A source that ends in an error where a record has no end: the reader gathers all of it in memory.
struct Bounded<R> {
    source: R,
    allowance: Allowance,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Allowance { bytes, commas } = &self.allowance;
        if bytes.get() == 0 {
            let what = format!("it has more than {ROW_BYTES_MAX} bytes");
            return Err(io::Error::other(what));
        }
        if commas.get() == 0 {
            return Err(io::Error::other(format!("it has more than {ROW_PARTS_MAX} commas")));
        }
        // Not a byte more, or the reader doubles its buffer for it.
        let most = buffer.len().min(usize::try_from(bytes.get()).unwrap_or(usize::MAX));
        let count = self.source.read(&mut buffer[..most])?;
        let found = buffer[..count].iter().filter(|byte| **byte == b',').count();
        bytes.set(bytes.get().saturating_sub(count as u64));
        commas.set(commas.get().saturating_sub(found as u64));
        Ok(count)
    }
}

fn refused(error: &csv::Error, place: impl Fn(u64) -> String, near: u64) -> Explained {
    let line = error.position().map_or(near, csv::Position::line);
    let what = if let csv::ErrorKind::UnequalLengths { expected_len, len, .. } = error.kind() {
        format!("the record has {len} cells, and the first line names {expected_len} columns")
    } else if let csv::ErrorKind::Utf8 { err, .. } = error.kind() {
        format!("cell {} of the record is no UTF-8", err.field() + 1)
    } else {
        format!("the record cannot be read: {error}")
    };
    Explained::new(what)
        .at(place(line))
        .expected(
            "UTF-8, one cell for each column, cells with commas or line ends in double quotes",
        )
        .hint("mend the record, or remove it")
}
