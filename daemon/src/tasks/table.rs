//! CSV as rows: the first line names the columns, and every cell is text.

use ptv2_common::error::Explained;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// Gives each record to `take` with its line, until that breaks.
///
/// # Errors
/// With the line of the first record that is no row of the table, and those of `take`.
pub(super) fn each(
    bytes: &[u8],
    place: impl Fn(u64) -> String,
    mut take: impl FnMut(u64, &Value) -> Result<ControlFlow<()>, Explained>,
) -> Result<(), Explained> {
    let mut reader = csv::Reader::from_reader(bytes);
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
        let line = record.position().map_or(near, csv::Position::line);
        let cells = record.iter().map(|cell| Value::String(cell.into()));
        let row: Map<String, Value> = columns.iter().map(str::to_owned).zip(cells).collect();
        if take(line, &Value::Object(row))?.is_break() {
            break;
        }
    }
    Ok(())
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
