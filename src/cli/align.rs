//! Text in columns.

use std::fmt::Write as _;
use std::io::{self, Write};

/// Writes lines of cells in columns.
pub(super) fn align(lines: &[Vec<String>], out: &mut dyn Write) -> io::Result<()> {
    aligned(lines).into_iter().try_for_each(|line| writeln!(out, "{line}"))
}

/// Lines of cells in columns as wide as their widest cell, two spaces apart.
pub(super) fn aligned(lines: &[Vec<String>]) -> Vec<String> {
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..).map_while(width).collect();
    let line = |cells: &Vec<String>| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(text, "{cell:width$}  ");
        }
        text.truncate(text.trim_end().len());
        text
    };
    lines.iter().map(line).collect()
}

/// What stands for nothing.
pub(super) fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").into()
}
